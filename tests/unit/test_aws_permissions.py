"""The deployer's policy covers exactly what the program declares, and is one that IAM takes."""

import json

import pytest

from components.aws import permissions
from tests.unit.test_aws_host import Declare, declare
from tests.unit.test_aws_settings import ROOT
from tools.render import POLICY

__all__ = ["declare"]


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


def test_iam_takes_a_policy_of_this_size() -> None:
    assert len(json.dumps(permissions.policy("changeover"), separators=(",", ":"))) <= 6144


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
        if permissions.ONLY_OURS & set(statement["Action"]):
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/Project": "changeover"}}


def test_the_file_is_not_stale() -> None:
    assert (ROOT / POLICY).read_text() == permissions.document("changeover"), "Type: make render"
