"""What a change leaves behind for people: one JSON and one short Markdown file. Pure."""

import difflib
import hashlib
import json
import time
from typing import Any

from switch.machine import Transaction
from switch.plan import Plan
from switch.words import utc


def name(change: Transaction) -> str:
    """The name of a change's certificate, without an extension: when it began, and from what to what."""
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(change.began))
    return f"{at}-{change.old_kind or 'none'}-to-{change.plan.engine.kind}"


def certificate(change: Transaction) -> dict[str, Any]:
    """A change that has ended, as JSON: durations in seconds, times in UTC, rates in tokens per second."""
    loading = sum(step["seconds"] for step in change.steps if step["phase"] == "loading")
    return {
        "name": name(change),
        "result": change.phase,
        "error": change.error or None,
        "began": utc(change.began),
        "seconds": round(change.ended - change.began, 1),
        "from": _side(change.old_plan),
        "to": _side(change.plan),
        "mode": change.way or change.plan.cutover,
        "reason": _reason(change),
        "memory": change.plan.about.sum,
        "held": {"seconds": _rounded(change.held_seconds), "requests": change.most_waiting},
        "loading": {"seconds": round(loading, 1), "expected": change.plan.about.loading_seconds},
        "steps": [
            {"step": s["phase"], "at": utc(s["at"]), "seconds": round(s["seconds"], 1)} for s in change.steps
        ],
        "gate": [
            {
                "engine": g["engine"],
                "streamed": g["stream"],
                "tokens": g["tokens"],
                "seconds": g["seconds"],
                "rate": round(g["tokens"] / max(g["seconds"], 0.001), 1),
                **({"protocols": g["protocols"]} if "protocols" in g else {}),  # said once, with the last
            }
            for g in change.gates
        ],
        "diff": [
            *_diff("gateway", _config(change.old_plan), _config(change.plan)),
            *_diff("routing", change.old_plan.routing if change.old_plan else "", change.plan.routing),
        ],
    }


def short(content: dict[str, Any]) -> str:
    """One line, with the beginning of the SHA-256 of the whole certificate's JSON."""
    digest = hashlib.sha256(text(content).encode()).hexdigest()[:12]
    how = f"{content['result']} {_by(content)}, {_held(content)}, gate {len(content['gate'])} passed"
    return f"{content['name']}: {how} (sha256 {digest}…)"


def text(content: dict[str, Any]) -> str:
    """The certificate's JSON file."""
    return json.dumps(content, indent=2) + "\n"


def files(content: dict[str, Any]) -> dict[str, str]:
    """Both files: name → text."""
    return {f"{content['name']}.json": text(content), f"{content['name']}.md": markdown(content)}


def markdown(content: dict[str, Any]) -> str:
    """The certificate for a reader: what changed, how, how long each step took, and what the gate saw."""
    old, new = content["from"], content["to"]
    lines = [
        f"# {_kind(old)} → {_kind(new)}: {content['result']}",
        "",
        f"{content['began']}, {content['seconds']:.1f} s in all, {_by(content)}, {_held(content)}.",
        "",
    ]
    if content["error"]:
        lines += [f"It failed: {content['error']}", ""]
    lines += [
        f"Mode: {content['mode']}, since {content['reason']}.  ",
        f"Memory of {new['engine']}: {content['memory']}",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(
            f"| {what} | {_of(old, key)} | {_of(new, key)} |"
            for what, key in (
                ("container", "container"),
                ("weights", "weights"),
                ("image", "image"),
                ("gateway", "gateway_image"),
            )
        ),
        "",
        "| step | seconds |",
        "|---|---|",
        *(f"| {step['step']} | {step['seconds']:.1f} |" for step in content["steps"]),
        "",
        "| completion of the gate | tokens | seconds | tokens per second |",
        "|---|---|---|---|",
        *(
            f"| {g['engine']}{', streamed' if g['streamed'] else ''} | {g['tokens']} | {g['seconds']:.2f} "
            f"| {g['rate']:.1f} |"
            for g in content["gate"]
        ),
        "",
    ]
    seconds, expected = content["loading"]["seconds"], content["loading"]["expected"]
    if content["result"] == "committed" and abs(seconds - expected) > max(2.0, expected / 4):
        lines += [
            f"Loading took {seconds:.1f} s, and the catalogue expects {expected:.1f} s for {new['weights']} "
            f"on {new['engine']}. If that holds, correct it in `components/models.toml`.",
            "",
        ]
    if content["diff"]:
        lines += ["```diff", *content["diff"], "```", ""]
    return "\n".join(lines)


def _side(plan: Plan | None) -> dict[str, str] | None:
    if plan is None:
        return None
    return {
        "engine": plan.engine.kind,
        "container": plan.engine.container,
        "model": plan.engine.model,
        "weights": plan.engine.weights,
        "image": plan.about.engine_image,
        "gateway_image": plan.about.gateway_image,
    }


def _kind(side: dict[str, str] | None) -> str:
    return side["engine"] if side else "nothing"


def _of(side: dict[str, str] | None, key: str) -> str:
    return (side[key] if side else "") or "–"


def _reason(change: Transaction) -> str:
    """Why the change went the way it did. The plan's own reason explains the plan's mode only."""
    if change.way == "gateway":
        return "the engine stays"
    if change.way == "hold" and change.plan.cutover == "overlap":
        return change.crowded or "no engine answered that could have gone on meanwhile"
    return change.plan.about.reason


def _by(content: dict[str, Any]) -> str:
    return "with the engine that was there" if content["mode"] == "gateway" else f"by {content['mode']}"


def _held(content: dict[str, Any]) -> str:
    held = content["held"]
    if held["seconds"] is None:
        return "nothing held"
    return f"held for {held['seconds']:.1f} s, {held['requests']} requests at most"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _config(plan: Plan | None) -> str:
    return plan.gateway.config if plan and plan.gateway else ""


def _diff(what: str, old: str, new: str) -> list[str]:
    """The difference between two texts, as lines. None where one is empty: a whole text as a difference would
    say nothing."""
    if not old or not new:
        return []
    names = f"{what} before", f"{what} after"
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), *names, n=1, lineterm=""))
