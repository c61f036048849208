"""The settings of AWS are refused before AWS is asked anything."""

import json
from typing import Any

import pytest

from common import ROOT
from components.instance_types import INSTANCE_TYPES
from stacks.aws_settings import KEYS
from stacks.settings import Settings, SettingsError, declared, from_values

PUBLIC = f"ssh-ed25519 {'A' * 68}"
GOOD: dict[str, Any] = {
    "engine": "ollama",
    "target": "aws",
    "model": "qwen-2.5-coder-7b",
    "allowedCidrs": ["10.1.0.0/16"],
    "apiKeys": {"acme": "0123456789abcdef"},
    "sshKeys": {"host": "private", "client": "private"},
    "sshPublicKeys": {"host": PUBLIC, "client": PUBLIC},
}

LOCAL = {"engine": "ollama", "target": "docker", "model": "qwen-2.5-coder-0.5b"}


def read(**values: object) -> Settings:
    return from_values("prod", {**GOOD, **values}, ROOT)


def refusal(**values: object) -> str:
    with pytest.raises(SettingsError) as error:
        read(**values)
    return str(error.value)


def test_the_machine_follows_from_the_instance_type() -> None:
    settings = read()
    assert settings.gpu is not None
    assert settings.aws is not None
    assert (settings.gpu.name, settings.gpu.count) == ("NVIDIA T4", 1)
    assert settings.host_memory == 14 * 1024**3
    assert settings.aws.region == "us-east-1"
    four = read(instanceType="g5.12xlarge").gpu
    assert four is not None
    assert (four.name, four.count) == ("NVIDIA A10G", 4)


def test_only_instances_are_offered_whose_gpus_can_share_the_model_and_each_once() -> None:
    text = refusal(model="qwen-2.5-coder-0.5b", instanceType="g5.48xlarge")
    assert "14 attention heads and 2 KV heads" in text, "2 GPUs could, but there is no type that has two"
    assert "it would work with instanceType g5.xlarge. Run: pulumi config set instanceType g5.xlarge" in text
    text = refusal(instanceType="g5.48xlarge")
    assert "it would work with instanceType g5.xlarge, or instanceType g5.12xlarge. Run: " in text


def test_a_stacks_name_leaves_room_for_the_names_of_its_roles() -> None:
    from_values("a" * 35, GOOD, ROOT)
    with pytest.raises(SettingsError, match="may have at most 35 letters"):
        from_values("a" * 36, GOOD, ROOT)


def test_a_stacks_name_has_no_dot_which_the_name_of_a_topic_takes_none_of() -> None:
    with pytest.raises(SettingsError, match=r"may have at most 35 letters, digits, '_' and '-'"):
        from_values("team.a", GOOD, ROOT)


