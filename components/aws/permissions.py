"""The least policies for whoever deploys on AWS, and for who only looks: what the provider calls. Pure.

AWS itself has not checked them. `make render` writes them to `rendered/deployer-policy.json` and
`rendered/review-policy.json`. Whether an action takes a resource is AWS's to say: a test compares with its
Service Authorization Reference.

Two things that the deployer's policy does not keep: who may deploy can do anything in the account, since
`iam:PutRolePolicy` and `iam:PassRole` give a role of the stack whatever rights and an instance to use them
on; and with `ec2:CreateTags` on everything they can give what is not the project's the tag by which
`TakeAwayOnlyOurs` knows what is. Both statements guard against mistakes and not against who has the role.
A permissions boundary would be the account's own to set (`iam:PermissionsBoundary`).
"""

import json
from fnmatch import fnmatchcase
from typing import Any

RESOURCES: dict[str, str] = {
    "aws:ec2/vpc:Vpc": "ec2:CreateVpc ec2:DeleteVpc ec2:ModifyVpcAttribute ec2:DescribeVpcs "
    "ec2:DescribeVpcAttribute ec2:DescribeNetworkAcls ec2:CreateTags ec2:DeleteTags",
    "aws:ec2/subnet:Subnet": "ec2:CreateSubnet ec2:DeleteSubnet ec2:ModifySubnetAttribute "
    "ec2:DescribeSubnets ec2:DescribeNetworkInterfaces",
    "aws:ec2/internetGateway:InternetGateway": "ec2:CreateInternetGateway ec2:AttachInternetGateway "
    "ec2:DetachInternetGateway ec2:DeleteInternetGateway ec2:DescribeInternetGateways",
    "aws:ec2/routeTable:RouteTable": "ec2:CreateRouteTable ec2:CreateRoute ec2:ReplaceRoute ec2:DeleteRoute "
    "ec2:DeleteRouteTable ec2:DescribeRouteTables",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "ec2:AssociateRouteTable "
    "ec2:DisassociateRouteTable ec2:ReplaceRouteTableAssociation",
    "aws:ec2/securityGroup:SecurityGroup": "ec2:CreateSecurityGroup ec2:DeleteSecurityGroup "
    "ec2:AuthorizeSecurityGroupEgress ec2:AuthorizeSecurityGroupIngress ec2:RevokeSecurityGroupEgress "
    "ec2:RevokeSecurityGroupIngress ec2:DescribeSecurityGroups",
    "aws:ec2/keyPair:KeyPair": "ec2:ImportKeyPair ec2:DeleteKeyPair ec2:DescribeKeyPairs",
    "aws:ebs/volume:Volume": "ec2:CreateVolume ec2:ModifyVolume ec2:DeleteVolume ec2:DescribeVolumes "
    "ec2:DescribeVolumesModifications",
    "aws:ec2/instance:Instance": "ec2:RunInstances ec2:StartInstances ec2:StopInstances "
    "ec2:TerminateInstances ec2:ModifyInstanceAttribute ec2:ModifyInstanceMetadataOptions "
    "ec2:ModifyNetworkInterfaceAttribute "
    "ec2:CancelSpotInstanceRequests ec2:AssociateIamInstanceProfile ec2:ReplaceIamInstanceProfileAssociation "
    "ec2:DisassociateIamInstanceProfile ec2:DescribeInstances ec2:DescribeInstanceAttribute "
    "ec2:DescribeInstanceTypes ec2:DescribeImages ec2:DescribeTags ec2:DescribeSpotInstanceRequests "
    "iam:PassRole",
    "aws:ec2/volumeAttachment:VolumeAttachment": "ec2:AttachVolume ec2:DetachVolume",
    "aws:ec2/eip:Eip": "ec2:AllocateAddress ec2:ReleaseAddress ec2:DescribeAddresses "
    "ec2:DescribeAddressesAttribute",
    "aws:ec2/eipAssociation:EipAssociation": "ec2:AssociateAddress ec2:DisassociateAddress",
    "aws:iam/role:Role": "iam:CreateRole iam:GetRole iam:UpdateRole iam:UpdateRoleDescription "
    "iam:UpdateAssumeRolePolicy iam:DeleteRole iam:TagRole iam:UntagRole iam:ListRolePolicies "
    "iam:ListAttachedRolePolicies iam:ListInstanceProfilesForRole",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "iam:AttachRolePolicy iam:DetachRolePolicy "
    "iam:ListAttachedRolePolicies",
    "aws:iam/rolePolicy:RolePolicy": "iam:PutRolePolicy iam:GetRolePolicy iam:DeleteRolePolicy",
    "aws:iam/instanceProfile:InstanceProfile": "iam:CreateInstanceProfile iam:GetInstanceProfile "
    "iam:AddRoleToInstanceProfile iam:RemoveRoleFromInstanceProfile iam:DeleteInstanceProfile "
    "iam:TagInstanceProfile iam:UntagInstanceProfile",
    "aws:ssm/parameter:Parameter": "ssm:PutParameter ssm:GetParameter ssm:GetParameters ssm:DeleteParameter "
    "ssm:AddTagsToResource ssm:RemoveTagsFromResource ssm:ListTagsForResource ssm:DescribeParameters",
    "aws:cloudwatch/logGroup:LogGroup": "logs:CreateLogGroup logs:DeleteLogGroup logs:PutRetentionPolicy "
    "logs:DeleteRetentionPolicy logs:TagResource logs:UntagResource logs:ListTagsForResource "
    "logs:ListTagsLogGroup logs:DescribeLogGroups",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "cloudwatch:PutMetricAlarm cloudwatch:DeleteAlarms "
    "cloudwatch:TagResource cloudwatch:UntagResource cloudwatch:ListTagsForResource "
    "cloudwatch:DescribeAlarms",
    "aws:sns/topic:Topic": "sns:CreateTopic sns:DeleteTopic sns:GetTopicAttributes sns:SetTopicAttributes "
    "sns:TagResource sns:UntagResource sns:ListTagsForResource",
    "aws:sns/topicSubscription:TopicSubscription": "sns:Subscribe sns:Unsubscribe "
    "sns:GetSubscriptionAttributes sns:SetSubscriptionAttributes sns:ListSubscriptionsByTopic",
    "aws:budgets/budget:Budget": "budgets:ModifyBudget budgets:ViewBudget budgets:TagResource "
    "budgets:UntagResource budgets:ListTagsForResource",
    "aws:route53/record:Record": "route53:ChangeResourceRecordSets route53:ListResourceRecordSets "
    "route53:GetHostedZone route53:GetChange",
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": "dlm:CreateLifecyclePolicy dlm:GetLifecyclePolicy "
    "dlm:UpdateLifecyclePolicy dlm:DeleteLifecyclePolicy dlm:TagResource dlm:UntagResource "
    "dlm:ListTagsForResource iam:PassRole",
}
"""What each resource's create, read, update and delete call, as IAM's actions: read in the provider's files
that `tests/support/aws/rules.py` names, as far as these were read and call AWS themselves. What their helpers
in other files call (finders, waiters, tags) is from knowledge of the provider; that the calls of a whole life
of `dev` and `prod` are covered is seen on the stand-in, whose plugin is not the provider."""

