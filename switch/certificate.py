"""What a change leaves behind for people: one JSON and one short Markdown file. Pure."""

import difflib
import hashlib
import json
import time
from typing import Any

from switch.machine import Transaction
from switch.plan import Plan


def name(t: Transaction) -> str:
    """The name of a change's certificate, without an extension: when it began, and from what to what."""
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(t.began))
    return f"{at}-{t.old_kind or 'none'}-to-{t.plan.engine.kind}"


def certificate(t: Transaction) -> dict[str, Any]:
    """A change that has ended, as JSON: durations in seconds, times in UTC, rates in tokens per second."""
    loading = sum(step["seconds"] for step in t.steps if step["phase"] == "loading")
    return {
        "name": name(t),
        "result": t.phase,
        "error": t.error or None,
        "began": _utc(t.began),
        "seconds": round(t.ended - t.began, 1),
        "from": _side(t.old_plan),
        "to": _side(t.plan),
        "mode": t.way or t.plan.cutover,
        "reason": _reason(t),
        "memory": t.plan.about.sum,
        "held": {"seconds": _rounded(t.held_seconds), "requests": t.most_waiting},
        "loading": {"seconds": round(loading, 1), "expected": t.plan.about.loading_seconds},
        "steps": [
            {"step": s["phase"], "at": _utc(s["at"]), "seconds": round(s["seconds"], 1)} for s in t.steps
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
            for g in t.gates
        ],
        "diff": [
            *_diff("gateway", _config(t.old_plan), _config(t.plan)),
            *_diff("routing", t.old_plan.routing if t.old_plan else "", t.plan.routing),
        ],
    }


def short(c: dict[str, Any]) -> str:
    """One line, with the beginning of the SHA-256 of the whole certificate's JSON."""
    digest = hashlib.sha256(text(c).encode()).hexdigest()[:12]
    return f"{c['name']}: {c['result']} {_by(c)}, {_held(c)}, gate {len(c['gate'])} passed (sha256 {digest}…)"


def text(c: dict[str, Any]) -> str:
    """The certificate's JSON file."""
    return json.dumps(c, indent=2) + "\n"


def files(c: dict[str, Any]) -> dict[str, str]:
    """Both files: name → text."""
    return {f"{c['name']}.json": text(c), f"{c['name']}.md": markdown(c)}


def markdown(c: dict[str, Any]) -> str:
    """The certificate for a reader: what changed, how, how long each step took, and what the gate saw."""
    old, new = c["from"], c["to"]
    lines = [
        f"# {_kind(old)} → {_kind(new)}: {c['result']}",
        "",
        f"{c['began']}, {c['seconds']:.1f} s in all, {_by(c)}, {_held(c)}.",
        "",
    ]
    if c["error"]:
        lines += [f"It failed: {c['error']}", ""]
    lines += [
        f"Mode: {c['mode']}, since {c['reason']}.  ",
        f"Memory of {new['engine']}: {c['memory']}",
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
        *(f"| {step['step']} | {step['seconds']:.1f} |" for step in c["steps"]),
        "",
        "| completion of the gate | tokens | seconds | tokens per second |",
        "|---|---|---|---|",
        *(
            f"| {g['engine']}{', streamed' if g['streamed'] else ''} | {g['tokens']} | {g['seconds']:.2f} "
            f"| {g['rate']:.1f} |"
            for g in c["gate"]
        ),
        "",
    ]
    seconds, expected = c["loading"]["seconds"], c["loading"]["expected"]
    if c["result"] == "committed" and abs(seconds - expected) > max(2.0, expected / 4):
        lines += [
            f"Loading took {seconds:.1f} s, and the catalogue expects {expected:.1f} s for {new['weights']} "
            f"on {new['engine']}. If that holds, correct it in `components/models.toml`.",
            "",
        ]
    if c["diff"]:
        lines += ["```diff", *c["diff"], "```", ""]
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


def _reason(t: Transaction) -> str:
    """Why it went the way it did: the plan's reason is one for the plan's mode alone."""
    if t.way == "gateway":
        return "the engine stays"
    if t.way == "hold" and t.plan.cutover == "overlap":
        return t.crowded or "no engine answered that could have gone on meanwhile"
    return t.plan.about.reason


def _by(c: dict[str, Any]) -> str:
    return "with the engine that was there" if c["mode"] == "gateway" else f"by {c['mode']}"


def _held(c: dict[str, Any]) -> str:
    held = c["held"]
    if held["seconds"] is None:
        return "nothing held"
    return f"held for {held['seconds']:.1f} s, {held['requests']} requests at most"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _config(plan: Plan | None) -> str:
    return plan.gateway.config if plan and plan.gateway else ""


def _diff(what: str, old: str, new: str) -> list[str]:
    """Of what was there before and is there still: all of what comes or goes would say nothing."""
    if not old or not new:
        return []
    names = f"{what} before", f"{what} after"
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), *names, n=1, lineterm=""))
