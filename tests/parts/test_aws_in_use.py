"""The emulator takes nothing away that is in use, as Amazon does not; what the program makes can go; and a
host without a way to the internet is not on it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from pulumi.runtime import mocks
from pulumi.runtime.proto import provider_pb2

from components.aws.gpu_host import GpuHost
from components.aws.role import SSM_CORE, policy, trust
from tests.support.aws import api
from tests.support.aws.emulator import Emulator
from tests.support.aws.functions import FUNCTIONS
from tests.support.aws.host.machines import Machines, SimulatedMachine
from tests.support.aws.plugin import Plugin, packed
from tests.support.aws.plugin import plain as unpacked
from tests.support.aws.resources import KINDS
from tests.support.recorder import Recorder
from tests.unit.test_aws_host import args
from tests.unit.test_aws_rules import ACCOUNT, KEY, plain


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment.items():
            patch.setenv(name, value)
        api.client.cache_clear()  # those of another emulator
        yield emulator
        api.client.cache_clear()


def refused(call: Callable[..., Any], code: str, words: str, **given: Any) -> None:
    with pytest.raises(ClientError) as said:
        call(**given)
    error = said.value.response["Error"]
    assert (error["Code"], error["Message"]) == (code, words)


class Network:
    """A VPC with a subnet, a way out, a group of its own and an instance, made behind the program's back."""

    def __init__(self, emulator: Emulator, *, public: bool = True) -> None:
        self.ec2 = emulator.client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.1.1.0/24", AvailabilityZone="us-east-1a")
        self.subnet = made["Subnet"]["SubnetId"]
        self.gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)
        self.table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        self.association = self.ec2.associate_route_table(RouteTableId=self.table, SubnetId=self.subnet)[
            "AssociationId"
        ]
        self.group = self.new_group("one")
        (image, *_) = self.ec2.describe_images(Owners=["self"])["Images"]
        interface = {"DeviceIndex": 0, "SubnetId": self.subnet, "Groups": [self.group]}
        run = self.ec2.run_instances(
            ImageId=image["ImageId"],
            MinCount=1,
            MaxCount=1,
            NetworkInterfaces=[{**interface, "AssociatePublicIpAddress": public}],
        )
        (instance,) = run["Instances"]
        self.instance = instance["InstanceId"]
        self.interface = instance["NetworkInterfaces"][0]["NetworkInterfaceId"]

    def new_group(self, name: str) -> str:
        made = self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)
        return str(made["GroupId"])

    def way_out(self) -> None:
        """The route to the internet gateway."""
        self.ec2.create_route(
            RouteTableId=self.table, DestinationCidrBlock="0.0.0.0/0", GatewayId=self.gateway
        )

    def new_address(self) -> tuple[str, str]:
        """Its allocation, and its association with the instance."""
        allocated = self.ec2.allocate_address(Domain="vpc")["AllocationId"]
        made = self.ec2.associate_address(AllocationId=allocated, InstanceId=self.instance)
        return allocated, made["AssociationId"]


@pytest.fixture
def network(emulator: Emulator) -> Network:
    return Network(emulator)


def test_a_subnet_and_a_group_stay_while_an_interface_is_in_them_and_go_when_its_instance_has_ended(
    network: Network,
) -> None:
    ec2 = network.ec2
    words = f"The subnet '{network.subnet}' has dependencies and cannot be deleted."
    refused(ec2.delete_subnet, "DependencyViolation", words, SubnetId=network.subnet)
    words = f"resource {network.group} has a dependent object"
    ec2.stop_instances(InstanceIds=[network.instance])
    refused(ec2.delete_security_group, "DependencyViolation", words, GroupId=network.group)
    ec2.terminate_instances(InstanceIds=[network.instance])
    ec2.delete_security_group(GroupId=network.group)
    ec2.delete_subnet(SubnetId=network.subnet)


def test_a_group_that_an_instance_has_no_more_can_go(network: Network) -> None:
    other = network.new_group("other")
    network.ec2.modify_instance_attribute(InstanceId=network.instance, Groups=[other])
    network.ec2.delete_security_group(GroupId=network.group)
    words = f"resource {other} has a dependent object"
    refused(network.ec2.delete_security_group, "DependencyViolation", words, GroupId=other)


def test_a_group_that_a_rule_of_another_names_stays_and_so_does_the_default(network: Network) -> None:
    ec2, named, other = network.ec2, network.new_group("named"), network.new_group("other")
    rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "UserIdGroupPairs": [{"GroupId": named}]}
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[rule])
    words = f"resource {named} has a dependent object"
    refused(ec2.delete_security_group, "DependencyViolation", words, GroupId=named)
    ec2.delete_security_group(GroupId=other)
    ec2.delete_security_group(GroupId=named)
    filters = [{"Name": "vpc-id", "Values": [network.vpc]}, {"Name": "group-name", "Values": ["default"]}]
    (default,) = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    words = f'the specified group: "{default["GroupId"]}" name: "default" cannot be deleted by a user'
    refused(ec2.delete_security_group, "CannotDelete", words, GroupId=default["GroupId"])


