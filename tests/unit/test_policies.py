"""Each policy on what keeps it and on what breaks it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pulumi
import pytest
import yaml

from common import ROOT
from components.catalogue import Quantization
from components.labels import Labels
from review.events import UNKNOWN, UNKNOWN_TEXT, Resource, ResourceChange
from review.policies import (
    ATTACHMENT,
    COMMAND,
    CONTAINER,
    IMAGE,
    INSTANCE,
    SECURITY_GROUPS,
    VOLUME,
    a_flip_replaces_no_instance_and_no_volume,
    check,
    images_of,
    weights_that_are_fetched_are_pinned,
)
from stacks import aws_target
from stacks.aws_cli import FoundOnAws
from stacks.blueprint import blueprint_of
from stacks.endpoint import Endpoint, EndpointArgs
from stacks.owner import Known, known
from stacks.settings import Settings, from_files, stacks
from switch.plan import EngineKind
from tests.support import objects
from tests.support.aws import rules
from tests.support.recorder import Recorder
from tests.unit.test_aws_rules import plain
from tests.unit.test_program import build, recorder

__all__ = ["recorder"]  # a fixture

GOOD: dict[str, Any] = {
    "instanceType": "g4dn.xlarge",
    "metadataOptions": {"httpTokens": "required"},
    "rootBlockDevice": {"encrypted": True},
}
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
EDGE = [{"label": "changeover.role", "value": "edge"}]
MONITOR = [{"label": "changeover.role", "value": "monitor"}]


def broken(*resources: Resource, stack: str = "dev", keys: bool = False) -> set[str]:
    return {each.policy for each in check(resources, stack=stack, keys=keys)}


def of(kind: str, protect: bool = False, **inputs: object) -> Resource:
    return Resource(type=kind, name="thing", inputs=inputs, protect=protect)


def pods(kind: str, image: str) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {kind: [{"image": image}]}}}}


@pytest.mark.parametrize("stack", objects.STACKS)
def test_the_images_of_every_pod_of_a_cluster_keep_the_policies(stack: str) -> None:
    made = [each for each in yaml.safe_load_all(objects.golden(stack).read_text()) if each]
    found = [of(f"kubernetes:{each['apiVersion']}:{each['kind']}", spec=each.get("spec")) for each in made]
    assert len({image for each in found for image in images_of(each)}) >= 3
    assert broken(*found) == set()


def test_what_keeps_every_policy_is_quiet() -> None:
    good = [
        of(INSTANCE, protect=True, **GOOD),
        of(VOLUME, protect=True, encrypted=True),
        of(IMAGE, name="vllm/vllm-openai:v0.33.0"),
        of(COMMAND, environment={"DRIVER": "580"}),
        of(CONTAINER, command=["serve", "--dtype", "half"], networkMode="bridge", publishAllPorts=False),
        of(CONTAINER, labels=EDGE, ports=[{"external": 443, "ip": "0.0.0.0"}]),
        of(CONTAINER, labels=MONITOR, ports=[{"external": 8428, "ip": "127.0.0.1"}]),
        *(of(CONTAINER, image=image) for image in (f"sha256:{'0' * 64}", UNKNOWN, UNKNOWN_TEXT)),
        of(SECURITY_GROUPS[0], ingress=[{"fromPort": 443, "toPort": 443, "cidrBlocks": ["0.0.0.0/0"]}]),
        of(SECURITY_GROUPS[0], ingress=[{"fromPort": 22, "toPort": 22, "cidrBlocks": ["10.0.0.0/8"]}]),
    ]
    assert broken(*good, stack="prod", keys=True) == set()


@pytest.mark.parametrize(
    ("policy", "resource"),
    [
        ("images are pinned", of(IMAGE, name="ollama/ollama")),
        ("images are pinned", of(IMAGE, name="registry:5000/ollama:latest")),
        ("images have the digest that is known", of(IMAGE, name="python:3.11-slim-bookworm")),
        ("images have the digest that is known", of(IMAGE, name="tensorzero/gateway:2026.6.0")),
        ("images have the digest that is known", of(IMAGE, name="registry:5000/ollama:0.17.4")),
        ("images are pinned", of(CONTAINER, image="ollama/ollama:latest")),
        ("images have the digest that is known", of(CONTAINER, image="somebody/ollama:0.17.4")),
        ("images are pinned", of(DEPLOYMENT, **pods("initContainers", "ollama/ollama"))),
        ("images have the digest that is known", of(DEPLOYMENT, **pods("containers", "python:3.11"))),
        ("only the edge publishes a port", of(CONTAINER, ports=[{"external": 8000, "ip": "127.0.0.1"}])),
        ("only the edge publishes a port", of(CONTAINER, publishAllPorts=True)),
        (
            "only the edge publishes a port",
            of(CONTAINER, labels=MONITOR, ports=[{"external": 8428, "ip": "0.0.0.0"}]),
        ),
        ("only the edge publishes a port", of(CONTAINER, networkMode="host")),
        (
            "SSH is not open",
            of(SECURITY_GROUPS[0], ingress=[{"fromPort": 0, "toPort": 1024, "cidrBlocks": ["0.0.0.0/0"]}]),
        ),
        ("SSH is not open", of(SECURITY_GROUPS[0], ingress=[{"protocol": "-1", "ipv6CidrBlocks": ["::/0"]}])),
        (
            "SSH is not open",
            of(SECURITY_GROUPS[0], ingress=[{"protocol": "-1", "cidrBlocks": ["128.0.0.0/1"]}]),
        ),
        (
            "SSH is not open",
            of(SECURITY_GROUPS[0], ingress=[{"protocol": "6", "ipv6CidrBlocks": ["2000::/3"]}]),
        ),
        (
            "SSH is not open",
            of(SECURITY_GROUPS[2], fromPort=22, toPort=22, ipProtocol="tcp", cidrIpv4="0.0.0.0/0"),
        ),
        ("volumes are encrypted", of(VOLUME, size=100)),
        ("volumes are encrypted", of(INSTANCE, **{**GOOD, "rootBlockDevice": {}})),
        ("volumes are encrypted", of(INSTANCE, **GOOD, ebsBlockDevices=[{"deviceName": "/dev/sdb"}])),
        (
            "the instance requires IMDSv2",
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


@pytest.mark.parametrize(
    "flags",
    [
        "--kv-cache-dtype fp8",
        "--kv-cache-dtype=fp8_e5m2",
        "--kv-cache-dtype bfloat16",
        "--dtype bfloat16",
        "--dtype=bfloat16",
        "--quantization mxfp4",
        "--quantization modelopt_fp4",
        "--quantization=fp8",
    ],
)
def test_a_t4_is_given_nothing_that_it_cannot_run(flags: str) -> None:
    engine = of(CONTAINER, command=["serve", *flags.split()])
    assert broken(of(INSTANCE, **GOOD), engine) == {"a T4 gets what it can run"}
    assert broken(of(INSTANCE, **{**GOOD, "instanceType": "g6.xlarge"}), engine) == set()
    can = "--dtype half --kv-cache-dtype int8_per_token_head --quantization awq_marlin"
    assert broken(of(INSTANCE, **GOOD), of(CONTAINER, command=["serve", *can.split()])) == set()


def test_a_driver_too_old_for_the_image_is_named() -> None:
    there, vllm = of(INSTANCE, **GOOD), of(IMAGE, name="vllm/vllm-openai:v0.33.0")
    old, new = (of(COMMAND, environment={"DRIVER": driver}) for driver in ("570", "580"))
    assert broken(there, old, vllm) == broken(there, vllm) == {"the driver is new enough"}
    ollama, older = of(IMAGE, name="ollama/ollama:0.17.4"), of(COMMAND, environment={"DRIVER": "540"})
    assert broken(there, new, vllm) == broken(there, old, ollama) == set()
    assert broken(there, older, ollama) == {"the driver is new enough"}
    assert broken(there, old, new, vllm) == {"the driver is new enough"}, "one of them would do with less"
    assert broken(old, vllm) == set(), "there is no instance that it is about"


def test_what_leads_out_or_listens_on_loopback_opens_nothing() -> None:
    everywhere: dict[str, Any] = {
        "fromPort": 0,
        "toPort": 65535,
        "protocol": "tcp",
        "cidrBlocks": ["0.0.0.0/0"],
    }
    assert broken(of(SECURITY_GROUPS[1], type="egress", **everywhere)) == set()
    assert broken(of(SECURITY_GROUPS[1], type="ingress", **everywhere)) == {"SSH is not open"}
    for ip in ("127.0.0.1", "::1"):
        for labels in (EDGE, MONITOR):
            assert broken(of(CONTAINER, labels=labels, ports=[{"external": 8443, "ip": ip}])) == set()


DATA = "docker:index/volume:Volume"


@pytest.mark.parametrize("op", ["replaced", "deleted"])
def test_a_flip_leaves_machine_and_data_where_they_are(op: str) -> None:
    def said(kind: str, role: str, *, flip: bool = True) -> list[str]:
        before = {"labels": [{"label": "changeover.role", "value": role}]}
        change = ResourceChange(op=op, type=kind, name="thing", before=before, after={})
        found = a_flip_replaces_no_instance_and_no_volume([change], flip)
        return [each.policy for each in found]

    for kind in (INSTANCE, VOLUME, ATTACHMENT, DATA):
        assert said(kind, "weights") == ["a flip replaces no instance and no volume"]
        assert said(kind, "weights", flip=False) == []
    assert said(DATA, "wheels") == said(DATA, "monitor") == said(CONTAINER, "engine") == []


NEW = known({})
NOTHING = FoundOnAws(
    instance=None,
    state="",
    type="",
    zone="",
    address="",
    tags={},
    volumes=(),
    size_gib=0,
)
ON_AWS = [stack for stack in stacks(ROOT) if from_files(stack, ROOT).aws]


def declared(recorder: Recorder) -> list[Resource]:
    """What was declared, as a policy sees it."""
    held = {(each.type, each.name) for each in recorder.requests if each.protect}
    return [
        Resource(type=each.typ, name=each.name, inputs=each.inputs, protect=(each.typ, each.name) in held)
        for each in recorder.resources
    ]


@pytest.mark.parametrize("stack", [stack for stack in stacks(ROOT) if stack not in ON_AWS])
def test_the_stacks_on_a_docker_engine_keep_every_policy(recorder: Recorder, stack: str) -> None:
    build(from_files(stack, ROOT))
    resources = declared(recorder)
    assert {CONTAINER, IMAGE} <= {each.type for each in resources}, "the types are those of the providers"
    assert check(resources, stack=stack, keys=False) == []


@pytest.mark.parametrize(
    ("quantization", "moving"),
    [({}, []), ({"ollama": "q8_0"}, ["qwen2.5-coder:7b-instruct-q8_0"])],
)
def test_weights_that_may_be_others_tomorrow_are_not_fetched(
    recorder: Recorder, quantization: dict[EngineKind, Quantization], moving: list[str]
) -> None:
    build(replace(from_files("dev", ROOT), aws=None, quantization=quantization))
    for op, said in (("created", moving), ("changed", moving), ("replaced", moving), ("deleted", [])):
        changes = [
            ResourceChange(op=op, type=each.type, name=each.name, before={}, after=each.inputs)
            for each in declared(recorder)
        ]
        broke = weights_that_are_fetched_are_pinned(changes)
        assert [each.resource.partition(" ")[2] for each in broke] == [f"({each})" for each in said]


@pytest.mark.parametrize(
    ("before", "fetched"),
    [
        ({"SWITCH": "another"}, False),
        ({"MOVING": ""}, True),
        ({"WEIGHTS": "another"}, True),
        ({"AGAIN": "1"}, True),
        ({"NODES": "a, b"}, True),
    ],
)
def test_weights_that_are_there_hold_nothing_up(before: dict[str, str], fetched: bool) -> None:
    now = {"MOVING": "tag:1", "WEIGHTS": "ollama pull tag:1", "NODES": "a", "SWITCH": "switch-1"}
    step = ResourceChange(
        op="changed",
        type=COMMAND,
        name="weights",
        before={"environment": {**now, **before}, "stdin": "the script of an older version"},
        after={"environment": now, "stdin": "that of this version"},
    )
    assert len([*weights_that_are_fetched_are_pinned([step])]) == fetched


class Target:
    """A stack on AWS as its own files and the target declare it; nothing is asked of AWS.

    `said` is what a preview says, `looked` which of the questions to AWS were asked, with what.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, given: Settings, there: FoundOnAws, state: Known
    ) -> None:
        self.stack, self.said = given.stack, list[str]()
        self.looked = dict[str, tuple[Any, ...]]()
        assert given.aws
        public_keys = dict.fromkeys(("host", "client"), "ssh-ed25519 AAAA")
        self.settings = replace(given, aws=replace(given.aws, public_keys=public_keys))
        self.resources = self._build(monkeypatch, there, state)

    def _build(self, monkeypatch: pytest.MonkeyPatch, there: FoundOnAws, state: Known) -> list[Resource]:
        checked, stack = self.settings, self.stack

        def noting(name: str, answer: object = None) -> Callable[..., Any]:
            def note(*asked: Any) -> Any:
                self.looked[name] = asked
                return answer

            return note

        answers = {"check_subnet": None, "check_image": None, "check_volume": None, "quota": "quota: enough"}
        for name, answer in answers.items():
            monkeypatch.setattr(aws_target, name, noting(name, answer))
        monkeypatch.setattr(aws_target, "_look", lambda *_: there)
        for level in ("info", "warn"):
            monkeypatch.setattr(pulumi, level, self.said.append)
        _keys(monkeypatch)
        recorder = Recorder.start(stack)

        @pulumi.runtime.test  # type: ignore[untyped-decorator]
        def program() -> None:
            labels = Labels(project="changeover", stack=stack)
            host = aws_target.aws_target(blueprint_of(checked), labels, state)
            keys: pulumi.Output[dict[str, str]] = pulumi.Output.secret({})
            Endpoint("endpoint", EndpointArgs(blueprint=blueprint_of(checked), host=host, api_keys=keys))

        program()
        return declared(recorder)


