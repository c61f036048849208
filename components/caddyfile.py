"""The edge's configuration: a Caddyfile for Caddy 2.11.9 with nothing but its standard modules.

The edge is the only thing that listens outside the host. It serves OpenAI's `/v1`, knows API keys and
tenants, writes the access log, turns bare model names into the gateway's, refuses the gateway's own
request fields, and holds requests while nothing behind it can answer. No pulumi import and no I/O:
`render` is text from data, with stable bytes. What is said here about Caddy was read in its source at
v2.11.9 and is held by the tests that run it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from components import tensorzero

HEALTH_PATH = "/healthz"
"""GET without a key: 200 and an empty body while the edge itself lives. It is not logged."""

TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
API_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+-]{15,180}={0,2}")
"""RFC 6750's alphabet for bearer tokens without the slash, so that a key can be the name of a file."""

METRICS_PORT = 2020
"""Caddy's counters, for the switch, on the stack's private network only."""

UPSTREAMS_PATH = "/upstreams"
"""There: how many requests are at which upstream, as Caddy's admin API says it."""

ADMIN = "localhost:2019"
"""Caddy's admin API, in the edge's container only."""

SERVERS = ("edge", "relay", "wait")
"""Names of Caddy's servers in those counters. A request counts in one of them at a time."""

KEYS_FOLDER = "/config/api-keys"
"""Folder in the edge's container with an empty file `KEY:TENANT` for each key that is valid."""

OPEN = "open"
"""File in `KEYS_FOLDER` that is there while no key is needed. No key's file has its name."""

RETRY_AFTER_SECONDS = 5
"""What a client is told when the hold budget is spent."""

_ASK_ENGINE_WITHIN_MS = 10_000
"""A gateway error later than this was a timeout: asking the engine would start the slow work again."""

_SWITCH_HEARS_WITHIN_SECONDS = 3
"""By then the switch knows that an engine has ended, and no gateway answers until one is gated again."""

_AGAIN = "X-Changeover-Again"
"""Header of a request that comes back because the engine was gone. It comes back once: an engine that ends by
it is not to end by it for ever."""

_NESTING = 40
"""Objects and arrays inside one another that a request may have."""

_RELAY = "unix/@changeover-edge"
"""Abstract socket, private to the container's network namespace, that cut requests come back in by."""

_WAIT = "unix/@changeover-edge-wait"
"""The same for requests that found no engine, which come back in a moment later."""

_NOWHERE = "unix/@changeover-edge-nowhere"
"""Nothing listens here: to fail to reach it twice takes as long as is waited in between."""


