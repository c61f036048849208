"""Whether a stack on a host is this state's, what of it is missing there, and what to say then. Pure.

A state knows its own resources, by Docker's ids; the host has its things, by their labels, and in the
switch's journal a record of whose they are (`switch.owner`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components import naming
from components.catalogue import GIB
from components.facts import variable
from components.labels import Labels
from components.weights import Weights
from switch.owner import ANY, OwnerRecord, count, day

UNKNOWN = "unknown"
"""Stands for the owner of a stack that was made before owners were written down."""

ObjectKind = Literal["container", "network", "volume"]
KINDS: Mapping[str, ObjectKind] = {
    f"docker:index/{kind}:{kind.capitalize()}": kind for kind in ("container", "network", "volume")
}


@dataclass(frozen=True)
class DockerObject:
    """A container, network or volume on a host, or in a state. A volume's id is its name; labels are those on
    the host."""

    kind: ObjectKind
    id: str
    name: str
    role: str = ""
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a state knows: its id and its count of changes, None before there are any, and what it has made.

    `again` holds, by name of a step, how often a volume that it fills was lost and filled again. `instance`
    is the machine on AWS, in `region`, `key` the EC2 key pair, which is there before it, and `unconfirmed`
    are addresses that had not confirmed the alarms' mail when the state was last refreshed.
    """

    id: str | None
    changes: int | None
    things: tuple[DockerObject, ...]
    again: Mapping[str, str]
    instance: str | None = None
    region: str | None = None
    key: str | None = None
    unconfirmed: tuple[str, ...] = ()
    cutover: str | None = None
    """The mode of a change of engine, as the last update exported it."""


@dataclass(frozen=True, kw_only=True)
class FoundOnHost:
    """What a host has of a stack: every thing with its labels, whose it is, and what serves, in words."""

    things: tuple[DockerObject, ...]
    owner: OwnerRecord | None
    serves: str

    def of(self, role: str = "") -> list[DockerObject]:
        """Containers of a role, or all of them."""
        return [each for each in self.things if each.kind == "container" and role in ("", each.role)]


def known(resources: Mapping[str, Mapping[str, Any]]) -> Known:
    """From a state's resources: URN → `type` and `outputs`, as Pulumi exports and reads them."""
    id, changes, instance, region, key, cutover = None, None, None, None, None, None
    things, again, unconfirmed = [], {}, list[str]()
    for urn, each in resources.items():
        name, outputs = urn.rsplit("::", 1)[1], each.get("outputs") or {}
        if kind := KINDS.get(each["type"]):
            things.append(
                DockerObject(kind, str(outputs.get("id") or outputs.get("name")), str(outputs.get("name")))
            )
        elif each["type"] == "aws:ec2/instance:Instance":
            arn = str(outputs.get("arn") or "")
            instance = outputs.get("id") or arn.partition(":instance/")[2] or None
            region = arn.split(":")[3] if arn else None
        elif each["type"] == "aws:ec2/keyPair:KeyPair":
            key = outputs.get("keyName")
        elif each["type"] == "aws:sns/topicSubscription:TopicSubscription":
            if outputs.get("pendingConfirmation") is True:
                unconfirmed.append(str(outputs.get("endpoint")))
        elif each["type"] == "pulumi:pulumi:Stack":
            cutover = outputs.get("cutover")
        elif each["type"] == "command:local:Command":
            said = outputs.get("stdout")
            said = said if isinstance(said, str) else ""
            if name == naming.IDENTITY:
                id = said.strip() or None
            elif name == naming.child(naming.COMMIT, "step"):
                changes = count(said)
            again[name] = str(variable(outputs, "AGAIN") or "")
    return Known(
        id=id,
        changes=changes,
        things=tuple(things),
        again=again,
        instance=instance,
        region=region,
        key=key,
        unconfirmed=tuple(unconfirmed),
        cutover=cutover,
    )


def of_export(state: Mapping[str, Any]) -> Known:
    """From what `pulumi stack export` prints. What is about to be deleted is not counted."""
    resources = (state.get("deployment") or {}).get("resources") or []
    return known({each["urn"]: each for each in resources if not each.get("delete")})


def whose(state: Known, host: FoundOnHost) -> str:
    """The id of the other state to which the stack on the host belongs, or `unknown`; empty where it is this
    one's, or nobody's. Weights alone are nobody's."""
    if host.owner:
        return "" if host.owner.id == state.id else host.owner.id
    there = {each.id for each in host.things if each.kind != "volume"}
    return UNKNOWN if there and not there & {each.id for each in state.things} else ""


