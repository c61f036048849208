"""What a review says of a change on a cluster, besides its engine. Pure."""

import contextlib
from collections.abc import Iterator

from components import facts, naming
from components.facts import POD_BY_POD
from components.kubernetes.again import ONCE_MORE
from components.kubernetes.looked import read_plan
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
    if (pods := pods_by_hand(preview)) is not None:
        words.append(f"each engine gets back the pods that it had (now: {pods[1]})")
    if told_by_hand(preview):
        words.append("the proxies are told again what serves")
    if NODES in there:
        words.append("each node gets other images or weights, while what serves goes on")
    if PROXIES in there:
        words.append("the proxies are replaced one by one, and each finishes what it has begun")
    return words


def pods_by_hand(preview: Preview) -> tuple[str, str] | None:
    """Which pods there were to be after the last update, and which there are to be now; None where nobody has
    changed that."""
    if (sides := _served(preview)) is None:
        return None
    before, after = (pods or "none" for pods, _ in sides)
    return None if before == after else (before, after)


def told_by_hand(preview: Preview) -> list[str]:
    """What else is so that should not be, of what serves and what the proxies are told, each in words."""
    sides = _served(preview)
    return [] if sides is None else [each for each in sides[1][1] if each != ONCE_MORE]


def lost(preview: Preview) -> list[str]:
    """The names of the ConfigMaps with files that are gone from the cluster, and are made again."""
    step = _changed(preview).get(FILES)
    before, after = (None, None) if step is None else changes.told(step, "LOST")
    return [] if before == after else facts.lost_in(after)[1]


def _served(preview: Preview) -> tuple[tuple[str, list[str]], tuple[str, list[str]]] | None:
    """What the last update left, and what there is now; None where that is the same, or a flip changes it."""
    there = _changed(preview)
    if SERVED not in there or FLIP in there:  # it follows that step
        return None
    before, after = changes.told(there[SERVED], "LIVE")
    if before == after:
        return None
    with contextlib.suppress(KeyError, ValueError, TypeError):  # that of an older version
        # the state may have how it was before that update put it right
        before = read_plan(there[SERVED].before["stdin"]).served
    return facts.fleet_in(before), facts.fleet_in(after)


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
        old, new = map(facts.nodes_in, changes.told(change, "NODES"))
        if added := sorted(new - old):
            yield f"images and weights are waited for on {', '.join(f'`{each}`' for each in added)}"
        if gone := sorted(old - new):
            yield f"no longer among its nodes: {', '.join(f'`{each}`' for each in gone)}"
    elif name == FILES:
        before, after = changes.told(change, "LOST")
        if before != after:
            yield "the code and packages of the pods that are gone are brought again"
            if all(one == other for one, other in (changes.told(change, key) for key in ("CODE", "LOCK"))):
                return
        yield "the pods get other code of this project"
