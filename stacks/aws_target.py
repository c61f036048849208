"""The target `aws`: an instance with a GPU, reached over SSH."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi
import pulumi_docker as docker

from components import instance_types, ssh_config, waiting
from components.aws.settings import AwsSettings
from components.boot_script import FORMER_TEXTS
from components.docker_host import DockerHost, Tls
from components.labels import Labels
from stacks import aws_cli, ours, owner
from stacks.aws_cli import AwsError, FoundOnAws, Volume
from stacks.blueprint import Blueprint
from stacks.docker_look import DockerLook
from stacks.origin import docker_plugin_origin
from stacks.owner import Known
from stacks.settings import Settings, client_key, host_key
from stacks.target_error import TargetError
from switch.owner import ANY
from switch.shared import SOCKET

if TYPE_CHECKING:
    from components.aws.gpu_host import GpuHostArgs

SSH_FILES = Path(".changeover") / "ssh"
"""Relative to the project's folder: Pulumi's plugins and the steps run there, wherever the folder is."""


def aws_target(blueprint: Blueprint, labels: Labels, state: Known) -> DockerHost:
    """An instance on AWS. Looks before anything is changed, and says what this update does to the instance.

    Raises TargetError when a program or AWS credentials are missing, the stack's instance is stopped, another
    state's or lacks something that the update won't make again, or is protected and would be replaced.
    """
    from components.aws import gpu_host  # costs a stack without AWS 0.7 s

    settings = blueprint.settings
    wanted = settings.aws
    assert wanted is not None
    folder = SSH_FILES / settings.stack
    config = str(folder / "config")
    found = _look(wanted, labels, state.instance)
    check_known(found, state, wanted.region, settings.stack)
    args = gpu_host.GpuHostArgs(
        labels=labels,
        settings=wanted,
        host_key=host_key(),
        ssh_config=config,
        left_over=found.left_over(),
    )
    args = as_it_was_made(args, found, gpu_host.identity)
    for note in filter(None, [left_over(found), unconfirmed(state)]):
        pulumi.warn(note)
    check_subnet(wanted)
    check_volume(found, wanted)
    pinned = gpu_host.own_image(labels, wanted.ami_refresh)
    check_image(found, wanted, gpu_host.identity(args), (pinned, gpu_host.AMI_PARAMETER))
    if found.instance is None and not found.volumes:
        pulumi.info(quota(wanted))
    write_ssh_files(settings, folder, client_key())
    kinds = [spec.kind for spec in blueprint.specs]
    fetch = waiting.first_fetch(blueprint.images, kinds, settings.load).words
    if found.instance is None and empty(found, wanted):
        pulumi.info(fetch)
    for note in check(found, wanted, gpu_host.identity(args), settings.stack, fetch):
        pulumi.warn(note)
    pulumi.info(price(found, wanted))
    there = None
    if found.state == "running":
        try:
            there = _host(found, config, wanted, labels)
        except TargetError as error:
            pulumi.warn(
                f"SSH does not reach {found.instance} ({error}). If the instance is new, an update waits for "
                f"it. If it does not come up: make recover STACK={settings.stack}"
            )
    if there is not None:
        ours.check(state, there, blueprint, labels, ANY)
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
        instead=ANY,  # the machine is this state's, whatever snapshot its data is from
        again=ours.refills(state, there, blueprint, labels) if there else {},
    )


def as_it_was_made(
    args: "GpuHostArgs", found: FoundOnAws, identity: Callable[["GpuHostArgs"], Mapping[str, str]]
) -> "GpuHostArgs":
    """The arguments, with the former boot script that made the instance, if nothing else replaces it."""
    for ago in range(FORMER_TEXTS, 0, -1) if found.instance is not None else ():
        former = replace(args, former_boot=ago)
        if not replaces(found, args.settings, identity(former)):
            return former
    return args


def check_known(found: FoundOnAws, state: Known, region: str, stack: str) -> None:
    """Raises TargetError where AWS has an instance that an update made and that this state does not know, or
    where it was asked in another region than that of the state's own."""
    if state.region not in (None, region):
        raise TargetError(
            f"changeover:zone: the instance {state.instance} of stack `{stack}` is in {state.region}, and "
            f"its address, data volume and snapshots stay there: they can't go to {region}; nothing was "
            f"changed. Run: pulumi config set zone {state.region}a (or the zone that it was). For a stack in "
            f"{region}: cp Pulumi.{stack}.yaml Pulumi.mine.yaml, with its zone, and then make up STACK=mine"
        )
    unknown = found.strangers
    if state.instance is None and found.instance is not None:
        unknown = (found.instance, *unknown)
    if unknown:
        raise TargetError(not_ours(unknown, state, region, stack))