@dataclass(frozen=True, kw_only=True)
class EdgeConfig:
    """All that a deployment decides about its edge.

    `listen` is Caddy's `[host]:port`; with `domain`, a name or an address, it serves TLS for it there, else
    plain HTTP. `internal_ca`: the certificate is of Caddy's own CA, for what no public one is given for.
    `models` and `embedding_model` are names at the endpoint. `api_keys` maps tenant to key; empty means
    that no key is needed and the tenant is what the client says in `X-Tenant-ID`, or, with `never_open`,
    that nobody may pass. `hold_seconds` is how long a request waits for a gateway before it gets a 503.
    `gateway` is a DNS name that may have several addresses; `engine` is `host:port` of whichever engine
    runs.
    """

    listen: str
    models: tuple[str, ...]
    hold_seconds: int
    max_body_bytes: int
    embedding_model: str | None = None
    api_keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    gateway: str = "gateway"
    gateway_port: int = tensorzero.PORT
    engine: str = "engine:8000"
    domain: str | None = None
    internal_ca: bool = False
    never_open: bool = False

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        return not self.api_keys and not self.never_open

    def __post_init__(self) -> None:
        names = [*self.models, *([self.embedding_model] if self.embedding_model else [])]
        if not self.models or len(set(names)) != len(names):
            raise ValueError(f"the edge needs one or more models of different names, not {names}")
        for name in names:
            if not tensorzero.MODEL_NAME.fullmatch(name):
                raise ValueError(f"model name {name!r}: letters, digits, '.', '_' and '-', 80 at most")
        _check("listen", self.listen, r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]*):[0-9]{1,5}", ":8080")
        _check("gateway", self.gateway, r"[A-Za-z0-9.-]+", "gateway")
        _check("engine", self.engine, r"[A-Za-z0-9.-]+:[0-9]{1,5}", "engine:8000")
        if self.domain is not None:
            _check("domain", self.domain, r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", "llm.example.com")
        if self.hold_seconds < 1 or self.max_body_bytes < 1024:
            raise ValueError("the edge needs hold_seconds of at least 1 and max_body_bytes of at least 1024")
        for tenant, key in self.api_keys.items():
            if not TENANT.fullmatch(tenant):
                raise ValueError(f"tenant {tenant!r}: letters, digits, '.', '_' and '-', 64 at most")
            if not API_KEY.fullmatch(key):  # not shown: it is a secret
                raise ValueError(
                    f"the API key of tenant {tenant!r}: 16 to 180 letters, digits or any of '._~+-' are"
                    " allowed, with '=' at the end only; `openssl rand -hex 32` makes one"
                )
        if len(set(self.api_keys.values())) != len(self.api_keys):
            raise ValueError("two tenants have the same API key")


def render(config: EdgeConfig) -> str:
    """The Caddyfile. It names the tenants and holds no key: a reviewer reads what will run."""
    return "\n".join(_indent(_document(config))) + "\n"


def loaded(text: str) -> str:
    """What Caddy reads of a Caddyfile of ours: all but the comments, which name who has a key."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def apply_input(config: EdgeConfig) -> str:
    """What `APPLY` reads: the names of the files in `KEYS_FOLDER`, an empty line, the Caddyfile. A secret."""
    names = [OPEN] if config.open else sorted(f"{key}:{tenant}" for tenant, key in config.api_keys.items())
    return "".join(f"{name}\n" for name in names) + "\n" + render(config)


APPLIED = "/config/applied"

_NOW = f"""\
running=$(wget -q -O - http://127.0.0.1:2019/config/) || exit 1
now=$({{ echo "$running"; ls {KEYS_FOLDER}; }} | sha256sum | cut -c1-12)"""

APPLY = f"""\
set -eu
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nl='
'
wanted=$nl
while IFS= read -r name && [ -n "$name" ]; do wanted=$wanted$name$nl; done
cat >"$work/Caddyfile"
caddy() {{ command caddy "$1" --config "$work/Caddyfile" --adapter caddyfile >"$work/log" 2>&1; }}
caddy validate || {{ cat "$work/log" >&2; exit 1; }}
add() {{
  mkdir -p {KEYS_FOLDER}
  printf %s "$wanted" | while IFS= read -r name; do [ -z "$name" ] || : >"{KEYS_FOLDER}/$name"; done
}}
[ -d {KEYS_FOLDER} ] || add
tries=0
until caddy reload; do
  tries=$((tries + 1))
  [ "$tries" -lt 20 ] || {{ cat "$work/log" >&2; exit 1; }}
  sleep 0.5
done
add
for path in {KEYS_FOLDER}/*; do
  case $wanted in *"$nl${{path##*/}}$nl"*) ;; *) rm -f -- "$path" ;; esac
done
{_NOW}
echo "$now ${{SEEN:-as declared}}" >{APPLIED}
"""
"""Shell program for the edge's container that brings it to `apply_input`, which it reads from stdin.

