"""What is put right without a change: containers off their network, hangs, and times that have been
shifted."""

from switch.machine.events import Action, Container, Tick
from switch.machine.phases import FORMER_NAME_SECONDS
from switch.machine.state import NetworkEndpoint, Terminating
from switch.machine.transitions import LEASED
from switch.machine.turn import MOST_PAUSE_SECONDS, Turn

CONNECT_AGAIN_SECONDS = 5
"""Between two tries to put a container back on a network."""


def shift_deadlines(turn: Turn, seconds: float) -> None:
    """For so many seconds nobody could be heard, nor anything be done: that is nobody's fault."""
    state, change = turn.state, turn.change
    if change:
        change.stalled += seconds
        # only where nobody has followed for so long: else looks that are slow again and again would let
        # nothing go on
        change.unheard |= change.phase in LEASED and turn.now > change.lease
    if state.waiting:
        state.waiting.unheard |= turn.now > state.waiting.lease
    for each in (state.transaction, state.waiting):
        if each:
            each.lease += seconds
    if state.gating:
        state.gating.began += seconds
    if state.memory_wait:
        state.memory_wait.since += seconds
    for ending in state.terminating.values():
        ending.at += seconds


def no_later_than_now(turn: Turn) -> None:
    """The clock may have been set either way while the switch was away. No time that was kept is later than
    now, and no deadline further off than when it was given; who holds a lease gets time to follow. What is to
    end may still have answers, which a clock that was set forward must not cut: it has its whole time again.
    """
    state, now = turn.state, turn.now
    if state.damage:
        back = max(0.0, state.damage.since - now)
        state.damage.since -= back
        if state.transaction:
            state.transaction.began -= back  # so that one that began before the damage still has
    for change in (state.transaction, state.waiting, state.last):
        if change:
            change.began, change.since = min(change.began, now), min(change.since, now)
            change.ended = min(change.ended, now)
            change.held = None if change.held is None else min(change.held, now)
            soon, late = change.plan.seconds.lease_following, change.plan.seconds.lease_prepared
            change.lease = now + min(max(change.lease - now, soon), max(soon, late))
    if state.transaction:
        state.transaction.stalled = now - state.transaction.since
    for ending in state.terminating.values():
        ending.at = now
    for endpoint in state.endpoints.values():
        endpoint.asked = min(endpoint.asked, now)
    for name, until in state.also.items():
        state.also[name] = None if until is None else min(until, now + FORMER_NAME_SECONDS)
    if state.active:
        state.active.since = min(state.active.since, now)
    state.held = None if state.held is None else min(state.held, now)
    state.retry_at = min(state.retry_at, now + MOST_PAUSE_SECONDS)
    state.healed_at = min(state.healed_at, now)


def forget_ended(turn: Turn) -> None:
    """A run that was told to end and has ended is nothing to keep in mind."""
    for name, ending in list(turn.state.terminating.items()):
        there = turn.world.get(name)
        if there is None or not there.up or there.started_at != ending.started_at:
            del turn.state.terminating[name]


def reconnect(turn: Turn) -> None:
    """Puts a container that was taken off a network of the stack back there, by the names that it had. So it
    does with what is beside the stack: alerts that reach nobody would end in silence."""
    state, containers = turn.state, {**turn.world, **turn.beside}
    _learn_network(turn)
    state.endpoints = {
        name: endpoint
        for name, endpoint in state.endpoints.items()
        if name in containers and containers[name].created == endpoint.created
    }
    for container in containers.values() if state.network else ():
        also = {
            network: list(aliases)
            for network, aliases in container.networks.items()
            if network.startswith(f"{state.network}-")
        }
        kept = state.endpoints.get(container.name)
        if state.network in container.networks and (kept is None or set(kept.also) <= set(also)):
            aliases = list(container.networks[state.network])
            state.endpoints[container.name] = NetworkEndpoint(container.created, aliases, also=also)
        elif kept and turn.now > kept.asked + CONNECT_AGAIN_SECONDS:
            _connect(turn, container, kept)


def _learn_network(turn: Turn) -> None:
    """Which network is the stack's own: one that switch and engines are on. It may become another one."""
    state, containers = turn.state, turn.world.values()
    if state.network and not any(state.network in each.networks for each in containers):
        state.network, state.endpoints = "", {}
    if not state.network:
        switches = [set(each.networks) for each in containers if each.role == "switch"]
        engines = [set(each.networks) for each in containers if each.role == "engine"]
        state.network = min(set().union(*switches) & set().union(*engines), default="")


def _connect(turn: Turn, container: Container, kept: NetworkEndpoint) -> None:
    kept.asked = turn.now
    name, active = container.name, turn.state.active
    for network, aliases in ((turn.state.network, kept.aliases), *kept.also.items()):
        if network not in container.networks:
            turn.actions.append(Action("connect", name, network=network, aliases=aliases))
            turn.heal(f"{name} was taken off the network {network}, and was put back")
    off = turn.state.network not in container.networks
    if off and active and name == active.plan.engine.container and container.running:
        active.gated_at = ""  # what it had begun can't reach it any more


def give_up_hanging(turn: Turn, event: Tick) -> None:
    """Each run that gives no answer any more counts as one that was told to end."""
    for name, why in event.hangs.items():
        _give_up(turn, name, why)
    for name, ending in turn.state.terminating.items():
        if turn.world[name].role == "proxy" and not ending.sent:
            # what it had begun to answer stands still with it; the edge asks all else again
            ending.sent = True
            turn.actions.append(Action("restart", name))


def _give_up(turn: Turn, name: str, why: str) -> None:
    state, change, container = turn.state, turn.change, turn.world.get(name)
    known = state.terminating.get(name)
    if container is None or not container.up or (known and known.hangs):
        return
    state.terminating[name] = Terminating(
        container.started_at, known.at if known else turn.now, bool(known and known.sent), why
    )
    said = f"{container.kind or container.role} ({name}) hangs: {why}"
    if container.role == "proxy":
        turn.heal(f"{said}. It was restarted")
        return
    turn.heal(f"{said}. It was stopped")
    if change is None and container.role == "engine":
        turn.trouble(said)
    elif change is None:
        state.trouble = said
    else:
        turn.say(f"{said}. The change does not wait for its requests")
        if change.way == "overlap" and name == change.old_engine and turn.leased:
            state.held = turn.now if state.held is None else state.held
            change.way, change.held = "hold", state.held
