"""The stack `prod` on the stand-ins of `dev`: what protects it, its flips, and how it is destroyed.

Each test goes on where the one before it stopped. It gets its domain at the end: public certificates need the
internet, and until then answers are counted.
"""

import json
import os

import pytest

from components.aws import permissions
from review.events import parse
from review.warnings import broken
from tests.engine.test_aws_dev import (
    KEYS,
    answering,
    complete,
    emulator,
    flip,
    machines,
    nothing_is_left,
    nothing_to_do,
)
from tests.support.aws.allowed import uncovered
from tests.support.aws.emulator import Emulator
from tests.support.aws.host.machines import HERE_ADDRESS, ROOT_ONLY, Machines
from tests.support.aws.project import AwsProject, deployable
from tests.support.project import CommandFailed
from tools.review import events_of

__all__ = ["emulator", "machines"]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason=ROOT_ONLY),
]

PROTECTED = {"address", "data", "instance"}


@pytest.fixture(scope="module")
def project(emulator: Emulator, machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> AwsProject:
    project = deployable("prod", emulator, machines, tmp_path_factory.mktemp("aws-prod"), KEYS)
    api = emulator.client("ec2")
    vpc = api.create_vpc(CidrBlock="10.9.0.0/24")["Vpc"]["VpcId"]
    there = api.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/25", AvailabilityZone="us-east-1a")
    way_out = api.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    api.attach_internet_gateway(InternetGatewayId=way_out, VpcId=vpc)
    project.configure(
        vpcId=vpc,
        subnetId=there["Subnet"]["SubnetId"],
        access="direct",
        adminCidrs=[f"{HERE_ADDRESS}/32"],
        alarmEmail="someone@example.com",
        monthlyBudget=600,
    )
    return project


def refused_and_nothing_changed(project: AwsProject, refusal: CommandFailed, writes: int) -> None:
    assert "nothing was changed" in str(refusal)
    assert "pulumi config set protect false" in str(refusal)
    assert project.aws_writes() == writes
    assert complete(project)


def test_an_existing_subnet_in_another_zone_or_without_a_way_out_is_refused_before_anything_exists(
    project: AwsProject, emulator: Emulator
) -> None:
    project.configure(zone="us-east-1b")
    with pytest.raises(
        CommandFailed, match="is in us-east-1a, but the setting zone is us-east-1b; nothing was changed"
    ):
        project.pulumi("preview")
    project.configure(zone=None)
    with pytest.raises(CommandFailed, match="has no route to an internet gateway"):
        project.pulumi("preview")
    api = emulator.client("ec2")
    main = {"Name": "association.main", "Values": ["true"]}
    for gateway in api.describe_internet_gateways()["InternetGateways"]:
        of_vpc = {"Name": "vpc-id", "Values": [gateway["Attachments"][0]["VpcId"]]}
        (table,) = api.describe_route_tables(Filters=[main, of_vpc])["RouteTables"]
        api.create_route(
            RouteTableId=table["RouteTableId"],
            DestinationCidrBlock="0.0.0.0/0",
            GatewayId=gateway["InternetGatewayId"],
        )


def test_prod_is_on_demand_and_held_by_pulumi_and_by_aws(
    project: AwsProject, emulator: Emulator, machines: Machines
) -> None:
    project.up()
    assert complete(project)
    nothing_to_do(project)
    state = json.loads(project.pulumi("stack", "export"))["deployment"]["resources"]
    held = {each["urn"].rsplit("::", 1)[1] for each in state if each.get("protect")}
    assert held == PROTECTED
    api = emulator.client("ec2")
    (reservation,) = api.describe_instances()["Reservations"]
    (instance,) = reservation["Instances"]
    assert "InstanceLifecycle" not in instance
    held_by_aws = api.describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="disableApiTermination"
    )
    assert held_by_aws["DisableApiTermination"]["Value"] is True
    made = {each["type"] for each in state}
    assert not {"aws:ec2/vpc:Vpc", "aws:ec2/subnet:Subnet"} & made, "the network was there before"
    assert {"aws:dlm/lifecyclePolicy:LifecyclePolicy", "aws:budgets/budget:Budget"} <= made
    assert answering(machines.only(), machines) == ["443"], "SSH is for the network of the admins only"
    (topic,) = emulator.client("sns").list_topics()["Topics"]
    mails = emulator.client("sns").list_subscriptions_by_topic(TopicArn=topic["TopicArn"])["Subscriptions"]
    assert [each["Endpoint"] for each in mails] == ["someone@example.com"]
    seen = broken(parse(events_of(project.stack, root=project.folder, env=project.environment)))
    # what isn't the public image can't have its digest
    assert {each.policy for each in seen} == {"images have the digest that is known"}


