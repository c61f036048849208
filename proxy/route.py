"""Which engine may be asked, by which gateway, and within which limits, and who may ask: as the switch has
left it in the folder that the proxy reads. Pure."""

import hashlib
import hmac
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
DIGEST = re.compile(r"[0-9a-f]{64}")
NOBODY = "-"
KEYS_FILE, ROUTE_FILE = "keys.json", "route.json"
"""What `parse_keys` reads, and on a Docker host `parse`."""
ROUTING_FILE, FLEET_FILE = "routing.toml", "fleet.json"
"""On a cluster: what `parse_routing` reads, and what `proxy.finding.parse_wanted` does."""
LEAVES_SECONDS = 10
"""On a cluster: so long a proxy that is to end goes on as before, but for asking its clients to come by other
connections. The nodes learn meanwhile that it ends; nothing says when the last of them has."""
ALIAS = "proxy"
"""Name of all proxies of a stack on their network: there are two while one takes over from the other."""
PORT = 8080
"""TCP port of the proxy at which the edge asks; on a cluster it is clients who do."""
LOCALHOST = "127.0.0.1"
"""Address of what is in the proxy's own pod."""

COPY_BYTES = 2**18 - 512
"""The edge reads a body that is smaller whole before it asks a proxy, and asks again if that one ends. Of a
larger one it reads so much, and then it passes on what comes, of which it has no copy.

It has so much for everybody who has begun to send, with a key or without, and what goes beyond its memory
ends it and every answer that it carries. So this is what a prompt of 60,000 tokens needs, and not as much as
the proxy takes in. Go doubles a buffer that has less than 512 bytes left: a power of two would take twice as
much."""


@dataclass(frozen=True)
class RoutedEngine:
    """`name` is by content, `model` what it calls its model; `at_a_time` requests may be there at once.

    `context` is in tokens; None in what a version of before has rendered.
    """

    name: str
    kind: str
    host: str
    port: int
    model: str
    at_a_time: int
    context: int | None = None


@dataclass(frozen=True)
class GatewayAddress:
    """Where the gateway is asked: a host name, and a TCP port."""

    host: str
    port: int


@dataclass(frozen=True)
class Limits:
    """`hold_seconds` bounds the wait for an engine, `first_token_seconds` and `answer_seconds` the time from
    when it is asked, `request_bytes` a request's body. The program writes all four."""

    hold_seconds: float = 60
    first_token_seconds: float = 300
    answer_seconds: float = 600
    request_bytes: int = 16 * 2**20


@dataclass(frozen=True)
class ProxyRoute:
    """`number` grows with each route. Without `engine` requests wait, and so they do while it is `held`.

    `model` is the name that the gateway knows; clients may also ask for the names in `also`.
    """

    number: int = 0
    held: bool = True
    engine: RoutedEngine | None = None
    gateway: GatewayAddress | None = None
    model: str | None = None
    also: tuple[str, ...] = ()
    limits: Limits = Limits()
    given_up: frozenset[str] = frozenset()
    """Engines by name, and gateways by host, which hang: nothing comes of what they were asked before."""
    origins: tuple[str, ...] = ()
    """Sites whose pages may use the endpoint."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models that clients may ask for."""
        return () if self.model is None else tuple(dict.fromkeys((self.model, *self.also)))


def parse(raw: bytes) -> ProxyRoute:
    """The route in the switch's file. Raises ValueError, KeyError or TypeError for what is none."""
    said = json.loads(raw)
    number, held = int(said["number"]), said["held_since"] is not None
    if not said["routing"]:
        return ProxyRoute(number=number)
    routing = tomllib.loads(said["routing"])
    (model, table), *_ = routing["models"].items()
    name, engine = said["engine"], None
    if name is not None and name == table["engines"][0]:
        its = routing["engines"][name]
        host = said["container"]
        port, at_a_time, context = its["port"], its["at_a_time"], its.get("context")
        engine = RoutedEngine(name, its["kind"], host, port, its["model"], at_a_time, context)
    gateway = None
    if "gateway" in routing:
        if said["gateway"] is None:
            engine = None
        else:
            gateway = GatewayAddress(said["gateway"], routing["gateway"]["port"])
    also = (*table.get("aliases", ()), *said["also"])
    limits, given_up = Limits(**routing["limits"]), frozenset(said.get("given_up", ()))
    origins = tuple(routing.get("browsers", {}).get("origins", ()))
    return ProxyRoute(number, held, engine, gateway, model, also, limits, given_up, origins)


def parse_routing(raw: bytes) -> ProxyRoute:
    """The route on a cluster, in whose file stands the routing alone: which engines there are, the pods say,
    and the gateway is beside the proxy. Raises ValueError, KeyError or TypeError for what is none."""
    routing = tomllib.loads(raw.decode())
    (model, table), *_ = routing["models"].items()
    gateway = GatewayAddress(LOCALHOST, routing["gateway"]["port"]) if "gateway" in routing else None
    return ProxyRoute(
        number=1,
        held=False,
        gateway=gateway,
        model=model,
        also=tuple(table.get("aliases", ())),
        limits=Limits(**routing["limits"]),
        origins=tuple(routing.get("browsers", {}).get("origins", ())),
    )


@dataclass(frozen=True)
class TenantKeys:
    """Who may pass: `tenants` by the SHA-256 of their API key, in hex, or everybody, where `open`."""

    open: bool = False
    tenants: Mapping[str, str] | None = None
    digest: str = ""
    """Of the file, so that who has written it can see that it is in force."""

    def tenant(self, headers: Mapping[str, str]) -> str | None:
        """Whose request it is; None: nobody's who may pass."""
        if self.open:
            name = headers.get("X-Tenant-ID", "")
            return name if TENANT.fullmatch(name) else NOBODY
        kind, _, bearer = headers.get("Authorization", "").partition(" ")
        said = [bearer] if kind.lower() == "bearer" else []
        said += [headers[name] for name in ("x-api-key", "api-key") if name in headers]
        found = None
        for key in said:
            # the bytes that came, which need not be text
            shown = hashlib.sha256(key.strip().encode(errors="surrogateescape")).hexdigest()
            for digest, tenant in (self.tenants or {}).items():  # all of them: in constant time
                if hmac.compare_digest(digest, shown):
                    found = tenant
        return found


def parse_keys(raw: bytes) -> TenantKeys:
    """Who may ask, from the file of keys. Raises ValueError, KeyError or TypeError for what is none."""
    said = json.loads(raw)
    if type(said["open"]) is not bool or not isinstance(said["keys"], dict):
        raise TypeError("open must be true or false, and keys an object")
    for digest, tenant in said["keys"].items():
        if not DIGEST.fullmatch(digest) or not isinstance(tenant, str):
            raise ValueError("keys must be SHA-256 digests, each with its tenant")
    return TenantKeys(said["open"], said["keys"], hashlib.sha256(raw).hexdigest())
