"""Everything that follows from the settings alone, as plain data: the program builds it, `render` writes it.

Pure. It is the same whatever the image source is, so that a reviewed file is what will run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from components import (
    caddyfile,
    cutover_mode,
    engines,
    gpu_memory,
    pins,
    proxy,
    routing,
    switch,
    tensorzero,
    traps,
    waiting,
)
from components.aws.settings import EVERYBODY
from components.catalogue import MIB
from components.cutover_mode import Cutover
from components.edge import LISTEN_PORT, TLS_PORT
from components.engines import EngineSpec
from components.facts import Foreseen
from components.gate import GATE_MAX_TOKENS, GATE_TIMEOUT, gate_prompt
from components.gpu_memory import KINDS, EngineKind
from components.kubernetes.flip import Flip
from components.plan import REQUEST_SECONDS, times
from monitor import render as monitor_render
from monitor.watched import Watched
from proxy.route import LOCALHOST, Limits
from stacks.settings import Settings
from switch import metrics
from switch.plan import FIRST_TOKEN_SECONDS, About, Gate, Memory, Plan, PlannedEngine, PlannedGateway
from switch.shared import PROXY_PORT

GATEWAY_SLACK = 30
"""Seconds by which the gateway's own limits are longer than the proxy's, which it must never anticipate."""
UNKNOWN_ADDRESS = "address-of-the-instance.invalid"
"""What stands in a rendered file for an address that only AWS knows."""


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """`specs` holds the engines that exist, the active one first; `routing` is the proxies', as TOML.

    `gateway_config` is the gateway's TOML, or None where there is none.
    """

    settings: Settings
    specs: tuple[EngineSpec, ...]
    cutover: Cutover
    gateway_config: str | None
    routing: str

    @property
    def lines(self) -> list[str]:
        """What follows from the settings, for a reader, a line each."""
        return [
            f"engine: {self.settings.engine}",
            *(self.flip.lines if self.flip else self.cutover.lines),
            *([self._tools] if self._tools else []),
        ]

    @property
    def _tools(self) -> str:
        """The line about the calls of tools; empty where the model has none."""
        tools = self.settings.model.tools
        return f"tools: {tools.words}" if tools else ""

    @property
    def foreseen(self) -> Foreseen:
        """The same for a review, as data."""
        waits, tools = self.cutover.waits, self.settings.model.tools
        return Foreseen(
            waits={kind: waits[kind].expected for kind in waits if self.cutover.mode == "hold"},
            same_waits=self.cutover.same_waits,
            tools=self._tools if tools and len(tools.found_by) == 1 else "",
        )

    @property
    def flip(self) -> Flip | None:
        """What a flip takes on a cluster; None on one host."""
        settings = self.settings
        if settings.kubernetes is None:
            return None
        return Flip(
            settings=settings.kubernetes, cutover=self.cutover, load=settings.load, bounds=settings.bounds
        )

    @property
    def active(self) -> EngineSpec:
        return self.specs[0]

    def edge_caddyfile(self, name: str | None) -> str:
        """The edge's Caddyfile. `name` is its certificate's domain or address; None serves plain HTTP."""
        aws = self.settings.aws
        config = caddyfile.EdgeConfig(
            listen=f":{TLS_PORT if name else LISTEN_PORT}",
            domain=name,
            internal_ca=aws is not None and not aws.domain,
            restricted=aws is not None and aws.public_http and EVERYBODY not in aws.allowed,
            proxy=f"{proxy.ALIAS}:{proxy.PORT}",
        )
        return caddyfile.render(config)

    @property
    def known_name(self) -> str | None:
        """What a rendered file says for the name of the certificate."""
        aws = self.settings.aws
        return (aws.domain or UNKNOWN_ADDRESS) if aws else None

    @property
    def watched(self) -> Watched | None:
        """What there is for a monitor to watch; None where the stack has none."""
        settings = self.settings
        if settings.monitor is None:
            return None
        return Watched(
            stack=settings.stack,
            gpu=settings.gpu is not None,
            vllm="vllm" in settings.kinds,
            # the package in the offline image has no /metrics
            gateway=self.gateway_config is not None and settings.images == "public",
            hold_budget=settings.hold_budget,
            expected={kind: self.cutover.waits[kind].expected for kind in settings.kinds},
            switch=switch.ALIAS,
            switch_port=metrics.PORT,
            proxy_port=PROXY_PORT,
            gateway_port=tensorzero.PORT,
            engine_port=engines.PORT,
        )

    @property
    def monitor_files(self) -> dict[str, str]:
        """The monitor's files by path; none where the stack has no monitor."""
        return monitor_render.files(self.watched) if self.watched else {}

    @property
    def images(self) -> tuple[pins.Image, ...]:
        """Every image that the stack runs."""
        return (
            *((pins.GATEWAY,) if self.gateway_config is not None else ()),
            *(pins.EDGE, pins.SWITCH),
            *(spec.image for spec in self.specs),
            *(pins.MONITOR if self.settings.monitor else ()),
        )

    def reference(self, pin: pins.Image) -> str:
        """The reference of an image in the source that the settings name."""
        return pin.offline if self.settings.images == "offline" else pin.public

    def plan(self) -> Plan:
        """What the switch is told, but for what only Docker knows: the names of the containers."""
        settings, spec = self.settings, self.active
        load, sums = settings.load, gpu_memory.engine_sum(spec.kind, settings.load)
        standbys = (each.image for each in self.specs[1:])
        others = (pins.EDGE, pins.SWITCH, *standbys, *(pins.MONITOR if settings.monitor else ()))
        gateway = self._gateway()
        return Plan(
            engine=PlannedEngine(
                name=spec.name,
                kind=spec.kind,
                container="",
                port=engines.PORT,
                model=spec.served,
                weights=spec.weights.folder,
                gpu_bytes=sums.total if settings.gpu else 0,
                host_bytes=sums.host,
            ),
            cutover=self.cutover.mode,
            insist=settings.cutover == "overlap",
            memory=Memory(
                gpu=load.gpu_there if settings.gpu else 0,
                host=settings.host_memory - load.services if settings.host_memory else 0,
            ),
            seconds=times(settings.bounds.drain, settings.bounds.load),
            gate=Gate(
                completions=settings.bounds.completions,
                max_tokens=GATE_MAX_TOKENS,
                timeout=GATE_TIMEOUT,
                tokens_per_second=settings.gate_tokens_per_second,
                prompt_tokens=gate_prompt(load),
                sense=spec.model.able and not spec.model.embeds,
                embeds=spec.model.embeds,
                traps=tuple(traps.traps(spec.kind, load, settings.vllm_flags)),
            ),
            gateway=gateway,
            routing=self.routing,
            about=About(
                engine_image=self.reference(spec.image),
                gateway_image=gateway.image if gateway else "",
                reason=self.cutover.reason,
                sum=sums.words,
                loading_seconds=waiting.loading(spec.kind, load).seconds,
                images=tuple(self.reference(each) for each in others),
            ),
        )

    def _gateway(self) -> PlannedGateway | None:
        if self.gateway_config is None:
            return None
        return PlannedGateway(
            image=self.reference(pins.GATEWAY),
            config=self.gateway_config,
            path=tensorzero.CHAT_PATH,
            model=tensorzero.qualified(self.active.served),
            port=tensorzero.PORT,
            config_file=tensorzero.CONFIG_FILE,
            validate=tensorzero.VALIDATE,
        )


