"""What a stack on AWS declares is what the published plugin and AWS take, by `tests/support/aws/rules.py`."""

import re
from dataclasses import fields
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from pulumi.runtime.proto import provider_pb2

from components.aws.gpu_host import GpuHost
from components.aws.settings import LONGEST_STACK, AwsSettings
from components.instance_types import INSTANCE_TYPES
from tests.support.aws import rules
from tests.support.aws.plugin import Plugin, packed
from tests.support.aws.resources import KINDS
from tests.support.recorder import SECRET, Recorder
from tests.unit.test_aws_host import ARGS, args

ACCOUNT = "123456789012"
HEX = "0123456789abcdef0"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHhCmSkbBmS5xSRpeZkjcAwzVnLjVFFs3pJbpmXKDkVZ"
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"protect": False, "spot": True, "zone": "us-east-1f", "data_snapshot": f"snap-{HEX}"},
    {"access": "direct", "admins": ("192.0.2.0/24",), "allowed": ("0.0.0.0/0",), "log_days": 731},
    {"domain": "llm.example.com", "hosted_zone": "example.com", "public_http": True, "data_gib": 16384},
    {"email": "a@example.com", "budget": 1_000_000, "idle_minutes": 1440, "ami_refresh": "2027-01-31"},
    {"vpc_id": f"vpc-{HEX}", "subnet_id": f"subnet-{HEX}", "ami": f"ami-{HEX}"},
    {"instance": INSTANCE_TYPES["g6.48xlarge"], "public_keys": {"client": f"{KEY}="}},
)
"""Settings that between them change every field of AwsSettings, at the ends of what is allowed."""


IDS = {
    "aws:ebs/volume:Volume": "vol",
    "aws:ec2/eip:Eip": "eipalloc",
    "aws:ec2/instance:Instance": "i",
    "aws:ec2/internetGateway:InternetGateway": "igw",
    "aws:ec2/routeTable:RouteTable": "rtb",
    "aws:ec2/securityGroup:SecurityGroup": "sg",
    "aws:ec2/subnet:Subnet": "subnet",
    "aws:ec2/vpc:Vpc": "vpc",
}
"""How the ids of each type begin."""


