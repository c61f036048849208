"""The alarms that are sent by mail, and the one that stops an idle instance."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

PERIOD = 300
"""Seconds over which a metric is put together.

Metrics of GPU and disks are called as CloudWatch's agent calls them, by plugin and measurement:
`nvidia_smi_utilization_gpu`
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Agent-NVIDIA-GPU.html)
and in the same way `disk_used_percent`, which was not read on a page."""


@dataclass(frozen=True, kw_only=True)
class AlarmsArgs:
    """`email` may be empty; `budget` is in US dollars a month, 0 for none; `idle_minutes` 0 for never."""

    instance_id: pulumi.Input[str]
    namespace: str
    region: str
    email: str
    budget: int
    idle_minutes: int
    labels: Mapping[str, str]
    """The stack's tags."""


class Alarms(pulumi.ComponentResource):
    """Topic, subscription, alarms, budget."""

    def __init__(self, name: str, args: AlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Alarms", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        topic = aws.sns.Topic(name, tags=args.labels, opts=child)
        if args.email:
            aws.sns.TopicSubscription(
                f"{name}-mail", topic=topic.arn, protocol="email", endpoint=args.email, opts=child
            )
        stops = args.idle_minutes > 0
        instance = {"InstanceId": args.instance_id}

        def alarm(
            what: str,
            metric: str,
            description: str,
            *,
            namespace: str = args.namespace,
            statistic: str = "Maximum",
            above: float | None = None,
            below: float | None = None,
            missing: str = "missing",
            minutes: int = 10,
            action: pulumi.Input[str] = topic.arn,
        ) -> None:
            aws.cloudwatch.MetricAlarm(
                f"{name}-{what}",
                alarm_description=description,
                namespace=namespace,
                metric_name=metric,
                dimensions=instance,
                statistic=statistic,
                period=PERIOD,
                evaluation_periods=max(1, minutes * 60 // PERIOD),
                comparison_operator="LessThanThreshold" if above is None else "GreaterThanThreshold",
                threshold=below if above is None else above,
                treat_missing_data=missing,
                alarm_actions=[action],
                tags=args.labels,
                opts=child,
            )

        alarm(
            "status",
            "StatusCheckFailed",
            "AWS finds the instance or its hardware broken.",
            namespace="AWS/EC2",
            above=0,
        )
        alarm(
            "endpoint",
            "EndpointUp",
            "The endpoint does not answer, or no engine is healthy.",
            below=1,
            # an instance that stops by itself when idle is silent and not down
            missing="notBreaching" if stops else "breaching",
        )
        alarm("disk", "disk_used_percent", "A volume of the host is nearly full.", above=85)
        alarm(
            "gpu-memory",
            "nvidia_smi_memory_used",
            "The GPU holds nothing: the engine is gone, or runs on the CPU.",
            below=100,
        )
        alarm(
            "gpu-busy",
            "nvidia_smi_utilization_gpu",
            "The GPU had no free moment for an hour: requests wait for one another.",
            statistic="Minimum",
            above=95,
            minutes=60,
        )
        if stops:
            alarm(
                "idle",
                "nvidia_smi_utilization_gpu",
                f"The GPU was idle for {args.idle_minutes} minutes: the instance is stopped.",
                below=1,
                minutes=args.idle_minutes,
                # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
                action=f"arn:aws:automate:{args.region}:ec2:stop",
            )
        if args.budget:
            aws.budgets.Budget(
                name,
                budget_type="COST",
                limit_amount=str(args.budget),
                limit_unit="USD",
                time_unit="MONTHLY",
                cost_filters=[
                    aws.budgets.BudgetCostFilterArgs(
                        name="TagKeyValue", values=[f"user:Stack${args.labels['Stack']}"]
                    )
                ],
                notifications=[
                    aws.budgets.BudgetNotificationArgs(
                        comparison_operator="GREATER_THAN",
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                        notification_type="ACTUAL",
                        subscriber_email_addresses=[args.email],
                    )
                    for percent in (80, 100)
                ],
                tags=args.labels,
                opts=child,
            )
        self.register_outputs({})
