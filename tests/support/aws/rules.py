"""What the published plugin and AWS take for each property that the program sets: each row with its source.

A row names where its limits were read: a file of the provider that the published plugin is made from (below
internal/service/ of https://github.com/hashicorp/terraform-provider-aws, at the commit in `READ`), a page
(`PAGES`), or AWS's own model of its API (`API`, with structure and member), which botocore carries and which
is read when a row is checked. The provider's files are those of several years, since no one commit of it
could be had whole; a file that is not in `READ` was not read.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session  # type: ignore[import-untyped]
from pulumi.runtime.rpc import UNKNOWN

from tests.support.aws.schema import Json

READ = {
    "budgets/budget.go": "01d5888a070712729f1d55bb0918d299a3d2a140",
    "cloudwatch/metric_alarm.go": "055611a654738da73e7b1e2b5d2b7672c6d4d531",
    "dlm/lifecycle_policy.go": "cc0fff0ee90634c6bb137ec44732684543b68dbe",
    "ec2/ebs_volume.go": "20cb798bd9bebb4d2973fe5237215c070c545a49",
    "ec2/ebs_volume_attachment.go": "0620f2a6a126dfcbc4aecbc9a117b0fbea1656ff",
    "ec2/ec2_eip.go": "01606926a0c0ab9174aec440f976a48b0baee722",
    "ec2/ec2_eip_association.go": "01c08000ddb14181b5bd19201d8fca311dc570e4",
    "ec2/ec2_instance.go": "c129a9390ed86d24c2fa11212b0edb72285707b4",
    "ec2/ec2_key_pair.go": "05bc9541efe73ea58b95ad961676ed4aba3fb03f",
    "ec2/vpc_.go": "00081ce41cc691433ac19bf42227cdabffd0454d",
    "ec2/vpc_internet_gateway.go": "08923b68b5ad6fcfdd38362fb5247e39a9b07add",
    "ec2/vpc_route_table.go": "022092419b7cda11527df3c6b51cbfe1876c1722",
    "ec2/vpc_route_table_association.go": "0be71beb458ad8875e0acc5c91519c0ceeb214aa",
    "ec2/vpc_security_group.go": "01606926a0c0ab9174aec440f976a48b0baee722",
    "ec2/vpc_subnet.go": "00cda125a19d31754cb0d073cf551264c57955cb",
    "iam/instance_profile.go": "013f1736b90439e5a19567a87d3e5cd11858c420",
    "iam/role.go": "0040ea6911af00bea2cca6dbb14e86829826ad8e",
    "iam/role_policy.go": "02f97af85f89a04e8ed89f5e8b64a9a67f3cfe07",
    "iam/role_policy_attachment.go": "04c79849dbe7fbe76c3054b364357bcdaade9ac5",
    "iam/validate.go": "044fb3171c305dd92f19e116512acb37a28a9f85",
    "logs/group.go": "0073593e7d6993ba482409f4dc35438daaa79bb3",
    "logs/validate.go": "1c6c26318f8e02be2709c3d8e85ab63d25fc6c2f",
    "route53/record.go": "00655c1681ea1e49ab10cd32d3f8bee372b2095b",
    "sns/topic.go": "00a35305dc1b297a6fcdecdfbba33f1e63c3da39",
    "sns/topic_subscription.go": "04a2e6e5bc625ec85ea8c678219b483fc674877e",
    "ssm/parameter.go": "0073593e7d6993ba482409f4dc35438daaa79bb3",
}
"""The provider's files that were read, and their commit; that of the instance in the fork
isometry/terraform-provider-aws, which is the oldest one found that has `instance_market_options`."""

PAGES = {
    "iam-quotas": "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html",
    "spot-protection": "https://github.com/hashicorp/terraform-provider-aws/pull/41206",
    "ids": "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html",
    "alarm-period": "https://sdk.amazonaws.com/kotlin/api/latest/cloudwatch/"
    "aws.sdk.kotlin.services.cloudwatch.model/-put-metric-alarm-request/-builder/period.html",
}
"""What else was read.

