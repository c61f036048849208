"""The targets: where the Docker host is, and what is looked at before anything is changed."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pulumi
import pulumi_docker as docker

from components import naming, pins, waiting
from components.catalogue import GIB
from components.docker_host import LOOPBACK, DockerHost
from components.engines import EngineSpec
from components.labels import Labels, label
from stacks import ours
from stacks.aws_target import aws_target
from stacks.blueprint import Blueprint
from stacks.docker_look import DockerLook
from stacks.origin import docker_plugin_origin
from stacks.owner import FoundOnHost, Known
from stacks.settings import Settings
from stacks.target_error import TargetError
from switch.shared import SOCKET


def current_docker_host() -> str:
    """The address of the Docker engine that the person's `docker` command talks to.

    `DOCKER_HOST`, or the host of the current context. Raises TargetError without a Docker CLI.
    """
    if shutil.which("docker") is None:
        raise TargetError(
            "there is no `docker` command. Install Docker (on Debian: apt-get install docker.io) and run the "
            "same command again."
        )
    if address := os.environ.get("DOCKER_HOST"):
        return address
    context = subprocess.run(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return context.stdout.strip() or f"unix://{SOCKET}"


def docker_target(blueprint: Blueprint, labels: Labels, state: Known) -> DockerHost:
    """This machine's Docker engine. Looks before anything is changed.

    Raises TargetError when no engine answers, the stack on it is another state's or lacks something that the
    update won't make again, the machine is not what the settings say, an image can't be had, the disk is too
    small for the first weights, the port is taken, or the stack was made with a docker plugin of another
    origin.
    """
    settings = blueprint.settings
    address = current_docker_host()
    if not address.startswith("unix://"):
        raise TargetError(
            f"changeover:target: docker means the Docker engine of this machine, and {address} is not. Unset "
            "DOCKER_HOST, or run: docker context use default"
        )
    path = address.removeprefix("unix://")
    instead = os.environ.get(ours.ADOPT, "")
    with DockerLook(path) as look:
        try:
            info = look("/info")
        except TargetError as error:
            raise TargetError(no_engine(address, error)) from None
        found = look.stack(labels)
        ours.check(state, found, blueprint, labels, instead)
        origin = _check_origin(found, labels)
        _check_machine(info, settings)
        missing, new = _check_images(look, blueprint), _without_volume(blueprint, found, labels)
        _check_disk(info, blueprint, new)
        _check_port(look, settings, labels)
    if blueprint.settings.images == "public" and (missing or new):
        kinds = [spec.kind for spec in new]
        pulumi.info(waiting.first_fetch(missing, kinds, blueprint.settings.load).words)
    return DockerHost(
        address=address,
        # Docker Desktop's engine has its socket in a machine of its own, always at the usual place
        socket=SOCKET if sys.platform == "darwin" or "desktop" in path else path,
        bind=LOOPBACK,
        gpu=settings.gpu,
        provider=docker.Provider("host", host=address),
        labels=labels,
        origin=origin,
        instead=instead,
        networks=ours.adopted_networks(state, found) if instead else {},
        again=ours.refills(state, found, blueprint, labels),
    )


def no_engine(address: str, error: Exception) -> str:
    """The message that no Docker engine answers, with what starts one."""
    return (
        f"no Docker engine answers at {address} ({error}). Start it (Docker Desktop, or on Linux: systemctl "
        "start docker) and run the same command again."
    )


def _check_origin(found: FoundOnHost, labels: Labels) -> str:
    """Two builds of one plugin disagree about what they find: a stack stays with the one that made it."""
    origin = docker_plugin_origin()
    for network in (each for each in found.things if each.kind == "network"):
        made_with = (network.labels or {}).get(label("plugin"))
        if made_with and made_with != origin:
            raise TargetError(
                f"stack `{labels.stack}` was made with a Docker plugin that is {made_with}; this one is "
                f"{origin}. Use the environment that made it (source .venv/bin/activate), or take the stack "
                f"down there first with: make down STACK={labels.stack}"
            )
    return origin


def _check_machine(info: Mapping[str, Any], settings: Settings) -> None:
    """Raises TargetError where the settings claim more of the machine than it has."""
    if settings.host_memory and settings.host_memory > info["MemTotal"]:
        there = info["MemTotal"] // GIB
        raise TargetError(
            f"changeover:hostMemoryGiB: {settings.host_memory // GIB} cannot work; it must be {there} at "
            f"most, which is all that the Docker host has. Run: pulumi config set hostMemoryGiB {there}"
        )
    if settings.gpu and "nvidia" not in info["Runtimes"]:
        raise TargetError(
            "changeover:gpu: this Docker engine has no NVIDIA runtime, so no container can use the "
            f"{settings.gpu.name}. Install the NVIDIA Container Toolkit and run: nvidia-ctk runtime "
            "configure --runtime=docker. To go on without a GPU: pulumi config rm gpu"
        )


def _check_images(look: DockerLook, blueprint: Blueprint) -> list[pins.Image]:
    """The images that are not there. Raises TargetError where one can't be had."""
    here = {
        name
        for image in look("/images/json")
        for name in (*(image["RepoTags"] or ()), *(image.get("RepoDigests") or ()))
    }
    missing = [
        each for each in blueprint.images if blueprint.reference(each) not in here and each.pulled not in here
    ]
    names = [blueprint.reference(each) for each in missing]
    if missing and blueprint.settings.images == "offline":
        raise TargetError(
            f"these offline images are not on the Docker host: {', '.join(names)}. "
            "Build them with: python3 -m offline.images"
        )
    for name in names:
        try:
            look(f"/distribution/{name}/json")  # asks its registry, and pulls nothing
        except TargetError as error:
            raise TargetError(
                f"the image {name} is not on the Docker host and can't be pulled: {error}. Repair the "
                "connection to its registry, or use images that are built on this machine: IMAGES=offline "
                "make up"
            ) from None
    return missing