def test_a_vpc_stays_while_anything_of_it_is_there(network: Network) -> None:
    ec2 = network.ec2
    ec2.terminate_instances(InstanceIds=[network.instance])
    words = f"The vpc '{network.vpc}' has dependencies and cannot be deleted."
    steps: list[Callable[[], Any]] = [
        lambda: ec2.disassociate_route_table(AssociationId=network.association),
        lambda: ec2.delete_subnet(SubnetId=network.subnet),
        lambda: ec2.delete_route_table(RouteTableId=network.table),
        lambda: ec2.delete_security_group(GroupId=network.group),
        lambda: ec2.detach_internet_gateway(InternetGatewayId=network.gateway, VpcId=network.vpc),
    ]
    for step in steps:
        refused(ec2.delete_vpc, "DependencyViolation", words, VpcId=network.vpc)
        step()
    ec2.delete_vpc(VpcId=network.vpc)


def test_a_gateway_stays_while_it_is_attached_and_attached_while_its_network_has_a_public_address(
    emulator: Emulator,
) -> None:
    network = Network(emulator, public=False)
    ec2, both = network.ec2, {"InternetGatewayId": network.gateway, "VpcId": network.vpc}
    _, associated = network.new_address()
    mapped = (
        f"Network {network.vpc} has some mapped public address(es). "
        "Please unmap those public address(es) before detaching the gateway."
    )
    refused(ec2.detach_internet_gateway, "DependencyViolation", mapped, **both)
    ec2.stop_instances(InstanceIds=[network.instance])
    refused(ec2.detach_internet_gateway, "DependencyViolation", mapped, **both)
    ec2.disassociate_address(AssociationId=associated)
    words = f"The internetGateway '{network.gateway}' has dependencies and cannot be deleted."
    refused(ec2.delete_internet_gateway, "DependencyViolation", words, InternetGatewayId=network.gateway)
    ec2.detach_internet_gateway(**both)
    ec2.delete_internet_gateway(InternetGatewayId=network.gateway)


def test_a_route_table_stays_while_a_subnet_has_it_and_the_main_one_always(network: Network) -> None:
    ec2 = network.ec2
    main = [{"Name": "association.main", "Values": ["true"]}, {"Name": "vpc-id", "Values": [network.vpc]}]
    (table,) = ec2.describe_route_tables(Filters=main)["RouteTables"]
    for name in (network.table, table["RouteTableId"]):
        words = f"The routeTable '{name}' has dependencies and cannot be deleted."
        refused(ec2.delete_route_table, "DependencyViolation", words, RouteTableId=name)
    ec2.disassociate_route_table(AssociationId=network.association)
    ec2.delete_route_table(RouteTableId=network.table)