@pytest.mark.long
def test_a_flip_each_way_under_load_loses_nothing(project: AwsProject) -> None:
    assert "hold" in flip(project, "vllm")
    assert "hold" in flip(project, "ollama")
    nothing_to_do(project)


def test_what_would_replace_the_instance_is_refused_with_the_steps(project: AwsProject) -> None:
    writes = project.aws_writes()
    project.configure(amiRefresh="2027-01-31")
    with pytest.raises(CommandFailed, match="this would replace the instance") as refusal:
        project.up()
    project.configure(amiRefresh=None)
    refused_and_nothing_changed(project, refusal.value, writes)
    nothing_to_do(project)


def test_make_down_is_refused_before_anything_is_deleted(project: AwsProject) -> None:
    writes = project.aws_writes()
    with pytest.raises(CommandFailed, match="stack `prod` is protected") as refusal:
        project.tool("down")
    assert all(name in str(refusal.value) for name in PROTECTED)
    refused_and_nothing_changed(project, refusal.value, writes)
    nothing_to_do(project)


def test_a_domain_gets_its_record_and_the_way_for_certificates(
    project: AwsProject, emulator: Emulator, machines: Machines
) -> None:
    route53 = emulator.client("route53")
    zone = route53.create_hosted_zone(Name="example.net", CallerReference="1")["HostedZone"]["Id"]
    project.configure(protect=False, domain="llm.example.net", hostedZone="example.net", publicHttp=True)
    assert project.changes() == {
        "instance": "update",  # termination protection
        "changeover-prod-snapshots": "delete",
        "changeover-prod-snapshots-policy": "delete",
        "changeover-prod-snapshots-daily": "delete",
        "record": "create",
        "changeover-prod-firewall": "update",
        "changeover-prod-edge": "replace",
        "edge-configuration": "update",
    }
    project.up()
    assert project.outputs()["endpoint"] == "https://llm.example.net/v1"
    assert "::edge-ca" not in project.state_text()
    (record,) = [
        each
        for each in route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        if each["Type"] == "A"
    ]
    address = machines.only().address
    assert (record["Name"], record["ResourceRecords"]) == ("llm.example.net.", [{"Value": address}])
    ask = ("curl", "-sS", "-o", "/dev/null", "-w", "%{redirect_url}", "-H", "Host: llm.example.net")
    assert machines.client(*ask, f"http://{address}/v1/models") == "https://llm.example.net/v1/models"
    assert answering(machines.only(), machines) == ["80", "443"]
    nothing_to_do(project)


def test_without_protect_it_is_destroyed(project: AwsProject, emulator: Emulator) -> None:
    said = project.tool("down")
    assert "The stack is gone, and so is the data volume" in said
    api = emulator.client("ec2")
    (vpc,) = [each["VpcId"] for each in api.describe_vpcs()["Vpcs"] if not each["IsDefault"]]
    (subnet,) = api.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    (gateway,) = [each["InternetGatewayId"] for each in api.describe_internet_gateways()["InternetGateways"]]
    # each is refused where something of the stack is left in it
    api.delete_subnet(SubnetId=subnet["SubnetId"])
    api.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    api.delete_internet_gateway(InternetGatewayId=gateway)
    api.delete_vpc(VpcId=vpc)
    nothing_is_left(emulator)


def test_the_deployers_policy_covers_every_call_that_was_seen(project: AwsProject) -> None:
    seen = set(project.aws_calls())
    assert {"dlm:CreateLifecyclePolicy", "sns:Subscribe", "route53:ChangeResourceRecordSets"} <= seen
    assert uncovered(seen, permissions.policy("changeover")) == []