def test_every_setting_of_aws_is_declared_and_has_a_default() -> None:
    block = declared(ROOT)
    for key in KEYS:
        assert "default" in block[key], key


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"instanceType": "t3.large"},
            "changeover:instanceType: 't3.large' cannot work; it must be one of g4dn.xlarge",
        ),
        ({"zone": "us-east-1"}, "changeover:zone: 'us-east-1' cannot work"),
        ({"zone": "us-gov-west-1a"}, "changeover:zone: 'us-gov-west-1a' cannot work"),
        ({"zone": "mx-central-1a"}, "g4dn is offered in "),
        ({"zone": "eu-west-3a", "instanceType": "g5.xlarge"}, "g5 is offered in "),
        ({"allowedCidrs": []}, "changeover:allowedCidrs"),
        ({"allowedCidrs": ["10.1.0.0/16", "10.1.2.0/24"]}, "networks must not overlap"),
        ({"allowedCidrs": ["10.1.0.1/16"]}, "an IPv4 network"),
        ({"allowedCidrs": ["203.0.113.0/24"]}, "this one is reserved for examples"),
        ({"access": "direct"}, "changeover:adminCidrs: [] cannot work; with access direct at least one"),
        ({"access": "direct", "adminCidrs": ["0.0.0.0/0"]}, "never open to everybody"),
        ({"adminCidrs": ["10.2.0.0/16"]}, "it applies only with access direct"),
        ({"domain": "llm"}, "it must be a name such as llm.example.com"),
        (
            {"domain": "llm.example.org", "hostedZone": "example.com", "publicHttp": True},
            "changeover:domain: 'llm.example.org' cannot work; it must be a name in example.com",
        ),
        ({"domain": "llm.example.com"}, "Run: pulumi config set publicHttp true"),
        ({"publicHttp": True}, "it applies only with a domain"),
        ({"vpcId": "vpc-0123456789abcdef0"}, "changeover:subnetId"),
        ({"subnetId": "subnet-1", "vpcId": "vpc-0123456789abcdef0"}, "an id, subnet-…"),
        ({"ami": "latest"}, "it must be the id of a machine image, ami-…"),
        ({"ami": "ami-0123456789abcdef0", "amiRefresh": "2027"}, "it has no effect while ami is set"),
        ({"dataSnapshot": "yesterday"}, "it must be the id of a snapshot, snap-…"),
        ({"spot": True}, "changeover:spot: True cannot work; it needs protect false"),
        (
            {"dataVolumeGiB": 20},
            "enough for both engines' images and weights, and for those that a way back needs",
        ),
        ({"alarmEmail": "me"}, "it must be an e-mail address"),
        ({"monthlyBudget": 500}, "it needs alarmEmail, where the mail is sent"),
        ({"logDays": 2}, "it must be one of 1, 3, 5, 7"),
        ({"idleStopMinutes": 10}, "Run: pulumi config set idleStopMinutes 30"),
        ({"idleStopMinutes": 47}, "Run: pulumi config set idleStopMinutes 45"),
        ({"apiKeys": {}}, "the endpoint is never open"),
        ({"sshKeys": {}}, "Run: make keys"),
        ({"sshPublicKeys": {"host": PUBLIC}}, "changeover:sshPublicKeys: 'client' cannot work"),
        ({"port": 8443}, "changeover:port: 8443 cannot work; it applies only with target docker"),
        ({"gpu": "t4"}, "changeover:gpu: 't4' cannot work; it applies only with target docker"),
        ({"images": "offline"}, "with target aws it must be public"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(values: dict[str, object], expected: str) -> None:
    text = refusal(**values)
    assert expected in text
    assert "Run: " in text


def test_a_volume_must_hold_the_weights_of_both_engines_and_their_images() -> None:
    aws = read(dataVolumeGiB=100).aws
    assert aws is not None
    text = refusal(dataVolumeGiB=64)
    assert "changeover:dataVolumeGiB: 64 cannot work; it must be 80 to 16384" in text
    assert "it must be 98 to" in refusal(
        dataVolumeGiB=64, quantization={"vllm": "fp16"}, instanceType="g5.xlarge"
    ), "those of the quantization that is chosen"


def test_everybody_needs_no_further_word_for_port_80() -> None:
    aws = read(domain="llm.example.com", allowedCidrs=["0.0.0.0/0"]).aws
    assert aws is not None
    assert aws.public_http is False


def test_what_does_not_fit_is_answered_with_an_instance_type() -> None:
    text = refusal(quantization={"vllm": "fp16"})
    assert "or instanceType g6.xlarge" in text
    assert "gpuCount" not in text
    assert "it would work with " in text


def test_a_key_of_aws_on_another_target_is_refused_without_its_value() -> None:
    with pytest.raises(SettingsError) as error:
        from_values(
            "local",
            {**LOCAL, "sshKeys": {"host": "marker"}},
            ROOT,
        )
    assert "changeover:sshKeys: '[set]' cannot work; it applies only with target aws" in str(error.value)
    assert "marker" not in str(error.value)


@pytest.mark.parametrize("target", ["aws", "docker"])
def test_defaults_that_pulumi_hands_over_as_text_are_no_settings_of_the_other_target(target: str) -> None:
    """The engine gives the program every default of the block, as text: seen with 3.259.0."""
    defaults = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, entry in declared(ROOT).items()
        if (value := entry.get("default")) is not None
    }
    values = {**defaults, **GOOD} if target == "aws" else {**defaults, **LOCAL}
    assert from_values("any", values, ROOT).target == target


def test_a_reviewer_needs_no_keys() -> None:
    bare = {key: value for key, value in GOOD.items() if key not in ("apiKeys", "sshKeys", "sshPublicKeys")}
    settings = from_values("prod", {**bare, "allowedCidrs": ["203.0.113.0/24"]}, ROOT, deploying=False)
    assert settings.tenants == ()


def test_the_price_is_that_of_instance_volumes_and_address() -> None:
    aws = read().aws
    assert aws is not None
    assert aws.hourly == pytest.approx(0.526 + 0.005 + 280 * 0.08 / 730)
    assert aws.cost.startswith("$0.562 an hour, $410 a month (g4dn.xlarge on demand, 280 GiB of gp3")
    assert "unverified" not in aws.cost
    other = read(instanceType="g5.xlarge", zone="eu-west-1a").aws
    assert other is not None
    assert "the instance's price is unverified" in other.cost
    assert "prices in eu-west-1 differ" in other.cost


def test_every_instance_type_names_its_family_and_size() -> None:
    for name, each in INSTANCE_TYPES.items():
        assert name == each.name
        assert each.family in ("g4dn", "g5", "g6")