def _without_volume(blueprint: Blueprint, found: FoundOnHost, labels: Labels) -> list[EngineSpec]:
    """The engines whose weights have no volume yet."""
    volumes = {each.name for each in found.things if each.kind == "volume"}
    return [
        spec for spec in blueprint.specs if labels.name(naming.child(spec.kind, "weights")) not in volumes
    ]


def _check_disk(info: Mapping[str, Any], blueprint: Blueprint, new: Iterable[EngineSpec]) -> None:
    """Raises TargetError where the disk is too small for these engines' weights. Later ones are checked where
    they are fetched."""
    try:
        free = shutil.disk_usage(info["DockerRootDir"]).free
    except OSError:
        return  # Docker Desktop's is in a machine of its own
    need = sum(spec.weights.need_bytes for spec in new)
    if free < need:
        raise TargetError(
            f"the weights of {blueprint.settings.model.name} need {need / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free for Docker's volumes ({info['DockerRootDir']}). Free some "
            "(docker image prune), or choose a smaller model: pulumi config set model NAME"
        )


def _check_port(look: DockerLook, settings: Settings, labels: Labels) -> None:
    ports = [("port", settings.port, 18080)]
    if settings.monitor:
        ports.append(("monitorPort", settings.monitor.port, 18428))
    for key, port, other in ports:
        if look("/containers/json", label=f"{label('stack')}={labels.stack}", publish=str(port)):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except PermissionError:
                continue  # a port below 1024: Docker may, this process may not
            except OSError:
                raise TargetError(
                    f"changeover:{key}: {port} is in use on {LOOPBACK}. "
                    f"Free it, or choose another: pulumi config set {key} {other}"
                ) from None


def docker_host(blueprint: Blueprint, labels: Labels, state: Known) -> DockerHost:
    """The Docker host of the settings' target, after a look at what it has. Raises TargetError."""
    if blueprint.settings.kubernetes:
        raise TargetError(
            "changeover:target: with kubernetes there is no Docker host; nothing was changed. "
            "On one machine: pulumi config set target docker"
        )
    if blueprint.settings.target == "aws":
        return aws_target(blueprint, labels, state)
    return docker_target(blueprint, labels, state)