def not_ours(instances: Sequence[str], state: Known, region: str, stack: str) -> str:
    """The message that instances of the stack belong to another state, with what to type."""
    broke_off = (
        " If an update of this state was interrupted while it made it, terminate it, with its spot request "
        f"if it has one: sh components/aws/spot.sh these {region} {' '.join(instances)} sir-…"
        if state.key
        else ""
    )
    return (
        f"this AWS account has an instance of the stack `{stack}`, {' and '.join(instances)}, and this state "
        "does not know it: it belongs to another state, or to a newer copy of this one. Nothing was changed. "
        "Use that one (name its place in CHANGEOVER_BACKEND), or make a second stack beside it: cp "
        f"Pulumi.{stack}.yaml Pulumi.mine.yaml, and then make up STACK=mine.{broke_off} A stack on AWS can't "
        "be adopted: if its state is lost, snapshot its data volume, delete by hand what it has, and create "
        "it again with `dataSnapshot`"
    )


def left_over(found: FoundOnAws) -> str:
    """What AWS keeps of the stack, or has started by itself, in words; empty: nothing."""
    parts = []
    for each, made in found.requests.items():
        if each in found.left_over():
            parts.append(f"the spot request {each}" + (f", which has started {made}" if made else ""))
    alone = [each for each in found.others if each not in found.requests.values()]
    parts += [f"the instance {each}" for each in alone]
    if not parts:
        return ""
    return (
        f"AWS has these of this stack, which this state does not know: {'; '.join(parts)}. They cost money, "
        "and nothing uses them. An update cancels the requests and terminates their instances "
        "(left-over-spot)."
    )


def unconfirmed(state: Known) -> str:
    """The note that alarms reach nobody until a subscription is confirmed; empty: all are confirmed."""
    if not state.unconfirmed:
        return ""
    return (
        f"AWS waits for {', '.join(state.unconfirmed)} to confirm the subscription to the alarms (as of the "
        "last refresh); until then no alarm reaches anybody. Follow the link in AWS's mail, and then run: "
        "pulumi refresh"
    )


def check_subnet(wanted: AwsSettings) -> None:
    """Raises TargetError where an existing subnet is not where the settings say, which an update would fail
    of half-way, or not public: nobody would reach its instance."""
    if not wanted.subnet_id:
        return
    try:
        zone, vpc = aws_cli.subnet(wanted.region, wanted.subnet_id)
        public = aws_cli.is_public(wanted.region, wanted.subnet_id, vpc)
    except AwsError as error:
        raise TargetError(f"changeover:subnetId: {error}\nNothing was changed.") from None
    if zone != wanted.zone:
        raise TargetError(
            f"changeover:subnetId: {wanted.subnet_id} is in {zone}, but the setting zone is {wanted.zone}; "
            "nothing was changed. Use a subnet in that zone. Run: pulumi config set subnetId …, or "
            f"pulumi config set zone {zone}"
        )
    if vpc != wanted.vpc_id:
        raise TargetError(
            f"changeover:subnetId: {wanted.subnet_id} is in {vpc}, but the setting vpcId is {wanted.vpc_id}; "
            f"nothing was changed. Use a subnet of that VPC. Run: pulumi config set vpcId {vpc}"
        )
    if not public:
        raise TargetError(
            f"changeover:subnetId: {wanted.subnet_id} has no route to an internet gateway, so that neither "
            "clients nor this program would reach its instance; nothing was changed. Use a public "
            "subnet. Run: pulumi config set subnetId …"
        )


