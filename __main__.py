"""Changeover: reads the settings, builds the stack, exports."""

from pathlib import Path

import pulumi

from components.cutover_mode import mode_changed
from components.facts import POD_BY_POD, Exported
from components.labels import Labels
from stacks import ours
from stacks.blueprint import blueprint_of
from stacks.endpoint import Endpoint, EndpointArgs
from stacks.parity import no_flip
from stacks.settings import PROJECT, SettingsError, api_keys, from_program
from stacks.target_error import TargetError
from stacks.targets import docker_host

try:
    settings = from_program(Path(__file__).parent)
    labels = Labels(project=PROJECT, stack=settings.stack)
    blueprint = blueprint_of(settings)
    if settings.kubernetes is not None:
        from stacks import cluster_stack  # not at the top: a stack on one host needs none of it

        found = cluster_stack.look_at(settings)
    else:
        state = ours.known()
        host = docker_host(blueprint, labels, state)
except (SettingsError, TargetError) as error:
    raise pulumi.RunError(str(error)) from None

pulumi.info("\n".join(blueprint.lines))
outputs: dict[Exported, object] = {
    "engine": settings.engine,
    "model": settings.name,
    "routing": blueprint.routing,
}
if blueprint.gateway_config is not None:
    outputs["gateway_config"] = blueprint.gateway_config
if settings.kubernetes is not None:
    outputs |= {
        "endpoint": cluster_stack.declare(blueprint, labels, found, api_keys()).url,
        "cutover": POD_BY_POD,
    }
else:
    if said := mode_changed(blueprint.cutover, settings.cutover, state.cutover):
        pulumi.warn(said)
    if refused := no_flip(blueprint, Path(__file__).parent):
        pulumi.warn(f"a change to the other engine is refused for now: {refused}")
    endpoint = Endpoint(
        "endpoint", EndpointArgs(blueprint=blueprint, host=host, api_keys=api_keys(), no_flip=refused)
    )
    outputs |= {
        "endpoint": endpoint.url,
        "cutover": blueprint.cutover.mode,
        "certificate": endpoint.certificate,
    }
    if endpoint.ca is not None:
        outputs["ca"] = endpoint.ca
if settings.aws is not None:
    outputs["cost"] = settings.aws.cost  # so that a preview shows what a change does to it
for name, value in outputs.items():
    pulumi.export(name, value)
