"""What a review says of a change on a cluster, besides its engine. Pure."""

from collections.abc import Iterator

from components import naming
from components.facts import POD_BY_POD
from review import changes
from review.events import Preview, ResourceChange

FLIP = naming.child(naming.PREPARE, "step")
PROXIES, NODES, SERVED, WEIGHTS, FILES = (
    "deployment-proxy",
    "daemonset-weights",
    "served",
    "weights",
    "files",
)
"""Names of resources, as `components.kubernetes.stack` gives them."""


def said(preview: Preview) -> list[str]:
    """In words; empty on a Docker host."""
    if preview.output("cutover")[1] != POD_BY_POD:
        return []
    there = _changed(preview)
    words = [each for name, change in there.items() for each in _of(name, change)]
    if (sides := by_hand(preview)) is not None:
        words.append(f"each engine gets back the pods that it had (now: {sides[1]})")
    if NODES in there:
        words.append("each node gets other images or weights, while what serves goes on")
    if PROXIES in there:
        words.append("the proxies are replaced one by one, and each finishes what it has begun")
    return words


def by_hand(preview: Preview) -> tuple[str, str] | None:
    """Which pods there were to be after the last update, and which there are to be now; None where nobody has
    changed that."""
    there = _changed(preview)
    if SERVED not in there or FLIP in there:  # it follows that step
        return None
    before, after = changes.told(there[SERVED], "LIVE")
    return None if before == after else (str(before or "none"), str(after or "none"))


def _changed(preview: Preview) -> dict[str, ResourceChange]:
    return {each.name: each for each in preview.changes if each.op == "changed" and not each.only_waits}


def _of(name: str, change: ResourceChange) -> Iterator[str]:
    if name == FLIP:
        before, after = changes.told(change, "HOSTS")
        if before != after:
            yield f"{after} hosts serve instead of {before}"
        before, after = changes.told(change, "AT_ONCE")
        if before != after:
            yield f"a change of engine takes {after} of them away at a time, instead of {before}"
    elif name == WEIGHTS:
        old, new = (set(str(each or "").split(", ")) for each in changes.told(change, "NODES"))
        if added := sorted(new - old - {""}):
            yield f"images and weights are waited for on {', '.join(f'`{each}`' for each in added)}"
        if gone := sorted(old - new - {""}):
            yield f"no longer among its nodes: {', '.join(f'`{each}`' for each in gone)}"
    elif name == FILES:
        yield "the pods get other code of this project"
