"""What the program tells the gate beside an engine in its pod, and where it answers."""

import json
from dataclasses import asdict, dataclass

from switch.plan import About, Gate, Memory, Plan, PlannedEngine, Seconds

PORT = 8002
READY, ALIVE, STATE, DRAIN = "/ready", "/alive", "/pod", "/drain"
"""Paths: whether the engine may be asked; whether it is worth waiting for; the first of these with more, for
a proxy; and the end of what it answers, which is waited for."""


@dataclass(frozen=True, kw_only=True)
class PodPlan:
    """What engine there is, what it is asked before it is believed, and in how many seconds it must have
    loaded and answered that. `at_a_time` requests may be there at once, and each has `context` tokens."""

    engine: PlannedEngine
    gate: Gate
    load: float
    at_a_time: int
    context: int

    @property
    def text(self) -> str:
        """As JSON, which `switch.plan.load` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def plan(self) -> Plan:
        """What of it the switch would be told on one host. Nothing else of such a plan is looked at here."""
        nothing = Seconds(
            drain=1,
            load=self.load,
            request=1,
            stop=1,
            lease_following=1,
            lease_prepared=1,
            gateway=1,
            memory=1,
        )
        return Plan(
            engine=self.engine,
            cutover="hold",
            insist=False,
            memory=Memory(gpu=0, host=0),
            seconds=nothing,
            gate=self.gate,
            gateway=None,
            about=About(engine_image="", gateway_image="", reason="", sum="", loading_seconds=0, images=()),
        )