class Named(Recorder):
    """A recorder whose ids and ARNs have AWS's form."""

    def new_resource(self, asked: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        made, outputs = super().new_resource(asked)
        if kind := IDS.get(asked.typ):
            made = f"{kind}-{HEX}"
        if asked.typ.startswith("aws:iam"):
            made = outputs["name"]
            outputs["arn"] = f"arn:aws:iam::{ACCOUNT}:role/{made}"
        elif asked.typ.startswith("aws:"):
            outputs["arn"] = f"arn:aws:sns:us-east-1:{ACCOUNT}:{asked.name}"
        return made, outputs


def plain(value: Any) -> Any:
    """Without the marks of secrets."""
    if isinstance(value, dict):
        return plain(value["value"]) if SECRET in value else {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def declared(**changes: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, type and inputs of every AWS resource of a host with these settings."""
    recorder = Named.start("prod")
    changes = {"public_keys": {"client": KEY}, **changes}

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        GpuHost("host", args(**changes))

    program()
    return [
        (each.name, each.typ, plain(each.inputs))
        for each in recorder.resources
        if each.typ.startswith("aws:")
    ]


def test_the_variants_change_every_setting() -> None:
    changed = {name for variant in VARIANTS for name in variant}
    assert changed == {each.name for each in fields(AwsSettings)}
    assert all(getattr(ARGS.settings, name) != value for each in VARIANTS for name, value in each.items())


@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_every_property_has_a_row_and_no_value_would_be_refused(number: int) -> None:
    for name, token, inputs in declared(**VARIANTS[number]):
        assert rules.without_row(token, inputs) == [], f"{name} ({token})"
        assert rules.problems(token, inputs) == [], f"{name} ({token})"


def test_no_row_is_for_a_property_that_no_stack_has() -> None:
    used = {
        (token, path)
        for variant in VARIANTS
        for _, token, inputs in declared(**variant)
        for path, _ in rules.leaves(inputs)
    }
    named = {(token, kind.autoname) for token, kind in KINDS.items() if kind.autoname}
    assert {(token, path) for token, rows in rules.RULES.items() for path in rows} <= used | named


def test_every_type_of_the_plugin_has_rows_with_a_row_for_the_name_that_it_makes_up() -> None:
    for token, kind in KINDS.items():
        assert token in rules.RULES
        assert not kind.autoname or kind.autoname in rules.RULES[token], token


def test_every_row_names_where_its_limits_were_read() -> None:
    known = {*rules.READ, *rules.PAGES.values(), rules.SDK}
    for token, rows in rules.RULES.items():
        for path, row in rows.items():
            model, _, member = row.source.partition(", ")
            if row.source not in known:
                assert model == rules.API, f"{token} {path}: {row.source}"
                assert row.api or member, f"{token} {path} does not say where in the model"
            if member and model == rules.API:
                structure, _, name = member.partition(".")
                assert not name or name in rules.shape(structure)["members"], f"{token} {path}: {member}"
                assert rules.shape(structure)
            if row.api:
                assert rules.shape(row.api), path


@pytest.mark.parametrize("commit", rules.READ.values())
def test_every_file_of_the_provider_was_read_at_a_commit(commit: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", commit)


@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_of_every_property_it_is_known_what_a_change_does(number: int) -> None:
    for name, token, inputs in declared(**VARIANTS[number]):
        for path, _ in rules.leaves(inputs):
            assert rules.treated(token, path), f"{name} ({token}): {path}"


def test_no_change_has_a_row_of_a_property_that_no_stack_has_and_each_names_its_file() -> None:
    used = {
        (token, path)
        for variant in VARIANTS
        for _, token, inputs in declared(**variant)
        for path, _ in rules.leaves(inputs)
    } | {(token, kind.autoname) for token, kind in KINDS.items()}
    assert rules.CHANGES.keys() == KINDS.keys()
    for token, rows in rules.CHANGES.items():
        for path, row in rows.items():
            assert any(of == token and (each == path or each.startswith(f"{path}.")) for of, each in used), (
                f"{token} {path}"
            )
            assert row.source in rules.READ or row.source == rules.SDK


# each kind of limit, seen to refuse


def checked(token: str, name: str = "made", **inputs: Any) -> list[str]:
    """What the test plugin says of these inputs, as `pulumi preview` would."""
    urn = f"urn:pulumi:prod::changeover::{token}::{name}"
    asked = provider_pb2.CheckRequest(urn=urn, news=packed(inputs), randomSeed=b"1")
    return [each.reason for each in Plugin().Check(asked, None).failures]


def inputs_of(token: str, **variant: Any) -> dict[str, Any]:
    return next(inputs for _, kind, inputs in declared(**variant) if kind == token)


POLICY = "aws:dlm/lifecyclePolicy:LifecyclePolicy"
INSTANCE = "aws:ec2/instance:Instance"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


@pytest.mark.parametrize(
    ("token", "change", "expected"),
    [
        (POLICY, {"description": "Changeover: the data volume, daily"}, "description does not match"),
        (POLICY, {"tags": {"Stack": "prod 2"}}, ""),
        (POLICY, {"tags": {"ä": "1"}}, "tags has the tag ä=1"),
        (INSTANCE, {"userData": "x" * 16385}, "userData is 16385, not from 0 to 16384"),
        (INSTANCE, {"userDataBase64": "eA=="}, "userData conflicts with userDataBase64"),
        (
            INSTANCE,
            {"metadataOptions": {"httpTokens": "demanded"}},
            "httpTokens is none of optional, required",
        ),
        (INSTANCE, {"tags": {"aws:own": "1"}}, "which is AWS's own"),
        (INSTANCE, {"ami": None}, "ami is needed without launchTemplate"),
        (INSTANCE, {"instanceMarketOptions": {"marketType": "spot"}}, "is not supported for spot instances"),
        (ALARM, {"period": 90}, "period is not 10, 20, 30 or a multiple of 60"),
        (ALARM, {"evaluationPeriods": 300}, "times period is 90000 seconds"),
        (ALARM, {"statistic": None}, "statistic or extendedStatistic must be set"),
        (ALARM, {"datapointsToAlarm": 2}, "datapointsToAlarm has no row"),
        ("aws:iam/rolePolicy:RolePolicy", {"policy": '"' + "x" * 10239 + '"'}, "has 10241 characters"),
        (INSTANCE, {"ami": "ami-12345"}, "ami does not match ami-"),
        (INSTANCE, {"subnetId": f"vpc-{HEX}"}, "subnetId does not match subnet-"),
        ("aws:ec2/vpc:Vpc", {"cidrBlock": "10.0.0.0/8"}, "cidrBlock has a prefix of 8, not from 16 to 28"),
        ("aws:ssm/parameter:Parameter", {"value": "x" * 4097}, "value is 4097"),
        ("aws:ssm/parameter:Parameter", {"name": "/aws/key"}, "may not begin with aws"),
    ],
)
def test_the_test_plugin_refuses_what_the_published_one_or_aws_would(
    token: str, change: dict[str, Any], expected: str
) -> None:
    good = inputs_of(token)
    assert checked(token, **good) == []
    changed = {key: value for key, value in {**good, **change}.items() if value is not None}
    said = checked(token, **changed)
    assert bool(said) == bool(expected)
    assert any(expected in each for each in said) or not expected, said


def test_a_name_that_the_plugin_makes_up_is_judged_too() -> None:
    token = "aws:iam/role:Role"
    good = inputs_of(token)
    longest = f"changeover-{'a' * LONGEST_STACK}-snapshots"
    assert checked(token, longest, **good) == []
    (said,) = {
        each.partition(" (")[0] for each in checked(token, f"{longest}s", **good) if "not from" in each
    }
    assert said == "name is 65, not from 1 to 64"
