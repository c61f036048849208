"""The review as Markdown, for a reader who has one minute. Pure: the same events give the same text."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from review import policies
from review.events import SECRET, UNKNOWN_TEXT, Change, Preview

NAMES = {"ollama": "Ollama", "vllm": "vLLM"}
LONGEST_FULL = 40_000
"""Characters of the folded preview: a comment on a pull request takes 65,536 in all."""
LONGEST_VALUE = 2_000
ACTIVE = "the active engine"
ENGINE = re.compile(r"\b(ollama|vllm)-[0-9a-f]{8}\b")
"""An engine's name in the names of its resources: kind and content."""
PARTS = {"RemoteImage": "image", "Command": "weights", "Container": "container"}
ORDER = (
    "created",
    "changed",
    "replaced, the new one first",
    "replaced, the old one first",
    "left over",
    "deleted",
)


def render(preview: Preview) -> str:
    """The review of one preview."""
    stack = preview.stack
    if not preview.changes and not preview.drift and preview.outputs_before == preview.outputs_after:
        return f"`{stack}`: no changes.\n"
    parts = [f"{sentence(preview)}."]
    if warned := warnings(preview):
        parts.append("**Look at this first:**\n\n" + _bullets(warned))
    if found := drift(preview):
        parts.append("**Changed behind Pulumi's back** (this update puts it right):\n\n" + _bullets(found))
    if moves(preview):
        parts.append("Mode and memory:\n\n```\n" + "\n".join(_cutover(preview)) + "\n```")
    parts.append(f"Price: {_price(preview)}")
    if preview.changes:
        parts.append("What happens to what:\n\n" + _table(preview))
    if diff := toml_diff(preview):
        parts.append("The gateway's TOML:\n\n```diff\n" + diff + "\n```")
    if full := _full(preview):
        parts.append(f"<details><summary>The full preview</summary>\n\n```diff\n{full}\n```\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def is_flip(preview: Preview) -> bool:
    """Whether the engine that serves changes."""
    before = preview.outputs_before.get("engine")
    return before is not None and before != preview.outputs_after.get("engine")


def moves(preview: Preview) -> bool:
    """Whether what serves moves to another container: the other engine, or the same with other settings."""
    return any(
        change.name == "prepare-step" and _at(change.before, "ENGINE") != _at(change.after, "ENGINE")
        for change in preview.changes
    )


def sentence(preview: Preview) -> str:
    """What this change is, in one sentence without its full stop."""
    stack, after = preview.stack, str(preview.outputs_after.get("engine"))
    before = preview.outputs_before.get("engine")
    if before is None and any(change.op == "created" for change in preview.changes):
        return f"`{stack}` is deployed for the first time, with {NAMES.get(after, after)}"
    back = f"back with `make rollback STACK={stack}`"
    others = _others(preview)
    rest = "; ".join(others) if others else "nothing is replaced but the gateway"
    if is_flip(preview):
        flip = f"{NAMES.get(str(before), before)} → {NAMES.get(after, after)}"
        return f"Engine of `{stack}`: {flip} {_how(preview)}; {rest}; {back}"
    if _taken_back(preview):
        return (
            f"`{stack}`: what an update began and did not finish is taken back; "
            f"{NAMES.get(after, after)} goes on serving; {rest}"
        )
    if moves(preview):
        return (
            f"Engine of `{stack}`: stays {NAMES.get(after, after)}, in another container "
            f"{_how(preview)}; {rest}; {back}"
        )
    if any(said.startswith(ACTIVE) for said in drift(preview)):
        others = [f"{NAMES.get(after, after)} is made active again {_how(preview)}", *others]
    gateway = [f"the gateway is replaced by {_beside(preview)}"] if _replaced(preview, "gateway") else []
    said = [*gateway, *others] or [f"{_many(len(preview.changes), 'resource')} to update"]
    return f"`{stack}`: {'; '.join(said)}; the engine stays {NAMES.get(after, after)}; {back}"


def _taken_back(preview: Preview) -> bool:
    """Whether the engine is the one that was committed last, and only the first phase of another had run."""
    ends = [
        (_at(change.before, "ENGINE"), _at(change.after, "ENGINE"))
        for change in preview.changes
        if change.name == "commit-step"
    ]
    return moves(preview) and any(before == after for before, after in ends)


def _how(preview: Preview) -> str:
    mode, after = preview.outputs_after.get("cutover"), preview.outputs_after.get("engine")
    if mode == "overlap":
        waits = "nobody waits"
    else:
        found = re.search(rf"^wait in a change to {after}: (\S+ s)", "\n".join(preview.notes), re.MULTILINE)
        waits = f"about {found[1]} of waiting" if found else "requests wait meanwhile"
    return f"by {mode}, {waits}, 0 requests lost expected"


def _beside(preview: Preview) -> str:
    first = any(_role(change) == "gateway" and change.new_first for change in preview.changes)
    return "a new one that is started first" if first else "a new one"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' if count != 1 else ''}"


def _role(change: Change) -> str:
    """`gateway`, `edge`, `switch` or `engine` for a container, else nothing."""
    if change.type != policies.CONTAINER:
        return ""
    labels = (change.after or change.before).get("labels") or []
    return next((each["value"] for each in labels if each["label"] == "changeover.role"), "")


def _replaced(preview: Preview, role: str) -> bool:
    return any(_role(change) == role and change.op in ("replaced", "created") for change in preview.changes)


def _others(preview: Preview) -> list[str]:
    """What happens besides a move of the engine and the gateway's part in it, in words."""
    said = []
    if _replaced(preview, "edge"):
        said.append("the edge is made anew, so requests are refused for some seconds")
    for change in preview.changes:
        if change.name == "edge-configuration" and not _replaced(preview, "edge"):
            what = (
                "another configuration or other keys"
                if "stdin" in change.paths
                else "its configuration again"
            )
            said.append(f"the edge gets {what} and is not replaced")
        elif change.type == policies.CONTAINER and change.op == "changed":
            said.append(f"container `{change.name}` changes in place")
    if _replaced(preview, "switch"):
        said.append("the switch is made anew, which no request notices")
    active = str(preview.outputs_after.get("engine"))
    for kind in ("ollama", "vllm"):
        ops = {
            c.op for c in preview.changes if _role(c) == "engine" and c.name.rpartition("-")[0].endswith(kind)
        }
        if ops and (kind != active or not moves(preview)):
            verb = {"created": "is added", "deleted": "is removed"}.get(
                "".join(ops), "gets another container"
            )
            said.append(f"{NAMES[kind]}, the standby, {verb}")
    for change in preview.changes:
        if change.type in policies.KEEPS and change.op in ("replaced", "deleted"):
            said.append(f"{change.kind.lower()} `{change.name}` is {change.op}")
    return said


def _cutover(preview: Preview) -> list[str]:
    """Mode, sums and waits, as the program itself says them."""
    lines = "\n".join(preview.notes).splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("mode: ")), len(lines))
    return lines[start:]


