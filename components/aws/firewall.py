"""Who may send what to the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class FirewallArgs:
    """`allowed` are the networks that may use the endpoint, `admins` those that may reach SSH.

    `challenges` are those that may reach port 80, where ACME challenges arrive.
    """

    vpc_id: pulumi.Input[str]
    allowed: Sequence[str]
    admins: Sequence[str]
    challenges: Sequence[str]
    tags: Mapping[str, str]


class Firewall(pulumi.ComponentResource):
    """A security group and all its rules, one for each port."""

    group_id: pulumi.Output[str]

    def __init__(self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Firewall", name, None, opts)
        ports = ((443, args.allowed), (80, args.challenges), (22, args.admins))
        group = aws.ec2.SecurityGroup(
            name,
            description="Changeover: the endpoint, and nothing else",
            vpc_id=args.vpc_id,
            # in the group and not as resources of their own: a rule that somebody adds is seen and taken away
            ingress=[
                {"protocol": "tcp", "from_port": port, "to_port": port, "cidr_blocks": list(networks)}
                for port, networks in ports
                if networks
            ],
            # images, weights, packages, AWS itself: their addresses are not known
            egress=[{"protocol": "-1", "from_port": 0, "to_port": 0, "cidr_blocks": ["0.0.0.0/0"]}],
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.group_id = group.id
        self.register_outputs({"group_id": self.group_id})
