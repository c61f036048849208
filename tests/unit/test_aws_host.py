"""The AWS host under mocks: what it declares, with which options, what is secret, and what is not there."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from components.aws.gpu_host import GpuHost, GpuHostArgs, identity, own_image
from components.aws.network import VPC_CIDR, subnet_cidr
from components.aws.settings import AwsSettings
from components.boot_script import FORMER_TEXTS
from components.instance_types import INSTANCE_TYPES
from components.labels import Labels
from stacks.aws_cli import FoundOnAws
from stacks.aws_target import as_it_was_made
from tests.support.recorder import SECRET, Recorder

GOLDEN = Path(__file__).parent / "golden" / "aws-host.txt"
HOST_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nmarker-of-the-host-key\n"

ARGS = GpuHostArgs(
    labels=Labels(project="changeover", stack="prod"),
    settings=AwsSettings(
        zone="eu-central-1b",
        instance=INSTANCE_TYPES["g4dn.xlarge"],
        allowed=("203.0.113.0/24", "198.51.100.0/24"),
        admins=(),
        public_http=False,
        vpc_id="",
        subnet_id="",
        access="ssm",
        domain="",
        hosted_zone="",
        ami="",
        ami_refresh="",
        data_gib=200,
        data_snapshot="",
        spot=False,
        protect=True,
        idle_minutes=0,
        email="",
        budget=0,
        log_days=90,
        public_keys={"client": "ssh-ed25519 AAAA"},
    ),
    host_key=HOST_KEY,
    ssh_config=".changeover/ssh/prod/config",
)


def args(**changes: Any) -> GpuHostArgs:
    """`ARGS` with other settings."""
    return replace(ARGS, settings=replace(ARGS.settings, **changes))


Declare = Callable[..., Recorder]


@pytest.fixture(scope="session")
def declare() -> Declare:
    """Declares a host with some arguments changed, each once, and returns what was declared."""

    @cache
    def declared(**changes: Any) -> Recorder:
        recorder = Recorder.start("prod")

        @pulumi.runtime.test  # type: ignore[untyped-decorator]
        def program() -> None:
            GpuHost("host", args(**changes))

        program()
        return recorder

    return declared


def kinds(recorder: Recorder) -> set[str]:
    return {each.typ for each in recorder.resources if each.typ.startswith("aws:")}


def instance(recorder: Recorder) -> Any:
    return recorder.options("Instance", "instance")


def script(recorder: Recorder) -> str:
    document = yaml.safe_load(recorder.of("Instance")["instance"]["userData"])
    return str(document["write_files"][0]["content"])


# tags and names


def test_types_and_names_are_those_that_stacks_have(declare: Declare) -> None:
    """Another name or type is a replacement on every stack there is, or needs an alias."""
    recorder = declare(
        domain="llm.example.com", hosted_zone="example.com", email="a@example.com", budget=9, idle_minutes=60
    )
    found = sorted(f"{each.typ} {each.name}" for each in recorder.resources)
    assert found == GOLDEN.read_text().splitlines()


def test_everything_that_can_carry_tags_says_project_stack_and_who_manages_it(declare: Declare) -> None:
    recorder = declare(domain="llm.example.com", email="ops@example.com", budget=500, idle_minutes=60)
    without = {"RouteTableAssociation", "RolePolicyAttachment", "RolePolicy", "VolumeAttachment"}
    without |= {"EipAssociation", "TopicSubscription"}
    for each in recorder.resources:
        kind = each.typ.rsplit(":", 1)[1]
        if not each.typ.startswith("aws:") or kind in without:
            continue
        tags = each.inputs["tags"]
        assert tags["Name"].startswith("changeover-prod-"), each.name
        assert (tags["Project"], tags["Stack"], tags["ManagedBy"]) == ("changeover", "prod", "pulumi")


def test_everything_is_made_in_the_region_of_the_zone_by_one_provider(declare: Declare) -> None:
    recorder = declare()
    (provider,) = [each for each in recorder.resources if each.typ == "pulumi:providers:aws"]
    assert provider.inputs["region"] == "eu-central-1"
    used = {request.provider for request in recorder.requests if request.type.startswith("aws:")}
    assert len(used) == 1
    assert "pulumi:providers:aws::aws" in used.pop()


def test_roles_carry_the_projects_name_so_that_a_policy_can_name_them(declare: Declare) -> None:
    assert set(declare().of("Role")) == {"changeover-prod-host", "changeover-prod-snapshots"}


# network


def test_the_subnet_is_public_and_in_the_zone(declare: Declare) -> None:
    recorder = declare()
    assert recorder.one("Subnet")["availabilityZone"] == "eu-central-1b"
    (route,) = recorder.one("RouteTable")["routes"]
    assert route["cidrBlock"] == "0.0.0.0/0"
    assert route["gatewayId"] == "changeover-prod-network-gateway-id"


def test_a_subnet_in_another_zone_has_room_beside_the_old_one(declare: Declare) -> None:
    cidrs = [subnet_cidr(f"eu-central-1{letter}") for letter in "abcdef"]
    networks = [IPv4Network(each) for each in cidrs]
    assert not [pair for pair in combinations(networks, 2) if pair[0].overlaps(pair[1])]
    assert all(each.subnet_of(IPv4Network(VPC_CIDR)) for each in networks)
    assert declare().one("Subnet")["cidrBlock"] == cidrs[1]
    assert declare().one("Vpc")["cidrBlock"] == VPC_CIDR
    assert not declare().options("Subnet", "changeover-prod-network-subnet").deleteBeforeReplace


def test_an_existing_subnet_is_used_and_none_is_made(declare: Declare) -> None:
    recorder = declare(vpc_id="vpc-0123456789abcdef0", subnet_id="subnet-0123456789abcdef0")
    assert not {kind for kind in kinds(recorder) if kind.rsplit(":", 1)[1] in ("Vpc", "Subnet", "RouteTable")}
    assert recorder.one("SecurityGroup")["vpcId"] == "vpc-0123456789abcdef0"
    assert recorder.one("Instance")["subnetId"] == "subnet-0123456789abcdef0"


def open_ports(recorder: Recorder) -> set[tuple[int, str]]:
    return {
        (int(rule["fromPort"]), network)
        for rule in recorder.one("SecurityGroup")["ingress"]
        for network in rule["cidrBlocks"]
    }


def test_without_a_domain_only_443_is_open_and_only_to_the_allowed(declare: Declare) -> None:
    assert open_ports(declare()) == {(443, "203.0.113.0/24"), (443, "198.51.100.0/24")}


def test_with_a_domain_port_80_is_open_as_well_and_to_everybody_only_when_asked(declare: Declare) -> None:
    allowed = ("203.0.113.0/24",)
    assert open_ports(declare(domain="llm.example.com", allowed=allowed)) == {
        (443, "203.0.113.0/24"),
        (80, "203.0.113.0/24"),
    }
    assert open_ports(declare(domain="llm.example.com", allowed=allowed, public_http=True)) == {
        (443, "203.0.113.0/24"),
        (80, "0.0.0.0/0"),
    }


def test_ssh_is_open_to_admins_only(declare: Declare) -> None:
    recorder = declare(access="direct", admins=("192.0.2.0/24",))
    assert {network for port, network in open_ports(recorder) if port == 22} == {"192.0.2.0/24"}


def test_the_group_owns_its_rules_so_that_one_more_is_drift(declare: Declare) -> None:
    assert not {kind for kind in kinds(declare()) if kind.endswith("Rule")}


def test_a_rule_is_for_one_port_of_tcp(declare: Declare) -> None:
    for rule in declare(domain="llm.example.com").one("SecurityGroup")["ingress"]:
        assert rule["protocol"] == "tcp"
        assert rule["fromPort"] == rule["toPort"]


# role


def test_the_host_may_read_its_own_parameter_and_write_its_own_metrics_and_logs(declare: Declare) -> None:
    recorder = declare()
    policy = json.loads(recorder.one("RolePolicy")["policy"])
    allowed = {json.dumps(each["Action"]): each for each in policy["Statement"]}
    assert allowed['"ssm:GetParameter"']["Resource"] == "arn:host-key"
    metrics = allowed['"cloudwatch:PutMetricData"']
    assert metrics["Condition"] == {"StringEquals": {"cloudwatch:namespace": "Changeover/prod"}}
    logs = allowed['["logs:CreateLogStream", "logs:PutLogEvents"]']
    assert logs["Resource"] == ["arn:proxy-log:*", "arn:edge-log:*", "arn:switch-log:*"]
    assert len(allowed) == 4


def test_the_managed_policy_lets_the_host_read_no_other_parameter(declare: Declare) -> None:
    policy = json.loads(declare().one("RolePolicy")["policy"])
    (denied,) = [each for each in policy["Statement"] if each["Effect"] == "Deny"]
    assert denied["NotResource"] == "arn:host-key"
    assert set(denied["Action"]) >= {"ssm:GetParameter", "ssm:GetParameters"}, "what the managed policy has"
    assert "Resource" not in denied


def test_the_host_can_be_reached_by_ssm_and_gets_no_other_managed_policy(declare: Declare) -> None:
    recorder = declare(protect=False)
    assert recorder.one("RolePolicyAttachment")["policyArn"].endswith("/AmazonSSMManagedInstanceCore")


# keys


def test_the_host_key_is_a_secure_string_and_nowhere_else(declare: Declare) -> None:
    recorder = declare()
    assert recorder.holders("marker-of-the-host-key") == ["host-key"]
    parameter = recorder.of("Parameter")["host-key"]
    assert parameter["type"] == "SecureString"
    assert parameter["name"] == "/changeover/prod/host-key"
    request = recorder.options("Parameter", "host-key")
    assert SECRET in request.object["value"]


def test_the_boot_script_names_the_parameter_and_holds_no_key(declare: Declare) -> None:
    text = script(declare())
    assert "HOST_KEY_PARAMETER=/changeover/prod/host-key" in text
    assert "PRIVATE KEY" not in text
    assert "vol0123" not in text
    assert "data-id" in text or "dataid" in text


def test_another_key_of_the_deployer_has_room_beside_the_old_one(declare: Declare) -> None:
    name = declare().one("KeyPair")["keyName"]
    assert name == f"changeover-prod-deployer-{identity(ARGS)['Key']}"
    assert declare().one("Instance")["keyName"] == name
    assert not declare().options("KeyPair", "deployer").deleteBeforeReplace


# instance


def test_the_instance_demands_imdsv2_and_keeps_containers_from_it(declare: Declare) -> None:
    options = declare().one("Instance")["metadataOptions"]
    assert options["httpTokens"] == "required"
    assert options["httpPutResponseHopLimit"] == 1


def test_every_volume_is_encrypted_gp3(declare: Declare) -> None:
    recorder = declare()
    root = recorder.one("Instance")["rootBlockDevice"]
    assert (root["encrypted"], root["volumeType"]) == (True, "gp3")
    data = recorder.one("Volume")
    assert (data["encrypted"], data["type"], data["size"]) == (True, "gp3", 200)
    assert data["availabilityZone"] == "eu-central-1b"


def test_the_data_volume_can_be_made_from_a_snapshot(declare: Declare) -> None:
    assert declare(data_snapshot="snap-0123456789").one("Volume")["snapshotId"] == "snap-0123456789"
    assert "snapshotId" not in declare().one("Volume")


def test_protect_holds_on_instance_and_volume_and_adds_snapshots(declare: Declare) -> None:
    recorder = declare()
    assert instance(recorder).protect
    assert recorder.options("Volume", "data").protect
    assert recorder.options("Eip", "address").protect
    assert recorder.one("Instance")["disableApiTermination"] is True
    details = recorder.one("LifecyclePolicy")["policyDetails"]
    assert details["targetTags"] == {"Name": "changeover-prod-data"}
    assert details["schedules"][0]["retainRule"]["count"] == 7
    assert recorder.one("Volume")["tags"]["Name"] == "changeover-prod-data"


def test_without_protect_nothing_is_held_back_and_nothing_is_snapshotted(declare: Declare) -> None:
    recorder = declare(protect=False)
    assert not instance(recorder).protect
    assert not recorder.options("Volume", "data").protect
    assert recorder.one("Instance")["disableApiTermination"] is False
    assert recorder.of("LifecyclePolicy") == {}


def test_spot_is_a_persistent_request_whose_interruption_stops(declare: Declare) -> None:
    market = declare(spot=True).one("Instance")["instanceMarketOptions"]
    assert market["spotOptions"] == {
        "spotInstanceType": "persistent",
        "instanceInterruptionBehavior": "stop",
    }
    assert "instanceMarketOptions" not in declare().one("Instance")


def steps(recorder: Recorder) -> dict[str, dict[str, Any]]:
    """The two that cancel spot requests."""
    return {name: each for name, each in recorder.of("Command").items() if "spot" in name}


@pytest.mark.parametrize("spot", [True, False])
def test_a_request_is_cancelled_before_its_instance_goes_and_what_is_left_over_after(
    declare: Declare, spot: bool
) -> None:
    """Of an instance on demand too: it may be the one in whose place there was a spot instance."""
    recorder = declare(spot=spot, protect=not spot)
    own, rest = steps(recorder)["spot-request"], steps(recorder)["left-over-spot"]
    assert own["delete"] == "exec sh components/aws/spot.sh own eu-central-1 instance-id"
    assert own["triggers"] == ["instance-id"], "another instance, another request"
    after = recorder.options("Command", "spot-request").dependencies
    assert any(urn.endswith("::instance") for urn in after), "so it is deleted before"
    assert not recorder.options("Command", "spot-request").deletedWith, "or its delete would not run"
    assert rest["delete"] == (
        "exec sh components/aws/spot.sh all eu-central-1 'changeover-prod-deployer-????????????'"
    )
    assert any(urn.endswith("::left-over-spot") for urn in instance(recorder).dependencies)


def test_what_the_state_does_not_know_is_ended_by_its_id_and_is_no_change_afterwards() -> None:
    recorder = Recorder.start("prod")

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        GpuHost("host", replace(ARGS, left_over=("sir-1", "i-2")))

    program()
    assert steps(recorder)["left-over-spot"]["create"] == (
        "exec sh components/aws/spot.sh these eu-central-1 i-2 sir-1"
    )
    assert not recorder.options("Command", "left-over-spot").ignoreChanges


def test_nothing_left_over_is_nothing_to_do_whatever_was_cancelled_before(declare: Declare) -> None:
    recorder = declare()
    assert steps(recorder)["left-over-spot"]["create"].endswith("spot.sh these eu-central-1")
    assert list(recorder.options("Command", "left-over-spot").ignoreChanges) == ["create"]


def test_spot_taken_away_replaces_and_so_does_another_type_of_a_spot_instance(declare: Declare) -> None:
    assert list(instance(declare()).replaceOnChanges) == ["tags.Spot"]
    assert list(instance(declare(spot=True)).replaceOnChanges) == ["tags.Spot", "instanceType"]


def test_a_new_instance_comes_after_the_old_one_and_takes_the_volume_and_the_address(
    declare: Declare,
) -> None:
    recorder = declare()
    assert instance(recorder).deleteBeforeReplace
    assert recorder.one("Instance")["userDataReplaceOnChange"] is True
    assert recorder.one("VolumeAttachment")["volumeId"] == "data-id"
    assert recorder.one("EipAssociation")["allocationId"] == "address-id"
    assert recorder.one("EipAssociation")["allowReassociation"] is True
    for kind, name in (("VolumeAttachment", "data-attachment"), ("EipAssociation", "address-association")):
        assert recorder.options(kind, name).deletedWith.endswith("::instance")


def test_the_disk_is_never_detached_from_a_running_instance_in_which_it_is_mounted(declare: Declare) -> None:
    assert declare().one("VolumeAttachment")["skipDestroy"] is True


def test_the_address_is_released_only_after_the_instance_that_holds_it(declare: Declare) -> None:
    assert any(urn.endswith("::address") for urn in instance(declare()).dependencies)


def test_a_newer_image_replaces_nothing_and_a_refresh_is_another_parameter(declare: Declare) -> None:
    recorder = declare()
    pinned = recorder.options("Parameter", "ami")
    assert list(pinned.ignoreChanges) == ["value"]
    assert recorder.one("Instance")["ami"] == "ami-0fedcba9876543210"
    (call,) = recorder.calls
    assert call.args["name"].endswith("/latest/ami-id")
    names = {each["name"] for each in declare(ami_refresh="2027-01-31").of("Parameter").values()}
    own = own_image(Labels(project="changeover", stack="prod"), "2027-01-31")
    assert own == "/changeover/prod/ami/2027-01-31"
    assert names == {"/changeover/prod/host-key", own}
    assert "/changeover/prod/ami" in {each["name"] for each in recorder.of("Parameter").values()}


def test_an_image_of_ones_own_is_asked_of_nobody(declare: Declare) -> None:
    recorder = declare(ami="ami-0123456789abcdef0")
    assert recorder.one("Instance")["ami"] == "ami-0123456789abcdef0"
    assert list(recorder.of("Parameter")) == ["host-key"]
    assert recorder.calls == []


def test_the_instances_tags_tell_a_later_preview_what_it_was_made_from() -> None:
    base = identity(ARGS)
    assert base["Image"] == "pinned"
    assert identity(args(ami_refresh="2027"))["Image"] == "pinned-2027"
    assert identity(args(ami="ami-0123456789"))["Image"] == "ami-0123456789"
    assert identity(args(spot=True))["Spot"] != base["Spot"]
    assert identity(args(zone="us-east-1a"))["Boot"] != base["Boot"]
    assert (base["Network"], identity(args(subnet_id="subnet-0"))["Network"]) == ("own", "subnet-0")
    assert identity(args(public_keys={"client": "ssh-ed25519 BBBB"}))["Key"] != base["Key"]
    assert identity(args(data_gib=500, email="a@b.cc", log_days=1)) == base


# readiness


def test_docker_waits_for_a_host_that_is_ready(declare: Declare) -> None:
    recorder = declare()
    ready = recorder.of("Command")["ready"]
    assert ready["environment"]["DOCKER_HOST"] == "ssh://ubuntu@instance-id"
    assert ready["environment"]["GPU"] == "Tesla T4"
    assert ready["environment"]["DRIVER"] == "580"
    assert ready["triggers"] == ["instance-id"]
    depends = recorder.options("Command", "ready").dependencies
    assert any(urn.endswith("::data-attachment") for urn in depends)
    assert any(urn.endswith("::address-association") for urn in depends)


def test_direct_access_goes_to_the_elastic_address(declare: Declare) -> None:
    ready = declare(access="direct", admins=("192.0.2.0/24",)).of("Command")["ready"]
    assert ready["environment"]["DOCKER_HOST"] == "ssh://ubuntu@198.51.100.7"


def test_another_instance_type_is_waited_for_again(declare: Declare) -> None:
    before = declare().of("Command")["ready"]["environment"]
    after = declare(instance=INSTANCE_TYPES["g4dn.2xlarge"]).of("Command")["ready"]["environment"]
    assert before != after


def test_a_larger_data_volume_makes_the_file_system_follow(declare: Declare) -> None:
    before, after = (declare(data_gib=gib).of("Command")["ready"]["environment"] for gib in (200, 300))
    assert {key for key in before if before[key] != after[key]} == {"DATA_GIB"}
    assert before["DATA_MOUNT"] == "/data"


# name, logs, alarms, money


def test_a_record_is_made_only_in_a_zone_that_is_given(declare: Declare) -> None:
    record = declare(domain="llm.example.com", hosted_zone="example.com").one("Record")
    assert (record["name"], record["records"], record["zoneId"]) == (
        "llm.example.com",
        ["198.51.100.7"],
        "Z0123456789",
    )
    assert declare(domain="llm.example.com").of("Record") == {}


def test_access_log_and_changes_are_kept_for_the_days_that_are_set(declare: Declare) -> None:
    logs = declare(log_days=14).of("LogGroup")
    assert {each["name"] for each in logs.values()} == {
        f"/changeover/prod/{role}" for role in ("proxy", "edge", "switch")
    }
    assert {each["retentionInDays"] for each in logs.values()} == {14}


def alarms(recorder: Recorder) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix("changeover-prod-alarms-"): inputs
        for name, inputs in recorder.of("MetricAlarm").items()
    }


def test_there_is_an_alarm_for_each_thing_that_matters(declare: Declare) -> None:
    found = alarms(declare())
    assert set(found) == {"status", "endpoint", "disk", "gpu-memory", "gpu-busy"}
    for each in found.values():
        assert each["alarmActions"] == ["arn:changeover-prod-alarms"]
        assert each["dimensions"] == {"InstanceId": "instance-id"}
    assert found["status"]["namespace"] == "AWS/EC2"
    assert found["endpoint"]["namespace"] == "Changeover/prod"
    assert found["endpoint"]["treatMissingData"] == "breaching"


def test_an_idle_instance_stops_and_its_silence_is_no_alarm(declare: Declare) -> None:
    found = alarms(declare(idle_minutes=60))
    assert found["idle"]["alarmActions"] == ["arn:aws:automate:eu-central-1:ec2:stop"]
    assert found["idle"]["period"] * found["idle"]["evaluationPeriods"] == 3600
    assert found["idle"]["statistic"] == "Maximum"
    assert found["endpoint"]["treatMissingData"] == "notBreaching"


def test_mail_and_budget_come_only_with_an_address(declare: Declare) -> None:
    silent = declare()
    assert silent.of("TopicSubscription") == {}
    assert silent.of("Budget") == {}
    told = declare(email="ops@example.com", budget=500)
    assert told.one("TopicSubscription")["endpoint"] == "ops@example.com"
    budget = told.one("Budget")
    assert budget["limitAmount"] == "500"
    assert budget["costFilters"] == [{"name": "TagKeyValue", "values": ["user:Stack$prod"]}]
    assert {each["threshold"] for each in budget["notifications"]} == {80, 100}


@pytest.mark.parametrize("ago", range(1, FORMER_TEXTS + 1))
def test_an_instance_that_a_former_boot_script_made_stays_until_something_else_replaces_it(ago: int) -> None:
    base = args(zone="us-east-1a")
    former = identity(replace(base, former_boot=ago))
    there = FoundOnAws(
        instance="i-0123456789abcdef0",
        state="running",
        type=base.settings.instance.name,
        zone="us-east-1a",
        address="198.51.100.7",
        tags=former,
        volumes=("vol-1",),
        size_gib=280,
    )

    def made_by(found: FoundOnAws, wanted: GpuHostArgs = base) -> int:
        return as_it_was_made(wanted, found, identity).former_boot

    assert former["Boot"] != identity(base)["Boot"]
    assert made_by(there) == ago
    assert not made_by(replace(there, tags=identity(base)))
    assert not made_by(replace(there, instance=None, tags={}))
    assert not made_by(there, args(zone="us-east-1a", ami_refresh="2027")), "it is made anew, by the new one"
