"""Everything that follows from the settings alone, as plain data: the program builds it, `render` writes it.

Pure. It is the same whatever the image source is, so that a reviewed file is what will run.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from components import caddyfile, cutover_mode, engines, gpu_memory, pins, tensorzero, waiting
from components.cutover_mode import Cutover
from components.edge import LISTEN_PORT, TLS_PORT
from components.engines import EngineSpec
from components.gateway import ALIAS
from components.plan import REQUEST_SECONDS, Plan
from stacks.settings import Settings

FIRST_TOKEN_SECONDS = 300
UNKNOWN_ADDRESS = "address-of-the-instance.invalid"
"""What stands in a rendered file for an address that only AWS knows."""


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """`specs` holds the engines that exist, the active one first."""

    settings: Settings
    specs: tuple[EngineSpec, ...]
    cutover: Cutover
    gateway_config: str

    @property
    def active(self) -> EngineSpec:
        return self.specs[0]

    def edge_config(self, api_keys: Mapping[str, str], name: str | None = None) -> str:
        """What the edge is configured from: its Caddyfile, and these keys by tenant.

        `name` is the domain or address that its certificate is for; None serves plain HTTP.
        """
        return caddyfile.apply_input(self._edge(api_keys, name))

    def edge_caddyfile(self) -> str:
        """The edge's Caddyfile. It names the tenants and holds no key."""
        aws = self.settings.aws
        placeholders = {tenant: f"placeholder-of-{tenant}" for tenant in self.settings.tenants}
        name = (aws.domain or UNKNOWN_ADDRESS) if aws else None
        return caddyfile.render(self._edge(placeholders, name))

    def _edge(self, api_keys: Mapping[str, str], name: str | None) -> caddyfile.EdgeConfig:
        aws = self.settings.aws
        return caddyfile.EdgeConfig(
            listen=f":{TLS_PORT if name else LISTEN_PORT}",
            domain=name,
            internal_ca=aws is not None and not aws.domain,
            never_open=aws is not None,
            gateway=ALIAS,
            engine=f"{engines.ALIAS}:{engines.PORT}",
            models=(self.settings.name,),
            api_keys=api_keys,
            hold_seconds=self.settings.hold_budget,
            max_body_bytes=self.settings.max_request_mib * 1024 * 1024,
        )

    def reference(self, pin: pins.Image) -> str:
        """The reference of an image in the source that the settings name."""
        return pin.offline if self.settings.images == "offline" else pin.public

    def plan(self) -> Plan:
        """What the switch is told."""
        settings = self.settings
        memory = gpu_memory.engine_sum(self.active.kind, settings.load)
        return Plan(
            spec=self.active,
            mode=self.cutover.mode,
            insist=settings.cutover == "overlap",
            drain=settings.bounds.drain,
            load=settings.bounds.load,
            completions=settings.bounds.completions,
            tokens_per_second=settings.gate_tokens_per_second,
            gpu_bytes=memory.total if settings.gpu else 0,
            host_bytes=memory.host,
            gpu_there=settings.gpu.usable if settings.gpu else 0,
            host_there=settings.host_memory or 0,
            engine_image=self.reference(self.active.image),
            gateway_image=self.reference(pins.GATEWAY),
            images=tuple(
                self.reference(each)
                for each in (pins.EDGE, pins.SWITCH, *(spec.image for spec in self.specs[1:]))
            ),
            gateway_config=self.gateway_config,
            reason=self.cutover.reason,
            sum=memory.words,
            loading=waiting.loading(self.active.kind, settings.load).seconds,
        )


def blueprint(settings: Settings) -> Blueprint:
    """The blueprint of a stack with these settings."""
    specs = tuple(
        engines.build(kind, settings.load, settings.vllm_flags, settings.name) for kind in settings.kinds
    )
    config = tensorzero.GatewayConfig(
        models=(
            tensorzero.Model(
                name=settings.name,
                providers=tuple(
                    tensorzero.Provider(
                        kind=spec.kind,
                        api_base=f"http://{spec.name}:{engines.PORT}/v1/",
                        model_name=spec.served,
                    )
                    for spec in specs
                ),
                timeouts=tensorzero.Timeouts(
                    total=REQUEST_SECONDS, first_token=FIRST_TOKEN_SECONDS, stream=REQUEST_SECONDS
                ),
            ),
        ),
    )
    return Blueprint(
        settings=settings,
        specs=specs,
        cutover=cutover_mode.choose(settings.cutover, settings.engine, settings.load, settings.bounds),
        gateway_config=tensorzero.render(config),
    )
