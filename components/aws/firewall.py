"""Who may send what to the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class FirewallArgs:
    """`allowed` are the networks that may use the endpoint, `admins` those that may reach SSH.

    `challenges` are those that may reach port 80, where public certificates are proven.
    """

    vpc_id: pulumi.Input[str]
    allowed: Sequence[str]
    admins: Sequence[str]
    challenges: Sequence[str]
    tags: Mapping[str, str]


class Firewall(pulumi.ComponentResource):
    """A security group with one rule for each port and network."""

    group_id: pulumi.Output[str]

    def __init__(self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Firewall", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        group = aws.ec2.SecurityGroup(
            name,
            description="Changeover: the endpoint, and nothing else",
            vpc_id=args.vpc_id,
            tags=args.tags,
            opts=child,
        )
        ports = ((443, args.allowed), (80, args.challenges), (22, args.admins))
        rules = [(port, cidr) for port, networks in ports for cidr in networks]
        for port, cidr in rules:
            aws.vpc.SecurityGroupIngressRule(
                f"{name}-{port}-from-{cidr.replace('/', '-')}",
                security_group_id=group.id,
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                cidr_ipv4=cidr,
                tags=args.tags,
                opts=child,
            )
        # Images, weights, packages, AWS itself: their addresses are not known.
        aws.vpc.SecurityGroupEgressRule(
            f"{name}-out",
            security_group_id=group.id,
            ip_protocol="-1",
            cidr_ipv4="0.0.0.0/0",
            tags=args.tags,
            opts=child,
        )
        self.group_id = group.id
        self.register_outputs({"group_id": self.group_id})
