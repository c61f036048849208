"""A VPC of the stack's own with one public subnet. Not used where both exist already."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

VPC_CIDR = "10.63.0.0/24"


def subnet_cidr(zone: str) -> str:
    """The subnet's addresses, others in each zone: a new one is made before the old one goes.

    The other way round Pulumi would begin the replacement at the subnet, and what is on the host would not be
    replaced together with its instance.
    """
    blocks = IPv4Network(VPC_CIDR).subnets(new_prefix=27)
    return str([*blocks]["abcdefgh".index(zone[-1])])


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    """`zone` is the availability zone of the subnet, and so of the instance and its data volume."""

    zone: str
    tags: Mapping[str, str]


class Network(pulumi.ComponentResource):
    """VPC, subnet, internet gateway and route."""

    vpc_id: pulumi.Output[str]
    subnet_id: pulumi.Output[str]
    routed: pulumi.Resource

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Network", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        tags = args.tags
        vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=VPC_CIDR,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags=tags,
            opts=child,
        )
        subnet = aws.ec2.Subnet(
            f"{name}-subnet",
            vpc_id=vpc.id,
            cidr_block=subnet_cidr(args.zone),
            availability_zone=args.zone,
            tags=tags,
            opts=child,
        )
        gateway = aws.ec2.InternetGateway(f"{name}-gateway", vpc_id=vpc.id, tags=tags, opts=child)
        routes = aws.ec2.RouteTable(
            f"{name}-routes",
            vpc_id=vpc.id,
            routes=[aws.ec2.RouteTableRouteArgs(cidr_block="0.0.0.0/0", gateway_id=gateway.id)],
            tags=tags,
            opts=child,
        )
        self.routed = aws.ec2.RouteTableAssociation(
            f"{name}-association", subnet_id=subnet.id, route_table_id=routes.id, opts=child
        )
        self.vpc_id, self.subnet_id = vpc.id, subnet.id
        self.register_outputs({"vpc_id": self.vpc_id, "subnet_id": self.subnet_id})
