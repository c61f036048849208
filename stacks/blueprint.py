"""Everything that follows from the settings alone, as plain data: the program builds it, `render` writes it.

Pure. It is the same whatever the image source is, so that a reviewed file is what will run.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from components import caddyfile, cutover_mode, engines, tensorzero
from components.cutover_mode import Cutover
from components.edge import LISTEN_PORT, TLS_PORT
from components.engines import EngineSpec
from components.gateway import ALIAS
from components.plan import Plan
from stacks.settings import Settings

REQUEST_SECONDS = 600
"""Longest answer that the gateway waits for; engines on a CPU are slow."""
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
        placeholders = {tenant: f"placeholder-of-{tenant}" for tenant in self.settings.tenants}
        aws = self.settings.aws
        name = (aws.domain or UNKNOWN_ADDRESS) if aws else None
        return caddyfile.render(self._edge(placeholders, name))

    def _edge(self, api_keys: Mapping[str, str], name: str | None) -> caddyfile.EdgeConfig:
        aws = self.settings.aws
        return caddyfile.EdgeConfig(
            listen=f":{TLS_PORT if name else LISTEN_PORT}",
            domain=name,
            internal_ca=aws is not None and not aws.domain,
            gateway=ALIAS,
            engine=f"{engines.ALIAS}:{engines.PORT}",
            models=(self.settings.model.name,),
            api_keys=api_keys,
            hold_seconds=self.settings.hold_budget,
            max_body_bytes=self.settings.max_request_mib * 1024 * 1024,
        )

    def plan(self, gateway_image: str) -> Plan:
        """What the switch is told; `gateway_image` is the reference in which the TOML is checked."""
        return Plan(
            spec=self.active,
            mode=self.cutover.mode,
            drain=self.settings.drain,
            load=self.settings.load,
            completions=self.settings.gate_completions,
            gateway_image=gateway_image,
            gateway_config=self.gateway_config,
        )


def blueprint(settings: Settings) -> Blueprint:
    """The blueprint of a stack with these settings."""
    shape = {"context": settings.context, "parallel": settings.parallel}
    gpu = settings.gpu
    specs = tuple(engines.BUILDERS[kind](settings.model, **shape, gpu=gpu) for kind in settings.kinds)
    config = tensorzero.GatewayConfig(
        models=(
            tensorzero.Model(
                name=settings.model.name,
                providers=tuple(
                    tensorzero.Provider(
                        kind=spec.kind,
                        api_base=f"http://{spec.name}:{engines.PORT}/v1/",
                        model_name=settings.model.name,
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
        cutover=cutover_mode.choose(settings.cutover, settings.model, **shape, gpu=gpu),
        gateway_config=tensorzero.render(config),
    )