The Caddyfile is validated before anything changes, and loaded before a key changes (the first keys of a new
edge are there before). A new key is valid before an old one ceases to be. Where only keys changed, the first
and the last one included, nothing is reloaded, because a reload of any Go server closes connections on which
a request has just arrived. At the end it keeps `$SEEN`, what `SEEN` said before it.
"""

SEEN = f"""\
{_NOW}
[ -f {APPLIED} ] || {{ echo as declared; exit; }}
read -r applied seen <{APPLIED}
if [ "$now" = "$applied" ]; then echo "$seen"; else echo "edited in place $now"; fi
"""
"""Shell program for the edge's container: `edited in place` with a digest if its configuration or keys are
not those that `APPLY` left, else what was said before `APPLY`. So an edit shows once, and its repair leaves
no difference behind.
"""


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
    yield "metrics"
    listeners = (f":{config.listen.rpartition(':')[2]}", _RELAY, _WAIT)
    for name, listener in zip(SERVERS, listeners, strict=True):
        yield f"servers {listener} {{"
        yield f"name {name}"
        yield "}"
    yield "log default {"
    yield from _log_format()
    yield "}"
    yield "}"
    yield ""
    yield "# A request that may pass, with its tenant known."
    yield "(serve) {"
    yield from _serve(config)
    yield "}"
    yield ""
    yield "(errors) {"
    yield from _errors(config)
    yield "}"
    yield ""
    yield "# A reload ends Caddy's waiting for a gateway. What was held is sent through here once more, and"
    yield "# so it waits on in the new configuration."
    yield "http:// {"
    yield f"bind {_RELAY}"
    yield "route {"
    yield "import serve"
    yield "}"
    yield "import errors"
    yield "}"
    yield ""
    yield "# What found no engine behind the gateway comes here, and back when the switch has heard of it."
    yield "http:// {"
    yield f"bind {_WAIT}"
    yield f"reverse_proxy {_NOWHERE} {{"
    yield "lb_try_duration 1s"
    yield f"lb_try_interval {_SWITCH_HEARS_WITHIN_SECONDS}s"
    yield "}"
    yield "handle_errors {"
    yield from _to(_RELAY, f"header_up {_AGAIN} yes")
    yield "}"
    yield "}"
    yield ""
    yield "# For the switch, which counts the requests that are held or at an engine; not published."
    yield f"http://:{METRICS_PORT} {{"
    yield f"handle {UPSTREAMS_PATH} {{"
    yield "rewrite * /reverse_proxy/upstreams"
    yield f"reverse_proxy {ADMIN} {{"
    yield f"header_up Host {ADMIN}"
    yield "}"
    yield "}"
    yield "handle {"
    yield "metrics"
    yield "}"
    yield "}"
    yield ""
    yield f"{address} {{"
    if config.internal_ca:
        yield "tls internal"
    yield "log {"
    yield "output stdout"
    yield from _log_format()
    yield "}"
    yield "route {"
    yield f"handle {HEALTH_PATH} {{"
    yield "log_skip"
    yield "respond 200"
    yield "}"
    yield "vars {"
    yield 'tenant "-"'
    yield 'model "-"'
    yield "}"
    yield "log_append tenant {http.vars.tenant}"
    yield "log_append model {http.vars.model}"
    yield from _authenticate(config)
    yield "import serve"
    yield "}"
    yield "import errors"
    yield "}"


def _log_format() -> Iterable[str]:
    """Neither headers (keys) nor the query; bodies are never logged by Caddy."""
    yield "format filter {"
    yield "wrap json"
    yield "fields {"
    yield "request>headers delete"
    yield "request>tls delete"
    yield r'request>uri regexp "\?.*" ""'
    yield "resp_headers delete"
    yield "}"
    yield "}"


def _authenticate(config: EdgeConfig) -> Iterable[str]:
    """Whoever may pass has a tenant, or the endpoint is open.

    That and the keys are looked up in a folder, not in this text: none of it needs a reload.
    """
    tenants = ", ".join(sorted(config.api_keys)) or "none yet"
    yield "# No key is needed." if config.open else f"# Tenants with a key: {tenants}"
    if config.never_open:
        yield from _ask_for_key()
        return
    yield "@open file {"
    yield f"root {KEYS_FOLDER}"
    yield f"try_files {OPEN}"
    yield "}"
    yield "route @open {"
    yield "map {http.request.header.X-Tenant-ID} {tenant} {"
    yield f"~^(?:{TENANT.pattern})$ $0"
    yield "default -"
    yield "}"
    yield "vars {"
    yield "open yes"
    yield "tenant {tenant}"
    yield "}"
    yield "}"
    yield "@closed not vars open yes"
    yield "route @closed {"
    yield from _ask_for_key()
    yield "}"


def _ask_for_key() -> Iterable[str]:
    yield f"@bearer vars_regexp bearer {{http.request.header.Authorization}} `^Bearer ({API_KEY.pattern})$`"
    yield "route @bearer {"
    yield "@known file {"
    yield f"root {KEYS_FOLDER}"
    yield "try_files {http.regexp.bearer.1}:*"
    yield "}"
    yield "route @known {"
    yield f"@owner vars_regexp owner {{http.matchers.file.relative}} `:({TENANT.pattern})$`"
    yield "vars @owner tenant {http.regexp.owner.1}"
    yield "}"
    yield "}"
    yield "@no_key vars tenant -"
    yield "handle @no_key {"
    yield "header WWW-Authenticate Bearer"
    yield from _answer(401, "A valid API key is needed: Authorization: Bearer KEY.", code="invalid_api_key")
    yield "}"


def _serve(config: EdgeConfig) -> Iterable[str]:
    yield "handle /v1/models {"
    yield from _only("GET", "HEAD")
    names = [*config.models, *([config.embedding_model] if config.embedding_model else [])]
    yield f"respond `{_json({'object': 'list', 'data': [_model(name) for name in names]})}` 200"
    yield "}"
    yield f"@model path_regexp model ^/v1/models/({_either(names)})$"
    yield "handle @model {"
    yield from _only("GET", "HEAD")
    yield f"respond `{_json(_model('{http.regexp.model.1}'))}` 200"
    yield "}"
    yield "handle /v1/models/* {"
    yield from _answer(404, "The model does not exist.", code="model_not_found", param="model")
    yield "}"
    yield "handle /v1/chat/completions {"
    yield from _completion(
        config,
        names=config.models,
        prefix=tensorzero.CHAT_PREFIX,
        needs="messages",
        gateway_path=tensorzero.CHAT_PATH,
        engine_path="/v1/chat/completions",
    )
    yield "}"
    if config.embedding_model is not None:
        yield "handle /v1/embeddings {"
        yield from _completion(
            config,
            names=(config.embedding_model,),
            prefix=tensorzero.EMBEDDING_PREFIX,
            needs="input",
            gateway_path=tensorzero.EMBEDDINGS_PATH,
            engine_path="/v1/embeddings",
        )
        yield "}"
    yield "handle {"
    yield from _answer(404, "Nothing is served at this path.", code="not_found")
    yield "}"


def _completion(
    config: EdgeConfig,
    *,
    names: tuple[str, ...],
    prefix: str,
    needs: str,
    gateway_path: str,
    engine_path: str,
) -> Iterable[str]:
    yield "route {"
    yield from _only("POST")
    yield "request_body {"
    yield f"max_size {config.max_body_bytes}"
    yield "}"
    yield f"@reserved vars_regexp {{http.request.body}} `{_reserved_fields()}`"
    yield "handle @reserved {"
    yield from _answer(
        400,
        f"Fields that begin with {tensorzero.RESERVED_PREFIX} are not accepted.",
        code="unknown_parameter",
    )
    yield "}"
    yield f"@disguised vars_regexp {{http.request.body}} `{_DISGUISED_KEY}`"
    yield "handle @disguised {"
    yield from _answer(400, "ASCII characters in the name of a field must not be written as escapes.")
    yield "}"
    yield f"@body vars_regexp body {{http.request.body}} `{_request_pattern(prefix)}`"
    yield "handle @body {"
    yield "route {"
    yield f'@incomplete not vars_regexp {{http.request.body}} `"{needs}"\\s*:`'
    yield "handle @incomplete {"
    yield from _answer(400, f"The request has no '{needs}'.", code="missing_required_parameter", param=needs)
    yield "}"
    yield "map {http.regexp.body.model} {model} {"
    for name in names:
        yield f'"{name}" "{name}"'
    yield "default -"
    yield "}"
    yield "vars model {model}"
    yield "@unknown vars model -"
    yield "handle @unknown {"
    yield from _answer(
        404, "The model '{http.regexp.body.model}' does not exist.", code="model_not_found", param="model"
    )
    yield "}"
    yield "vars asked gateway"
    yield f"rewrite * {gateway_path}"
    yield from _set_body(prefix)
    yield from _ask_gateway(config, engine_path)
    yield "}"
    yield "}"
    yield "handle {"
    yield from _answer(
        400,
        "The request body must be one JSON object with one 'model', which is a string.",
        code="missing_required_parameter",
        param="model",
    )
    yield "}"
    yield "}"


def _set_body(prefix: str) -> Iterable[str]:
    """Caddy expands these placeholders once and their values never, so a prompt can't name one."""
    yield "request_body {"
    yield f'set "{{http.regexp.body.head}}{prefix}{{http.regexp.body.model}}{{http.regexp.body.tail}}"'
    yield "}"


