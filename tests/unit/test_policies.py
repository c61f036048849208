"""Each policy on what keeps it and on what breaks it."""

from typing import Any

import pytest

from review.events import Resource
from review.policies import COMMAND, CONTAINER, IMAGE, INSTANCE, SECURITY_GROUPS, VOLUME, check
from stacks.settings import from_files, stacks
from tests.support.recorder import Recorder
from tests.unit.test_program import ROOT, build, recorder

__all__ = ["recorder"]  # a fixture

GOOD: dict[str, Any] = {
    "instanceType": "g4dn.xlarge",
    "metadataOptions": {"httpTokens": "required"},
    "rootBlockDevice": {"encrypted": True},
}
EDGE = [{"label": "changeover.role", "value": "edge"}]


def broken(*resources: Resource, stack: str = "dev", keys: bool = False) -> set[str]:
    return {each.policy for each in check(resources, stack=stack, keys=keys)}


def of(kind: str, protect: bool = False, **inputs: object) -> Resource:
    return Resource(type=kind, name="thing", inputs=inputs, protect=protect)


def test_what_keeps_every_policy_is_quiet() -> None:
    good = [
        of(INSTANCE, protect=True, **GOOD),
        of(VOLUME, protect=True, encrypted=True),
        of(IMAGE, name="vllm/vllm-openai:v0.33.0"),
        of(COMMAND, environment={"DRIVER": "580"}),
        of(CONTAINER, command=["serve", "--dtype", "half"], networkMode="bridge", publishAllPorts=False),
        of(CONTAINER, labels=EDGE, ports=[{"external": 443, "ip": "0.0.0.0"}]),
        of(SECURITY_GROUPS[0], ingress=[{"fromPort": 443, "toPort": 443, "cidrBlocks": ["0.0.0.0/0"]}]),
        of(SECURITY_GROUPS[0], ingress=[{"fromPort": 22, "toPort": 22, "cidrBlocks": ["10.0.0.0/8"]}]),
    ]
    assert broken(*good, stack="prod", keys=True) == set()


@pytest.mark.parametrize(
    ("policy", "resource"),
    [
        ("images are pinned", of(IMAGE, name="ollama/ollama")),
        ("images are pinned", of(IMAGE, name="registry:5000/ollama:latest")),
        ("only the edge publishes a port", of(CONTAINER, ports=[{"external": 8000, "ip": "127.0.0.1"}])),
        ("only the edge publishes a port", of(CONTAINER, publishAllPorts=True)),
        ("only the edge publishes a port", of(CONTAINER, networkMode="host")),
        (
            "SSH is not open",
            of(SECURITY_GROUPS[0], ingress=[{"fromPort": 0, "toPort": 1024, "cidrBlocks": ["0.0.0.0/0"]}]),
        ),
        ("SSH is not open", of(SECURITY_GROUPS[0], ingress=[{"protocol": "-1", "ipv6CidrBlocks": ["::/0"]}])),
        (
            "SSH is not open",
            of(SECURITY_GROUPS[2], fromPort=22, toPort=22, ipProtocol="tcp", cidrIpv4="0.0.0.0/0"),
        ),
        ("volumes are encrypted", of(VOLUME, size=100)),
        ("volumes are encrypted", of(INSTANCE, **{**GOOD, "rootBlockDevice": {}})),
        (
            "the instance wants IMDSv2",
            of(INSTANCE, **{**GOOD, "metadataOptions": {"httpTokens": "optional"}}),
        ),
        (
            "an API key on every endpoint that is not on loopback",
            of(CONTAINER, labels=EDGE, ports=[{"external": 443, "ip": "0.0.0.0"}]),
        ),
    ],
)
def test_what_breaks_a_policy_is_named(policy: str, resource: Resource) -> None:
    assert broken(resource) == {policy}


def test_a_t4_is_given_nothing_that_it_cannot_run() -> None:
    fp8 = of(CONTAINER, command=["serve", "--kv-cache-dtype", "fp8"])
    assert broken(of(INSTANCE, **GOOD), fp8) == {"a T4 gets what it can run"}
    assert broken(of(INSTANCE, **{**GOOD, "instanceType": "g6.xlarge"}), fp8) == set()


def test_a_driver_too_old_for_the_image_is_named() -> None:
    there, vllm = of(INSTANCE, **GOOD), of(IMAGE, name="vllm/vllm-openai:v0.33.0")
    old, new = (of(COMMAND, environment={"DRIVER": driver}) for driver in ("570", "580"))
    assert broken(there, old, vllm) == broken(there, vllm) == {"the driver is new enough"}
    assert broken(there, new, vllm) == broken(there, old, of(IMAGE, name="ollama/ollama:0.17.4")) == set()


@pytest.mark.parametrize("stack", stacks(ROOT))
def test_the_stacks_of_this_project_keep_every_policy(recorder: Recorder, stack: str) -> None:
    checked = from_files(stack, ROOT)
    build(checked)
    resources = [Resource(type=each.typ, name=each.name, inputs=each.inputs) for each in recorder.resources]
    assert {CONTAINER, IMAGE} <= {each.type for each in resources}, "the types are those of the providers"
    assert check(resources, stack=stack, keys=bool(checked.tenants)) == []


def test_only_prod_has_to_be_protected() -> None:
    assert broken(of(INSTANCE, **GOOD), stack="prod") == {"prod is protected"}
    assert broken(of(INSTANCE, **GOOD), stack="dev") == set()