def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_target, "client_key", lambda: "a key")
    monkeypatch.setattr(aws_target, "host_key", lambda: pulumi.Output.secret("a key"))
    monkeypatch.setattr(aws_target, "write_ssh_files", lambda *_: None)
    monkeypatch.setattr(aws_target, "docker_plugin_origin", lambda: "from its vendor")


def declared_on_aws(given: Settings, monkeypatch: pytest.MonkeyPatch) -> list[Resource]:
    """What a stack on AWS with these settings declares when it is deployed for the first time."""
    return Target(monkeypatch, given, NOTHING, NEW).resources


@pytest.fixture(params=ON_AWS)
def on_aws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[Resource]]:
    """A stack on AWS that is deployed for the first time: its name, and what is declared."""
    target = Target(monkeypatch, from_files(str(request.param), ROOT), NOTHING, NEW)
    return target.stack, target.resources


def test_a_first_preview_on_aws_asks_for_image_subnet_volume_and_quota(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Target(monkeypatch, from_files("dev", ROOT), NOTHING, NEW)
    assert target.looked.keys() == {"check_subnet", "check_image", "check_volume", "quota"}
    wanted = target.settings.aws
    there, asked, identity, parameters = target.looked["check_image"]
    assert (there, asked, identity["Image"]) == (NOTHING, wanted, "pinned")
    assert parameters[0] == "/changeover/dev/ami" and parameters[1].startswith("/aws/service/deeplearning/")
    assert target.looked["check_subnet"] == target.looked["quota"] == (wanted,)
    assert target.looked["check_volume"] == (NOTHING, wanted)
    quota, fetch, cost = target.said
    assert quota == "quota: enough"
    assert fetch.startswith("first fetch: ") and "GB of images" in fetch and "GB of weights" in fetch
    assert cost.startswith("cost: ")


def test_a_preview_on_aws_says_what_this_state_does_not_know_and_whom_aws_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stray = replace(NOTHING, volumes=("vol-1",), others=("i-stray",), requests={"sir-1": "i-stray"})
    waits = replace(NEW, unconfirmed=("ops@example.com",))
    target = Target(monkeypatch, from_files("dev", ROOT), stray, waits)
    assert target.said[0].startswith(
        "AWS has these of this stack, which this state does not know: the spot request"
    )
    assert "ops@example.com to confirm" in target.said[1]
    assert "quota" not in target.looked, "an instance was there"
    (step,) = [each for each in target.resources if each.name == "left-over-spot"]
    assert str(step.inputs["create"]).endswith(" i-stray sir-1")


def test_every_property_of_the_stacks_on_aws_is_one_whose_limits_were_read(
    on_aws: tuple[str, list[Resource]],
) -> None:
    """What the limits are, and that the values keep them: `test_aws_rules.py`."""
    _, resources = on_aws
    ours = [each for each in resources if each.type.startswith("aws:")]
    assert len(ours) > 20
    for each in ours:
        assert rules.without_row(each.type, plain(dict(each.inputs))) == [], each.name


def test_the_stacks_on_aws_keep_every_policy(on_aws: tuple[str, list[Resource]]) -> None:
    stack, resources = on_aws
    seen = {each.type for each in resources}
    assert {CONTAINER, IMAGE, COMMAND, INSTANCE, VOLUME, SECURITY_GROUPS[0]} <= seen
    assert check(resources, stack=stack, keys=True) == []
    (said,) = check(resources, stack=stack, keys=False)  # its settings refuse to be deployed without one
    assert said.policy == "an API key on every endpoint that is not on loopback"


def test_each_policy_about_aws_reads_what_the_program_declares(on_aws: tuple[str, list[Resource]]) -> None:
    _, resources = on_aws
    spoilt: dict[str, dict[str, Any]] = {
        INSTANCE: {"metadataOptions": {}, "rootBlockDevice": {}},
        VOLUME: {"encrypted": False},
        SECURITY_GROUPS[0]: {"ingress": [{"fromPort": 22, "toPort": 22, "cidrBlocks": ["0.0.0.0/0"]}]},
    }
    worse = [
        replace(each, inputs={**each.inputs, **spoilt.get(each.type, {})}, protect=False)
        for each in resources
        if "DRIVER" not in (each.inputs.get("environment") or {})
    ]
    assert broken(*worse, stack="prod", keys=True) == {
        "SSH is not open",
        "volumes are encrypted",
        "the instance requires IMDSv2",
        "the driver is new enough",
        "prod is protected",
    }


def test_only_prod_has_to_be_protected() -> None:
    assert broken(of(INSTANCE, **GOOD), stack="prod") == {"prod is protected"}
    assert broken(of(INSTANCE, **GOOD), stack="dev") == set()
