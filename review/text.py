"""The review as Markdown, for a reader who has one minute. Pure."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from review import policies
from review.events import SECRET, Change, Preview

NAMES = {"ollama": "Ollama", "vllm": "vLLM"}
IMAGE = policies.IMAGE
STEPS = ("prepare-step", "commit-step")


def tenants(preview: Preview) -> int:
    """How many API keys the previewed settings have; one where only a secret is seen."""
    try:
        return len(json.loads(preview.config.get("changeover:apiKeys", "{}")))
    except ValueError:
        return 1


def is_flip(preview: Preview) -> bool:
    """Whether the engine that serves changes."""
    before = preview.outputs_before.get("engine")
    return before is not None and before != preview.outputs_after.get("engine")


def render(preview: Preview, *, stack: str, cutover: str) -> str:
    """The review of `stack`; `cutover` is the rendered `cutover.txt`: mode and sum of each engine."""
    if not preview.changes and not preview.drift and preview.outputs_before == preview.outputs_after:
        return f"`{stack}`: no changes.\n"
    parts = [_sentence(preview, stack)]
    if warned := warnings(preview, stack):
        parts.append("**Look at this first:**\n\n" + "\n".join(f"- {each}" for each in warned))
    if preview.drift:
        lines = "\n".join(f"- {line}" for line in drift(preview))
        parts.append(f"**Changed behind Pulumi's back** (this update puts it right):\n\n{lines}")
    if cutover:
        parts.append("Mode and memory:\n\n```\n" + cutover.strip() + "\n```")
    if preview.changes:
        parts.append("What happens to what:\n\n" + _table(preview))
    if diff := toml_diff(preview):
        parts.append("The gateway's TOML:\n\n```diff\n" + diff + "\n```")
    parts.append(
        "<details><summary>The full preview</summary>\n\n```diff\n" + _full(preview) + "\n```\n\n</details>"
    )
    return "\n\n".join(parts) + "\n"


def _sentence(preview: Preview, stack: str) -> str:
    before, after = preview.outputs_before.get("engine"), preview.outputs_after.get("engine")
    if before is None and any(change.op == "created" for change in preview.changes):
        return f"`{stack}` is deployed for the first time, with {NAMES.get(str(after), after)}."
    back = "back by the old settings and another update"
    replaced = [change for change in preview.changes if change.op == "replaced"]
    others = [change.name for change in replaced if not _is_gateway(change)]
    names = ", ".join(f"`{name}`" for name in others)
    only = "nothing is replaced" + (" but the gateway" if len(replaced) > len(others) else "")
    if others:
        only = f"{names} {'is' if len(others) == 1 else 'are'} replaced"
    if is_flip(preview):
        mode = preview.outputs_after.get("cutover")
        waits = (
            "requests wait meanwhile and get their answer"
            if mode == "hold"
            else "the old engine answers until the new one is ready"
        )
        return (
            f"Engine of `{stack}`: {NAMES.get(str(before), before)} → {NAMES.get(str(after), after)} "
            f"by {mode}: {waits}, 0 requests lost expected; {only}; {back}."
        )
    if any(change.name in STEPS for change in preview.changes):
        return (
            f"`{stack}` stays on {NAMES.get(str(after), after)}, in another container "
            f"(by {preview.outputs_after.get('cutover')}); {only}; {back}."
        )
    count = len(preview.changes)
    return (
        f"`{stack}`: {count} resource{'s change' if count != 1 else ' changes'}; the engine does not; {only}."
    )


def _is_gateway(change: Change) -> bool:
    return change.name.endswith("-gateway") and change.type == policies.CONTAINER


def warnings(preview: Preview, stack: str) -> list[str]:
    """What a reviewer must not miss: data or machine replaced, secrets, image pins, broken policies."""
    found = []
    for change in preview.changes:
        if change.type in (policies.INSTANCE, *policies.KEEPS_DATA) and change.op in ("replaced", "deleted"):
            found.append(
                f"`{change.name}` ({change.kind}) is {change.op}: {', '.join(change.paths) or 'gone'}"
            )
        if change.op == "changed" and any(
            change.before.get(path.split(".")[0]) == SECRET for path in change.paths
        ):
            found.append(f"a secret of `{change.name}` changes ({', '.join(change.paths)})")
    images: dict[str, set[str]] = {"created": set(), "deleted": set()}
    for change in preview.changes:
        if change.type == IMAGE:
            images["deleted"].add(str(change.before.get("name", "")))
            images["created"].add(str(change.after.get("name", "")))
    gone, new = images["deleted"] - images["created"], images["created"] - images["deleted"]
    if new - {""} and gone - {""}:
        found.append(
            f"an image pin changes: {', '.join(sorted(gone - {''}))} → {', '.join(sorted(new - {''}))}"
        )
    broken = [
        *policies.check(preview.resources, stack=stack, tenants=tenants(preview)),
        *policies.a_flip_replaces_no_instance_and_no_volume(preview.changes, is_flip(preview)),
    ]
    return found + [f"policy broken: {each.words}" for each in broken]


def drift(preview: Preview) -> list[str]:
    """Everything that was changed behind Pulumi's back, each in words."""
    return [_drifted(change) for change in preview.drift]


def _drifted(change: Change) -> str:
    if change.op == "deleted":
        return f"`{change.name}` ({change.kind}) is gone"
    if change.before.get("mustRun") is True and change.after.get("mustRun") is False:
        return f"the container `{change.name}` is stopped"
    words = []
    for path in change.paths:
        old, new = _at(change.before, path), _at(change.after, path)
        words.append(f"{path} is {_short(new)} and was {_short(old)}")
    return f"`{change.name}` ({change.kind}): {'; '.join(words)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:77] + "…"


def _at(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _table(preview: Preview) -> str:
    rows = ["| what | resources |", "|---|---|"]
    groups: dict[str, list[str]] = {}
    for change in preview.changes:
        op = change.op
        if op == "replaced":
            op = "replaced, the new one first" if change.new_first else "replaced, the old one goes first"
        if not change.type.startswith("changeover:"):
            groups.setdefault(op, []).append(f"`{change.name}` ({change.kind})")
    order = (
        "created",
        "changed",
        "replaced, the new one first",
        "replaced, the old one goes first",
        "deleted",
    )
    rows += [f"| {op} | {', '.join(groups[op])} |" for op in order if op in groups]
    touched = {change.name for change in preview.changes}
    same = sum(each.name not in touched for each in preview.resources)
    return "\n".join([*rows, f"| unchanged | {same} |"])


def toml_diff(preview: Preview) -> str:
    """The lines of the gateway's TOML that change, as a diff with two lines around them."""
    old, new = (
        str(side.get("gateway_config", "")).splitlines()
        for side in (preview.outputs_before, preview.outputs_after)
    )
    lines = list(difflib.unified_diff(old, new, "now", "then", n=2, lineterm=""))
    return "\n".join(line for line in lines[2:] if not line.startswith("@@"))


def _full(preview: Preview) -> str:
    lines = []
    for change in preview.changes:
        lines.append(f"# {change.op}: {change.type} {change.name}")
        old, new = (
            json.dumps(side, indent=2, sort_keys=True, ensure_ascii=False)
            .replace("\\n", "\n    ")
            .splitlines()
            if side
            else []
            for side in (change.before, change.after)
        )
        lines += list(difflib.unified_diff(old, new, n=1, lineterm=""))[2:]
    return "\n".join(line for line in lines if not line.startswith("@@"))
