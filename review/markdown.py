"""The review as Markdown, for a reader who has one minute. Pure: the same events give the same text."""

from collections.abc import Iterable, Mapping, Sequence

from components import naming
from components.facts import FIRST_FETCH, HOSTS, MODE, POD_BY_POD
from components.naming import NAMES
from review import policies
from review.changes import moves
from review.differences import engine_diffs, full, text_diffs
from review.drift import drift, lasting
from review.events import COMPONENT, STACK_TYPE, Preview
from review.sentence import sentence
from review.warnings import warnings

PARTS = {"RemoteImage": "image", "Command": "weights", "Container": "container"}
RUNS, FORGOTTEN = "run again", "no longer managed by Pulumi, kept by Docker"
WAITED_FOR = "unchanged, waited for until ready"
ORDER = (
    "created",
    "changed",
    RUNS,
    WAITED_FOR,
    "replaced, the new one created first",
    "replaced, the old one deleted first",
    "left over",
    "deleted",
    FORGOTTEN,
)


def render(preview: Preview, advice: str = "", twins: Mapping[str, Sequence[str]] | None = None) -> str:
    """The review of one preview. `advice` is a line about the stack's traffic, empty for none; `twins` are
    other stacks, each with the rendered files that this one has of it, word for word."""
    stack = preview.stack
    if not preview.changes and not preview.drift and preview.outputs_before == preview.outputs_after:
        return f"`{stack}`: no changes.\n"
    parts = [f"{sentence(preview)}."]
    if advice:
        parts.append(f"What its traffic says: {advice}.")
    for twin, files in (twins or {}).items():
        names = ", ".join(f"`{file}`" for file in files)
        parts.append(
            f"These of its rendered files are the same, word for word, as those of `{twin}`, and it is "
            f"enough to read them once: {names}."
        )
    if warned := warnings(preview):
        parts.append("**Look at this first:**\n\n" + _bullets(warned))
    if found := drift(preview):
        parts.append("**Changed behind Pulumi's back** (this update puts it right):\n\n" + _bullets(found))
    if stays := lasting(preview):
        parts.append("**Changed behind Pulumi's back** (no update puts it right):\n\n" + _bullets(stays))
    if moves(preview):
        parts.append("Mode and memory:\n\n```\n" + "\n".join(_cutover(preview)) + "\n```")
    parts += [f"Before anything serves: {line}." for line in preview.lines(FIRST_FETCH)]
    parts.append(f"Price: {_price(preview)}")
    if preview.changes:
        parts.append("What happens to each resource:\n\n" + _table(preview))
    for kind, diff in engine_diffs(preview):
        parts.append(f"What {NAMES[kind]} is started with:\n\n```diff\n{diff}\n```")
    for title, diff in text_diffs(preview):
        parts.append(f"{title}:\n\n```diff\n{diff}\n```")
    if everything := full(preview):
        parts.append(
            f"<details><summary>The full preview</summary>\n\n```diff\n{everything}\n```\n\n</details>"
        )
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cutover(preview: Preview) -> list[str]:
    """Mode, sums and waits, as the program itself says them."""
    for note in preview.notes:
        lines = note.splitlines()
        if modes := [n for n, line in enumerate(lines) if line.startswith((MODE, HOSTS))]:
            return lines[modes[0] :]
    return []


def _price(preview: Preview) -> str:
    before, after = preview.output("cost")
    if preview.output("cutover")[1] == POD_BY_POD:
        return "that of the cluster's hosts, which this program does not make."
    if before is None and after is None:
        return "none of its own, since it runs on this machine's Docker engine."
    if before == after:
        return f"{after}, unchanged."
    return f"{before or 'nothing'} → {after or 'nothing'}."


def _table(preview: Preview) -> str:
    groups: dict[str, list[str]] = {}
    engines: dict[tuple[str, str], list[str]] = {}
    for change in preview.changes:
        if change.type.startswith(COMPONENT):
            continue
        op = change.op
        if op == "replaced":
            op = (
                "replaced, the new one created first"
                if change.new_first
                else "replaced, the old one deleted first"
            )
        elif op == "deleted" and change.retained:
            op = FORGOTTEN
        elif change.only_waits:
            op = WAITED_FOR
        elif op == "changed" and change.type == policies.COMMAND:
            op = RUNS
        if (engine := naming.engine_in(change.name)) and op in ("created", "deleted"):
            engines.setdefault((op, engine[1]), []).append(PARTS.get(change.kind, change.kind))
        else:
            groups.setdefault(op, []).append(f"`{change.name}`" + (f" ({change.kind})" if op != RUNS else ""))
    for (op, engine_name), parts in engines.items():
        what = ", ".join(sorted(parts)) if op == "created" else "container; its image and weights stay"
        groups.setdefault(op, []).append(f"engine `{engine_name}` ({what})")
    touched = {change.name for change in preview.changes}
    same = sum(
        each.name not in touched and each.type != STACK_TYPE and not each.type.startswith(COMPONENT)
        for each in preview.resources
    )
    rows = [f"| {op} | {', '.join(groups[op])} |" for op in ORDER if op in groups]
    return "\n".join(["| what | resources |", "|---|---|", *rows, f"| unchanged | {same} |"])
