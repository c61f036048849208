"""What differs, line by line: what engines are started with, rendered texts, every changed property. Pure."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from components import naming
from review.changes import CONFIGURATION, role, successors, told
from review.events import COMPONENT, SECRET, Preview, property_of

LONGEST_FULL = 40_000
"""Characters of the folded preview: a comment on a pull request takes 65,536 in all."""
LONGEST_VALUE = 2_000


def engine_diffs(preview: Preview) -> Iterator[tuple[str, str]]:
    """For each engine that takes the place of another of its kind: what it is started with, as a diff."""
    for old, new in successors(preview):
        found = naming.engine_in(new.name) if role(new) == "engine" else None
        diff = _diff(_started_with(old.before), _started_with(new.after), 0)
        if found and diff:
            yield found[0], diff


def _started_with(inputs: Mapping[str, Any]) -> list[str]:
    """An engine's variables and flags, each on a line."""
    flags = re.sub(r" (?=--?[a-z])", "\n", " ".join(map(str, inputs.get("command") or [])))
    return [*map(str, inputs.get("envs") or []), *flags.splitlines()]


def text_diffs(preview: Preview) -> Iterator[tuple[str, str]]:
    """The lines that change of each rendered text, by its title, as a diff with two lines around them."""
    caddyfiles = [told(each, "CADDYFILE") for each in preview.changes if each.name == CONFIGURATION]
    for title, (old, new) in (
        ("The gateway's TOML", preview.output("gateway_config")),
        ("The proxies' routing", preview.output("routing")),
        *(("The edge's Caddyfile", each) for each in caddyfiles),
    ):
        was, will_be = str(old).splitlines(), str(new).splitlines()
        # of the Caddyfile an older version has said a digest, and a new address is known afterwards
        if min(len(was), len(will_be)) > 1 and (diff := _diff(was, will_be, 2)):
            yield title, diff


def _diff(old: list[str], new: list[str], around: int) -> str:
    lines = list(difflib.unified_diff(old, new, "now", "then", n=around, lineterm=""))[3:]
    return "\n".join(" …" if line.startswith("@@") else line for line in lines if around or line[0] != "@")


def full(preview: Preview) -> str:
    """Every changed property. An engine that takes the place of another of its kind is compared with it."""
    pairs = {new.name: old for old, new in successors(preview)}
    followed = {old.name for old in pairs.values()}
    parts = []
    fresh = not preview.outputs_before
    for change in preview.changes:
        if change.type.startswith(COMPONENT) or change.name in followed:
            continue
        old, title = change, f"# {change.op}: {change.type} {change.name}"
        if change.name in pairs:
            old = pairs[change.name]
            title += f" (compared with {old.name}, which is deleted)"
        elif change.op in ("deleted", "left over") or fresh:
            parts.append(title)
            continue
        keys = {property_of(path) for path in change.paths} if old is change else set()
        before = old.before if keys else _in_order_of(change.after, old.before)
        body = _diff(_lines(before, keys), _lines(change.after, keys), 1)
        parts.append(f"{title}\n{body}" if body else title)
    text = "\n".join(parts)
    if len(text) > LONGEST_FULL:
        text = text[:LONGEST_FULL] + f"\n… and more: make review STACK={preview.stack}"
    return text.replace("```", "'''")


def _in_order_of(pattern: Any, value: Any) -> Any:
    """The value, with lists in the order of the pattern's that hold the same: the provider sorts some."""
    if isinstance(pattern, dict) and isinstance(value, dict):
        return {key: _in_order_of(pattern.get(key), each) for key, each in value.items()}
    if isinstance(pattern, list) and isinstance(value, list):
        if len(pattern) == len(value) and all(each in value for each in pattern):
            return pattern
        return [_in_order_of(*both) for both in zip(pattern, value, strict=False)] + value[len(pattern) :]
    return value


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
