"""What serves, in a word that a coordinator can keep. Pure."""

import time

from switch.answers import NONE, LiveEngine
from switch.machine import UNDER_WAY, State, World


def serving(state: State, world: World) -> str:
    """The container of the engine that serves, or `none`.

    While a change is under way it is the engine that will serve after it: the new one once it is prepared.
    """
    change = state.transaction if state.transaction and state.transaction.phase in UNDER_WAY else None
    if change and change.phase in ("prepared", "starting"):
        return change.plan.engine.container
    told = state.damage.route if state.damage else None
    name = state.active.plan.engine.container if state.active else told.container if told else None
    engine = world.get(name) if name else None
    return engine.name if engine and (engine.running or change) else NONE


def live(state: State, world: World) -> str:
    """What a coordinator keeps, to notice at its next preview that something else serves than it left.

    While what was committed last serves, it is what that coordinator keeps already, so that a repair leaves
    no difference behind. Where nothing serves, it is a text that was never given before.
    """
    name = serving(state, world)
    if state.damage:  # so that the next update asks for a commit, even of what serves; each damage is another
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state.damage.since))
        return LiveEngine(engine=name, damaged=at).text
    if name == NONE:
        return LiveEngine(engine=NONE, since=state.commits).text
    return state.seen if state.seen and state.active and name == state.active.plan.engine.container else name
