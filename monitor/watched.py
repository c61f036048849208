"""What there is to watch of a stack, and where it is scraped. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What decides which panels and alerts a stack has. It is the same whichever engine serves, so that a
    change of the engine changes nothing of it. Durations in seconds.

    `expected` is what a request waits in a change to an engine, by its kind. `gateway` says whether there is
    one that can be scraped, `proxy_port` and the others are TCP ports on the stack's network.
    """

    stack: str
    gpu: bool
    vllm: bool
    gateway: bool
    hold_budget: int
    expected: dict[str, float]
    switch: str
    switch_port: int
    proxy_port: int
    gateway_port: int
    engine_port: int
