"""Hints for known failures of an engine."""

import math
import re

from switch.plan import Gate

LESS_MIB = 512
"""By how much less of the GPU's memory an engine is to have that had too little, where it did not say
more."""


def hints(gate: Gate, said: str) -> list[str]:
    """What to do about those traps of a gate whose words are in what was said."""
    found = []
    for trap in gate.traps:
        if any(words in said for words in trap.words):
            less = max(0, trap.memory - max(LESS_MIB, *map(math.ceil, _missing(said)), 0))
            found.append(trap.hint.replace("{less}", str(less)))
    return found


def _missing(said: str) -> list[float]:
    """The MiB that CUDA could not give, as PyTorch says it."""
    tried = re.findall(r"Tried to allocate ([\d.]+) (MiB|GiB)", said)
    return [float(size) * (1024 if unit == "GiB" else 1) for size, unit in tried]
