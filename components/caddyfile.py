"""The edge's configuration: a Caddyfile for Caddy 2.11.9 with nothing but its standard modules.

The edge is the only thing that listens outside the host. It has the certificates, keeps a copy of a request's
body up to a size, and asks the proxy again where one ended before it had answered. Keys, models, tenants and
limits are the proxy's, so this text changes with none of them. No pulumi import and no I/O: `render` is text
from data, with stable bytes. What is said here about Caddy was read in its source at v2.11.9, mostly in
`modules/caddyhttp/reverseproxy`, and is held by the tests that run it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from components.shell import program
from proxy.refusals import RETRY_AFTER_SECONDS
from proxy.route import COPY_BYTES
from switch.answers import AS_DECLARED, EDITED

HEALTH_PATH = "/healthz"
"""GET: 200 and an empty body while the edge itself lives."""

MAX_HEAD = "64KiB"
"""Of a request's line and headers together: by itself Caddy would refuse 20 KiB. The proxy takes twice as
much of RAM for each request that waits, so it is no more."""

RETRIES = 60
"""How often the proxy is asked again. A number and no time: Caddy would count one from when the request came,
and what was held for minutes would not be asked again at all."""

RETRY_EVERY_MS = 500


@dataclass(frozen=True, kw_only=True)
class EdgeConfig:
    """All that a deployment decides about its edge.

    `listen` is Caddy's `[host]:port`; with `domain`, a name or an address, it serves TLS for it there, else
    plain HTTP. `internal_ca`: the certificate is of Caddy's own CA, for what no public one is given for.
    `restricted`: not everybody reaches the port, and so no authority that would prove the name there.
    `proxy` is `host:port`; the name may have several addresses, which are tried in turn.
    """

    listen: str
    proxy: str
    domain: str | None = None
    internal_ca: bool = False
    restricted: bool = False

    def __post_init__(self) -> None:
        _check("listen", self.listen, r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]*):[0-9]{1,5}", ":8080")
        _check("proxy", self.proxy, r"[A-Za-z0-9.-]+:[0-9]{1,5}", "proxy:8080")
        if self.domain is not None:
            _check("domain", self.domain, r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", "llm.example.com")


def render(config: EdgeConfig) -> str:
    """The Caddyfile."""
    return "\n".join(_indent(_document(config))) + "\n"


APPLY = program("edge_apply", AS_DECLARED=AS_DECLARED) + "\n"
SEEN = program("edge_seen", AS_DECLARED=AS_DECLARED, EDITED=EDITED) + "\n"


def _document(config: EdgeConfig) -> Iterable[str]:
    address = f"http://{config.listen}"
    if config.domain is not None:
        address = f"https://{config.domain}:{config.listen.rpartition(':')[2]}"
    yield "{"
    if config.domain is None:
        yield "auto_https off"
    elif config.internal_ca:
        yield f"default_sni {config.domain}"  # a client that connects to an address names none
        yield "skip_install_trust"
        yield "auto_https disable_redirects"
    elif config.restricted:
        # of the two ways to prove a name only the one on port 80 is left, which the firewall opens to all
        yield "cert_issuer acme {"
        yield "disable_tlsalpn_challenge"
        yield "}"
    yield "servers {"
    yield f"max_header_size {MAX_HEAD}"
    yield "}"
    yield "log default {"
    yield "format filter {"
    yield "wrap json"
    yield "fields {"
    yield "request>headers delete"
    yield r'request>uri regexp "\?.*" ""'
    yield "}"
    yield "}"
    yield "}"
    yield "}"
    yield ""
    yield f"{address} {{"
    if config.internal_ca:
        yield "tls internal"
    yield f"respond {HEALTH_PATH} 200"
    yield "# Caddy sets it anew where it has read a whole body, and only such a request is asked again."
    yield "request_header -Content-Length"
    yield "# The edge itself has answered the one, and for the other it would refuse to read a body whole."
    yield "request_header -Expect"
    yield "request_header -Incremental"
    yield f"reverse_proxy {config.proxy} {{"
    yield f"request_buffers {COPY_BYTES}"
    yield f"lb_retries {RETRIES}"
    yield f"lb_try_interval {RETRY_EVERY_MS}ms"
    yield "lb_retry_match {"
    yield "expression `{http.reverse_proxy.is_transport_error} == true`"
    yield "header Content-Length *"
    yield "}"
    yield "transport http {"
    yield "dial_timeout 2s"
    yield "keepalive off"
    yield "compression off"
    yield "}"
    yield "}"
    yield "handle_errors {"
    yield f"header Retry-After {RETRY_AFTER_SECONDS}"
    yield from _answer(
        503,
        "The endpoint is being restarted: try again.",
        kind="server_error",
        code="service_unavailable",
    )
    yield "}"
    yield "}"


def _answer(status: int, message: str, *, kind: str, code: str) -> Iterable[str]:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    yield f"respond `{json.dumps(body, ensure_ascii=False, separators=(',', ':'))}` {status}"


def _check(what: str, value: str, pattern: str, example: str) -> None:
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{what}: {value!r} is not of the form {example!r}")


def _indent(lines: Iterable[str]) -> Iterable[str]:
    """Tabs by blocks, as `caddy fmt` sets them, which warns about anything else."""
    depth = 0
    for line in lines:
        if line == "}":
            depth -= 1
        yield "\t" * depth + line if line else ""
        if line.endswith("{"):
            depth += 1
