"""What the program tells the switch: the one definition for both, and typed loading of JSON.

The program writes a `Plan` as the input of both steps of a change. The switch reads it, and keeps it in its
journal. Durations are in seconds, sizes in bytes.
"""

import dataclasses
import json
import re
import types
import typing
from dataclasses import MISSING, dataclass
from typing import Any, Literal

EngineKind = Literal["ollama", "vllm"]
Mode = Literal["hold", "overlap"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

FIRST_TOKEN_SECONDS = 300
"""Longest wait of the proxy for a stream's first byte, from when the engine is asked."""


class PlanError(ValueError):
    """A plan that can't be used. The text says which key, what was given and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class PlannedEngine:
    """The engine that a change leads to."""

    name: str = ""
    """What proxies and the gateway's config call it; empty in a plan from before there were proxies."""
    kind: EngineKind
    container: str
    """Name of its container. Empty only in the program, until Docker has created the container."""
    port: int
    """TCP port at which it answers on the stack's network."""
    model: str
    """The name by which the engine knows the model."""
    weights: str
    """Folder of the weights under /weights/<kind>."""
    gpu_bytes: int
    """Bytes that must be free on each GPU before the engine starts; 0 without a GPU."""
    host_bytes: int
    """Bytes of RAM that the engine takes."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What all engines together may take, in bytes: of each GPU, and of the host's RAM. 0 where not known."""

    gpu: int
    host: int


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """The time limits of a change, and of what serves after it; all in seconds."""

    drain: float
    """For the requests that the old engine has when a change begins: within it they must have ended."""
    load: float
    """For one loading of an engine, its gate included."""
    request: float
    """For one answer: the proxy ends a longer one, so no drain can take longer."""
    stop: float
    """From SIGTERM to SIGKILL, when an engine is stopped."""
    lease_following: float
    """Since the last `follow` of a coordinator, after which the switch takes it for dead."""
    lease_prepared: float
    """From the end of prepare to commit, after which the switch takes the coordinator for dead."""
    gateway: float
    """For the first completion through a new gateway."""
    memory: float
    """From the end of an engine until its memory is free on the GPU."""
    answers: float = 45
    """For an answer of what serves to the smallest question. The engines answer that next to their work, so
    it waits neither for a prompt nor in a queue."""
    tokens: float = FIRST_TOKEN_SECONDS + 180
    """Without a byte of any completion of an engine, though one is asked for, after which the engine is taken
    for hung. The switch's own request for one token counts, too. The proxy hangs up on other requests after
    `FIRST_TOKEN_SECONDS`, so what came before the switch's own has ended by then."""


@dataclass(frozen=True, kw_only=True)
class Trap:
    """What to do where one of `words` is in a failure of the gate, or in what the engine wrote last.

    With `memory`, the MiB of the GPU that it may use now, `{less}` in the hint stands for how many it should.
    """

    words: tuple[str, ...]
    hint: str
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What an engine must answer before it is active."""

    completions: int
    """How many completions it must give, one after another."""
    max_tokens: int
    """How many tokens a completion has at most."""
    timeout: float
    """Seconds for one completion. The first of Ollama, which loads in it, may take what is left of `load`."""
    tokens_per_second: float
    """What the fastest completion must reach; the first counts only if it is the only one. 0: no floor."""
    prompt_tokens: int = 0
    """Length of a long prompt that the engine has to read after its last completion; 0: none."""
    sense: bool = False
    """Whether the model follows instructions, so that what it says must be right, and not one thing over and
    over."""
    embeds: bool = False
    """Whether the model turns texts into vectors and answers no chat: a completion is an embedding then."""
    traps: tuple[Trap, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlannedGateway:
    """The gateway that a change leads to."""

    image: str
    config: str
    """The text of its configuration file."""
    path: str
    """Path at which it is asked for a chat."""
    model: str
    """The name of the model in a request to the gateway."""
    port: int
    """TCP port at which it answers on the stack's network."""
    config_file: str
    """Path of the configuration file in its container."""
    validate: tuple[str, ...]
    """Arguments with which the image reads its configuration and exits."""
    container: str = ""
    """Empty in `prepare`: the new gateway does not exist yet."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a certificate says of a change besides what was measured. The switch decides nothing by it."""

    engine_image: str
    gateway_image: str
    """Empty without a gateway."""
    reason: str
    """Why it goes by hold or by overlap."""
    sum: str
    """The engine's memory."""
    loading_seconds: float
    """What the catalogue expects."""
    images: tuple[str, ...]
    """What else the stack has at that time: edge, proxy, switch and the standby."""

    @property
    def all_images(self) -> list[str]:
        """The images of the engine, of the gateway, and of everything else that the stack has at that
        time."""
        return [image for image in (self.engine_image, self.gateway_image, *self.images) if image]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One change of what is live."""

    engine: PlannedEngine
    cutover: Mode
    insist: bool
    """Whether the stack's settings themselves say `overlap`: then none goes by `hold` for want of memory."""
    memory: Memory
    seconds: Seconds
    gate: Gate
    gateway: PlannedGateway | None
    """None: the proxies ask the engine themselves."""
    routing: str = ""
    """The proxies' routing, as TOML. Empty in a plan from before there were proxies: what it made live is
    asked by way of its gateway alone, and held by stopping that."""
    about: About
    no_flip: str = ""
    """Why it must not be carried out where an engine of another kind serves; empty: it may."""

    @property
    def gateway_container(self) -> str:
        """The name of the gateway's container. Empty without a gateway, and in `prepare`."""
        return self.gateway.container if self.gateway else ""

    def leading_to(self, engine: str, gateway: str = "") -> "Plan":
        """This plan with the names of containers that exist now. A plan to prepare has no `gateway`."""
        return dataclasses.replace(
            self,
            engine=dataclasses.replace(self.engine, container=engine),
            gateway=self.gateway and dataclasses.replace(self.gateway, container=gateway),
        )

    @property
    def text(self) -> str:
        """As JSON, whose bytes Pulumi compares with those of the last update: keys are in the order of the
        fields, and those that few plans need are left out of the others."""
        raw = dataclasses.asdict(self)
        for section, key in ((raw, "no_flip"), (raw["gate"], "embeds"), (raw["gateway"] or {}, "container")):
            if not section.get(key):
                section.pop(key, None)
        return json.dumps(raw, indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Which weights are to be there, and the helper container that fetches them."""

    engine: EngineKind
    folder: str
    image: str
    volume: str
    script: str
    env: dict[str, str]
    need_bytes: int
    digest: str
    """What the weights come from, in any form: other weights have another digest."""

    @property
    def text(self) -> str:
        """As JSON, which Pulumi compares with that of the last update."""
        return json.dumps(dataclasses.asdict(self), indent=2)


IN_JSON = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}
"""What JSON calls a value of each type."""


def load(kind: Any, raw: Any, where: str = "plan", *, strict: bool = True) -> Any:
    """`raw` (parsed JSON) as `kind`: a dataclass, a plain type, a literal, a list, a tuple of any length, a
    dict or `X | None`.

    Strict rejects unknown keys; a journal is read with `strict=False`: it may be from a later version.
    Raises PlanError.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(raw, dict):
            raise PlanError(f"{where} must be an object, not {raw!r}")
        hints = typing.get_type_hints(kind)
        needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is MISSING}
        if unknown := sorted(set(raw) - set(hints)):
            if strict:
                keys = ", ".join(hints)
                raise PlanError(f"{where} must not have the key {unknown[0]!r}; its keys are {keys}")
            raw = {key: value for key, value in raw.items() if key in hints}
        if missing := sorted(needed - set(raw)):
            raise PlanError(f"{where} must have the key {missing[0]!r}")
        fields = {k: load(hints[k], v, f"{where}.{k}", strict=strict) for k, v in raw.items()}
        return typing.cast(Any, kind)(**fields)
    if origin is Literal:
        if raw not in args:
            raise PlanError(f"{where} must be {' or '.join(map(repr, args))}, not {raw!r}")
        return raw
    if origin in (types.UnionType, typing.Union):
        return None if raw is None else load(args[0], raw, where, strict=strict)
    if origin in (list, tuple) and isinstance(raw, list):
        return origin(load(args[0], item, f"{where}[{n}]", strict=strict) for n, item in enumerate(raw))
    if origin is dict and isinstance(raw, dict):
        return {key: load(args[1], item, f"{where}.{key}", strict=strict) for key, item in raw.items()}
    if kind is Any:
        return raw
    if kind is float and type(raw) is int:
        return float(raw)
    if type(raw) is not kind:
        raise PlanError(f"{where} must be {IN_JSON.get(origin or kind, kind)}, not {raw!r}")
    return raw


def name(text: str, where: str) -> str:
    """`text` if it is a plain file or container name (no slash, no leading dot), else PlanError."""
    if not NAME.fullmatch(text):
        raise PlanError(f"{where} must be a plain name of letters, digits, '.', '_' and '-', not {text!r}")
    return text


def parse(raw: Any, verb: Literal["prepare", "commit"]) -> Plan:
    """A plan as its verb needs it. Raises PlanError."""
    plan: Plan = load(Plan, raw)
    name(plan.engine.container, "plan.engine.container")
    name(plan.engine.weights, "plan.engine.weights")
    if plan.routing:
        name(plan.engine.name, "plan.engine.name")
    elif plan.gateway is None:
        raise PlanError(
            "plan.gateway must not be null where plan.routing is empty: nothing would lead to the engine"
        )
    if verb == "commit" and plan.gateway:
        name(plan.gateway.container, "plan.gateway.container")
    elif plan.gateway_container:
        raise PlanError(
            "plan.gateway.container must be empty in prepare, which comes before the new gateway exists"
        )
    for section in (plan.seconds, plan.gate):
        for field, value in dataclasses.asdict(section).items():
            if type(value) not in (int, float):
                continue
            if value < 0 or (value == 0 and field not in ("tokens_per_second", "prompt_tokens")):
                raise PlanError(
                    f"plan.{type(section).__name__.lower()}.{field} must be positive, not {value:g}"
                )
    return plan
