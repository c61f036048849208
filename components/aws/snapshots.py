"""Daily snapshots of the data volume, kept by Amazon's Data Lifecycle Manager."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.aws.role import trust

POLICY = "arn:aws:iam::aws:policy/service-role/AWSDataLifecycleManagerServiceRole"


@dataclass(frozen=True, kw_only=True)
class SnapshotsArgs:
    """Volumes that carry `target_tags` are snapshotted; `keep` is how many are kept."""

    target_tags: Mapping[str, str]
    keep: int
    tags: Mapping[str, str]


class Snapshots(pulumi.ComponentResource):
    """Role and lifecycle policy."""

    def __init__(self, name: str, args: SnapshotsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Snapshots", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            name,
            description="Changeover: snapshots of the data volume",
            assume_role_policy=trust("dlm.amazonaws.com"),
            tags=args.tags,
            opts=child,
        )
        allowed = aws.iam.RolePolicyAttachment(
            f"{name}-policy", role=role.name, policy_arn=POLICY, opts=child
        )
        schedule = aws.dlm.LifecyclePolicyPolicyDetailsScheduleArgs(
            name="daily",
            create_rule=aws.dlm.LifecyclePolicyPolicyDetailsScheduleCreateRuleArgs(
                interval=24, interval_unit="HOURS", times="03:00"
            ),
            retain_rule=aws.dlm.LifecyclePolicyPolicyDetailsScheduleRetainRuleArgs(count=args.keep),
            copy_tags=True,
        )
        aws.dlm.LifecyclePolicy(
            f"{name}-daily",
            description="Changeover snapshots the data volume daily",  # AWS takes no colon and no comma here
            execution_role_arn=role.arn,
            state="ENABLED",
            policy_details=aws.dlm.LifecyclePolicyPolicyDetailsArgs(
                resource_types=["VOLUME"], target_tags=args.target_tags, schedules=[schedule]
            ),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[allowed]),
        )
        self.register_outputs({})
