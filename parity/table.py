"""The table of what both engines do, as the files that are reviewed; and what a stack may demand of it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from parity.probes import PROBES, chosen, is_no_answer
from switch.plan import EngineKind

KINDS = get_args(EngineKind)
FILES = ("parity.json", "parity.md")


def table(
    model: str,
    engines: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Mapping[str, str]],
    through: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """`engines`: name by content and version of each kind; `found`: kind -> probe -> what it does.

    `through`: the same of the engine that was also asked through the endpoint. A row has it as `endpoint`
    where it is not what the engine itself does; `endpoint` of the table says which engine that was.
    """
    asked, said = next(iter((through or {}).items()), ("", {}))
    rows = [
        {
            "probe": name,
            **{kind: found[kind][name] for kind in KINDS},
            **({"endpoint": said[name]} if asked and said[name] != found[asked][name] else {}),
        }
        for name in PROBES
        if all(name in found[kind] for kind in KINDS)
    ]
    content = {"model": model, "engines": {kind: dict(engines[kind]) for kind in KINDS}, "probes": rows}
    return {**content, "endpoint": asked} if asked else content


def differences(content: Mapping[str, Any]) -> list[str]:
    """The names of the probes whose answers differ."""
    return [row["probe"] for row in content["probes"] if not _same(row)]


def _same(row: Mapping[str, Any]) -> bool:
    """Whether both engines do the same. Of two that gave no answer nothing is known."""
    return bool(row["ollama"] == row["vllm"]) and not is_no_answer(row["ollama"])


def names(content: Mapping[str, Any]) -> dict[str, str]:
    """The name of each engine that was compared, by its kind."""
    return {kind: content["engines"][kind]["name"] for kind in KINDS}


def markdown(content: Mapping[str, Any], accepted: Sequence[str]) -> str:
    """The table for a reader."""
    engines = [content["engines"][kind] for kind in KINDS]
    head = " and ".join(f"{each['version']} (`{each['name']}`{_kv_cache(each)})" for each in engines)
    lines = [
        f"{head}, model `{content['model']}`",
        "",
        "| probe | ollama | vllm | same |",
        "|---|---|---|---|",
    ]
    for row in content["probes"]:
        verdict = "yes" if _same(row) else "no, accepted" if row["probe"] in accepted else "**no**"
        cells = [PROBES[row["probe"]].what, row["ollama"], row["vllm"]]
        line = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| {row['probe']}: {line} | {verdict} |")
    if asked := content.get("endpoint"):
        other = [row for row in content["probes"] if "endpoint" in row]
        same = len(content["probes"]) - len(other)
        lines += [
            "",
            f"Asked through the endpoint, {asked} did the same in {same} of {len(content['probes'])} probes.",
        ]
        lines += [f"- {row['probe']}: {row['endpoint']}, and asked directly: {row[asked]}" for row in other]
    return "\n".join(lines) + "\n"


def _kv_cache(engine: Mapping[str, str]) -> str:
    """The type of its KV cache, which a table of an older version doesn't say."""
    return f", KV cache: {engine['kv_cache']}" if "kv_cache" in engine else ""


def problem(
    content: Mapping[str, Any] | None,
    engines: Mapping[str, str],
    accepted: Sequence[str],
    stack: str,
    *,
    able: bool,
) -> str:
    """Why a stack that demands parity can't be changed with this table, and what to type; or nothing. `able`
    says whether its model can follow an instruction."""
    probe = f"Run: make parity STACK={stack}"
    if content is None:
        return f"rendered/{stack}/parity.json does not exist. {probe}"
    if names(content) != dict(engines):
        theirs, ours = (" and ".join(each.values()) for each in (names(content), dict(engines)))
        return f"rendered/{stack}/parity.json compares {theirs}, but the settings give {ours}. {probe}"
    there = {row["probe"] for row in content["probes"]}
    if missing := [each.name for each in chosen(able) if each.name not in there]:
        return f"rendered/{stack}/parity.json doesn't have the probes {', '.join(missing)}. {probe}"
    if new := [name for name in differences(content) if name not in accepted]:
        numbered = enumerate(new, len(accepted))
        accept = "; ".join(
            f"pulumi config set --path 'acceptedDifferences[{n}]' {name}" for n, name in numbered
        )
        return (
            f"the engines differ in {', '.join(new)} (rendered/{stack}/parity.md). To accept that: {accept}"
        )
    return ""


def read(text: str) -> dict[str, Any]:
    """A table from its file. Raises ValueError for what is none."""
    content = json.loads(text)
    try:
        names(content), differences(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a table of `make parity`: {error!r}") from error
    return dict(content)
