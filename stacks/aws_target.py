"""The target `aws`: an instance with a GPU, reached over SSH."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pulumi
import pulumi_docker as docker

from components import instance_types, ssh_config
from components.aws.settings import AwsSettings
from components.docker_host import DockerHost, Tls
from components.labels import Labels
from stacks import aws_cli
from stacks.aws_cli import AwsError, Found
from stacks.origin import docker_plugin_origin
from stacks.settings import Settings, client_key, host_key
from stacks.target_error import TargetError
from switch.docker import SOCKET

SSH_FILES = Path(".changeover") / "ssh"
"""Relative to the project's folder: Pulumi's plugins and the steps run there, wherever the folder is."""


def aws_target(settings: Settings, labels: Labels) -> DockerHost:
    """An instance on AWS. Looks before anything is changed, and says what this update does to the instance.

    Raises TargetError when a program or AWS credentials are missing, the stack's instance is stopped, or
    it is protected and would be replaced.
    """
    from components.aws import gpu_host  # costs a stack without AWS 0.7 s

    wanted = settings.aws
    assert wanted is not None
    folder = SSH_FILES / settings.stack
    config = str(folder / "config")
    args = gpu_host.GpuHostArgs(labels=labels, settings=wanted, host_key=host_key(), ssh_config=config)
    found = _look(wanted, labels)
    check_subnet(wanted)
    write_ssh_files(settings, folder, client_key())
    for note in check(found, wanted, gpu_host.identity(args), settings.stack):
        pulumi.warn(note)
    pulumi.info(price(found, wanted))
    if found.state == "running" and (said := _unreachable(found, config, wanted)):
        pulumi.warn(
            f"no SSH to {found.instance} ({said}). An update waits for it where it is new. If it does not "
            f"come: make recover STACK={settings.stack}"
        )
    host = gpu_host.GpuHost("host", args)
    return DockerHost(
        address=host.address,
        socket=SOCKET,
        bind="0.0.0.0",
        gpu=settings.gpu,
        provider=docker.Provider("host", host=host.address, ssh_opts=["-F", config]),
        labels=labels,
        origin=docker_plugin_origin(),
        machine=host.instance,
        interpreter=gpu_host.INTERPRETER,
        step_environment={"CHANGEOVER_SSH_CONFIG": config},
        log_drivers={
            # non-blocking: a CloudWatch that is slow or away holds up no request and no start
            role: (
                "awslogs",
                {"awslogs-region": wanted.region, "awslogs-group": group, "mode": "non-blocking"},
            )
            for role, group in host.log_groups.items()
        },
        tls=Tls(name=wanted.domain or host.ip, internal=not wanted.domain),
    )


def check_subnet(wanted: AwsSettings) -> None:
    """Raises TargetError where an existing subnet is not where the settings say: an update fails half-way."""
    if not wanted.subnet_id:
        return
    try:
        zone, vpc = aws_cli.subnet(wanted.region, wanted.subnet_id)
    except AwsError as error:
        raise TargetError(f"changeover:subnetId: {error}\nNothing was changed.") from None
    if zone != wanted.zone:
        raise TargetError(
            f"changeover:subnetId: {wanted.subnet_id} is in {zone}, and zone is {wanted.zone}; nothing was "
            f"changed. Allowed: a subnet in the zone. Type: pulumi config set subnetId …, or pulumi config "
            f"set zone {zone}"
        )
    if vpc != wanted.vpc_id:
        raise TargetError(
            f"changeover:subnetId: {wanted.subnet_id} is in {vpc}, and vpcId is {wanted.vpc_id}; nothing was "
            f"changed. Allowed: a subnet of the VPC. Type: pulumi config set vpcId {vpc}"
        )


def check(found: Found, wanted: AwsSettings, identity: Mapping[str, str], stack: str) -> list[str]:
    """What this update does to the instance that there is, in words. Raises TargetError where it may not."""
    if found.instance is None:
        if found.volumes:
            return [
                "the stack has a volume and no instance. If it was deployed before, its instance is gone: "
                f"make recover STACK={stack}"
            ]
        return []
    if found.state in ("stopping", "stopped"):
        spot = (
            " (where a spot interruption stopped it, AWS alone starts it again)"
            if found.tags.get("Spot") == "yes"
            else ""
        )
        raise TargetError(
            f"the instance {found.instance} of stack `{stack}` is {found.state}; nothing was changed. "
            f"Start it with: make wake STACK={stack}{spot}"
        )
    if why := replaces(found, wanted, identity):
        reasons = ", and ".join(why)
        if wanted.protect:
            raise TargetError(
                f"this would replace the instance {found.instance}, since {reasons}; `protect` refuses that, "
                "and nothing was changed. To allow it: pulumi config set protect false && pulumi up && "
                "pulumi config set protect true && pulumi up"
            )
        return [
            f"this replaces the instance {found.instance}, since {reasons}. The endpoint is down until the "
            "new one has booted and an engine has loaded. Its address stays, and so does the data volume "
            "(weights, images, certificates) unless it says otherwise before."
        ]
    if found.type != wanted.instance.name:
        return [
            f"this stops the instance {found.instance} and starts it as {wanted.instance.name}, which was "
            f"{found.type}. The endpoint is down meanwhile, for some minutes."
        ]
    return []


def replaces(found: Found, wanted: AwsSettings, identity: Mapping[str, str]) -> list[str]:
    """Why this update makes a new instance: empty where it doesn't."""
    why = []
    if found.zone != wanted.zone:
        why.append(
            f"the zone changes from {found.zone} to {wanted.zone} (a data volume is bound to its zone: the "
            "new one is empty, weights are fetched again, and the stack's own CA is another, unless "
            "`dataSnapshot` names a snapshot of the old one)"
        )
    if wanted.spot and found.type != wanted.instance.name:
        why.append(f"a spot instance can't change its type ({found.type} to {wanted.instance.name})")
    words = {
        "Boot": "the boot script changed",
        "Spot": "`spot` changed",
        "Data": "the data volume is made anew",
        "Key": "the deployer's SSH key changed",
    }
    for tag, now in identity.items():
        before = found.tags.get(tag, now)
        if before != now:
            what = "the subnet" if tag == "Network" else "the machine image"
            why.append(words.get(tag, f"{what} changes from {before} to {now}"))
    return why