def test_an_interface_stays_while_an_instance_has_it(network: Network) -> None:
    ec2 = network.ec2
    words = f"Network interface '{network.interface}' is currently in use."
    refused(
        ec2.delete_network_interface,
        "InvalidParameterValue",
        words,
        NetworkInterfaceId=network.interface,
    )
    free = ec2.create_network_interface(SubnetId=network.subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.delete_network_interface(NetworkInterfaceId=free)


def test_an_address_stays_while_an_instance_has_it(network: Network) -> None:
    ec2 = network.ec2
    allocated, associated = network.new_address()
    (found,) = ec2.describe_addresses(AllocationIds=[allocated])["Addresses"]
    words = f"Address {found['PublicIp']} is in use."
    refused(ec2.release_address, "InvalidIPAddress.InUse", words, AllocationId=allocated)
    ec2.disassociate_address(AssociationId=associated)
    ec2.release_address(AllocationId=allocated)
    allocated, _ = network.new_address()
    ec2.terminate_instances(InstanceIds=[network.instance])
    ec2.release_address(AllocationId=allocated)


def test_a_volume_stays_while_an_instance_has_it(network: Network) -> None:
    ec2 = network.ec2
    volume = ec2.create_volume(Size=1, AvailabilityZone="us-east-1a")["VolumeId"]
    ec2.attach_volume(VolumeId=volume, InstanceId=network.instance, Device="/dev/sdf")
    words = f"Volume {volume} is currently attached to {network.instance}"
    refused(ec2.delete_volume, "VolumeInUse", words, VolumeId=volume)
    ec2.terminate_instances(InstanceIds=[network.instance])
    ec2.delete_volume(VolumeId=volume)


def test_a_role_stays_while_it_has_policies_or_a_profile_has_it_and_so_does_that_profile(
    emulator: Emulator,
) -> None:
    iam, both = emulator.client("iam"), {"InstanceProfileName": "of", "RoleName": "a"}
    iam.create_role(RoleName="a", AssumeRolePolicyDocument=trust("ec2.amazonaws.com"))
    of = f"arn:aws:{{}}:us-east-1:{ACCOUNT}:{{}}"
    own = policy(
        parameter=of.format("ssm", "parameter/a"),
        namespace="a",
        log_groups=[of.format("logs", "log-group:a")],
    )
    iam.put_role_policy(RoleName="a", PolicyName="own", PolicyDocument=own)
    iam.attach_role_policy(RoleName="a", PolicyArn=SSM_CORE)
    iam.create_instance_profile(InstanceProfileName="of")
    iam.add_role_to_instance_profile(**both)
    words = "Cannot delete entity, must remove roles from instance profile first."
    refused(iam.delete_instance_profile, "DeleteConflict", words, InstanceProfileName="of")
    refused(iam.delete_role, "DeleteConflict", words, RoleName="a")
    iam.remove_role_from_instance_profile(**both)
    words = "Cannot delete entity, must detach all policies first."
    refused(iam.delete_role, "DeleteConflict", words, RoleName="a")
    iam.detach_role_policy(RoleName="a", PolicyArn=SSM_CORE)
    words = "Cannot delete entity, must delete policies first."
    refused(iam.delete_role, "DeleteConflict", words, RoleName="a")
    iam.delete_role_policy(RoleName="a", PolicyName="own")
    iam.delete_role(RoleName="a")
    iam.delete_instance_profile(InstanceProfileName="of")


# what the program makes, destroyed in any order that Pulumi may choose


class Refused(Exception):
    """The plugin could not do something."""


class Context:
    """Of a call of the plugin."""

    def abort(self, _: object, said: str) -> None:
        raise Refused(said)


Name = tuple[str, str]
"""Type and name of a resource."""


def name_of(urn: str) -> Name:
    *_, kind, name = urn.split("::")
    return kind.rsplit("$", 1)[-1], name


class OnEmulator(Recorder):
    """Makes what a program declares of AWS by the test plugin."""

    def __init__(self) -> None:
        super().__init__()
        self.plugin, self.states = Plugin(), dict[Name, Any]()
        self.plugin.region = "us-east-1"

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if args.typ not in KINDS:
            return super().new_resource(args)
        urn = f"urn:pulumi:dev::changeover::{args.typ}::{args.name}"
        asked = provider_pb2.CheckRequest(urn=urn, news=packed(plain(args.inputs)), randomSeed=b"1")
        checked = self.plugin.Check(asked, None)
        assert not checked.failures, checked.failures
        made = self.plugin.Create(provider_pb2.CreateRequest(urn=urn, properties=checked.inputs), Context())
        self.states[args.typ, args.name] = made
        return made.id, unpacked(made.properties)

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]]]:
        return FUNCTIONS[args.token]("us-east-1", dict(args.args)), []

    def delete(self, name: Name) -> None:
        """Raises Refused where the plugin or the emulator does not."""
        kind, called = name
        urn, made = f"urn:pulumi:dev::changeover::{kind}::{called}", self.states[name]
        self.plugin.Delete(
            provider_pb2.DeleteRequest(urn=urn, id=made.id, properties=made.properties), Context()
        )

    def needs(self) -> dict[Name, set[Name]]:
        """What each resource depends on, commands too."""
        return {(each.type, each.name): {name_of(urn) for urn in each.dependencies} for each in self.requests}

    def destroy(self, made: random.Random) -> None:
        """As Pulumi does: first what nothing depends on, in any order; what is deleted with something else
        is forgotten."""
        left = self.needs()
        forgotten = {(each.type, each.name) for each in self.requests if each.deletedWith}
        while left:
            needed = set[Name]().union(*left.values())
            name = made.choice(sorted(left.keys() - needed))
            del left[name]
            if name in self.states and name not in forgotten:
                self.delete(name)


def there(emulator: Emulator) -> set[str]:
    """All that is in the account of what the program makes."""
    ec2, iam = emulator.client("ec2"), emulator.client("iam")
    found = [
        *((each, "VpcId") for each in ec2.describe_vpcs()["Vpcs"]),
        *((each, "SubnetId") for each in ec2.describe_subnets()["Subnets"]),
        *((each, "InternetGatewayId") for each in ec2.describe_internet_gateways()["InternetGateways"]),
        *((each, "RouteTableId") for each in ec2.describe_route_tables()["RouteTables"]),
        *((each, "GroupId") for each in ec2.describe_security_groups()["SecurityGroups"]),
        *((each, "VolumeId") for each in ec2.describe_volumes()["Volumes"]),
        *((each, "AllocationId") for each in ec2.describe_addresses()["Addresses"]),
        *((each, "Arn") for each in iam.list_roles()["Roles"]),
        *((each, "Arn") for each in iam.list_instance_profiles()["InstanceProfiles"]),
    ]
    return {each[key] for each, key in found}