def check_image(
    found: FoundOnAws, wanted: AwsSettings, identity: Mapping[str, str], parameters: Sequence[str]
) -> None:
    """Raises TargetError where a new instance's root volume would be smaller than its image's own.

    `parameters` name the image where the settings don't: the first that is there, which is the stack's own,
    and else that of the newest. AWS refuses such an instance, when the old one has ended.
    """
    if found.instance is not None and found.tags.get("Image", identity["Image"]) == identity["Image"]:
        return  # it was made from this one
    try:
        image = wanted.ami or aws_cli.parameter(wanted.region, *parameters)
        size = aws_cli.root_gib(wanted.region, image)
    except AwsError as error:
        raise TargetError(f"{error}\nNothing was changed.") from None
    if size > instance_types.ROOT_GIB:
        raise TargetError(
            f"the machine image {image} needs a root volume of {size} GiB, and a stack's has "
            f"{instance_types.ROOT_GIB}; nothing was changed. Raise ROOT_GIB in "
            "components/instance_types.py, or use another image: pulumi config set ami ami-…"
        )


def kept(found: FoundOnAws, wanted: AwsSettings) -> list[Volume]:
    """The data volumes that there are and that these settings keep: of their zone, and not of another
    snapshot. One that was made from a snapshot stays when the setting goes."""
    return [
        each
        for each in found.data
        if each.zone == wanted.zone and wanted.data_snapshot in ("", each.snapshot)
    ]


def empty(found: FoundOnAws, wanted: AwsSettings) -> bool:
    """Whether the instance begins with an empty data volume: every image and all weights are fetched."""
    return not kept(found, wanted) and not wanted.data_snapshot


def check_volume(found: FoundOnAws, wanted: AwsSettings) -> None:
    """Raises TargetError where the data volume would be smaller than what it is or is made from.

    AWS makes no volume smaller, and none that is smaller than its snapshot (ModifyVolume and CreateVolume in
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/); the provider just asks it to (ebs_volume.go).
    """
    if there := kept(found, wanted):
        largest = max(there, key=lambda each: each.gib)
        what, least = f"the volume {largest.id}", largest.gib
    elif wanted.data_snapshot:
        try:
            least = aws_cli.snapshot_gib(wanted.region, wanted.data_snapshot)
        except AwsError as error:
            raise TargetError(f"changeover:dataSnapshot: {error}\nNothing was changed.") from None
        what = f"the snapshot {wanted.data_snapshot}"
    else:
        return
    if wanted.data_gib < least:
        raise TargetError(
            f"changeover:dataVolumeGiB: {wanted.data_gib} cannot work; {what} has {least} GiB, and AWS makes "
            f"no volume smaller; nothing was changed. It must be {least} or more. Run: pulumi config set "
            f"dataVolumeGiB {least}"
        )


QUOTAS = {False: "Running On-Demand G and VT instances", True: "All G and VT Spot Instance Requests"}
"""Of EC2, by `spot`. The second:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html."""


def quota(wanted: AwsSettings) -> str:
    """Which quota the first instance needs, and what the account has of it where AWS tells."""
    name, need = QUOTAS[wanted.spot], wanted.instance.vcpus
    text = f"quota: {wanted.instance.name} needs {need} vCPUs of `{name}` in {wanted.region}"
    try:
        has = aws_cli.quota(wanted.region, name)
    except AwsError:
        return f"{text}; these credentials may not read what the account has"
    if has is None:
        return f"{text}; AWS lists no such quota there"
    if has >= need:
        return f"{text}; the account has {has:g}, including those in use"
    return (
        f"{text}, and the account has {has:g}: AWS will refuse the instance. Ask for more in the console of "
        "Service Quotas; that takes hours to days"
    )