The first says that a role's inline policies have 10,240 characters at most, without white space, and its
trust policy 2,048. The second quotes how AWS refuses protection for a spot instance, the third says that ids
of EC2 are a prefix with 8 or 17 characters (as the crate aws-resource-id quotes it), the fourth how long an
alarm may look back.
"""

API = "AWS's model of its API in botocore"
SDK = "the provider's own, as its SDK pulumi_aws says: no part of AWS's API"

MAPS = frozenset({"tags", "targetTags", "dimensions"})
"""Properties whose keys are the program's own."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a value has to be. `api` names operation or structure and member: `dlm:PolicyDescription`.

    `size` is of a text in characters, of a number its value. `also` returns a reason, or nothing.
    """

    source: str
    api: str = ""
    pattern: str = ""
    size: tuple[float, float] | None = None
    allowed: tuple[Any, ...] = ()
    also: Callable[[Any], str] | None = None

    def reasons(self, value: Any) -> Iterator[str]:
        """What is wrong with this value."""
        if self.pattern and not re.fullmatch(self.pattern, str(value)):
            yield f"does not match {self.pattern} ({self.source})"
        if self.size and not self.size[0] <= _measure(value) <= self.size[1]:
            yield f"is {_measure(value):g}, not from {self.size[0]:g} to {self.size[1]:g} ({self.source})"
        if self.allowed and value not in self.allowed:
            yield f"is none of {', '.join(map(str, self.allowed))} ({self.source})"
        if self.also and (reason := self.also(value)):
            yield f"{reason} ({self.source})"
        if self.api:
            yield from (f"{reason} ({API}, {self.api})" for reason in _by_shape(self.api, value))


def _measure(value: Any) -> float:
    return float(len(value)) if isinstance(value, str | list | dict) else float(value)


@cache
def shape(name: str) -> Mapping[str, Any]:
    """A shape of AWS's model: `iam:roleNameType`. Raises KeyError where there is none."""
    service, _, which = name.partition(":")
    found: Mapping[str, Any] = _shapes(service)[which]
    return found


@cache
def _shapes(service: str) -> Mapping[str, Any]:
    """Megabytes of JSON, to be read once."""
    loader = botocore.session.get_session().get_component("data_loader")
    shapes: Mapping[str, Any] = loader.load_service_model(service, "service-2")["shapes"]
    return shapes


def python_pattern(pattern: str) -> str:
    """AWS's patterns are Java's; Python has no classes of Unicode and no flags in the middle."""
    for theirs, ours in ((r"\p{all}", r"\s\S"), (r"\p{L}\p{Z}\p{N}", r"\w "), ("(?i)", "")):
        pattern = pattern.replace(theirs, ours)
    return pattern


def _by_shape(name: str, value: Any) -> Iterator[str]:
    found = shape(name)
    if "enum" in found and value not in found["enum"]:
        yield f"is none of {', '.join(found['enum'])}"
    if "pattern" in found and not re.fullmatch(python_pattern(found["pattern"]), str(value)):
        yield f"does not match {found['pattern']}"
    measured = _measure(value)
    if measured < found.get("min", measured):
        yield f"is {measured:g}, less than {found['min']}"
    if measured > found.get("max", measured):
        yield f"is {measured:g}, more than {found['max']}"


# --- what rows have in common


def _network(value: Any) -> str:
    try:
        ipaddress.IPv4Network(value)
    except ValueError as error:
        return f"is no IPv4 network: {error}"
    return ""


def _block(value: Any) -> str:
    """Of a VPC or a subnet."""
    if reason := _network(value):
        return reason
    prefix = ipaddress.IPv4Network(value).prefixlen
    return "" if 16 <= prefix <= 28 else f"has a prefix of {prefix}, not from 16 to 28"


def _document(most: int) -> Callable[[Any], str]:
    """A policy of at most so many characters: IAM doesn't count white space."""

    def check(value: Any) -> str:
        try:
            size = len(json.dumps(json.loads(value), separators=(",", ":")))
        except ValueError as error:
            return f"is no JSON: {error}"
        return "" if size <= most else f"has {size} characters, and at most {most} are taken"

    return check


def _tags(most: int, key: str, value: str) -> Callable[[Any], str]:
    """At most so many tags whose keys and values follow these shapes."""

    def check(given: Any) -> str:
        if len(given) > most:
            return f"has {len(given)} tags, and at most {most} are taken"
        for name, text in given.items():
            if name.lower().startswith("aws:"):
                return f"has the key {name}, which is AWS's own"
            if bad := [*_by_shape(key, name), *_by_shape(value, text)]:
                return f"has the tag {name}={text}, which {bad[0]}"
        return ""

    return check


def model(member: str, **limits: Any) -> Rule:
    """A row whose limits are what AWS's model says in words of a member of a structure, or none."""
    return Rule(source=f"{API}, {member}", **limits)


def yes_or_no(member: str) -> Rule:
    """A row for what is true or false in AWS's model."""
    return model(member, allowed=(True, False))


def own(file: str = "") -> Rule:
    """A row for what only the provider knows, and AWS doesn't; true or false."""
    return Rule(source=file or SDK, allowed=(True, False))


def an_id(prefix: str) -> Rule:
    """A row for an id that EC2 gives out."""
    return Rule(source=PAGES["ids"], pattern=rf"{prefix}-([0-9a-f]{{8}}|[0-9a-f]{{17}})")


