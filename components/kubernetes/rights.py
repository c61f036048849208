"""What whoever deploys on a cluster must be allowed there: what Pulumi's plugin and our `kubectl` ask of it.

`make render` writes it to `rendered/deployer-role.yaml`. The plugin's own lists are from its source
(`provider/pkg/await`): once it has made a Deployment or a Service, and once it has deleted anything, it waits
for all objects of some kinds to be listed, without a time limit. Where it may not list them it waits forever,
and says nothing. So who lacks a right is refused before anything is changed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from components.kubernetes.kubectl import ClusterError, RunKubectl

FILE = "rendered/deployer-role.yaml"
ROLE = "changeover-deployer"
"""Name of the Role, and of the ClusterRole with what is in no namespace."""
MADE = "get list watch create patch delete"
"""What the plugin needs of each kind that it makes."""
LISTED = "list watch"
"""What it needs of each kind that it only waits for."""

NEEDED = (
    ("", "configmaps", MADE),
    ("", "secrets", MADE),
    ("", "services", MADE),
    ("", "endpoints", LISTED),  # while it waits for a Service
    ("apps", "deployments", MADE),
    ("apps", "replicasets", LISTED),  # these two while it waits for a Deployment
    ("", "persistentvolumeclaims", LISTED),
    ("apps", "daemonsets", MADE),
    ("networking.k8s.io", "networkpolicies", MADE),
    ("policy", "poddisruptionbudgets", MADE),
    ("", "pods", "get list watch patch delete"),
    ("", "pods/log", "get"),
    ("", "pods/exec", "create"),
    ("apps", "deployments/scale", "patch"),
    ("coordination.k8s.io", "leases", "get create update delete"),
    ("", "namespaces", "get"),
)
"""Group, resource and verbs of what no update goes without, in the stack's namespace."""

USEFUL = (
    ("", "events", LISTED),  # which the plugin shows while it waits
    ("", "pods/exec", "get"),  # by which newer versions of `kubectl` try it first
    ("coordination.k8s.io", "leases", "list watch"),  # to remove a stack whose state is lost
)
"""What the Role has besides."""

IN_CLUSTER = (("", "nodes", "get list"),)
"""What is in no namespace."""


class Right(NamedTuple):
    """One verb on one kind of objects. `resource` is with what is beneath it, as in `pods/log`."""

    group: str
    resource: str
    verb: str


def rights(table: Iterable[tuple[str, str, str]]) -> Iterator[Right]:
    """Each right of a table such as NEEDED."""
    for group, resource, verbs in table:
        yield from (Right(group, resource, verb) for verb in verbs.split())


def roles() -> list[dict[str, Any]]:
    """The Role for the stack's namespace, and the ClusterRole, as objects of the cluster."""
    in_namespace = [*rights(NEEDED), *rights(USEFUL)]
    return [_role("Role", in_namespace), _role("ClusterRole", rights(IN_CLUSTER))]


def _role(kind: str, allowed: Iterable[Right]) -> dict[str, Any]:
    verbs: dict[tuple[str, str], list[str]] = {}
    for right in allowed:
        verbs.setdefault((right.group, right.resource), []).append(right.verb)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": ROLE},
        "rules": [
            {"apiGroups": [group], "resources": [resource], "verbs": its}
            for (group, resource), its in verbs.items()
        ],
    }


def lacking(run: RunKubectl, namespace: str) -> list[Right]:
    """What of NEEDED whoever asks may not do in this namespace; nothing where the cluster does not say it.

    What its rules do not show is asked for one by one: not every cluster decides by rules alone.
    """
    try:
        (said,) = _asked(run, _review("SelfSubjectRulesReview", namespace=namespace))
        rules = said["status"].get("resourceRules") or []
        unsure = [right for right in rights(NEEDED) if not any(_allows(rule, right) for rule in rules)]
        if not unsure:
            return []
        return [right for right, may in zip(unsure, _may(run, namespace, unsure), strict=True) if not may]
    except (ClusterError, ValueError, KeyError):
        return []


def words(missing: Iterable[Right]) -> str:
    """Rights for a person: what of which kind."""
    verbs: dict[str, list[str]] = {}
    for right in missing:
        verbs.setdefault(right.resource, []).append(right.verb)
    return "; ".join(f"{', '.join(its)} {resource}" for resource, its in verbs.items())


def _allows(rule: Mapping[str, Any], right: Right) -> bool:
    """Whether a rule gives a right to all objects of its kind."""
    having = (("apiGroups", right.group), ("resources", right.resource), ("verbs", right.verb))
    return not rule.get("resourceNames") and all(
        any(each in ("*", value) for each in rule.get(key) or []) for key, value in having
    )


def _may(run: RunKubectl, namespace: str, wanted: Iterable[Right]) -> list[bool]:
    reviews = []
    for group, resource, verb in wanted:
        kind, _, beneath = resource.partition("/")
        its = {"namespace": namespace, "group": group, "resource": kind, "subresource": beneath, "verb": verb}
        reviews.append(_review("SelfSubjectAccessReview", resourceAttributes=its))
    return [bool(each["status"]["allowed"]) for each in _asked(run, *reviews)]


def _review(kind: str, **spec: object) -> dict[str, Any]:
    return {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}


def _asked(run: RunKubectl, *reviews: object) -> Iterator[Any]:
    """The answers to these questions, in their order: `kubectl` writes one JSON document after the other."""
    items = {"apiVersion": "v1", "kind": "List", "items": reviews}
    ask = ["create", "--validate=false", "--filename", "-", "--output", "json"]
    left = run(ask, json.dumps(items)).strip()
    while left:
        said, end = json.JSONDecoder().raw_decode(left)
        left = left[end:].strip()
        yield said
