"""How engines and gateways are ended: what phases and the steady state share.

Each function does one step, and says whether there is nothing left to do.
"""

from collections.abc import Iterable

from switch.machine.events import Action, Container
from switch.machine.state import Terminating, Transaction
from switch.machine.turn import Turn
from switch.plan import Plan

STOP_SECONDS = 10
"""From SIGTERM to SIGKILL, where no plan says it."""


def stop(turn: Turn, engines: Iterable[Container]) -> bool:
    """Stops the first of these engines. True when there are none."""
    for engine in engines:
        known = turn.state.terminating.get(engine.name)
        turn.state.terminating[engine.name] = Terminating(
            engine.started_at, turn.now, hangs=known.hangs if known else ""
        )
        active = turn.state.active
        plan = turn.change.plan if turn.change else active.plan if active else None
        turn.job("stop", engine.name, seconds=plan.seconds.stop if plan else STOP_SECONDS)
        return False
    return True


def stop_others(turn: Turn, change: Transaction) -> bool:
    """Stops the engines that have no business to run in this change. True when there are none."""
    may_run = [change.plan.engine.container]
    if change.way == "overlap":
        may_run.append(change.old_engine)
    running = [engine for engine in turn.role("engine") if engine.up]
    ending = turn.state.terminating
    return stop(turn, [each for each in running if each.name not in may_run or each.name in ending])


def end_gateways(turn: Turn, gateways: list[Container], patience: float = float("inf")) -> bool:
    """Tells each gateway once to finish, and ends it after `patience` seconds. True when there are none."""
    for gateway in gateways:
        known = turn.state.terminating.get(gateway.name)
        if known is None or not (known.sent or known.hangs):
            at = known.at if known else turn.now
            turn.state.terminating[gateway.name] = Terminating(gateway.started_at, at)
            turn.actions.append(Action("signal", gateway.name))
        elif known.hangs or turn.now - known.at > patience:
            turn.job("stop", gateway.name, seconds=0)
    return not gateways


def other_gateways(turn: Turn, keep: str) -> list[Container]:
    """Those that run, but for the one that is kept."""
    return [each for each in turn.role("gateway") if each.up and each.name != keep]


def unrouted_gateways(turn: Turn) -> list[Container]:
    """Gateways that have to end before requests are held: those of a version without proxies."""
    active = turn.state.active
    return [] if active and active.plan.routing else [each for each in turn.role("gateway") if each.up]


def patience(plan: Plan) -> float:
    """For how many seconds a gateway may finish whose engine answers: no answer is cut that can still end."""
    return max(plan.seconds.drain + plan.seconds.load, plan.seconds.request)