TAGS = model("iam:tagKeyType", also=_tags(50, "iam:tagKeyType", "iam:tagValueType"))
"""Of every service that takes tags but DLM: IAM's shapes are the strictest of them, EC2's has none."""
ARN_FORM = r"arn:[a-z-]+:[a-z0-9-]+:[a-z0-9-]*:[a-z0-9]*:.+"
DESCRIBED = r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]*"
ZONE = model("ec2:CreateSubnetRequest.AvailabilityZone", pattern=r"[a-z]{2}-[a-z]+-\d[a-z]")
PORT = model("ec2:IpPermission.FromPort", size=(-1, 65535))
ROLE_NAME = Rule(source="iam/validate.go", pattern=r"[\w+=,.@-]*", size=(1, 64), api="iam:roleNameType")


def provider(file: str, **limits: Any) -> Rule:
    """A row whose limits are in a file of the provider that was read."""
    assert file in READ, file
    return Rule(source=file, **limits)


RULES: dict[str, dict[str, Rule]] = {
    "aws:budgets/budget:Budget": {
        "name": provider("budgets/budget.go", api="budgets:BudgetName"),
        "budgetType": provider("budgets/budget.go", api="budgets:BudgetType"),
        "costFilters.name": Rule(source=API, api="budgets:GenericString"),
        "costFilters.values": Rule(source=API, api="budgets:GenericString"),
        "limitAmount": Rule(source=API, api="budgets:NumericValue"),
        "limitUnit": Rule(source=API, api="budgets:UnitValue"),
        "notifications.comparisonOperator": provider("budgets/budget.go", api="budgets:ComparisonOperator"),
        "notifications.notificationType": provider("budgets/budget.go", api="budgets:NotificationType"),
        "notifications.subscriberEmailAddresses": model("budgets:Subscriber.Address", size=(1, 50)),
        "notifications.threshold": Rule(source=API, api="budgets:NotificationThreshold"),
        "notifications.thresholdType": provider("budgets/budget.go", api="budgets:ThresholdType"),
        "tags": TAGS,
        "timeUnit": provider("budgets/budget.go", api="budgets:TimeUnit"),
    },
    "aws:cloudwatch/logGroup:LogGroup": {
        "name": provider(
            "logs/validate.go", pattern=r"[0-9A-Za-z_./#-]+", size=(1, 512), api="logs:LogGroupName"
        ),
        "retentionInDays": provider(
            "logs/group.go",
            allowed=(
                0,
                1,
                3,
                5,
                7,
                14,
                30,
                60,
                90,
                120,
                150,
                180,
                365,
                400,
                545,
                731,
                1096,
                1827,
                2192,
                2557,
                2922,
                3288,
                3653,
            ),
        ),
        "tags": TAGS,
    },
    "aws:cloudwatch/metricAlarm:MetricAlarm": {
        "name": provider("cloudwatch/metric_alarm.go", size=(1, 255), api="cloudwatch:AlarmName"),
        "alarmActions": provider(
            "cloudwatch/metric_alarm.go", pattern=rf"{ARN_FORM}|arn:[\w-]+:automate:[\w-]+:ec2:[a-z]+"
        ),
        "alarmDescription": provider(
            "cloudwatch/metric_alarm.go", size=(0, 1024), api="cloudwatch:AlarmDescription"
        ),
        "comparisonOperator": provider("cloudwatch/metric_alarm.go", api="cloudwatch:ComparisonOperator"),
        "dimensions": model(
            "cloudwatch:Dimension.Name",
            also=_tags(30, "cloudwatch:DimensionName", "cloudwatch:DimensionValue"),
        ),
        "evaluationPeriods": provider(
            "cloudwatch/metric_alarm.go", size=(1, float("inf")), api="cloudwatch:EvaluationPeriods"
        ),
        "metricName": provider("cloudwatch/metric_alarm.go", size=(1, 255), api="cloudwatch:MetricName"),
        "namespace": provider(
            "cloudwatch/metric_alarm.go", pattern=r"[^:].*", size=(1, 255), api="cloudwatch:Namespace"
        ),
        "period": provider(
            "cloudwatch/metric_alarm.go",
            also=lambda value: (
                "" if value in (10, 20, 30) or value % 60 == 0 else "is not 10, 20, 30 or a multiple of 60"
            ),
        ),
        "statistic": provider("cloudwatch/metric_alarm.go", api="cloudwatch:Statistic"),
        "tags": TAGS,
        "threshold": provider("cloudwatch/metric_alarm.go"),
        "treatMissingData": provider(
            "cloudwatch/metric_alarm.go",
            allowed=("breaching", "notBreaching", "ignore", "missing"),
            api="cloudwatch:TreatMissingData",
        ),
    },
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": {
        "description": provider(
            "dlm/lifecycle_policy.go", pattern=r"[0-9A-Za-z _-]+", size=(1, 500), api="dlm:PolicyDescription"
        ),
        "executionRoleArn": provider("dlm/lifecycle_policy.go", api="dlm:ExecutionRoleArn"),
        "policyDetails.resourceTypes": provider("dlm/lifecycle_policy.go", api="dlm:ResourceTypeValues"),
        "policyDetails.schedules.copyTags": provider("dlm/lifecycle_policy.go", allowed=(True, False)),
        "policyDetails.schedules.createRule.interval": provider(
            "dlm/lifecycle_policy.go", allowed=(1, 2, 3, 4, 6, 8, 12, 24), api="dlm:Interval"
        ),
        "policyDetails.schedules.createRule.intervalUnit": provider(
            "dlm/lifecycle_policy.go", api="dlm:IntervalUnitValues"
        ),
        "policyDetails.schedules.createRule.times": provider(
            "dlm/lifecycle_policy.go", pattern=r"(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]", api="dlm:Time"
        ),
        "policyDetails.schedules.name": provider(
            "dlm/lifecycle_policy.go", size=(0, 120), api="dlm:ScheduleName"
        ),
        "policyDetails.schedules.retainRule.count": provider(
            "dlm/lifecycle_policy.go", size=(1, 1000), api="dlm:Count"
        ),
        "policyDetails.targetTags": model("dlm:TagKey", also=_tags(50, "dlm:TagKey", "dlm:TagValue")),
        "state": provider("dlm/lifecycle_policy.go", api="dlm:SettablePolicyStateValues"),
        "tags": model("dlm:TagKey", also=_tags(50, "dlm:TagKey", "dlm:TagValue")),
    },
    "aws:ebs/volume:Volume": {
        "availabilityZone": ZONE,
        "encrypted": yes_or_no("ec2:CreateVolumeRequest.Encrypted"),
        "size": model("ec2:CreateVolumeRequest.Size", size=(1, 65536)),
        "snapshotId": an_id("snap"),
        "tags": TAGS,
        "type": Rule(source=API, api="ec2:VolumeType"),
    },
    "aws:ec2/eip:Eip": {"domain": Rule(source=API, api="ec2:DomainType"), "tags": TAGS},
    "aws:ec2/eipAssociation:EipAssociation": {
        "allocationId": an_id("eipalloc"),
        "allowReassociation": yes_or_no("ec2:AssociateAddressRequest.AllowReassociation"),
        "instanceId": an_id("i"),
    },
    "aws:ec2/instance:Instance": {
        "ami": an_id("ami"),
        "associatePublicIpAddress": yes_or_no(
            "ec2:InstanceNetworkInterfaceSpecification.AssociatePublicIpAddress"
        ),
        "disableApiTermination": yes_or_no("ec2:RunInstancesRequest.DisableApiTermination"),
        "forceDestroy": own(),
        "iamInstanceProfile": Rule(source=API, api="iam:instanceProfileNameType"),
        "instanceMarketOptions.marketType": provider("ec2/ec2_instance.go", api="ec2:MarketType"),
        "instanceMarketOptions.spotOptions.instanceInterruptionBehavior": provider(
            "ec2/ec2_instance.go", api="ec2:InstanceInterruptionBehavior"
        ),
        "instanceMarketOptions.spotOptions.spotInstanceType": provider(
            "ec2/ec2_instance.go", api="ec2:SpotInstanceType"
        ),
        "instanceType": Rule(source=API, api="ec2:InstanceType"),
        "keyName": provider("ec2/ec2_key_pair.go", size=(0, 255)),
        "metadataOptions.httpPutResponseHopLimit": provider("ec2/ec2_instance.go", size=(1, 64)),
        "metadataOptions.httpTokens": provider("ec2/ec2_instance.go", api="ec2:HttpTokensState"),
        "rootBlockDevice.encrypted": yes_or_no("ec2:EbsBlockDevice.Encrypted"),
        "rootBlockDevice.tags": TAGS,
        "rootBlockDevice.volumeSize": model("ec2:EbsBlockDevice.VolumeSize", size=(1, 65536)),
        "rootBlockDevice.volumeType": provider("ec2/ec2_instance.go", api="ec2:VolumeType"),
        "subnetId": an_id("subnet"),
        "tags": TAGS,
        "userData": provider("ec2/ec2_instance.go", size=(0, 16384)),
        "userDataReplaceOnChange": own("ec2/ec2_instance.go"),
        "vpcSecurityGroupIds": an_id("sg"),
    },
    "aws:ec2/internetGateway:InternetGateway": {"tags": TAGS, "vpcId": an_id("vpc")},
    "aws:ec2/keyPair:KeyPair": {
        "keyName": provider("ec2/ec2_key_pair.go", size=(0, 255)),
        "publicKey": model(
            "ec2:ImportKeyPairRequest.PublicKeyMaterial",
            pattern=r"(ssh-ed25519|ssh-rsa) [A-Za-z0-9+/=]+( .*)?",
        ),
        "tags": TAGS,
    },
    "aws:ec2/routeTable:RouteTable": {
        "routes.cidrBlock": model("ec2:CreateRouteRequest.DestinationCidrBlock", also=_network),
        "routes.gatewayId": an_id("igw"),
        "tags": TAGS,
        "vpcId": an_id("vpc"),
    },
    "aws:ec2/routeTableAssociation:RouteTableAssociation": {
        "routeTableId": an_id("rtb"),
        "subnetId": an_id("subnet"),
    },
    "aws:ec2/securityGroup:SecurityGroup": {
        "name": model(
            "ec2:CreateSecurityGroupRequest.GroupName", pattern=rf"(?!sg-){DESCRIBED}", size=(1, 255)
        ),
        "description": model("ec2:CreateSecurityGroupRequest.Description", pattern=DESCRIBED, size=(1, 255)),
        **{
            f"{way}.{name}": rule
            for way in ("ingress", "egress")
            for name, rule in {
                "cidrBlocks": model("ec2:IpRange.CidrIp", also=_network),
                "fromPort": PORT,
                "toPort": PORT,
                "protocol": model("ec2:IpPermission.IpProtocol", allowed=("tcp", "udp", "icmp", "-1")),
            }.items()
        },
        "tags": TAGS,
        "vpcId": an_id("vpc"),
    },
    "aws:ec2/subnet:Subnet": {
        "availabilityZone": ZONE,
        "cidrBlock": model("ec2:CreateSubnetRequest.CidrBlock", also=_block),
        "tags": TAGS,
        "vpcId": an_id("vpc"),
    },
    "aws:ec2/volumeAttachment:VolumeAttachment": {
        "deviceName": model("ec2:AttachVolumeRequest.Device", pattern=r"/dev/sd[f-p]|xvd[f-p]"),
        "instanceId": an_id("i"),
        "skipDestroy": own("ec2/ebs_volume_attachment.go"),
        "volumeId": an_id("vol"),
    },
    "aws:ec2/vpc:Vpc": {
        "cidrBlock": model("ec2:CreateVpcRequest.CidrBlock", also=_block),
        "enableDnsHostnames": yes_or_no("ec2:ModifyVpcAttributeRequest.EnableDnsHostnames"),
        "enableDnsSupport": yes_or_no("ec2:ModifyVpcAttributeRequest.EnableDnsSupport"),
        "tags": TAGS,
    },
    "aws:iam/instanceProfile:InstanceProfile": {
        "name": Rule(source=API, api="iam:instanceProfileNameType"),
        "role": ROLE_NAME,
        "tags": TAGS,
    },
    "aws:iam/role:Role": {
        "name": ROLE_NAME,
        "assumeRolePolicy": Rule(
            source=PAGES["iam-quotas"], also=_document(2048), api="iam:policyDocumentType"
        ),
        "description": provider(
            "iam/role.go", pattern=r"[^“‘]*", size=(0, 1000), api="iam:roleDescriptionType"
        ),
        "tags": TAGS,
    },
    "aws:iam/rolePolicy:RolePolicy": {
        "name": Rule(source=API, api="iam:policyNameType"),
        "policy": Rule(source=PAGES["iam-quotas"], also=_document(10240), api="iam:policyDocumentType"),
        "role": Rule(
            source="iam/validate.go",
            also=lambda value: "is an ARN, not a role's name" if str(value).startswith("arn:") else "",
            api="iam:roleNameType",
        ),
    },
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": {
        "policyArn": Rule(source=API, pattern=ARN_FORM, api="iam:arnType"),
        "role": ROLE_NAME,
    },
    "aws:route53/record:Record": {
        "name": Rule(source=API, api="route53:DNSName"),
        "records": Rule(source=API, api="route53:RData"),
        "ttl": Rule(source=API, api="route53:TTL"),
        "type": Rule(source=API, api="route53:RRType"),
        "zoneId": Rule(source=API, api="route53:ResourceId"),
    },
    "aws:sns/topic:Topic": {
        "name": model("sns:CreateTopicInput.Name", pattern=r"[A-Za-z0-9_-]+", size=(1, 256)),
        "tags": TAGS,
    },
    "aws:sns/topicSubscription:TopicSubscription": {
        "endpoint": model("sns:SubscribeInput.Endpoint"),
        "protocol": provider(
            "sns/topic_subscription.go",
            allowed=(
                "application",
                "email",
                "email-json",
                "firehose",
                "http",
                "https",
                "lambda",
                "sms",
                "sqs",
            ),
        ),
        "topic": provider("sns/topic_subscription.go", pattern=ARN_FORM),
    },
    "aws:ssm/parameter:Parameter": {
        "name": provider(
            "ssm/parameter.go",
            size=(1, 2048),
            api="ssm:PSParameterName",
            also=lambda value: (
                "may not begin with aws or ssm, has other signs than a-zA-Z0-9_.- and /, or over 15 levels"
                if re.match(r"/?(aws|ssm)", value, re.IGNORECASE)
                or not re.fullmatch(r"[A-Za-z0-9_./-]+", value)
                or value.count("/") > 15
                else ""
            ),
        ),
        "tags": TAGS,
        "type": provider("ssm/parameter.go", api="ssm:ParameterType"),
        "value": model(
            "ssm:PutParameterRequest.Value",
            size=(1, 4096),
            also=lambda value: "has {{ in it" if "{{" in value else "",
        ),
    },
}
"""By type and path; a path in a list is that of its elements."""


