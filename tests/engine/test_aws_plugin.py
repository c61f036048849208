"""The test plugin `aws` itself, on the real Pulumi engine: strict, and true to what updates and replaces."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.aws.emulator import Emulator
from tests.support.aws.project import AwsProject
from tests.support.project import CommandFailed

pytestmark = pytest.mark.engine

PROGRAM = """
import json
import pulumi
import pulumi_aws as aws

config = pulumi.Config()
tags = {"Stack": config.get("tag") or "one"}
provider = aws.Provider("aws", region="us-east-1")
child = pulumi.ResourceOptions(provider=provider)
vpc = aws.ec2.Vpc("vpc", cidr_block="10.1.0.0/16", enable_dns_hostnames=True, tags=tags, opts=child)
subnet = aws.ec2.Subnet(
    "subnet", vpc_id=vpc.id, cidr_block="10.1.1.0/24", availability_zone="us-east-1a", opts=child
)
group = aws.ec2.SecurityGroup(
    "group", description="Of a test", vpc_id=vpc.id, tags=tags, opts=child,
    ingress=[{"protocol": "tcp", "from_port": 443, "to_port": 443,
              "cidr_blocks": [config.get("cidr") or "203.0.113.0/24", "198.51.100.0/24"]}],
    egress=[{"protocol": "-1", "from_port": 0, "to_port": 0, "cidr_blocks": ["0.0.0.0/0"]}],
)
trust = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
role = aws.iam.Role("role", assume_role_policy=json.dumps(trust), opts=child)
profile = aws.iam.InstanceProfile("profile", role=role.name, opts=child)
secret = aws.ssm.Parameter("secret", type="SecureString", value=config.require_secret("secret"), opts=child)
ami = aws.ssm.get_parameter_output(
    name="/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    opts=pulumi.InvokeOutputOptions(provider=provider),
).value
volume = aws.ebs.Volume(
    "volume", availability_zone="us-east-1a", size=config.get_int("size") or 100, type="gp3", opts=child
)
eip = aws.ec2.Eip("address", domain="vpc", opts=child)
instance = aws.ec2.Instance(
    "instance", ami=ami, instance_type="g4dn.xlarge", subnet_id=subnet.id, vpc_security_group_ids=[group.id],
    iam_instance_profile=profile.name, user_data=config.get("boot") or "echo one",
    user_data_replace_on_change=True, metadata_options={"http_tokens": "required"},
    root_block_device={"volume_size": 80, "volume_type": "gp3", "encrypted": True},
    opts=pulumi.ResourceOptions(
        provider=provider, delete_before_replace=True, ignore_changes=["ami"], depends_on=[eip]
    ),
)
aws.ec2.VolumeAttachment(
    "attachment", instance_id=instance.id, volume_id=volume.id, device_name="/dev/sdf", skip_destroy=True,
    opts=pulumi.ResourceOptions(provider=provider, deleted_with=instance),
)
aws.ec2.EipAssociation(
    "association", instance_id=instance.id, allocation_id=eip.id,
    opts=pulumi.ResourceOptions(provider=provider, deleted_with=instance),
)
pulumi.export("ip", eip.public_ip)
pulumi.export("instance", instance.id)
# more
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def project(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> AwsProject:
    project = AwsProject(tmp_path_factory.mktemp("aws-plugin"), "awsplugin", emulator)
    project.program(PROGRAM)
    project.pulumi("config", "set", "--secret", "secret", "marker-5f0c")
    return project


def test_a_preview_works_before_anything_exists(project: AwsProject) -> None:
    assert set(project.changes().values()) == {"create"}


def test_what_is_made_is_there_and_needs_no_change(project: AwsProject, emulator: Emulator) -> None:
    project.up()
    assert project.changes() == {}
    project.pulumi("refresh", "--yes", "--skip-preview")
    assert project.changes() == {}
    (reservation,) = emulator.client("ec2").describe_instances()["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["InstanceId"] == project.outputs()["instance"]
    assert instance["PublicIpAddress"] == project.outputs()["ip"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert {each["DeviceName"] for each in instance["BlockDeviceMappings"]} == {"/dev/sda1", "/dev/sdf"}


def test_a_secret_is_in_no_plain_text(project: AwsProject) -> None:
    assert "marker-5f0c" not in project.state_text()
    assert "marker-5f0c" not in project.pulumi("preview", "--diff", "--show-sames")


def test_each_change_updates_or_replaces_as_documented(project: AwsProject) -> None:
    before = project.outputs()["instance"]
    for key, value in {"tag": "two", "cidr": "203.0.114.0/24", "size": "120"}.items():
        project.pulumi("config", "set", key, value)
    assert project.changes() == dict.fromkeys(("vpc", "group", "volume"), "update")
    project.up()
    assert project.changes() == {}
    assert project.outputs()["instance"] == before

    project.pulumi("config", "set", "boot", "echo two")
    assert project.changes() == dict.fromkeys(("instance", "attachment", "association"), "replace")
    project.up()
    assert project.changes() == {}
    assert project.outputs()["instance"] != before


def networks(permissions: list[dict[str, Any]]) -> set[str]:
    return {each["CidrIp"] for permission in permissions for each in permission["IpRanges"]}


def test_what_was_changed_behind_its_back_is_found_and_put_right(
    project: AwsProject, emulator: Emulator
) -> None:
    api = emulator.client("ec2")
    volume = api.describe_volumes(Filters=[{"Name": "size", "Values": ["120"]}])["Volumes"][0]["VolumeId"]
    api.modify_volume(VolumeId=volume, Size=150)
    (group,) = api.describe_security_groups(Filters=[{"Name": "description", "Values": ["Of a test"]}])[
        "SecurityGroups"
    ]
    allowed = group["IpPermissions"]
    lost = [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "203.0.114.0/24"}]}]
    api.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=lost)
    more = [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    api.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=more)
    project.pulumi("refresh", "--yes", "--skip-preview")
    assert project.changes() == {"volume": "update", "group": "update"}
    project.pulumi("config", "set", "size", "150")  # a volume never shrinks
    project.up()
    assert project.changes() == {}
    (group,) = api.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    assert networks(group["IpPermissions"]) == networks(allowed)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "pulumi.CustomResource('aws:ec2/vpc:Vpc', 'w', {'cidrBlock': '10.2.0.0/16', 'colour': 1}, child)",
            "colour is unknown",
        ),
        ("pulumi.CustomResource('aws:ec2/subnet:Subnet', 'w', {}, child)", "vpcId is required and missing"),
        (
            "pulumi.CustomResource('aws:ec2/vpc:Vpc', 'w', {'cidrBlock': ['10.2.0.0/16']}, child)",
            "cidrBlock is list",
        ),
        (
            "aws.ec2.Instance('w', metadata_options={'httpToken': 'required'}, opts=child)",
            "metadataOptions.httpToken is unknown",
        ),
        ("aws.s3.Bucket('w', opts=child)", "the test plugin has no resource aws:s3/bucket:Bucket"),
    ],
)
def test_what_the_published_plugin_refuses_is_refused(project: AwsProject, more: str, said: str) -> None:
    project.program(PROGRAM + more)
    try:
        with pytest.raises(CommandFailed, match=said):
            project.pulumi("preview")
    finally:
        project.program(PROGRAM)


def test_destroy_leaves_nothing(project: AwsProject, emulator: Emulator) -> None:
    project.pulumi("destroy", "--yes", "--skip-preview")
    api = emulator.client("ec2")
    reservations = api.describe_instances()["Reservations"]
    assert [each["Instances"][0]["State"]["Name"] for each in reservations] == ["terminated"] * 2
    assert api.describe_volumes()["Volumes"] == []
    assert api.describe_addresses()["Addresses"] == []
    assert [each["IsDefault"] for each in api.describe_vpcs()["Vpcs"]] == [True]
    assert emulator.client("iam").list_roles()["Roles"] == []
