"""The gate: completions that an engine has to give before it is active."""

from dataclasses import replace
from typing import NamedTuple

from switch.gate import Answer
from switch.machine.change import fail
from switch.machine.events import ActionFinished, Container
from switch.machine.state import Gating, Transaction
from switch.machine.turn import Turn
from switch.machine.views import gated
from switch.plan import Plan

MOST_ERRORS = 3
"""Failed probes of an engine that listens, after which it has failed its gate."""
REPORT_SECONDS = 5
"""How often it is said that an engine still loads."""
LISTEN_AGAIN_SECONDS, PROBE_AGAIN_SECONDS, GATEWAY_AGAIN_SECONDS = 0.25, 1.0, 0.2
"""The pause after a probe of an engine that does not listen yet, after one that failed, and of a gateway."""


class NextProbe(NamedTuple):
    """The next completion: streamed or not, whether it is the last one, and the seconds until its answer has
    to begin; 0 stands for the gate's own time-out."""

    stream: bool
    last: bool
    seconds: float


def next_probe(gating: Gating, plan: Plan, waited: float) -> NextProbe:
    """What an engine is asked next that has been on its way for `waited` seconds."""
    # Ollama loads its model in the first completion, and begins anew when that is hung up on
    loads = plan.engine.kind == "ollama" and not gating.passed
    return NextProbe(
        stream=gating.passed % 2 == 0,
        last=gating.passed == plan.gate.completions - 1,
        seconds=plan.seconds.load - waited if loads else 0,
    )


def answered(gating: Gating, plan: Plan, answer: Answer | ActionFinished, now: float) -> None:
    """What one completion means for an engine on its way through the gate."""
    if answer.ok:
        if gating.passed or plan.gate.completions == 1:  # an engine warms up, or even loads, in its first
            rate = answer.facts["tokens"] / max(answer.facts["seconds"], 0.001)
            gating.fastest = max(gating.fastest, rate)
        gating.passed, gating.next_at = gating.passed + 1, now
    elif answer.loading:
        gating.why, gating.next_at = answer.text, now + LISTEN_AGAIN_SECONDS
    else:
        gating.errors = MOST_ERRORS if answer.final else gating.errors + 1
        gating.why, gating.next_at = answer.text, now + PROBE_AGAIN_SECONDS


def pass_gate(turn: Turn, plan: Plan, *, strict: bool) -> bool | str:
    """True once the engine of `plan` has passed, the reason if it has failed, False while it is on its way.

    With `strict` the model also has to be wholly on the GPU, and to reach the floor of tokens per second.
    """
    gating, engine = turn.state.gating, turn.world.get(plan.engine.container)
    if gating is None or engine is None:
        return f"the container {plan.engine.container} is gone"
    same_run = engine.restarts <= gating.restarts and gating.started_at in ("", engine.started_at)
    if not engine.running or not same_run:
        return f"{engine.exited} while it was loading"
    gating.started_at = engine.started_at
    if gating.passed >= plan.gate.completions:
        slow = _too_slow(gating, engine, plan) if strict else ""
        return slow or True
    if gating.errors >= MOST_ERRORS:
        return f"{engine.kind} failed its gate: {gating.why}"
    waited = turn.now - gating.began
    if waited > plan.seconds.load:
        return f"{engine.kind} was not ready after {plan.seconds.load:g} s: {gating.why or 'no answer'}"
    if not gating.passed and waited // REPORT_SECONDS > gating.said:
        gating.said = int(waited // REPORT_SECONDS)
        turn.say(f"loading {engine.kind} … {gating.said * REPORT_SECONDS} s")
    if not turn.state.busy and turn.now >= gating.next_at:
        turn.job("probe", engine.name, plan=plan, strict=strict, **next_probe(gating, plan, waited)._asdict())
    return False


def _too_slow(gating: Gating, engine: Container, plan: Plan) -> str:
    """That an engine is under the floor of tokens per second, in words; empty where it is not."""
    floor = plan.gate.tokens_per_second
    if gating.fastest >= floor:
        return ""
    which = "fastest completion" + (" after the first" if plan.gate.completions > 1 else "")
    return (
        f"{engine.kind} is too slow: it reached {gating.fastest:.1f} tokens per second in its {which}, and "
        f"the setting `gateTokensPerSecond` asks for {floor:g}"
    )


def engine_probed(turn: Turn, gating: Gating, result: ActionFinished) -> None:
    """Counts one completion, and says how far a change is with its gate."""
    plan = result.action.plan
    assert plan is not None, "a probe is by a plan"
    answered(gating, plan, result, turn.now)
    if result.ok and (change := turn.change):
        if change.phase != "retiring":  # what brings the new engine back is no part of the change's own gate
            change.gates.append({"at": turn.now, "engine": gating.container, **result.facts})
        turn.say(_progress(turn, change, gating, plan))


def _progress(turn: Turn, change: Transaction, gating: Gating, plan: Plan) -> str:
    text = f"gate {gating.passed}/{plan.gate.completions}"
    if gating.passed < plan.gate.completions:
        return text
    held = change.held if change.phase != "retiring" else None
    since, what = (held, "the hold began") if held else (gating.began, "it was started")
    return f"{text} passed {turn.now - since:.1f} s after {what}"


def gateway_probes(turn: Turn, change: Transaction) -> Gating:
    """How the probes of the new gateway go."""
    return turn.state.gating or Gating(change.plan.gateway_container, change.since, 0)


def gateway_probe_failed(turn: Turn, change: Transaction, why: str) -> None:
    """The new gateway is asked again after a pause, until its time is over."""
    next_at = turn.now + GATEWAY_AGAIN_SECONDS
    turn.state.gating = replace(gateway_probes(turn, change), why=why, next_at=next_at)


def old_engine_serves(turn: Turn, change: Transaction) -> bool:
    """Whether the old engine still serves, where it has to: in an overlap. If it does not, the change
    fails."""
    if change.way != "overlap" or gated(turn.state, turn.world):
        return True
    why = f"{turn.kind(change.old_engine)} stopped while the new engine got ready"
    fail(turn, why, change.old_engine)
    return False