def _price(preview: Preview) -> str:
    before, after = (side.get("cost") for side in (preview.outputs_before, preview.outputs_after))
    if before is None and after is None:
        return "none of its own, the Docker engine is this machine's."
    if before == after:
        return f"{after}; before and after the same."
    return f"{before or 'nothing'} → {after or 'nothing'}."


def warnings(preview: Preview) -> list[str]:
    """What a reviewer must not miss: data or machine replaced, secrets, image pins, broken policies."""
    found = []
    for change in preview.changes:
        if change.type in policies.KEEPS and change.op in ("replaced", "deleted"):
            why = ", ".join(change.paths) or "it is no longer declared"
            kept = " Docker keeps it and its data" if change.retained else ""
            found.append(f"`{change.name}` ({change.kind}) is {change.op}: {why}.{kept}")
        if change.op == "changed":
            paths = [path for path in change.paths if change.before.get(path.split(".")[0]) == SECRET]
            if paths:
                found.append(f"a secret of `{change.name}` changes ({', '.join(paths)})")
    found += _image_pins(preview)
    return found + [f"policy broken: {each.words}" for each in broken(preview)]


def _image_pins(preview: Preview) -> list[str]:
    old, new = set(), set()
    for change in preview.changes:
        if change.type == policies.IMAGE:
            old.add(str(change.before.get("name", "")))
            new.add(str(change.after.get("name", "")))
    gone, come = sorted(old - new - {""}), sorted(new - old - {""})
    return [f"an image pin changes: {', '.join(gone)} → {', '.join(come)}"] if gone and come else []