def _ask_gateway(config: EdgeConfig, engine_path: str) -> Iterable[str]:
    # A name that is resolved at every dial, and all its addresses tried: a new gateway is found at once.
    # `dynamic a` was tried. It looks up under one lock for all requests, keeps on waiting for clients
    # that have gone, and logs an error for each attempt.
    yield f"reverse_proxy {config.gateway}:{config.gateway_port} {{"
    yield "transport http {"
    yield "dial_timeout 2s"
    yield "}"
    yield f"lb_try_duration {config.hold_seconds}s"
    yield "lb_try_interval 200ms"
    # Without these two a gateway that stops loses requests: one in two hundred was measured.
    yield "lb_retry_match {"
    yield "expression `{http.reverse_proxy.is_transport_error} == true`"
    yield "}"
    yield f"request_buffers {config.max_body_bytes + 1024}"
    yield "flush_interval -1"
    yield from _headers_up()
    yield f"header_up -{tensorzero.CLIENT_HEADERS}"
    # The gateway answers 502 to whatever an engine answered, a 400 included, and gives its own refusals
    # no type and no code. The cause is what the engine itself says to the same request.
    yield "@failed status 5xx"
    yield "handle_response @failed {"
    yield "route {"
    yield "vars asked engine"
    yield f"@late expression `{{http.reverse_proxy.upstream.latency_ms}} > {_ASK_ENGINE_WITHIN_MS}.0`"
    yield "handle @late {"
    yield from _bad_gateway("The engine did not answer in time.")
    yield "}"
    yield from _ask_engine(config, engine_path)
    yield "@broken status 401 403 404 405 500 501 502 504"
    yield "handle_response @broken {"
    yield from _bad_gateway("The engine failed to answer.")
    yield "}"
    yield "}"
    yield "}"
    yield "}"
    yield "@refused status 4xx"
    yield "handle_response @refused {"
    yield "route {"
    yield "vars asked engine_why"
    yield from _ask_engine(config, engine_path)
    # Whatever else it says: what the gateway refused is not served past it.
    yield "handle_response {"
    yield from _refused()
    yield "}"
    yield "}"
    yield "}"
    yield "}"
    yield "}"