def refusal(state: Known, host: FoundOnHost, labels: Labels, *, instead: str = "") -> str:
    """Why this state may do nothing to the stack on the host, and what to type; empty: it may.

    `instead` is the owner whose place this state takes on purpose, or `any` on a machine of its own.
    """
    stack = labels.stack
    names = {each.name for each in state.things if each.kind == "network"}
    if names and labels.prefix not in names:
        (was, *_) = sorted(names)
        was = was.removeprefix(f"{labels.project}-")
        return (
            f"this state belongs to the stack `{was}`, which is called `{stack}` now; the old name is part "
            f"of everything that the stack has on its host, its weights included. {NOTHING} Give it its old "
            f"name back: pulumi stack rename {was}. For a second stack beside it, after that: pulumi stack "
            f"init {stack}"
        )
    if (other := whose(state, host)) and instead not in (other, ANY):
        return _another(other, host, stack)
    older = _older(state, host)
    if older and not (host.owner and host.owner.id == instead):
        return (
            f"this state of stack `{stack}` is older than the host: {older}. {_serving(host)}{NOTHING} Use "
            "the newer state (where it is: pulumi stack export --file s.json; here: pulumi stack import "
            f"--file s.json), or, where it is lost: make adopt STACK={stack}"
        )
    return ""


def _older(state: Known, host: FoundOnHost) -> str:
    """What shows that a newer copy of this state has changed the host; empty where none has."""
    record = host.owner
    if record is None or record.id != state.id:
        return ""
    said = f"{_from(record)} at {day(record.at)}"
    if (state.changes or 0) < record.changes:
        return (
            f"it counts {state.changes or 0} changes, and a newer copy of it, used {said}, counts "
            f"{record.changes}"
        )
    ours = {each.id for each in state.things}
    for each in host.things:
        if each.id in record.containers and each.id not in ours:
            return f"it does not know the {each.role} that is there, which a newer copy of it made {said}"
    return ""


NOTHING = "Nothing was changed."


def _another(other: str, host: FoundOnHost, stack: str) -> str:
    record = host.owner
    if record:
        whose = (
            f"belongs to another state, {record.id}, since {day(record.since)}; it was last changed "
            f"{_from(record)} at {day(record.at)}"
        )
    else:
        whose = "belongs to another state; which one was not recorded when the stack was made"
    lines = [
        f"the stack `{stack}` on this Docker host {whose}. {_serving(host)}{NOTHING} You can do one of "
        "these:",
        "use its own state: go to that folder, or name the place of its state in CHANGEOVER_BACKEND",
        f"make a second stack beside it: cp Pulumi.{stack}.yaml Pulumi.mine.yaml, set another `port` in "
        "that file, and run make up STACK=mine",
        f"take it over, if its state is lost; weights stay and requests wait: make adopt STACK={stack}",
        f"remove it: make down STACK={stack} OWNER={other}",
    ]
    return "\n  ".join(lines)


def _from(record: OwnerRecord) -> str:
    return f"from {record.folder} on {record.machine}"


def _serving(host: FoundOnHost) -> str:
    return f"On it, {host.serves}. " if host.serves else ""


def missing(state: Known, host: FoundOnHost) -> tuple[DockerObject, ...]:
    """What the state has made and the host does not have any more."""
    there = {(each.kind, each.id) for each in host.things}
    return tuple(each for each in state.things if (each.kind, each.id) not in there)


def gone(things: Iterable[DockerObject], weights: Iterable[Weights], labels: Labels) -> str:
    """One sentence about what is missing, and how much is fetched again of the weights in it."""
    things = list(things)
    names = ", ".join(
        f"{each.kind} {each.name}" for each in sorted(things, key=lambda thing: (thing.kind, thing.name))
    )
    volumes = {each.name for each in things if each.kind == "volume"}
    lost = [each for each in weights if labels.name(naming.child(each.kind, "weights")) in volumes]
    again = ""
    if lost:
        size = sum(each.need_bytes for each in lost) / GIB
        again = (
            f", and with them the weights of {' and '.join(each.kind for each in lost)}, {size:.1f} GiB to "
            "fetch"
        )
    return f"Missing on the Docker host: {names}{again}"


def fill_again(state: Known, host: FoundOnHost, users: Mapping[str, str]) -> dict[str, str]:
    """Step → its `AGAIN`, of the steps that fill volumes. `users` maps each to how the name of the container
    that uses what it fills begins.

    Docker removes no volume that a container uses, running or not. So a step has to be done again only where
    that container is gone, and then its `AGAIN` is another than the state's.
    """
    names = [each.name for each in host.things if each.kind == "container"]
    found = {}
    for step, container in users.items():
        before = state.again.get(step)
        if before is None or any(name.startswith(container) for name in names):
            found[step] = before or ""
        else:
            found[step] = str(int(before or 0) + 1)
    return {step: again for step, again in found.items() if again}
