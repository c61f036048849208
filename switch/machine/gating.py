"""The gate: completions that an engine has to give before it is active."""

from dataclasses import replace

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
        # Ollama loads its model in the first completion, and begins anew when that is hung up on
        loads = engine.kind == "ollama" and not gating.passed
        turn.job(
            "probe",
            engine.name,
            seconds=plan.seconds.load - waited if loads else 0,
            plan=plan,
            stream=gating.passed % 2 == 0,
            strict=strict,
            last=gating.passed == plan.gate.completions - 1,
        )
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


def engine_probed(turn: Turn, gating: Gating, result: ActionFinished, took: float) -> None:
    """What one completion means for an engine on its way through the gate. `took` is in seconds."""
    plan = result.action.plan
    if result.ok and plan:
        if gating.passed or plan.gate.completions == 1:  # an engine warms up, or even loads, in its first
            rate = result.facts["tokens"] / max(result.facts["seconds"], 0.001)
            gating.fastest = max(gating.fastest, rate)
        gating.passed, gating.next_at = gating.passed + 1, turn.now
        if change := turn.change:
            change.gates.append({"at": turn.now, "engine": gating.container, **result.facts})
            turn.say(_progress(turn, change, gating, plan))
    elif result.loading:
        gating.why, gating.next_at = result.text, turn.now + LISTEN_AGAIN_SECONDS
    else:
        gating.errors = MOST_ERRORS if result.final else gating.errors + 1
        gating.why, gating.next_at = result.text, turn.now + PROBE_AGAIN_SECONDS


def _progress(turn: Turn, change: Transaction, gating: Gating, plan: Plan) -> str:
    text = f"gate {gating.passed}/{plan.gate.completions}"
    if gating.passed < plan.gate.completions:
        return text
    since, what = (change.held, "the hold began") if change.held else (gating.began, "it was started")
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
