"""Policies: plain functions over resources and changes. Pure.

Each says what breaks it, why that matters and what to do. They run in every review over what the engine
previews, and in the unit tests.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from components import pins
from components.facts import Variable, variable
from components.labels import labels_in
from review.events import UNKNOWN, UNKNOWN_TEXT, Resource, ResourceChange

CONTAINER = "docker:index/container:Container"
COMMAND = "command:local:Command"
IMAGE = "docker:index/remoteImage:RemoteImage"
KUBERNETES = "kubernetes:"
"""How the types of a cluster's objects begin."""
INSTANCE = "aws:ec2/instance:Instance"
VOLUME = "aws:ebs/volume:Volume"
ATTACHMENT = "aws:ec2/volumeAttachment:VolumeAttachment"
SECURITY_GROUP = "aws:ec2/securityGroup:SecurityGroup"
SECURITY_GROUPS = (
    SECURITY_GROUP,
    "aws:ec2/securityGroupRule:SecurityGroupRule",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
)
EVERYONE = ("0.0.0.0/0", "::/0")
LOOPBACK = ("127.0.0.1", "::1")
KEEPS = (INSTANCE, VOLUME, ATTACHMENT, "docker:index/volume:Volume")
"""What a reviewer must see being replaced or deleted: the machine, and what keeps data."""
OFFLINE = "changeover-offline/"
"""What images are called that `offline/` builds: they are in no registry."""
T4_FAMILY = "g4dn."
DRIVERS = {"vllm/vllm-openai:": 580, "ollama/ollama:": 550}
"""Image → least NVIDIA driver: vLLM 0.33 is built for CUDA 13, Ollama filters GPUs below 550."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A policy that a resource breaks."""

    policy: str
    resource: str
    why: str
    do: str

    @property
    def words(self) -> str:
        """The violation in one line: which policy, which resource, why, and what to do."""
        return f"{self.policy}: {self.resource}. {self.why} {self.do}"


def keeps(change: ResourceChange) -> bool:
    """Whether it is a machine or keeps data: the proxy's packages, which a lock names, are no data, and the
    monitor's configuration is none."""
    role = labels_in(change.after or change.before).get("role")
    return change.type in KEEPS and role not in ("wheels", "monitor")


def images_are_pinned(resource: Resource) -> Iterator[Violation]:
    """Every image has a tag or a digest, and the tag is not `latest`."""
    for reference in images_of(resource):
        if _floats(reference):
            yield Violation(
                policy="images are pinned",
                resource=f"{resource.name} ({reference})",
                why="What was reviewed would not be what runs tomorrow.",
                do="Give it a version in components/pins.py.",
            )


def images_of(resource: Resource) -> list[str]:
    """The names of images that are pulled, also where a container or a cluster's pods name them themselves. A
    container gets the id of an image that was pulled, which a preview may not know yet."""
    if resource.type == IMAGE:
        return [str(resource.inputs.get("name", ""))]
    if resource.type.startswith(KUBERNETES):
        images = {str(each.get("image") or UNKNOWN) for each in _containers(resource.inputs)}
        return sorted(image for image in images if not image.startswith((UNKNOWN, UNKNOWN_TEXT)))
    image = str(resource.inputs.get("image") or UNKNOWN)
    named = resource.type == CONTAINER and not image.startswith(("sha256:", UNKNOWN, UNKNOWN_TEXT))
    return [image] if named else []


