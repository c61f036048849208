"""The targets: where the Docker host is. Nothing else knows one from another."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass

import pulumi_docker as docker

from components import pins
from components.docker_host import DockerHost
from components.labels import Labels
from stacks.aws_target import aws_target
from stacks.origin import docker_plugin_origin
from stacks.settings import Settings
from stacks.target_error import TargetError

LOOPBACK = "127.0.0.1"
DOCKER_SOCKET = "/var/run/docker.sock"


@dataclass(frozen=True)
class _Docker:
    """The Docker CLI against one host, for looking only."""

    address: str

    def __call__(self, *words: str) -> str:
        try:
            done = subprocess.run(
                ["docker", *words],
                env={**os.environ, "DOCKER_HOST": self.address},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TargetError("it said nothing for 60 s") from None
        if done.returncode != 0:
            raise TargetError(done.stderr.strip())
        return done.stdout


def current_docker_host() -> str:
    """The address of the Docker engine that the person's `docker` command talks to.

    `DOCKER_HOST`, or the host of the current context. Raises TargetError without a Docker CLI.
    """
    if shutil.which("docker") is None:
        raise TargetError(
            "there is no `docker` command. Install Docker (on Debian: apt-get install docker.io) "
            "and type the same again."
        )
    if address := os.environ.get("DOCKER_HOST"):
        return address
    context = subprocess.run(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return context.stdout.strip() or f"unix://{DOCKER_SOCKET}"


def docker_target(settings: Settings, labels: Labels) -> DockerHost:
    """This machine's Docker engine. Looks before anything is changed.

    Raises TargetError when no engine answers, an offline image is missing, the port is taken, or the
    stack was made with a docker plugin of another origin.
    """
    address = current_docker_host()
    if not address.startswith("unix://"):
        raise TargetError(
            f"changeover:target: docker means the Docker engine of this machine, and {address} is not. "
            "Unset DOCKER_HOST, or type: docker context use default"
        )
    look = _Docker(address)
    try:
        look("version", "--format", "{{.Server.Version}}")
    except TargetError as error:
        raise TargetError(
            f"no Docker engine answers at {address} ({error}). "
            "Start it (Docker Desktop, or on Linux: systemctl start docker) and type the same again."
        ) from None
    origin = _check_origin(look, labels)
    if settings.images == "offline":
        _check_images(look, settings)
    _check_port(look, settings, labels)
    path = address.removeprefix("unix://")
    return DockerHost(
        address=address,
        # Docker Desktop's engine has its socket in a machine of its own, always at the usual place
        socket=DOCKER_SOCKET if sys.platform == "darwin" or "desktop" in path else path,
        bind=LOOPBACK,
        gpu=settings.gpu,
        provider=docker.Provider("host", host=address),
        labels=labels,
        origin=origin,
    )


def _check_origin(look: _Docker, labels: Labels) -> str:
    """Two builds of one plugin disagree about what they find: a stack stays with the one that made it."""
    origin = docker_plugin_origin()
    label = '{{index .Labels "changeover.plugin"}}'
    networks = look("network", "ls", "--filter", f"name=^{labels.prefix}$", "--format", "{{.ID}}").split()
    for network in networks:
        made_with = look("network", "inspect", "--format", label, network).strip()
        if made_with and made_with != origin:
            raise TargetError(
                f"stack `{labels.stack}` was made with a docker plugin {made_with}; this one is {origin}. "
                "Use the environment that made it (source .venv/bin/activate), or take the stack down "
                "there first with: make down"
            )
    return origin


def _check_images(look: _Docker, settings: Settings) -> None:
    images = [pins.GATEWAY, pins.EDGE, pins.SWITCH]
    images += [pins.OLLAMA if kind == "ollama" else pins.VLLM_CPU for kind in settings.kinds]
    here = set(look("images", "--format", "{{.Repository}}:{{.Tag}}").split())
    missing = [image.offline for image in images if image.offline not in here]
    if missing:
        raise TargetError(
            f"these offline images are not on the Docker host: {', '.join(missing)}. "
            "Build them with: python3 -m offline.images"
        )


def _check_port(look: _Docker, settings: Settings, labels: Labels) -> None:
    ours = look(
        "ps",
        "--filter",
        f"label=changeover.stack={labels.stack}",
        "--filter",
        f"publish={settings.port}",
        "--format",
        "{{.ID}}",
    )
    if ours.strip():
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, settings.port))
        except PermissionError:
            return  # a port below 1024: Docker may, this process may not
        except OSError:
            raise TargetError(
                f"changeover:port: {settings.port} is in use on {LOOPBACK}. "
                "Free it, or choose another: pulumi config set port 18080"
            ) from None


TARGETS = {"docker": docker_target, "aws": aws_target}


def docker_host(settings: Settings, labels: Labels) -> DockerHost:
    """The Docker host of the settings' target. Raises TargetError."""
    return TARGETS[settings.target](settings, labels)