def check(
    found: FoundOnAws, wanted: AwsSettings, identity: Mapping[str, str], stack: str, fetch: str
) -> list[str]:
    """What this update does to the instance that there is, in words. Raises TargetError where it may not.

    `fetch` says how long everything takes that an empty data volume needs.
    """
    if found.instance is None:
        if found.volumes:
            return [
                "the stack has a data volume and no instance. If it was deployed before, its instance is "
                f"gone: make recover STACK={stack}"
            ]
        return []
    if found.state in ("stopping", "stopped"):
        spot = (
            " (if a spot interruption stopped it, only AWS can start it again)"
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
            "(weights, images, certificates), unless a reason above says otherwise."
            + (f" The new data volume is empty; {fetch}." if empty(found, wanted) else "")
        ]
    if found.type != wanted.instance.name:
        return [
            f"this stops the instance {found.instance}, a {found.type}, and starts it as "
            f"{wanted.instance.name}. The endpoint is down meanwhile, for some minutes."
        ]
    return []


def replaces(found: FoundOnAws, wanted: AwsSettings, identity: Mapping[str, str]) -> list[str]:
    """Why this update makes a new instance: empty where it doesn't."""
    why = []
    if found.zone != wanted.zone:
        why.append(
            f"the zone changes from {found.zone} to {wanted.zone} (a data volume cannot leave its zone: the "
            "new one is empty, weights are fetched again, and the stack gets a new CA of its own, unless "
            "`dataSnapshot` names a snapshot of the old one)"
        )
    if wanted.spot and found.type != wanted.instance.name:
        why.append(f"a spot instance can't change its type ({found.type} to {wanted.instance.name})")
    words = {
        "Boot": "the boot script changed",
        "Spot": "`spot` changed",
        "Data": "the data volume is created again",
        "Key": "the deployer's SSH key changed",
    }
    for tag, now in identity.items():
        before = found.tags.get(tag, now)
        # a volume that was made from a snapshot stays when the setting goes
        if before != now and (tag, now) != ("Data", "empty"):
            what = "the subnet" if tag == "Network" else "the machine image"
            why.append(words.get(tag, f"{what} changes from {before} to {now}"))
    return why


def price(found: FoundOnAws, wanted: AwsSettings) -> str:
    """What the stack costs, and what this update changes of it."""
    text = f"cost: {wanted.cost}"
    before = instance_types.INSTANCE_TYPES.get(found.type)
    if before is None:
        return text
    then = instance_types.hourly(before, volumes_gib=found.size_gib)
    if abs(then - wanted.hourly) < 0.0005:
        return text
    return f"{text}; this update: {instance_types.difference(then, wanted.hourly)}"


def _look(wanted: AwsSettings, labels: Labels, mine: str | None) -> FoundOnAws:
    needed = ["ssh", "docker", *(["session-manager-plugin"] if wanted.access == "ssm" else [])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise TargetError(
            f"target aws needs these programs on this machine: {', '.join(missing)}. Install them."
        )
    try:
        return aws_cli.look(wanted.region, labels, mine)
    except AwsError as error:
        raise TargetError(
            f"{error}\nNothing was changed. Are you logged in (aws sso login, or AWS_PROFILE=…)? "
            "Try: aws sts get-caller-identity"
        ) from None


def _host(found: FoundOnAws, config: str, wanted: AwsSettings, labels: Labels) -> owner.FoundOnHost:
    """What the instance has of the stack. Raises TargetError where SSH does not reach it."""
    name = found.instance if wanted.access == "ssm" else found.address
    if not name:
        raise TargetError("the instance has no public address")
    with DockerLook(SOCKET, ("ssh", "-F", config, name)) as look:
        return look.stack(labels)


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