def _ask_engine(config: EdgeConfig, engine_path: str) -> Iterable[str]:
    """Opens a block, to which the caller adds what becomes of other answers than a refusal."""
    yield f"rewrite * {engine_path}"
    yield from _set_body("")
    yield f"reverse_proxy {config.engine} {{"
    yield "transport http {"
    yield "dial_timeout 2s"
    yield "}"
    yield "flush_interval -1"
    yield from _headers_up()
    yield "@cause status 400 413 422"
    yield "handle_response @cause {"
    yield "header x-should-retry false"
    yield "copy_response"
    yield "}"


def _headers_up() -> Iterable[str]:
    yield "header_up -Authorization"
    yield "header_up -Cookie"
    yield "header_up -X-Tenant-ID"
    yield f"header_up -{_AGAIN}"
    yield "header_up Content-Type application/json"


def _errors(config: EdgeConfig) -> Iterable[str]:
    status = "{http.error.status_code} in [502, 503, 504]"
    gone = f'{{http.vars.asked}} == "gateway" && {status}'
    budget = f"{{http.reverse_proxy.duration_ms}} < {config.hold_seconds * 1000}.0"
    yield "handle_errors {"
    yield "route {"
    yield f"@cut expression `{gone} && {budget}`"
    yield "handle @cut {"
    yield from _come_back_by(_RELAY)
    yield "}"
    # No byte of an answer has come, so nothing is given twice.
    first = f'{{http.vars.asked}} == "engine" && {status} && {{http.request.header.{_AGAIN}}} != "yes"'
    yield f"@no_engine expression `{first}`"
    yield "handle @no_engine {"
    yield from _come_back_by(_WAIT)
    yield "}"
    yield f"@spent expression `{gone}`"
    yield "handle @spent {"
    yield f"header Retry-After {RETRY_AFTER_SECONDS}"
    yield from _answer(
        503,
        "No engine answered in time. It may be starting: try again.",
        kind="server_error",
        code="service_unavailable",
    )
    yield "}"
    yield "@engine vars asked engine"
    yield "handle @engine {"
    yield from _bad_gateway("The engine can't be reached.")
    yield "}"
    yield "@refused vars asked engine_why"
    yield "handle @refused {"
    yield from _refused()
    yield "}"
    yield "@large expression `{http.error.status_code} == 413`"
    yield "handle @large {"
    yield from _answer(
        413, f"The request body is larger than {config.max_body_bytes} bytes.", code="request_too_large"
    )
    yield "}"
    yield "handle {"
    yield from _answer("{http.error.status_code}", "{http.error.status_text}", kind="server_error")
    yield "}"
    yield "}"
    yield "}"