# --- what a change of a property does


@dataclass(frozen=True, kw_only=True)
class Treated:
    """How the published plugin treats a change of a property, by the schema in a file of the provider.

    `replaces`: it needs a new resource (`ForceNew`). `computed`: AWS fills it in, so that its removal is no
    change (`Optional` and `Computed`). `default`: what it is where nothing is given; None: there is none.
    """

    source: str
    replaces: bool = False
    computed: bool = False
    default: Any = None


def _treated(file: str, *, default: Mapping[str, Any] | None = None, **ways: str) -> dict[str, Treated]:
    """The rows of one file: paths by `new` (replaces), `new_kept` (and computed), `kept`, and `place`."""
    assert file in READ, file
    defaults = dict(default or {})
    return {
        path: Treated(
            source=file,
            replaces=way.startswith("new"),
            computed=way.endswith("kept"),
            default=defaults.get(path),
        )
        for way, paths in ways.items()
        for path in paths.split()
    }


CHANGES: dict[str, dict[str, Treated]] = {
    "aws:budgets/budget:Budget": _treated(
        "budgets/budget.go",
        new_kept="name",
        kept="costFilters limitAmount limitUnit",
        place="budgetType notifications timeUnit tags",
    ),
    "aws:cloudwatch/logGroup:LogGroup": _treated(
        "logs/group.go", new_kept="name", place="retentionInDays tags", default={"retentionInDays": 0}
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": _treated(
        "cloudwatch/metric_alarm.go",
        new="name",
        place="alarmActions alarmDescription comparisonOperator dimensions evaluationPeriods metricName "
        "namespace period statistic tags threshold treatMissingData",
        default={"treatMissingData": "missing"},
    ),
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": _treated(
        "dlm/lifecycle_policy.go",
        new_kept="policyDetails.schedules.copyTags",
        kept="policyDetails.schedules.createRule.intervalUnit policyDetails.schedules.createRule.times",
        place="description executionRoleArn policyDetails state tags",
        default={"state": "ENABLED"},
    ),
    "aws:ebs/volume:Volume": _treated(
        "ec2/ebs_volume.go",
        new="availabilityZone",
        new_kept="encrypted snapshotId",
        kept="size type",
        place="tags",
    ),
    "aws:ec2/eip:Eip": _treated("ec2/ec2_eip.go", new_kept="domain", place="tags"),
    "aws:ec2/eipAssociation:EipAssociation": _treated(
        "ec2/ec2_eip_association.go", new="allowReassociation", new_kept="allocationId instanceId"
    ),
    "aws:ec2/instance:Instance": _treated(
        "ec2/ec2_instance.go",
        new_kept="ami associatePublicIpAddress instanceMarketOptions keyName rootBlockDevice.encrypted "
        "subnetId",
        kept="disableApiTermination iamInstanceProfile instanceType metadataOptions rootBlockDevice userData "
        "vpcSecurityGroupIds",
        place="rootBlockDevice.tags tags userDataReplaceOnChange",
        default={"userDataReplaceOnChange": False},
    )
    | {"forceDestroy": Treated(source=SDK, default=False)},
    "aws:ec2/internetGateway:InternetGateway": _treated(
        "ec2/vpc_internet_gateway.go", kept="vpcId", place="tags"
    ),
    "aws:ec2/keyPair:KeyPair": _treated(
        "ec2/ec2_key_pair.go", new="publicKey", new_kept="keyName", place="tags"
    ),
    "aws:ec2/routeTable:RouteTable": _treated(
        "ec2/vpc_route_table.go", new="vpcId", kept="routes", place="tags"
    ),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _treated(
        "ec2/vpc_route_table_association.go", new="subnetId", place="routeTableId"
    ),
    "aws:ec2/securityGroup:SecurityGroup": _treated(
        "ec2/vpc_security_group.go",
        new="description",
        new_kept="name vpcId",
        kept="ingress egress",
        place="tags",
        default={"description": "Managed by Terraform"},
    ),
    "aws:ec2/subnet:Subnet": _treated(
        "ec2/vpc_subnet.go", new="vpcId", new_kept="availabilityZone cidrBlock", place="tags"
    ),
    "aws:ec2/volumeAttachment:VolumeAttachment": _treated(
        "ec2/ebs_volume_attachment.go", new="deviceName instanceId volumeId", place="skipDestroy"
    ),
    "aws:ec2/vpc:Vpc": _treated(
        "ec2/vpc_.go",
        new_kept="cidrBlock",
        kept="enableDnsHostnames",
        place="enableDnsSupport tags",
        default={"enableDnsSupport": True},
    ),
    "aws:iam/instanceProfile:InstanceProfile": _treated(
        "iam/instance_profile.go", new_kept="name", place="role tags"
    ),
    "aws:iam/role:Role": _treated("iam/role.go", new_kept="name", place="assumeRolePolicy description tags"),
    "aws:iam/rolePolicy:RolePolicy": _treated(
        "iam/role_policy.go", new="role", new_kept="name", place="policy"
    ),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": _treated(
        "iam/role_policy_attachment.go", new="policyArn role"
    ),
    "aws:route53/record:Record": _treated("route53/record.go", new="name zoneId", place="records ttl type"),
    "aws:sns/topic:Topic": _treated("sns/topic.go", new_kept="name", place="tags"),
    "aws:sns/topicSubscription:TopicSubscription": _treated(
        "sns/topic_subscription.go", new="endpoint protocol topic"
    ),
    "aws:ssm/parameter:Parameter": _treated("ssm/parameter.go", new="name", kept="value", place="tags type"),
}
"""By type and path. A path in a list is that of its elements; one that has no row of its own is treated as
the longest that it begins with. Tags are a map of their own in every file, which never replaces
(`TagsSchema`); of a budget they are newer than its file."""


