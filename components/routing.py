"""What the proxies route by: which engines a model has, where they are, and every limit. Pure.

`render` is text from data, with stable bytes. The switch gives it to the proxies as a part of the plan that
is active, so that it changes in the moment of a release and with none before it.
"""

from dataclasses import dataclass

import tomlkit

from components.engines import PORT, EngineSpec
from proxy.route import Limits


@dataclass(frozen=True, kw_only=True)
class RoutingGateway:
    """Which gateway decides, by its kind, and the TCP port at which it is asked."""

    kind: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Routing:
    """`name` is the model's at the endpoint, and `aliases` are further ones; of `engines` the first serves.
    Without `gateway` the proxy asks the engine itself. `origins` are the sites whose pages may use it."""

    name: str
    engines: tuple[EngineSpec, ...]
    gateway: RoutingGateway | None
    limits: Limits
    aliases: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def render(routing: Routing) -> str:
    """The routing as TOML. Engines stand in a fixed order, and only one line says which serves."""
    model = tomlkit.table()
    model.add("engines", [spec.name for spec in routing.engines])
    if routing.aliases:
        model.add("aliases", list(routing.aliases))
    models = tomlkit.table(is_super_table=True)
    models.add(routing.name, model)
    engines = tomlkit.table(is_super_table=True)
    for spec in sorted(routing.engines, key=lambda each: each.name):
        engine = tomlkit.table()
        engine.add("kind", spec.kind)
        engine.add("port", PORT)
        engine.add("model", spec.served)
        engine.add("at_a_time", spec.at_a_time)
        engine.add("context", spec.context)
        engines.add(spec.name, engine)
    limits = tomlkit.table()
    for key in ("hold_seconds", "first_token_seconds", "answer_seconds", "request_bytes"):
        limits.add(key, getattr(routing.limits, key))
    document = tomlkit.document()
    document.add("models", models)
    document.add("engines", engines)
    if routing.gateway is not None:
        gateway = tomlkit.table()
        gateway.add("kind", routing.gateway.kind)
        gateway.add("port", routing.gateway.port)
        document.add("gateway", gateway)
    document.add("limits", limits)
    if routing.origins:
        browsers = tomlkit.table()
        browsers.add("origins", list(routing.origins))
        document.add("browsers", browsers)
    return tomlkit.dumps(document)
