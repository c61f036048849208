"""What the host itself may do in AWS."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

SSM_CORE = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
"""Allows every parameter of the account (`ssm:GetParameter` and `ssm:GetParameters`, on `*`):
https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonSSMManagedInstanceCore.html."""
READS = ["ssm:GetParameter", "ssm:GetParameters", "ssm:GetParameterHistory", "ssm:GetParametersByPath"]


def trust(service: str) -> str:
    """A role's trust policy for one AWS service."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
        }
    )


def policy(*, parameter: str, namespace: str, log_groups: Sequence[str]) -> str:
    """The host's own policy: read its key, write its metrics and its logs.

    `parameter` and `log_groups` are ARNs. Metrics have no ARN; the condition binds them to `namespace`.
    """
    statements = [
        {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": parameter},
        # the managed policy for SSM allows every parameter of the account; a Deny wins over it
        {"Effect": "Deny", "Action": READS, "NotResource": parameter},
        {
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringEquals": {"cloudwatch:namespace": namespace}},
        },
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": [f"{group}:*" for group in log_groups],
        },
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@dataclass(frozen=True, kw_only=True)
class RoleArgs:
    """ARNs of the parameter with the host key and of the log groups, and the metrics' namespace."""

    parameter: pulumi.Input[str]
    log_groups: Sequence[pulumi.Input[str]]
    namespace: str
    tags: Mapping[str, str]


class Role(pulumi.ComponentResource):
    """Role and instance profile."""

    profile: pulumi.Output[str]
    ready: list[pulumi.Resource]

    def __init__(self, name: str, args: RoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Role", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            name,
            description="Changeover: the Docker host",
            assume_role_policy=trust("ec2.amazonaws.com"),
            tags=args.tags,
            opts=child,
        )
        ssm = aws.iam.RolePolicyAttachment(f"{name}-ssm", role=role.name, policy_arn=SSM_CORE, opts=child)
        namespace = args.namespace
        own = aws.iam.RolePolicy(
            f"{name}-own",
            role=role.id,
            policy=pulumi.Output.all(args.parameter, *args.log_groups).apply(
                lambda arns: policy(parameter=arns[0], log_groups=arns[1:], namespace=namespace)
            ),
            opts=child,
        )
        profile = aws.iam.InstanceProfile(name, role=role.name, tags=args.tags, opts=child)
        self.profile = profile.name
        self.ready = [ssm, own]
        self.register_outputs({"profile": self.profile})