def make() -> OnEmulator:
    """A host as the program declares it."""
    recorder = OnEmulator.start("dev")
    assert isinstance(recorder, OnEmulator)

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        GpuHost("host", args(zone="us-east-1a", public_keys={"client": KEY}))

    program()
    return recorder


USED = {
    "aws:ec2/vpc:Vpc": "DependencyViolation",
    "aws:ec2/subnet:Subnet": "DependencyViolation",
    "aws:ec2/internetGateway:InternetGateway": "DependencyViolation",
    "aws:ec2/routeTable:RouteTable": "DependencyViolation",
    "aws:ec2/securityGroup:SecurityGroup": "DependencyViolation",
    "aws:ebs/volume:Volume": "VolumeInUse",
    "aws:ec2/eip:Eip": "InvalidIPAddress.InUse",
    "aws:iam/role:Role": "DeleteConflict",
}
"""What can't go while the host is there, and what Amazon calls that."""


@pytest.mark.parametrize("seed", range(3))
def test_what_a_host_uses_stays_and_whatever_order_pulumi_destroys_in_all_of_it_goes(
    emulator: Emulator, seed: int
) -> None:
    before, made = there(emulator), make()
    assert len(there(emulator) - before) >= len(USED)
    for kind, code in USED.items():
        name = next(each for each in made.states if each[0] == kind)
        with pytest.raises(Refused, match=code):
            made.delete(name)
    made.destroy(random.Random(seed))
    assert there(emulator) == before


# who is on the internet


def test_an_instance_is_on_the_internet_by_its_address_and_its_subnets_route_to_an_attached_gateway(
    emulator: Emulator, network: Network
) -> None:
    ec2 = network.ec2
    assert not emulator.on_internet(network.instance), "no route"
    network.way_out()
    assert emulator.on_internet(network.instance)
    ec2.disassociate_route_table(AssociationId=network.association)
    assert not emulator.on_internet(network.instance), "the VPC's own table has none"
    main = [{"Name": "association.main", "Values": ["true"]}, {"Name": "vpc-id", "Values": [network.vpc]}]
    (table,) = ec2.describe_route_tables(Filters=main)["RouteTables"]
    network.table = table["RouteTableId"]
    network.way_out()
    assert emulator.on_internet(network.instance)
    ec2.stop_instances(InstanceIds=[network.instance])
    assert not emulator.on_internet(network.instance), "no address"
    ec2.detach_internet_gateway(InternetGatewayId=network.gateway, VpcId=network.vpc)
    ec2.start_instances(InstanceIds=[network.instance])
    assert not emulator.on_internet(network.instance), "the route leads nowhere"


def test_an_instance_without_a_public_address_is_on_it_once_it_has_one(emulator: Emulator) -> None:
    network = Network(emulator, public=False)
    network.way_out()
    assert not emulator.on_internet(network.instance)
    network.new_address()
    assert emulator.on_internet(network.instance)


@dataclass
class Host:
    """What is told to a stand-in host."""

    instance: str
    pid: int = 7
    connected: bool = False
    address: str = ""
    rules: list[Any] | None = None
    devices: dict[str, str] = field(default_factory=dict)

    def set_address(self, address: str) -> None:
        self.address = address

    def set_rules(self, rules: list[Any]) -> None:
        self.rules = rules


def test_a_stand_in_host_without_a_way_there_has_no_address_and_no_agent_until_it_has_one(
    emulator: Emulator, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machines, "_agent_may", lambda *_: True)
    machines, host = Machines(emulator, tmp_path), Host(network.instance)
    allocated, _ = network.new_address()
    (mine,) = network.ec2.describe_addresses(AllocationIds=[allocated])["Addresses"]

    def look() -> tuple[str, list[str]]:
        (found,) = network.ec2.describe_instances(InstanceIds=[network.instance])["Reservations"]
        machines._adjust(network.ec2, found["Instances"][0], cast(SimulatedMachine, host))
        return host.address, [each.name for each in machines.agents.iterdir()]

    assert look() == ("", [])
    network.way_out()
    assert look() == look() == (mine["PublicIp"], [network.instance])
    network.ec2.delete_route(RouteTableId=network.table, DestinationCidrBlock="0.0.0.0/0")
    assert look() == ("", [])