def _plain(path: str) -> str:
    """Without the places in lists: `ingress[0].toPort` is `ingress.toPort`."""
    return re.sub(r"\[[^\]]*\]", "", path)


def treated(token: str, path: str) -> Treated | None:
    """The row of the longest path that this one is or begins with; None where there is none."""
    parts, rows = _plain(path).split("."), CHANGES.get(token, {})
    heads = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((rows[head] for head in heads if head in rows), None)


def replaces(token: str, path: str, new: Json) -> bool:
    """Whether a change at this path needs a new resource: of a whole block, whether one of any part does."""
    rows, plain = CHANGES.get(token, {}), _plain(path)
    if token == "aws:ec2/instance:Instance" and plain == "userData" and new.get("userDataReplaceOnChange"):
        return True  # `ForceNewIf` in ec2/ec2_instance.go
    row = treated(token, path)
    below = any(each.replaces for name, each in rows.items() if name.startswith(f"{plain}."))
    return row is None or row.replaces or below


def no_change(token: str, path: str, before: Any, after: Any) -> bool:
    """Whether the published plugin sees none: AWS fills it in, or it is what is given where nothing is."""
    row = CHANGES.get(token, {}).get(_plain(path))
    if row is None or path.endswith("]"):
        return False  # one more or less in a list is a change of the list
    if after is None and row.computed:
        return True
    given = [value for value in (before, after) if value is not None]
    return row.default is not None and len(given) == 1 and given[0] == row.default


