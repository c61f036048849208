"""The same policies as a Pulumi policy pack: `pulumi preview --policy-pack policy`.

They need no pack: every review runs them. The pack has packages of its own, and Pulumi waits for ever for a
pack that has not: `python3 -m venv policy/.venv && policy/.venv/bin/pip install -r policy/requirements.txt`.
What it can't see is what happens to a resource, so that two policies are in the reviews only: a flip replaces
no instance and no volume, and weights that are fetched are pinned.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from components import naming
from review import policies
from review.events import Resource


class Options(Protocol):
    """What is read of `pulumi_policy.PolicyResourceOptions`."""

    @property
    def protect(self) -> bool: ...


class Declared(Protocol):
    """What is read of `pulumi_policy.PolicyResource`."""

    @property
    def resource_type(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def urn(self) -> str: ...
    @property
    def props(self) -> Any: ...
    @property
    def opts(self) -> Options: ...


def violations(declared: Sequence[Declared]) -> list[str]:
    """Every policy that a stack with these resources breaks, in words."""
    resources = [
        Resource(
            type=each.resource_type,
            name=each.name,
            inputs=_plain(each.props),
            protect=bool(each.opts.protect),
        )
        for each in declared
    ]
    stack = declared[0].urn.split(":")[2] if declared else ""
    return [each.words for each in policies.check(resources, stack=stack, keys=has_keys(resources))]


def _plain(value: Any) -> Any:
    """Dicts and lists: the pack gives views, which raise when what is not known yet is only looked at.

    Behind a view's key `__target` (read in pulumi_policy 1.21.0) it is Pulumi's placeholder, a text.
    """
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, (dict, list, tuple, str)):
        view: Any = value
        value = view["__target"]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def has_keys(resources: Sequence[Resource]) -> bool:
    """Whether there is an API key: the proxies are told their digests as JSON.

    Where the text isn't known yet, an update says it; a preview takes it that there is one.
    """
    for each in resources:
        if each.name == naming.child(naming.KEYS, "step"):
            try:
                return bool(json.loads(str(each.inputs.get("stdin", "")))["keys"])
            except ValueError:
                return True
    return False


def validate(args: Any, report: Callable[[str, str | None], None]) -> None:
    """Reports every violation of the stack that Pulumi gives as `StackValidationArgs`."""
    for words in violations(args.resources):
        report(words, None)


def main() -> None:
    """Give Pulumi the pack."""
    from pulumi_policy import (  # type: ignore[import-not-found]  # the pack's own package
        EnforcementLevel,
        PolicyPack,
        StackValidationPolicy,
    )

    PolicyPack(
        name="changeover",
        enforcement_level=EnforcementLevel.MANDATORY,
        policies=[
            StackValidationPolicy(
                name="changeover",
                description="What no stack of Changeover may be; each violation says why and what to do.",
                validate=validate,
            )
        ],
    )