FUNCTIONS: dict[str, str] = {
    "aws:ssm/getParameter:getParameter": "ssm:GetParameter",
    "aws:route53/getZone:getZone": "route53:ListHostedZones route53:ListHostedZonesByName "
    "route53:GetHostedZone route53:ListTagsForResource",
}

TOOLS = (
    "ec2:DescribeInstances ec2:DescribeVolumes ec2:DescribeInstanceStatus ec2:DescribeSnapshots "
    "ec2:DescribeSubnets ec2:DescribeRouteTables ec2:DescribeSpotInstanceRequests "
    "ec2:CancelSpotInstanceRequests ssm:StartSession ssm:ResumeSession ssm:TerminateSession "
    "ssmmessages:OpenDataChannel servicequotas:ListServiceQuotas"
)
"""What the look before a preview, SSH through SSM, `make wake` and `make recover` call.

The session manager's plugin resumes a session that was cut, and opens the channel of each; the last is from
https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-restrict-access-quickstart.html
"""

SESSIONS = frozenset(each for each in TOOLS.split() if "Session" in each or each.startswith("ssmmessages:"))
"""Of these, what a session to the host needs."""

LOOKS = ("Describe", "Get", "List", "View")
"""How the names of actions begin that change nothing."""

NO_RESOURCE = ("sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes", "sns:Unsubscribe")
"""Actions that name a subscription, which is no type of resource to IAM: only `*` allows them."""

ONLY_OURS = frozenset(
    {
        "ec2:DeleteInternetGateway",
        "ec2:DeleteKeyPair",
        "ec2:DeleteRouteTable",
        "ec2:DeleteSecurityGroup",
        "ec2:DeleteSubnet",
        "ec2:DeleteTags",
        "ec2:DeleteVolume",
        "ec2:DeleteVpc",
        "ec2:DetachVolume",
        "ec2:ReleaseAddress",
        "ec2:StartInstances",
        "ec2:StopInstances",
        "ec2:TerminateInstances",
    }
)
"""What takes something away: allowed on what carries the project's tag."""


def actions() -> list[str]:
    """Every action that the deployer needs, sorted."""
    texts = (*RESOURCES.values(), *FUNCTIONS.values(), TOOLS)
    return sorted({action for text in texts for action in text.split()})