# --- what properties need of one another


def _instance(given: Json) -> Iterator[tuple[str, str]]:
    if "userData" in given and "userDataBase64" in given:
        yield "userData", "conflicts with userDataBase64 (ec2/ec2_instance.go)"
    if "launchTemplate" not in given:
        for name in {"ami", "instanceType"} - given.keys():
            yield name, "is needed without launchTemplate (ec2/ec2_instance.go)"
    if "volumeTags" in given and "tags" in given.get("rootBlockDevice", {}):
        yield "rootBlockDevice.tags", "conflicts with volumeTags (ec2/ec2_instance.go)"
    if "networkInterfaces" in given:
        for name in {"associatePublicIpAddress", "subnetId", "vpcSecurityGroupIds"} & given.keys():
            yield name, "conflicts with networkInterfaces (ec2/ec2_instance.go)"
    spot = given.get("instanceMarketOptions", {})
    if spot.get("marketType") == "spot" and given.get("disableApiTermination"):
        yield "disableApiTermination", f"is not supported for spot instances ({PAGES['spot-protection']})"
    options = spot.get("spotOptions", {})
    kept = options.get("instanceInterruptionBehavior") in ("stop", "hibernate")
    if (options.get("spotInstanceType") == "persistent") != kept:
        yield (
            "instanceMarketOptions.spotOptions",
            f"persistent requests, and they only, are interrupted by stop or hibernate ({API})",
        )


