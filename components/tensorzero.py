"""The gateway's side of the contract: everything this project knows about TensorZero, and nothing else.

Its configuration, paths, model names and command line are here, so that another gateway is one more
module beside this one. No pulumi import and no I/O: `render` is text from data, with stable bytes.
Behaviour was read in TensorZero's source and run against version 2026.6.0.
"""

import re
from dataclasses import dataclass

import tomlkit
from tomlkit.items import InlineTable, Table

from components import model_names
from proxy import gateway
from switch.plan import EngineKind

PORT = 3000
"""TCP port the gateway listens on, inside its network."""

CONFIG_FILE = "/app/config/tensorzero.toml"
"""Where the container expects what `render` returns."""

COMMAND = ("--config-file", CONFIG_FILE)
"""Arguments of the image's entry point that serve the configuration."""

VALIDATE = (*COMMAND, "--validate-and-exit")
"""Arguments that check the configuration, exit 0 if it is good, and need no network."""

CHAT_PATH = gateway.PATH
"""The only route of the gateway that is asked (POST); it has neither `/v1` nor a list of models."""

STATUS_PATH = "/status"
"""GET: 200 with `version` and `config_hash` while the process lives. It checks no engine."""

STATUS_URL = f"http://127.0.0.1:{PORT}{STATUS_PATH}"
"""Where the gateway answers `STATUS_PATH` from inside its container, for a health check."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One engine as the gateway sees it.

    `api_base` is the OpenAI base URL at which it is asked, with a trailing slash: the proxy's path for this
    engine. `model_name` is what the engine calls the model.
    """

    kind: EngineKind
    api_base: str
    model_name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^\s/?#]+/\S*/", self.api_base):
            raise ValueError(
                f"api_base of {self.kind}: {self.api_base!r} is not a base URL with a trailing slash,"
                " such as http://proxy:8001/vllm-1a2b3c4d/v1/"
            )


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds the gateway gives a request before it answers with an error itself.

    `total` bounds an answer that is not streamed, `first_token` the wait for a stream's first chunk and
    `stream` a whole stream. They span both providers of a model.
    """

    total: float
    first_token: float
    stream: float

    def __post_init__(self) -> None:
        if min(self.total, self.first_token, self.stream) < 0.001:
            raise ValueError(f"timeouts must be at least one millisecond: {self}")


@dataclass(frozen=True, kw_only=True)
class ChatModel:
    """A chat model: its name at the endpoint and the engines that serve it, the active one first."""

    name: str
    providers: tuple[Provider, ...]
    timeouts: Timeouts

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_providers(self.name, self.providers)


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """All that a deployment decides about its gateway."""

    models: tuple[ChatModel, ...]

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"the gateway needs one or more models of different names, not {names}")


def qualified(model: str) -> str:
    """The gateway's own name of a chat model."""
    return gateway.PREFIX + model


def render(config: GatewayConfig) -> str:
    """The gateway's TOML.

    Provider tables stand in a fixed order and only `routing` says which engine is active, so that a
    change of the engine is a change of exactly one line for each model.
    """
    gateway = tomlkit.table()
    # Without a database there is nothing to observe into; null would try, and warn at every start.
    gateway.add("observability", _inline(enabled=False))
    gateway.add("disable_pseudonymous_usage_analytics", True)
    # The gateway refuses to start when a timeout below exceeds this bound, which defaults to 900 s.
    gateway.add("global_outbound_http_timeout_ms", max(_milliseconds(s) for s in _all_timeouts(config)))

    document = tomlkit.document()
    document.add("gateway", gateway)
    models = tomlkit.table(is_super_table=True)
    for model in config.models:
        limits = model.timeouts
        models.add(
            model.name,
            _model_table(
                model.providers,
                {
                    "timeouts": _inline(
                        non_streaming=_inline(total_ms=_milliseconds(limits.total)),
                        streaming=_inline(
                            ttft_ms=_milliseconds(limits.first_token), total_ms=_milliseconds(limits.stream)
                        ),
                    )
                },
            ),
        )
    document.add("models", models)
    return tomlkit.dumps(document)


def _model_table(providers: tuple[Provider, ...], limits: dict[str, object]) -> Table:
    table = tomlkit.table()
    # Every provider that is defined must be routed to, or the gateway does not start.
    table.add("routing", [provider.kind for provider in providers])
    for key, value in limits.items():
        table.add(key, value)
    tables = tomlkit.table(is_super_table=True)
    for provider in sorted(providers, key=lambda each: each.kind):
        entry = tomlkit.table()
        # There is no `ollama` type. What is asked without a client's own request, such as the switch's
        # probe, reaches the engine as the gateway writes it, and `openai` would write
        # `max_completion_tokens`, which Ollama ignores (342 tokens for `max_tokens: 8`).
        entry.add("type", "vllm")
        entry.add("api_base", provider.api_base)
        entry.add("model_name", provider.model_name)
        entry.add("api_key_location", "none")
        tables.add(provider.kind, entry)
    table.add("providers", tables)
    return table


def _inline(**values: object) -> InlineTable:
    table = tomlkit.inline_table()
    for key, value in values.items():
        table.add(key, value)
    return table


def _all_timeouts(config: GatewayConfig) -> list[float]:
    return [
        value
        for model in config.models
        for value in (model.timeouts.total, model.timeouts.first_token, model.timeouts.stream)
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _check_name(name: str) -> None:
    # it refuses `openai::x`, and reads `a::b` as the model of another provider
    if not model_names.is_name(name):
        raise ValueError(f"the model name {name!r} cannot work; it must be {model_names.NAME_RULE}")


def _check_providers(model: str, providers: tuple[Provider, ...]) -> None:
    kinds = [provider.kind for provider in providers]
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"the model {model!r} needs one or two providers of different kinds, not {kinds}")
