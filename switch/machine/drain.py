"""What the proxies know and still have, as far as they say it. One that does not run has nothing."""

from switch.machine.turn import Turn
from switch.machine.views import given_up, route


def published(turn: Turn) -> bool:
    """Whether the proxies are told just what the state says now."""
    return turn.route is not None and route(turn.state, turn.route.number, 0) == turn.route


def without_note(turn: Turn) -> list[str]:
    """Which proxies have not taken note of what the state says, in words. One that can't be asked has not."""
    if not published(turn):
        return ["the proxies had not been told the new route"]
    number = turn.route.number if turn.route else 0
    running = [proxy.name for proxy in turn.role("proxy") if proxy.running]
    return [
        f"{name} " + ("had not taken note of the new route" if name in turn.proxies else "did not answer")
        for name in running
        if name not in turn.proxies or turn.proxies[name].applied != number
    ]


def silent_with_requests(turn: Turn) -> str:
    """That the engine that serves has requests and gives nothing, and for how long that is waited for, in
    words; empty where that is not so. It may work on something long: only time tells that from a hang."""
    active = turn.state.active
    silence = turn.silent.get(active.plan.engine.container) if active else None
    if active is None or silence is None:
        return ""
    engine = active.plan.engine
    if not any(status.running.get(engine.name) for status in turn.proxies.values()):
        return ""
    return (
        f"{engine.kind} ({engine.container}) {silence.how}; after {silence.patience:g} s of that it is given "
        "up, and no change waits for its requests any more: run `pulumi up` again then"
    )


def at_work(turn: Turn, serves: str = "") -> list[str]:
    """Which proxies may still have requests that can end, at another engine than `serves`, in words."""
    if without := without_note(turn):
        return without
    left = (serves, *given_up(turn.state))
    counts = {
        name: sum(count for engine, count in status.running.items() if engine not in left)
        for name, status in turn.proxies.items()
    }
    return [
        f"{name} still had {count} request{'' if count == 1 else 's'}"
        for name, count in counts.items()
        if count
    ]