def _volume(given: Json) -> Iterator[tuple[str, str]]:
    if not {"size", "snapshotId"} & given.keys():
        yield "size", "or snapshotId is needed (ec2/ebs_volume.go)"
    kind = given.get("type")
    if given.get("throughput") and kind != "gp3":
        yield "throughput", f"must not be set when type is {kind} (ec2/ebs_volume.go)"
    if given.get("iops") and kind not in ("io1", "io2", "gp3"):
        yield "iops", f"must not be set when type is {kind} (ec2/ebs_volume.go)"


def _alarm(given: Json) -> Iterator[tuple[str, str]]:
    if "metricName" in given and ("statistic" in given) == ("extendedStatistic" in given):
        yield "statistic", "or extendedStatistic must be set (cloudwatch/metric_alarm.go)"
    if "threshold" in given and "thresholdMetricId" in given:
        yield "threshold", "conflicts with thresholdMetricId (cloudwatch/metric_alarm.go)"
    seconds = given.get("period", 0) * given.get("evaluationPeriods", 1)
    if seconds > (86400 if given.get("period", 0) < 3600 else 604800):
        yield "evaluationPeriods", f"times period is {seconds:g} seconds, too many ({PAGES['alarm-period']})"
    if len(given.get("alarmActions", [])) > 5:
        yield "alarmActions", f"are more than 5 ({API})"