def blueprint_of(settings: Settings) -> Blueprint:
    """The blueprint of a stack with these settings."""
    specs = tuple(
        engines.build(kind, settings.load, settings.vllm_flags, settings.name) for kind in settings.kinds
    )
    with_gateway = settings.gateway == "tensorzero"
    routes = routing.Routing(
        name=settings.name,
        engines=specs,
        gateway=routing.RoutingGateway(kind="tensorzero", port=tensorzero.PORT) if with_gateway else None,
        limits=Limits(
            hold_seconds=settings.hold_budget,
            first_token_seconds=FIRST_TOKEN_SECONDS,
            answer_seconds=REQUEST_SECONDS,
            request_bytes=settings.max_request_mib * MIB,
        ),
        aliases=settings.aliases,
        origins=settings.cors_origins,
    )
    return Blueprint(
        settings=settings,
        specs=specs,
        # on a cluster other pods serve while one changes, which has one engine at a time
        cutover=cutover_mode.choose(
            "hold" if settings.kubernetes else settings.cutover,
            settings.engine,
            settings.load,
            settings.bounds,
        ),
        gateway_config=_toml(settings, specs) if with_gateway else None,
        routing=routing.render(routes),
    )


def _toml(settings: Settings, specs: tuple[EngineSpec, ...]) -> str:
    """The gateway's TOML: each engine is asked through the proxy, by a path of its own.

    On a cluster the proxy is beside the gateway in its pod, and the path is the engine's kind, since there
    two of one kind may serve at once. Both kinds are named there, with a standby and without: until a flip
    has ended, the gateways of before are asked for the new engine, too.
    """
    total, on_cluster = REQUEST_SECONDS + GATEWAY_SLACK, settings.kubernetes is not None
    at = f"http://{LOCALHOST if on_cluster else proxy.ALIAS}:{PROXY_PORT}"
    asked: Sequence[tuple[EngineKind, str]] = [(spec.kind, spec.name) for spec in specs]
    if on_cluster:
        asked = [(kind, kind) for kind in sorted(KINDS, key=lambda each: each != settings.engine)]
    return tensorzero.render(
        tensorzero.GatewayConfig(
            models=(
                tensorzero.ChatModel(
                    name=settings.name,
                    providers=tuple(
                        tensorzero.Provider(kind=kind, api_base=f"{at}/{path}/v1/", model_name=settings.name)
                        for kind, path in asked
                    ),
                    timeouts=tensorzero.Timeouts(
                        total=total, first_token=FIRST_TOKEN_SECONDS + GATEWAY_SLACK, stream=total
                    ),
                ),
            )
        )
    )