def broken(preview: Preview) -> list[policies.Broken]:
    """Every policy that the previewed stack would break."""
    return [
        *policies.check(preview.resources, stack=preview.stack, keys=has_keys(preview)),
        *policies.a_flip_replaces_no_instance_and_no_volume(preview.changes, is_flip(preview)),
    ]


def has_keys(preview: Preview) -> bool:
    """Whether the previewed settings have an API key; a setting of which only `[secret]` is seen has."""
    return preview.config.get("changeover:apiKeys", "{}") not in ("{}", "")


def drift(preview: Preview) -> list[str]:
    """Everything that was changed behind Pulumi's back, each in words."""
    return [*(_drifted(change) for change in preview.drift), *_by_hand(preview)]


def _by_hand(preview: Preview) -> Iterator[str]:
    """What no provider reads back, and the program itself looks at in every preview."""
    for change in preview.changes:
        if change.op == "created":
            continue
        if change.name == "commit-step":
            before, live = _at(change.before, "LIVE"), _at(change.after, "LIVE")
            if live not in (before, UNKNOWN_TEXT):
                left = _at(change.before, "ENGINE")
                what = {"unreachable": "the switch does not answer"}.get(str(live), f"`{live}` serves")
                what = "no engine serves" if str(live).startswith("none since") else what
                yield f"{ACTIVE}: {what}, and Pulumi left `{left}` serving"
        if change.name == "edge-configuration" and _edited(
            _at(change.before, "SEEN"), _at(change.after, "SEEN")
        ):
            yield "the edge's configuration or keys were edited in place"
        if _role(change) == "gateway" and _edited(_label(change.before), _label(change.after)):
            yield f"the TOML in `{change.before.get('name', change.name)}` was edited in place"


def _edited(before: Any, after: Any) -> bool:
    return before != after and str(after).startswith("edited in place")


def _label(inputs: Mapping[str, Any]) -> Any:
    labels = inputs.get("labels") or []
    return next((each["value"] for each in labels if each["label"] == "changeover.config"), None)


def _drifted(change: Change) -> str:
    if change.op == "deleted":
        return f"`{change.name}` ({change.kind}) is gone"
    if change.before.get("mustRun") is True and change.after.get("mustRun") is False:
        return f"the container `{change.name}` is stopped"
    words = []
    for name in sorted({re.split(r"[.\[]", path)[0] for path in change.paths}):
        old, new = change.before.get(name), change.after.get(name)
        if change.type == policies.SECURITY_GROUP and name in ("ingress", "egress"):
            words += _opened(name, old or [], new or [])
        elif isinstance(old, list) and isinstance(new, list):
            more, fewer = [each for each in new if each not in old], [each for each in old if each not in new]
            words += [f"{name} has {_short(each)} more" for each in more]
            words += [f"{name} lacks {_short(each)}" for each in fewer]
        elif isinstance(old, dict) and isinstance(new, dict):
            keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            words += [
                f"{name}.{key} is {_short(new.get(key))} and was {_short(old.get(key))}" for key in keys
            ]
        else:
            words.append(f"{name} is {_short(new)} and was {_short(old)}")
    return f"`{change.name}` ({change.kind}): {'; '.join(words)}"


