"""On the real Pulumi engine: a spot request is cancelled before its instance goes, however that comes."""

import pytest

from tests.engine.test_aws_plugin import emulator
from tests.parts.test_aws_spot import requests, running
from tests.support.aws.emulator import Emulator
from tests.support.aws.project import AwsProject
from tests.support.project import CommandFailed

__all__ = ["emulator"]

pytestmark = pytest.mark.engine

PROGRAM = """
import pulumi
import pulumi_aws as aws
from pulumi_command import local
from components.aws import spot
from components.labels import Labels

config = pulumi.Config()
labels, region = Labels(project="changeover", stack="awsspot"), "us-east-1"
on_spot = config.get_bool("spot") or False
child = pulumi.ResourceOptions(provider=aws.Provider("aws", region=region))
key = aws.ec2.KeyPair(
    "key", key_name=spot.key_name(labels, "0123456789ab"), opts=child,
    public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
)
ami = aws.ssm.get_parameter_output(
    name="/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    opts=pulumi.InvokeOutputOptions(provider=child.provider),
).value
rest = local.Command(
    "left-over-spot", create=spot.cancel_these(region, []), delete=spot.cancel_all(region, labels),
    opts=pulumi.ResourceOptions(ignore_changes=["create"]),
)
instance = aws.ec2.Instance(
    "instance", ami=ami, instance_type="g4dn.xlarge", key_name=key.key_name, tags={"Spot": str(on_spot)},
    user_data=config.get("boot") or "echo one", user_data_replace_on_change=True,
    instance_market_options={
        "market_type": "spot",
        "spot_options": {"spot_instance_type": "persistent", "instance_interruption_behavior": "stop"},
    } if on_spot else None,
    opts=pulumi.ResourceOptions(
        provider=child.provider, delete_before_replace=True, replace_on_changes=["tags.Spot"],
        depends_on=[rest],
    ),
)
if config.get_bool("fails"):
    instance.id.apply(lambda made: made.missing)
local.Command(
    "spot-request",
    delete=instance.id.apply(lambda made: spot.cancel_own(region, made)), triggers=[instance.id],
)
pulumi.export("instance", instance.id)
"""


@pytest.fixture(scope="module")
def project(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> AwsProject:
    project = AwsProject(tmp_path_factory.mktemp("aws-spot"), "awsspot", emulator)
    project.program(PROGRAM)
    return project


def ours(project: AwsProject, emulator: Emulator) -> None:
    """The only instance is the one that state knows, and no request lives but its own."""
    assert running(emulator) == {project.outputs()["instance"]}
    alive = [each for each, state in requests(emulator).items() if state != "cancelled"]
    assert set(alive) <= running(emulator)
    assert project.changes() == {}


def test_a_spot_instance_that_is_replaced_leaves_no_request(project: AwsProject, emulator: Emulator) -> None:
    project.pulumi("config", "set", "spot", "true")
    project.up()
    ours(project, emulator)
    project.pulumi("config", "set", "boot", "echo two")
    project.up()
    ours(project, emulator)
    assert sorted(requests(emulator).values()) == ["active", "cancelled"]


def test_neither_does_one_on_demand_in_its_place_nor_the_way_back(
    project: AwsProject, emulator: Emulator
) -> None:
    for on_spot in ("false", "true"):
        project.pulumi("config", "set", "spot", on_spot)
        project.up()
        ours(project, emulator)


def test_after_a_create_that_broke_off_destroy_ends_what_the_request_starts(
    project: AwsProject, emulator: Emulator
) -> None:
    project.pulumi("config", "set", "boot", "echo three")
    project.pulumi("config", "set", "fails", "true")
    with pytest.raises(CommandFailed, match="missing"):
        project.up()
    assert "spot-request::" not in project.state_text().replace("left-over-spot", "")
    assert [*requests(emulator).values()].count("active") == 1
    project.pulumi("destroy", "--yes", "--skip-preview")
    assert running(emulator) == set()
    assert set(requests(emulator).values()) == {"cancelled"}
