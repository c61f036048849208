"""What a preview changes, as data: what moves, what is replaced, what serves, who has a key. Pure."""

from collections.abc import Iterator
from typing import Any, Literal

from components import naming
from components.facts import Variable, memory_in, tenants_in, variable
from components.labels import labels_in
from review import policies
from review.events import UNKNOWN_TEXT, Preview, ResourceChange
from switch.answers import is_edited

KEYS, PREPARE, COMMIT = (naming.child(each, "step") for each in (naming.KEYS, naming.PREPARE, naming.COMMIT))
CONFIGURATION = naming.child(naming.EDGE, "configuration")
GONE = ("replaced", "deleted")
LIMITS = {"cpuSet", "cpuShares", "memory", "memorySwap"}


def told(change: ResourceChange, key: Variable) -> tuple[Any, Any]:
    """A variable of a step before and after; None where it has none."""
    return variable(change.before, key), variable(change.after, key)


def told_by(preview: Preview, step: str, key: Variable) -> tuple[Any, Any]:
    """A variable of the step of that name before and after; both None where the step does not change."""
    return next((told(each, key) for each in preview.changes if each.name == step), (None, None))


def is_flip(preview: Preview) -> bool:
    """Whether the engine that serves changes."""
    before, after = preview.output("engine")
    return before is not None and before != after


def moves(preview: Preview) -> bool:
    """Whether what serves moves to another container: the other engine, or the same with other settings."""
    before, after = told_by(preview, PREPARE, "ENGINE")
    return bool(before != after)


def changes_engine(preview: Preview) -> bool:
    """Whether what serves moves because it is another engine by content. Under the same name the container is
    made anew with what it stands on, such as an instance that is meant to be replaced."""
    before, after = (naming.engine_in(str(side)) for side in told_by(preview, PREPARE, "ENGINE"))
    return None not in (before, after) and before != after


def is_taken_back(preview: Preview) -> bool:
    """Whether the engine is the one that was committed last, and only the first phase of another had run."""
    before, after = told_by(preview, COMMIT, "ENGINE")
    return moves(preview) and any(each.name == COMMIT for each in preview.changes) and bool(before == after)


def is_crowded(preview: Preview) -> bool:
    """Whether what serves and what is to serve do not fit at once; the switch adds up the same."""
    old, new = map(memory_in, told_by(preview, PREPARE, "MEMORY"))
    return any(
        there is not None and old.get(what, (0.0, None))[0] + need > there
        for what, (need, there) in new.items()
    )


def serves_instead(preview: Preview) -> str:
    """What the switch answers of the active engine where Pulumi left another; else nothing."""
    for change in preview.changes:
        if change.name == COMMIT and change.op != "created":
            before, live = told(change, "LIVE")
            if live not in (before, UNKNOWN_TEXT):
                return str(live)
    return ""


def role(change: ResourceChange) -> str:
    """`gateway`, `proxy`, `edge`, `switch` or `engine` for a container, else nothing."""
    if change.type != policies.CONTAINER:
        return ""
    return str(labels_in(change.after or change.before).get("role", ""))


def replaced(preview: Preview, what: str) -> list[ResourceChange]:
    """The containers of this role that are replaced or created."""
    return [each for each in preview.changes if role(each) == what and each.op in ("replaced", "created")]


def is_gone(preview: Preview, what: str) -> bool:
    """Whether a container of this role is gone or stopped that this update makes or starts again."""
    names = {each.name for each in preview.changes if role(each) == what}
    return any(each.op == "deleted" or is_stopped(each) for each in preview.drift if each.name in names)


def is_stopped(drifted: ResourceChange) -> bool:
    """Whether it is a container that somebody has stopped."""
    return drifted.before.get("mustRun") is True and drifted.after.get("mustRun") is False


def deleted_first(preview: Preview) -> list[ResourceChange]:
    """Why nothing answers while this is applied: what is replaced, and deleted before there is another."""
    old_first = [change for change in preview.changes if change.op == "replaced" and not change.new_first]
    causes = [change for change in preview.changes if change.type == policies.INSTANCE and change.op in GONE]
    if not causes and any(role(change) in ("engine", "gateway", "proxy") for change in old_first):
        causes = [change for change in old_first if change.paths] or old_first
    return causes


def gateway_setting(preview: Preview) -> Literal["added", "removed", ""]:
    """What becomes of the gateway by the setting of that name, where a stack is there already."""
    before, after = ("gateway_config" in each for each in (preview.outputs_before, preview.outputs_after))
    if before == after or not preview.outputs_before:
        return ""
    return "added" if after else "removed"


def key_changes(change: ResourceChange) -> tuple[set[str], set[str]] | None:
    """Who has an API key before and after a change of keys, of which the tenants alone can be seen."""
    if change.name != KEYS or change.op != "changed" or "stdin" not in change.paths:
        return None
    before, after = told(change, "TENANTS")
    return tenants_in(before), tenants_in(after)


def was_edited(change: ResourceChange) -> bool:
    """Whether somebody has edited on the host what this brings back: keys, TOML or Caddyfile."""
    if role(change) == naming.GATEWAY:
        before, after = (labels_in(side).get("config") for side in (change.before, change.after))
    elif change.name in (KEYS, CONFIGURATION):
        before, after = told(change, "SEEN")
    else:
        return False
    return before != after and is_edited(after)


def successors(preview: Preview) -> Iterator[tuple[ResourceChange, ResourceChange]]:
    """What is deleted, with what is created in its place: an engine's name says its content."""
    gone = {_stem(change): change for change in preview.changes if change.op == "deleted"}
    for change in preview.changes:
        if change.op == "created" and _stem(change) in gone:
            yield gone[_stem(change)], change


def _stem(change: ResourceChange) -> tuple[str, str]:
    return change.type, naming.without_content(change.name)