def _opened(way: str, old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> list[str]:
    """The difference between two sets of a security group's rules, by port and network."""
    before, after = set(_ports(old)), set(_ports(new))
    yes, no = ("open to", "closed to") if way == "ingress" else ("reachable at", "no longer reachable at")
    words = [f"{port} is {yes} {network}" for port, network in sorted(after - before)]
    return words + [f"{port} is {no} {network}" for port, network in sorted(before - after)]


def _ports(rules: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for rule in rules:
        first, last, protocol = rule["fromPort"], rule["toPort"], rule["protocol"]
        port = f"port {first}" if first == last else f"every port from {first} to {last}"
        if protocol == "-1":
            port = "every port"
        elif protocol != "tcp":
            port += f" of {protocol}"
        for kind in ("cidrBlocks", "ipv6CidrBlocks", "prefixListIds", "securityGroups"):
            for network in rule.get(kind) or []:
                yield port, f"{network} (everybody)" if network in policies.EVERYONE else network
        if rule.get("self"):
            yield port, "its own members"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = {key: each for key, each in value.items() if each not in (None, "", False, [])}
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


def _at(inputs: Mapping[str, Any], variable: str) -> Any:
    """A variable of a step's environment."""
    return (inputs.get("environment") or {}).get(variable)


def _table(preview: Preview) -> str:
    groups: dict[str, list[str]] = {}
    engines: dict[tuple[str, str], list[str]] = {}
    for change in preview.changes:
        if change.type.startswith("changeover:"):
            continue
        op = change.op
        if op == "replaced":
            op = "replaced, the new one first" if change.new_first else "replaced, the old one first"
        if (engine := ENGINE.search(change.name)) and op in ("created", "deleted"):
            engines.setdefault((op, engine[0]), []).append(PARTS.get(change.kind, change.kind))
        else:
            groups.setdefault(op, []).append(f"`{change.name}` ({change.kind})")
    for (op, engine_name), parts in engines.items():
        groups.setdefault(op, []).append(f"engine `{engine_name}` ({', '.join(sorted(parts))})")
    touched = {change.name for change in preview.changes}
    same = sum(
        each.name not in touched and not each.type.startswith("changeover:") for each in preview.resources
    )
    rows = [f"| {op} | {', '.join(groups[op])} |" for op in ORDER if op in groups]
    return "\n".join(["| what | resources |", "|---|---|", *rows, f"| unchanged | {same} |"])


def toml_diff(preview: Preview) -> str:
    """The lines of the gateway's TOML that change, as a diff with two lines around them."""
    sides = (preview.outputs_before, preview.outputs_after)
    old, new = (str(side.get("gateway_config", "")).splitlines() for side in sides)
    return _diff(old, new, 2) if old else ""


def _diff(old: list[str], new: list[str], around: int) -> str:
    lines = list(difflib.unified_diff(old, new, "now", "then", n=around, lineterm=""))[2:]
    return "\n".join(line for line in lines if not line.startswith("@@"))


def _full(preview: Preview) -> str:
    """Every changed property. An engine that takes the place of another of its kind is compared with it."""
    gone = {_stem(change): change for change in preview.changes if change.op == "deleted"}
    pairs = {
        _stem(change): gone[_stem(change)]
        for change in preview.changes
        if change.op == "created" and _stem(change) in gone
    }
    parts = []
    fresh = not preview.outputs_before
    for change in preview.changes:
        if change.type.startswith("changeover:"):
            continue
        old, title = change, f"# {change.op}: {change.type} {change.name}"
        if pairs.get(_stem(change)):
            if change.op == "deleted":
                continue
            old = pairs[_stem(change)]
            title = (
                f"# created: {change.type} {change.name} (beside it: what {old.name} was, which is deleted)"
            )
        elif change.op in ("deleted", "left over") or fresh:
            parts.append(title)
            continue
        keys = {path.split(".")[0].split("[")[0] for path in change.paths} if old is change else set()
        body = _diff(_lines(old.before, keys), _lines(change.after, keys), 1)
        parts.append(f"{title}\n{body}" if body else title)
    text = "\n".join(parts)
    if len(text) > LONGEST_FULL:
        text = text[:LONGEST_FULL] + f"\n… and more: make review STACK={preview.stack}"
    return text.replace("```", "'''")


def _stem(change: Change) -> tuple[str, str]:
    return change.type, ENGINE.sub(r"\1", change.name)


def _lines(inputs: Mapping[str, Any], keys: set[str]) -> list[str]:
    """The inputs as lines of text, only those of `keys` if there are any; what is long and new is counted.

    The plan that the steps have on stdin says in JSON what their environment and the TOML say.
    """
    chosen = {
        key: value
        for key, value in inputs.items()
        if (not keys or key in keys) and not (key == "stdin" and value != SECRET)
    }
    if not chosen:
        return []
    text = json.dumps(_cut(chosen) if not keys else chosen, indent=2, sort_keys=True, ensure_ascii=False)
    return text.replace("\\n", "\n    ").replace('\\"', '"').splitlines()


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return f"({len(value.splitlines())} lines)"
    return value