def price(found: Found, wanted: AwsSettings) -> str:
    """What the stack costs, and what this update changes of it."""
    text = f"cost: {wanted.cost}"
    before = instance_types.INSTANCE_TYPES.get(found.type)
    if before is None:
        return text
    then = instance_types.hourly(before, volumes_gib=found.size_gib)
    if abs(then - wanted.hourly) < 0.0005:
        return text
    return f"{text}; this update: {instance_types.difference(then, wanted.hourly)}"


def _look(wanted: AwsSettings, labels: Labels) -> Found:
    needed = ["ssh", "docker", *(["session-manager-plugin"] if wanted.access == "ssm" else [])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise TargetError(f"target aws needs these programs here: {', '.join(missing)}. Install them.")
    try:
        return aws_cli.look(wanted.region, labels)
    except AwsError as error:
        raise TargetError(
            f"{error}\nNothing was changed. Are you logged in (aws sso login, or AWS_PROFILE=…)? "
            "Try: aws sts get-caller-identity"
        ) from None


def _unreachable(found: Found, config: str, wanted: AwsSettings) -> str:
    """Why no SSH gets through to the instance; empty where one does."""
    name = found.instance if wanted.access == "ssm" else found.address
    if not name:
        return "it has no public address"
    try:
        done = subprocess.run(
            ["ssh", "-F", config, name, "true"],
            capture_output=True,
            text=True,
            timeout=40,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer in 40 s"
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit {done.returncode}"


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