def _come_back_by(socket: str) -> Iterable[str]:
    yield "log_append relayed_ms {http.reverse_proxy.duration_ms}"  # the log's own duration ends here
    yield from _set_body("")
    yield from _to(socket)


def _to(socket: str, *options: str) -> Iterable[str]:
    """To another of the edge's servers, over a new connection: a reload ends idle ones."""
    yield f"reverse_proxy {socket} {{"
    yield "transport http {"
    yield "keepalive off"
    yield "}"
    yield "flush_interval -1"
    yield from options
    yield "}"


def _only(*methods: str) -> Iterable[str]:
    name = "not_" + "_".join(methods).lower()
    yield f"@{name} not method {' '.join(methods)}"
    yield f"handle @{name} {{"
    yield f'header Allow "{", ".join(methods)}"'
    yield from _answer(405, f"Only {' and '.join(methods)} can be used here.", code="method_not_allowed")
    yield "}"


def _refused() -> Iterable[str]:
    yield "header x-should-retry false"
    yield from _answer(400, "The gateway refused the request: a field has a value that it doesn't know.")


def _bad_gateway(message: str) -> Iterable[str]:
    yield from _answer(502, message, kind="server_error", code="bad_gateway")


def _answer(
    status: int | str,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
) -> Iterable[str]:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    yield f"respond `{_json(body)}` {status}"


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "changeover"}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _either(names: Iterable[str]) -> str:
    return "|".join(re.escape(name).replace(r"\-", "-") for name in names)


_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'

# A quote inside a JSON string is escaped, so the text of a prompt can't contain these as a key: between
# its name and the quote that ends it a prompt has a backslash.
_DISGUISED_KEY = r'(?s)\\u00[2-7][0-9A-Fa-f](?:[^"\\]|\\.)*"\s*:'


def _reserved_fields() -> str:
    """A field, or a content block's type, with the gateway's prefix, at any depth."""
    key = rf'"{tensorzero.RESERVED_PREFIX}[^"\\]*"\s*:'
    kind = rf'"type"\s*:\s*"{tensorzero.RESERVED_PREFIX}'
    return f"{key}|{kind}"


def _request_pattern(prefix: str) -> str:
    """RE2 for one JSON object with exactly one top-level `model`, split around the model's bare name.

    Brackets need no telling apart: whether they pair up is for the gateway's parser to say. Names of
    top-level fields have no escapes, which the gateway would resolve and this would not.
    """
    nested = rf'(?:[^"{{}}\[\]]|{_STRING})*'
    for _ in range(_NESTING):
        nested = rf'(?:[^"{{}}\[\]]|{_STRING}|[{{\[]{nested}[}}\]])*'
    value = rf"(?:{_STRING}|[-+.\w]+|[{{\[]{nested}[}}\]])"
    other_key = (
        '"(?:'
        + "|".join(rf'{"model"[:i]}(?:[^"\\{"model"[i]}][^"\\]*)?' for i in range(5))
        + r'|model[^"\\]+)"'
    )
    member = rf"{other_key}\s*:\s*{value}\s*"
    head = rf'(?P<head>\s*\{{\s*(?:{member},\s*)*"model"\s*:\s*")'
    tail = rf'(?P<tail>"\s*(?:,\s*{member})*\}}\s*)'
    return rf'(?s)^{head}(?:{prefix})?(?P<model>[^"\\\x00-\x1f]*){tail}$'


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
