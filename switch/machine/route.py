"""Where the proxies are to go: what the switch tells them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Route:
    """Where the proxies are to go. `number` grows by one with every other change of it."""

    number: int
    held_since: float | None
    """Seconds since the epoch; while it is there, requests wait."""
    engine: str | None
    """The name of the only engine that may be asked for clients."""
    container: str | None
    gateway: str | None
    """The gateway's container; None: the proxies ask the engine themselves."""
    also: list[str]
    """Former names of the model, which are still answered."""
    routing: str
    """TOML."""
    given_up: list[str] = field(default_factory=list)
    """Engines by name, and gateways by container, from which nothing comes any more: what is there ends."""
    release: int = 0
    """How often what serves had changed by then; 0 in one of a version that did not count it."""