def _containers(inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The containers of a Kubernetes object's pods; none where it has no pods."""
    found: Any = inputs
    for key in ("spec", "template", "spec"):
        found = found.get(key) if isinstance(found, Mapping) else None
    for kind in ("initContainers", "containers") if isinstance(found, Mapping) else ():
        yield from found.get(kind) or ()


def _floats(reference: str) -> bool:
    tag = reference.rpartition("/")[2].partition(":")[2]
    return "@sha256:" not in reference and tag in ("", "latest")


def images_have_the_digest_that_is_known(resource: Resource) -> Iterator[Violation]:
    """Every image of a registry is named by its digest, where `components/pins.py` knows one.

    The first is that of the switch: it gets Docker's socket.
    """
    for reference in images_of(resource):
        named = "@sha256:" in reference or _floats(reference) or reference.startswith(OFFLINE)
        if not named and reference not in {pin.public for pin in pins.ALL}:
            yield Violation(
                policy="images have the digest that is known",
                resource=f"{resource.name} ({reference})",
                why="The image under a tag can be replaced, and the switch's image controls the Docker host.",
                do="Name it as components/pins.py does, or add its digest.",
            )


def only_the_edge_publishes_a_port(resource: Resource) -> Iterator[Violation]:
    """Engines, gateway, proxy and switch are reached on the private network only, and the monitor's page from
    its own host."""
    role = labels_in(resource.inputs).get("role")
    if resource.type != CONTAINER or role == "edge":
        return
    ports = resource.inputs.get("ports") or []
    if role == "monitor" and all(port.get("ip") in LOOPBACK for port in ports):
        resource = replace(resource, inputs={**resource.inputs, "ports": None})
    opens = [key for key in ("ports", "publishAllPorts") if resource.inputs.get(key)]
    if resource.inputs.get("networkMode") == "host":
        opens.append("networkMode")
    if opens:
        yield Violation(
            policy="only the edge publishes a port",
            resource=resource.name,
            why="An engine checks no keys: whoever reaches its port can use the GPU.",
            do=f"Remove {' and '.join(f'`{key}`' for key in opens)}; the edge is the way in.",
        )


def _open_ports(resource: Resource) -> Iterator[tuple[int, int]]:
    inputs = resource.inputs
    if resource.type not in SECURITY_GROUPS or inputs.get("type") == "egress":
        return
    for rule in inputs.get("ingress", [inputs]):
        sources = [*(rule.get("cidrBlocks") or []), *(rule.get("ipv6CidrBlocks") or [])]
        sources += [rule.get("cidrIpv4"), rule.get("cidrIpv6")]
        if any(map(_is_everyone, sources)):
            everything = str(rule.get("protocol", rule.get("ipProtocol", ""))) in ("-1", "all")
            low, high = rule.get("fromPort"), rule.get("toPort")
            yield (0, 65535) if everything or low is None or high is None else (int(low), int(high))


def _is_everyone(source: object) -> bool:
    """Whether a range of addresses is everybody, or so large a part that a few of them are."""
    try:
        network = ipaddress.ip_network(str(source), strict=False)
    except ValueError:
        return False
    return network.prefixlen < (8 if network.version == 4 else 16)


def ssh_is_not_open(resource: Resource) -> Iterator[Violation]:
    """Port 22 is open to no one on the internet."""
    if any(low <= 22 <= high for low, high in _open_ports(resource)):
        yield Violation(
            policy="SSH is not open",
            resource=resource.name,
            why="A port 22 that is open to everyone is found and attacked within minutes.",
            do="Remove the rule: the way in is AWS Systems Manager, which needs no open port.",
        )


def volumes_are_encrypted(resource: Resource) -> Iterator[Violation]:
    """EBS volumes, and those of an instance, are encrypted."""
    disks: list[tuple[str, Mapping[str, Any]]] = []
    if resource.type == VOLUME:
        disks = [(resource.name, resource.inputs)]
    if resource.type == INSTANCE:
        root = resource.inputs.get("rootBlockDevice") or {}
        more = resource.inputs.get("ebsBlockDevices") or []
        disks = [(f"{resource.name} (disk)", disk) for disk in (root, *more)]
    for name, disk in disks:
        if disk.get("encrypted") is not True:
            yield Violation(
                policy="volumes are encrypted",
                resource=name,
                why="Whoever gets hold of a snapshot or a discarded disk could read it.",
                do="Set encrypted=True; an existing volume has to be copied.",
            )


def the_instance_wants_imdsv2(resource: Resource) -> Iterator[Violation]:
    """The instance's credentials are given only to a request with a token."""
    if resource.type == INSTANCE:
        options = resource.inputs.get("metadataOptions") or {}
        if options.get("httpTokens") != "required":
            yield Violation(
                policy="the instance requires IMDSv2",
                resource=resource.name,
                why="Without it, one forged request from a container gets the instance's credentials.",
                do='Set metadata_options with http_tokens="required".',
            )


def a_t4_gets_what_it_can_run(resources: Iterable[Resource]) -> Iterator[Violation]:
    """On a T4 (compute capability 7.5): no bfloat16, no FP8 cache, no FP8 or FP4 weights."""
    everything = list(resources)
    if not any(
        str(each.inputs.get("instanceType", "")).startswith(T4_FAMILY)
        for each in everything
        if each.type == INSTANCE
    ):
        return
    refused = re.compile(
        r"--dtype[ =]bfloat16|--kv-cache-dtype[ =](fp8|bfloat16)\S*|--quantization[ =](mxfp4|modelopt|fp8)\S*"
    )
    for each in everything:
        if each.type == CONTAINER and (
            found := refused.search(" ".join(map(str, each.inputs.get("command") or [])))
        ):
            yield Violation(
                policy="a T4 gets what it can run",
                resource=f"{each.name} (`{found.group()}`)",
                why="It needs compute capability 8.0 or more, and a T4 has 7.5: the engine would not start.",
                do="Remove the flag, or choose another instance type.",
            )


def the_driver_is_new_enough(resources: Iterable[Resource]) -> Iterator[Violation]:
    """What waits for an instance wants at least the driver that each image needs."""
    everything = list(resources)
    instances = [each.name for each in everything if each.type == INSTANCE]
    wanted = [int(each) for each in (variable(one.inputs, "DRIVER") for one in everything) if each]
    driver = min(wanted, default=0)
    for image in everything if instances else ():
        reference = str(image.inputs.get("name", ""))
        need = next((least for start, least in DRIVERS.items() if reference.startswith(start)), 0)
        if image.type == IMAGE and driver < need:
            yield Violation(
                policy="the driver is new enough",
                resource=f"{instances[0]} (driver {driver or 'not checked'}) for {reference}",
                why=f"The image needs driver {need}; with an older one the engine falls back or fails.",
                do="Raise `DRIVER` in components/pins.py, and choose an AMI that has it.",
            )


def keys_are_needed_beyond_loopback(resources: Iterable[Resource], keys: bool) -> Iterator[Violation]:
    """An edge that listens beyond the loopback address has at least one API key."""
    for each in resources:
        if each.type == CONTAINER and labels_in(each.inputs).get("role") == "edge" and not keys:
            for port in each.inputs.get("ports") or []:
                if port.get("ip") not in LOOPBACK:
                    yield Violation(
                        policy="an API key on every endpoint that is not on loopback",
                        resource=f"{each.name} (port {int(port['external'])})",
                        why="Without a key, everyone who reaches the port can use the GPU.",
                        do="Run: pulumi config set --secret --path apiKeys.TENANT $(openssl rand -hex 24)",
                    )


def prod_is_protected(resources: Iterable[Resource], stack: str) -> Iterator[Violation]:
    """Instance and data volumes of the stack `prod` can't be deleted by mistake."""
    for each in resources:
        if stack == "prod" and each.type in (INSTANCE, VOLUME) and not each.protect:
            yield Violation(
                policy="prod is protected",
                resource=each.name,
                why="A mistaken line or a `destroy` would delete the endpoint and its weights.",
                do="Set protect=True.",
            )


def a_flip_replaces_no_instance_and_no_volume(
    changes: Iterable[ResourceChange], flip: bool
) -> Iterator[Violation]:
    """When the engine changes, machine and data stay."""
    for change in changes:
        if flip and change.op in ("replaced", "deleted") and keeps(change):
            yield Violation(
                policy="a flip replaces no instance and no volume",
                resource=f"{change.name} ({change.op}: {', '.join(change.paths) or 'no longer declared'})",
                why="The weights would be gone, and the endpoint down for as long as a download takes.",
                do="Change that in an update of its own, or leave it as it is.",
            )


FETCHED: tuple[Variable, ...] = ("WEIGHTS", "MOVING", "AGAIN", "NODES")
"""What a step is told of weights: which they are, that their volume was lost, and on which nodes they are."""


def weights_that_are_fetched_are_pinned(changes: Iterable[ResourceChange]) -> Iterator[Violation]:
    """Weights that an update fetches are named by a commit of the hub, or by the catalogue's SHA-256.

    Those that are there already hold nothing up, whatever else of their step changes.
    """
    for change in changes:
        comes = change.op in ("created", "replaced") or (
            change.op == "changed"
            and any(variable(change.before, key) != variable(change.after, key) for key in FETCHED)
        )
        if change.type == COMMAND and comes and (moving := variable(change.after, "MOVING")):
            yield Violation(
                policy="weights that are fetched are pinned",
                resource=f"{change.name} ({moving})",
                why="The hub may give other weights under this name tomorrow, and nothing would notice.",
                do="Have `make model` write an entry with their commit and SHA-256, and set `model` to it.",
            )


EACH: tuple[Callable[[Resource], Iterator[Violation]], ...] = (
    images_are_pinned,
    images_have_the_digest_that_is_known,
    only_the_edge_publishes_a_port,
    ssh_is_not_open,
    volumes_are_encrypted,
    the_instance_wants_imdsv2,
)


def check(resources: Iterable[Resource], *, stack: str, keys: bool) -> list[Violation]:
    """Every policy that these resources of `stack` break; `keys` says whether there is an API key."""
    everything = list(resources)
    return [
        *(broken for policy in EACH for each in everything for broken in policy(each)),
        *a_t4_gets_what_it_can_run(everything),
        *the_driver_is_new_enough(everything),
        *keys_are_needed_beyond_loopback(everything, keys),
        *prod_is_protected(everything, stack),
    ]