def _parameter(given: Json) -> Iterator[tuple[str, str]]:
    if len({"value", "insecureValue", "valueWo"} & given.keys()) != 1:
        yield "value", "or one of insecureValue and valueWo must be set (ssm/parameter.go)"
    if given.get("type") == "SecureString" and "insecureValue" in given:
        yield "insecureValue", "not with type SecureString (ssm/parameter.go)"


def _lifecycle(given: Json) -> Iterator[tuple[str, str]]:
    details = given.get("policyDetails", {})
    schedules = details.get("schedules", [])
    if not 1 <= len(schedules) <= 4:
        yield "policyDetails.schedules", "are 1 to 4 (dlm/lifecycle_policy.go)"
    if len(details.get("resourceTypes", [])) > 1:
        yield "policyDetails.resourceTypes", "is one (dlm/lifecycle_policy.go)"


def _budget(given: Json) -> Iterator[tuple[str, str]]:
    if "plannedLimits" in given and {"limitAmount", "limitUnit"} & given.keys():
        yield "plannedLimits", "conflicts with limitAmount and limitUnit (budgets/budget.go)"
    notices = given.get("notifications", [])
    if len(notices) > 5:
        yield "notifications", f"are more than 5 ({API})"
    if any(len(each.get("subscriberEmailAddresses", [])) > 10 for each in notices):
        yield "notifications.subscriberEmailAddresses", f"are more than 10 ({API})"


TOGETHER: dict[str, Callable[[Json], Iterator[tuple[str, str]]]] = {
    "aws:ec2/instance:Instance": _instance,
    "aws:ebs/volume:Volume": _volume,
    "aws:cloudwatch/metricAlarm:MetricAlarm": _alarm,
    "aws:ssm/parameter:Parameter": _parameter,
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": _lifecycle,
    "aws:budgets/budget:Budget": _budget,
}


# --- what checks inputs


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of these inputs with its path; one of `MAPS` is one value."""
    if isinstance(value, dict) and path.rpartition(".")[2] not in MAPS:
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path, value


def without_row(token: str, given: Json) -> list[str]:
    """The paths among these inputs that have no row."""
    return sorted({path for path, _ in leaves(given)} - RULES.get(token, {}).keys())


def problems(token: str, given: Json) -> list[tuple[str, str]]:
    """What the published plugin or AWS would refuse of these inputs: pairs of the property and the reason.

    What is not known yet is not judged.
    """
    rows = RULES.get(token, {})
    found = [
        (path, reason)
        for path, value in leaves(given)
        if path in rows and value is not None and UNKNOWN not in str(value)
        for reason in rows[path].reasons(value)
    ]
    return found + (list(TOGETHER[token](given)) if token in TOGETHER else [])