def policy(project: str) -> dict[str, Any]:
    """What the deployer may do. IAM refuses a policy of more than 6,144 characters without white space."""
    return _policy(project, set(actions()))


def review_policy(project: str) -> dict[str, Any]:
    """What a preview, a review and the look for drift need: to read, and a session to the host.

    Whoever has a session to the host can do anything there: Docker's rights are root's.
    """
    wanted = {each for each in actions() if each.partition(":")[2].startswith(LOOKS)}
    return _policy(project, wanted | SESSIONS)


def _policy(project: str, rest: set[str]) -> dict[str, Any]:
    changes = "iam:PassRole" in rest
    own = {"StringEquals": {"aws:ResourceTag/Project": project}}

    def take(*patterns: str) -> list[str]:
        taken = sorted(a for a in rest if any(fnmatchcase(a, pattern) for pattern in patterns))
        rest.difference_update(taken)
        return taken

    def statement(
        sid: str, action: list[str], resource: str | list[str] = "*", condition: Any = None
    ) -> dict[str, Any]:
        written = {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}
        return written | ({"Condition": condition} if condition else {})

    take("ec2:Describe*")
    only_ours = sorted(ONLY_OURS & rest)
    rest.difference_update(only_ours)
    services = ["ec2.amazonaws.com", "dlm.amazonaws.com"]
    linked = ["spot.amazonaws.com", "events.amazonaws.com"]
    here = f"arn:aws:ssm:*:*:parameter/{project}/*"
    sessions = take("ssm:TerminateSession", "ssm:ResumeSession")
    statements = [
        statement("Look", ["ec2:Describe*"]),
        statement("PassRoles", take("iam:PassRole"), f"arn:aws:iam::*:role/{project}-*")
        | {"Condition": {"StringEquals": {"iam:PassedToService": services}}},
        statement(
            "Roles",
            take("iam:*"),
            [f"arn:aws:iam::*:role/{project}-*", f"arn:aws:iam::*:instance-profile/{project}-*"],
        ),
        statement(
            "RolesOfServices",
            ["iam:CreateServiceLinkedRole"] if changes else [],
            "arn:aws:iam::*:role/aws-service-role/*",
            {"StringEquals": {"iam:AWSServiceName": linked}},
        ),
        statement(
            "Sessions",
            take("ssm:StartSession"),
            ["arn:aws:ec2:*:*:instance/*"],
            {"StringEquals": {"ssm:resourceTag/Project": project}},
        ),
        statement("SshInSessions", ["ssm:StartSession"], "arn:aws:ssm:*:*:document/AWS-StartSSHSession"),
        # A session is called after a user, or after the name by which a role was assumed, for which IAM has
        # no variable; but it has a tag with the id of who began it.
        statement(
            "OwnSessions",
            sessions,
            "arn:aws:ssm:*:*:session/*",
            {"StringEquals": {"ssm:resourceTag/aws:ssmmessages:session-id": "${aws:userid}"}},
        ),
        # it takes no resource, and needs a session's token, which only who began it gets
        statement("OpenSessions", take("ssmmessages:*")),
        statement("FindParameters", take("ssm:DescribeParameters")),
        statement("Parameters", take("ssm:*"), [here, "arn:aws:ssm:*::parameter/aws/service/deeplearning/*"]),
        statement("FindLogs", take("logs:DescribeLogGroups")),
        statement("Logs", take("logs:*"), f"arn:aws:logs:*:*:log-group:/{project}/*"),
        statement("Alarms", take("cloudwatch:*"), f"arn:aws:cloudwatch:*:*:alarm:{project}-*"),
        statement("Subscriptions", take(*NO_RESOURCE)),
        statement("Topics", take("sns:*"), f"arn:aws:sns:*:*:{project}-*"),
        statement("Budgets", take("budgets:*"), f"arn:aws:budgets::*:budget/{project}-*"),
        statement("Names", take("route53:*")),
        statement("Quotas", take("servicequotas:*")),
        statement("Snapshots", take("dlm:*")),
        statement("TakeAwayOnlyOurs", only_ours, condition=own),
        # an instance that a spot request has started by itself has no tags, and the profile of the first one
        statement(
            "EndLeftOver",
            ["ec2:TerminateInstances"] if changes else [],
            condition={"ArnLike": {"ec2:InstanceProfile": f"arn:aws:iam::*:instance-profile/{project}-*"}},
        ),
        statement("Make", take("ec2:*")),
    ]
    assert not rest, rest
    return {"Version": "2012-10-17", "Statement": [each for each in statements if each["Action"]]}


def document(policy: dict[str, Any]) -> str:
    """A policy as a JSON file."""
    return json.dumps(policy, indent=2) + "\n"
