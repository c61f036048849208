"""The targets: where the Docker host is and what GPU it has. Nothing else knows one from another."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components import pins, ssh_config
from components.docker_host import DockerHost, Tls
from components.labels import Labels
from stacks.aws_settings import AwsSettings
from stacks.origin import docker_plugin_origin
from stacks.settings import Settings, client_key, host_key

LOOPBACK = "127.0.0.1"
DOCKER_SOCKET = "/var/run/docker.sock"


class TargetError(Exception):
    """The target cannot take the stack; the text says why and what to type. Nothing was changed."""


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


SSH_FILES = Path(".changeover") / "ssh"


def aws_target(settings: Settings, labels: Labels) -> DockerHost:
    """An instance on AWS, reached over SSH. Looks before anything is changed.

    Raises TargetError when a program or AWS credentials are missing, or the stack's instance is stopped.
    """
    from components.aws.gpu_host import INTERPRETER, GpuHost, GpuHostArgs  # costs a stack without AWS 0.7 s

    wanted = settings.aws
    assert wanted is not None
    _check_aws(wanted, labels)
    folder = SSH_FILES / settings.stack
    config = str(folder / "config")
    write_ssh_files(settings, folder, client_key())
    host = GpuHost(
        "host",
        GpuHostArgs(
            labels=labels,
            zone=wanted.zone,
            instance=wanted.instance,
            allowed=wanted.allowed,
            admins=wanted.admins,
            access=wanted.access,
            domain=wanted.domain,
            hosted_zone=wanted.hosted_zone,
            ami=wanted.ami,
            ami_refresh=wanted.ami_refresh,
            data_gib=wanted.data_gib,
            spot=wanted.spot,
            protect=wanted.protect,
            idle_minutes=wanted.idle_minutes,
            email=wanted.email,
            budget=wanted.budget,
            log_days=wanted.log_days,
            client_public_key=wanted.public_keys["client"],
            host_key=host_key(),
            ssh_config=config,
        ),
    )
    if wanted.protect:
        pulumi.info(
            "Instance and data volume are protected: a change that would replace or delete one is refused. "
            "To allow it: pulumi config set protect false && pulumi up, then the change, then protect true."
        )
    return DockerHost(
        address=host.address,
        socket=DOCKER_SOCKET,
        bind="0.0.0.0",
        gpu=settings.gpu,
        provider=docker.Provider("host", host=host.address, ssh_opts=["-F", config]),
        labels=labels,
        origin=docker_plugin_origin(),
        machine=host.instance,
        interpreter=INTERPRETER,
        step_environment={"CHANGEOVER_SSH_CONFIG": config},
        # the access log outlives the host, and a slow CloudWatch holds no request up
        edge_log=(
            "awslogs",
            {"awslogs-region": wanted.region, "awslogs-group": host.log_group, "mode": "non-blocking"},
        ),
        tls=Tls(name=wanted.domain or host.ip, internal=not wanted.domain),
    )


def write_ssh_files(settings: Settings, folder: Path, key: str) -> None:
    """What `ssh` needs on this machine, in a folder that is in no repository."""
    wanted = settings.aws
    assert wanted is not None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "config").write_text(
        ssh_config.render(settings.stack, access=wanted.access, region=wanted.region, folder=str(folder))
    )
    (folder / "known_hosts").write_text(ssh_config.known_hosts(settings.stack, wanted.public_keys["host"]))
    private = folder / "client_key"
    private.touch(mode=0o600)
    private.write_text(key.rstrip("\n") + "\n")


def _aws(*words: str) -> str:
    try:
        done = subprocess.run(
            ["aws", *words, "--output", "text"], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise TargetError(f"`aws {words[0]} {words[1]}` said nothing for 60 s. Is AWS reachable?") from None
    if done.returncode != 0:
        raise TargetError(f"`aws {words[0]} {words[1]}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _check_aws(wanted: AwsSettings, labels: Labels) -> None:
    needed = ["ssh", "docker", "aws", *(["session-manager-plugin"] if wanted.access == "ssm" else [])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise TargetError(f"target aws needs these programs here: {', '.join(missing)}. Install them.")
    try:
        _aws("sts", "get-caller-identity", "--region", wanted.region)
    except TargetError as error:
        raise TargetError(
            f"{error}\nLog in (aws sso login, or AWS_PROFILE=…) and type the same again."
        ) from None
    state = _aws(
        "ec2",
        "describe-instances",
        "--region",
        wanted.region,
        "--filters",
        f"Name=tag:Project,Values={labels.project}",
        f"Name=tag:Stack,Values={labels.stack}",
        "Name=instance-state-name,Values=stopping,stopped",
        "--query",
        "Reservations[].Instances[].InstanceId",
    )
    if state:
        raise TargetError(
            f"the instance {state} of stack `{labels.stack}` is stopped; nothing was changed. "
            f"Start it with: make wake STACK={labels.stack}"
        )


TARGETS = {"docker": docker_target, "aws": aws_target}


def docker_host(settings: Settings, labels: Labels) -> DockerHost:
    """The Docker host of the settings' target."""
    return TARGETS[settings.target](settings, labels)
