"""Whether a policy allows the calls that were made of the AWS API."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

_CALLS_UNDER_OTHER_NAMES = {
    "budgets:CreateBudget": "budgets:ModifyBudget",
    "budgets:UpdateBudget": "budgets:ModifyBudget",
    "budgets:DeleteBudget": "budgets:ModifyBudget",
    "budgets:CreateNotification": "budgets:ModifyBudget",
    "budgets:DeleteNotification": "budgets:ModifyBudget",
    "budgets:CreateSubscriber": "budgets:ModifyBudget",
    "budgets:DescribeBudget": "budgets:ViewBudget",
    "budgets:DescribeNotificationsForBudget": "budgets:ViewBudget",
    "budgets:DescribeSubscribersForNotification": "budgets:ViewBudget",
}


def uncovered(calls: Iterable[str], policy: Mapping[str, Any]) -> list[str]:
    """Those of the API calls, as `service:Operation`, that the policy does not allow.

    `service` is the name by which requests are signed.
    """
    allowed = [action for each in policy["Statement"] for action in each["Action"]]
    missing = []
    for call in sorted(set(calls)):
        named = call.replace("monitoring:", "cloudwatch:").replace("service-quotas:", "servicequotas:")
        named = _CALLS_UNDER_OTHER_NAMES.get(named, named)
        if named != "sts:GetCallerIdentity" and not any(fnmatchcase(named, each) for each in allowed):
            missing.append(call)
    return missing
