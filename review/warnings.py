"""What a reviewer must not miss: data or machine replaced, secrets, image pins, broken policies. Pure."""

from review import policies
from review.changes import GONE, KEYS, changes_engine, is_flip
from review.events import SECRET, Preview, property_of
from review.sentence import clients, down, keys

UNHEALTHY = "Refreshed resource is in an unhealthy state:"
"""Begins what Pulumi's engine says of what is not ready: `not_ready` says which it is."""


def warnings(preview: Preview) -> list[str]:
    """What a reviewer must not miss, each in words."""
    known = {each for change in preview.changes for each in change.unready}
    found = [each for each in preview.warned if not each.startswith(UNHEALTHY) and each not in known]
    found += clients(preview)
    if is_flip(preview) and preview.foreseen.tools:
        found.append(preview.foreseen.tools)
    found += [*down(preview), *not_ready(preview)]
    for change in preview.changes:
        if policies.keeps(change) and change.op in GONE:
            why = ", ".join(change.paths) or "it is no longer declared"
            said = f"`{change.name}` ({change.kind}) is {change.op}: {why}"
            if change.retained:
                said = (
                    f"`{change.name}` ({change.kind}) is no longer managed by Pulumi: {why}. Docker keeps it "
                    "and its data, but what used it starts with an empty one"
                )
            found.append(said)
        if change.name == KEYS:
            found += keys(change)
        elif change.op == "changed":
            paths = [path for path in change.paths if change.before.get(property_of(path)) == SECRET]
            if paths:
                found.append(f"a secret of `{change.name}` changes ({', '.join(paths)})")
    found += _image_pins(preview)
    return found + [f"policy broken, so `make apply` refuses it: {each.words}" for each in broken(preview)]


def not_ready(preview: Preview) -> list[str]:
    """What is to be there and is not ready, each in words."""
    return [
        f"`{change.name}` ({change.kind}) is not ready, and the update waits until it is: "
        + "; ".join(change.unready)
        for change in preview.changes
        if change.unready
    ]


def _image_pins(preview: Preview) -> list[str]:
    old, new = set(), set()
    for change in preview.changes:
        if change.type == policies.IMAGE:
            old.add(str(change.before.get("name", "")))
            new.add(str(change.after.get("name", "")))
    gone, come = sorted(old - new - {""}), sorted(new - old - {""})
    return [f"an image pin changes: {', '.join(gone)} → {', '.join(come)}"] if gone and come else []


def broken(preview: Preview) -> list[policies.Violation]:
    """Every policy that the previewed stack would break."""
    return [
        *policies.check(preview.resources, stack=preview.stack, keys=has_keys(preview)),
        *policies.weights_that_are_fetched_are_pinned(preview.changes),
        *policies.a_flip_replaces_no_instance_and_no_volume(
            preview.changes, is_flip(preview) or changes_engine(preview)
        ),
    ]


def has_keys(preview: Preview) -> bool:
    """Whether the previewed settings have an API key; a setting of which only `[secret]` is seen has."""
    return preview.config.get("changeover:apiKeys", "{}") not in ("{}", "")
