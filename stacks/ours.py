"""What this state may do to the stack on its host: looked at before anything is declared."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from components import naming
from components.labels import Labels
from stacks import owner
from stacks.blueprint import Blueprint
from stacks.owner import FoundOnHost, Known
from stacks.target_error import TargetError

ADOPT = "CHANGEOVER_ADOPT"
"""Variable with the id of the owner whose place this update takes. `make adopt` sets it."""

REFRESH = re.compile(r"--refresh(=(1|t|true))?|-[dfy]*r[dfy]*", re.IGNORECASE)
"""The flag of `pulumi up` and `pulumi preview`, alone or among others of one letter that take no value."""


def known() -> Known:
    """What Pulumi's state says of the running stack as the last update left it."""
    return owner.known(_resources())


def on_cluster() -> frozenset[str]:
    """The ids of what the running stack has made on a cluster, as the last update left it."""
    made = [(each.get("outputs") or {}).get("metadata") or {} for each in _resources().values()]
    return frozenset(str(each["uid"]) for each in made if each.get("uid"))


def steps() -> dict[str, Mapping[str, Any]]:
    """What the state has of each step, by its name, as the last update left it."""
    return {
        urn.rpartition("::")[2]: each.get("outputs") or {}
        for urn, each in _resources().items()
        if each["type"] == "command:local:Command"
    }


def _resources() -> Mapping[str, Mapping[str, Any]]:
    name = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    said = pulumi.runtime.invoke("pulumi:pulumi:readStackResourceOutputs", {"stackName": name}).value
    outputs: Mapping[str, Mapping[str, Any]] = said["outputs"]
    return outputs


def refreshes() -> bool | None:
    """Whether the `pulumi` that runs this program makes again what is missing; None where none is found.

    Pulumi tells it to no program, and the state that a program can read is that of before the refresh.
    """
    if os.environ.get("PULUMI_OPTION_REFRESH", "").lower() in ("1", "t", "true"):
        return True
    try:
        import psutil  # an environment of the version before has none
    except ImportError:
        return None
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if parent.name() == "pulumi":
                return asked(parent.cmdline()[1:])
    return None


def asked(words: Sequence[str]) -> bool:
    """Whether the words after `pulumi` ask for a refresh."""
    return words[:1] == ["refresh"] or any(REFRESH.fullmatch(word) for word in words)


def check(state: Known, found: FoundOnHost, blueprint: Blueprint, labels: Labels, instead: str) -> None:
    """Raises TargetError where the stack on the host is another state's, or a newer one's than this, or where
    something is missing there that this command won't make again.

    `instead` is the owner whose place may be taken.
    """
    if why := owner.refusal(state, found, labels, instead=instead):
        raise TargetError(why)
    lost = owner.missing(state, found)
    if not lost:
        return
    text = owner.gone(lost, [spec.weights for spec in blueprint.specs], labels)
    if refreshes() is False:
        raise TargetError(
            f"{text}. {owner.NOTHING} Run: pulumi up --refresh --stack {labels.stack}, which creates it again"
        )
    pulumi.warn(f"{text}. A refresh (pulumi up --refresh) creates it again.")


def refills(state: Known, found: FoundOnHost, blueprint: Blueprint, labels: Labels) -> dict[str, str]:
    """`again` of the steps that fill volumes: see `owner.fill_again`."""
    users = {naming.child(spec.name, "weights"): f"{labels.name(spec.name)}-" for spec in blueprint.specs}
    users |= {naming.child(each, "files"): f"{labels.name(each)}-" for each in (naming.PROXY, naming.MONITOR)}
    return owner.fill_again(state, found, users)


def adopted_networks(state: Known, found: FoundOnHost) -> dict[str, str]:
    """Role → id of the networks that are taken over: of those on the host that this state does not have."""
    names = {each.name for each in state.things if each.kind == "network"}
    return {each.role: each.id for each in found.things if each.kind == "network" and each.name not in names}
