"""Why a target cannot take a stack."""


class TargetError(Exception):
    """The target cannot take the stack; the text says why and what to type. Nothing was changed."""
