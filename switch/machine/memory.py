"""Whether there is memory for an engine: alone, and beside the one that serves. Sizes are in bytes."""

from switch.machine.change import fail
from switch.machine.state import MemoryWait, Transaction
from switch.machine.turn import Turn
from switch.plan import Plan
from switch.words import gib


def memory_is_free(turn: Turn, plan: Plan) -> bool:
    """Whether the engine of `plan` may start, since its memory is free on the GPU.

    Docker says that a container has ended before the driver has given back all that it had. A change fails
    when that takes too long; what serves may start all the same, and its container then says itself what is
    wrong.
    """
    state, name, need = turn.state, plan.engine.container, plan.engine.gpu_bytes
    if not need:
        return True
    if state.memory_wait is None or state.memory_wait.container != name:
        state.memory_wait = MemoryWait(name, turn.now)
    wait = state.memory_wait
    if wait.free >= need:
        state.memory_wait = None
        return True
    waited = turn.now - wait.since
    if waited <= plan.seconds.memory:
        if not state.busy and turn.now >= wait.next_at:
            turn.job("memory", name)
        return False
    if turn.leased:
        why = wait.why or (
            f"{gib(wait.free)} are free on the GPU. "
            "Something else uses the GPU: `nvidia-smi` on the Docker host shows what"
        )
        fail(turn, f"{plan.engine.kind} needs {gib(need)}, and after {waited:.0f} s {why}")
        return False
    state.memory_wait = None
    return True


def too_small_for_both(turn: Turn, change: Transaction) -> str:
    """Why what serves and the new engine can't run at the same time, in words; empty where they can.

    The settings know the sum of one engine of each kind. What serves may be the same kind as the new one,
    with other settings.
    """
    active, new = turn.state.active, change.plan
    if active is None:
        return ""
    old, there = active.plan.engine, new.memory
    for what, one, other, size in (
        ("on each GPU", old.gpu_bytes, new.engine.gpu_bytes, there.gpu),
        ("of the host's RAM", old.host_bytes, new.engine.host_bytes, there.host),
    ):
        if size and one + other > size:
            return (
                f"the {old.kind} that serves and the new {new.engine.kind} need {gib(one)} + {gib(other)}, "
                f"and there are only {gib(size)} {what}"
            )
    return ""
