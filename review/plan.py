"""What a plan of Pulumi's (`preview --save-plan`) allows, without what is new in each preview. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Any

from review.events import SECRET_SIGNATURE

UNORDERED = ("deletes", "dependencies", "propertyDependencies", "networkDatas")
"""Lists whose order says nothing. The plugin writes a container's networks in the order of a Go map."""
NEW = "0000000"


def content(plan: str) -> str:
    """The plan's text in a form that is the same for every preview of the same change.

    Left out are when it was made, the seeds and random ends of new names, and what secrets are: of these the
    settings (those that are checked out, or of the update to go back to) and the stack's state decide. So is
    what a cluster answers when an object is tried on it, with times, ids and counts that are others each
    time: what it is asked for stays. Raises ValueError for what is no plan.
    """
    read = json.loads(plan)
    if "resourcePlans" not in read:
        raise ValueError("it has no `resourcePlans`")
    read.pop("manifest", None)
    read["config"] = _without_secrets(read.get("config"))
    for urn, each in read["resourcePlans"].items():
        each.pop("seed", None)
        if _type(urn).startswith("kubernetes:"):
            each.pop("state", None)
    text = json.dumps(_still(read), indent=1, sort_keys=True)
    for name in sorted(set(_new_names(read["resourcePlans"]))):
        text = text.replace(name, f"{name[: -len(NEW)]}{NEW}")
    return text


def _type(urn: str) -> str:
    """Of a resource, from its URN, which has the types of its parents before it."""
    return urn.split("::")[2].rpartition("$")[2]


def _new_names(resources: dict[str, Any]) -> Iterator[str]:
    for each in resources.values():
        if any(step.startswith("create") for step in each.get("steps") or ()):
            name = str((each.get("state") or {}).get("name"))
            if re.fullmatch(re.escape(str((each.get("goal") or {}).get("name"))) + "-[0-9a-f]{7}", name):
                yield name


def _without_secrets(settings: Any) -> Any:
    """A rollback encrypts the secrets of its settings anew each time."""
    if isinstance(settings, dict):
        if settings.keys() == {"secure"}:
            return "a secret"
        return {key: _without_secrets(each) for key, each in settings.items()}
    return [_without_secrets(each) for each in settings] if isinstance(settings, list) else settings


def _still(value: Any, unordered: bool = False) -> Any:
    if isinstance(value, dict):
        if SECRET_SIGNATURE in value:  # it is encrypted anew each time
            return "a secret"
        return {key: _still(each, unordered or key in UNORDERED) for key, each in value.items()}
    if isinstance(value, list):
        still = [_still(each) for each in value]
        return sorted(still, key=lambda each: json.dumps(each, sort_keys=True)) if unordered else still
    return value
