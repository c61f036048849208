"""The target `kubernetes`: what is looked at in the cluster before anything is changed."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from components.kubernetes.kubectl import ClusterError, Missing, Run, get, selector
from components.kubernetes.looked import ACTIVE
from components.kubernetes.objects import LIVE
from components.kubernetes.pods import GPU, NODE
from stacks.owner import NOTHING
from stacks.settings import PROJECT, Settings
from stacks.target_error import TargetError

OLDEST = (1, 29)
"""The oldest Kubernetes in which a container can go on beside others from before they start until they have
ended (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers): the gate is one."""

KINDS = "deployments,daemonsets,services,configmaps,secrets,networkpolicies,poddisruptionbudgets,leases"
"""Of what a stack has."""

ENFORCED = "pod-security.kubernetes.io/enforce"
"""Label of a namespace: what its pods must be at least."""


def look(settings: Settings, run: Run, ours: Collection[str]) -> list[str]:
    """The names of the stack's nodes. `ours` are the ids of what this state has made on a cluster.

    Raises TargetError where the cluster can't be reached or is too old, there is no such namespace or it
    takes no engine, a stack of this name there is another state's, or too few nodes are the stack's.
    """
    assert settings.kubernetes is not None
    namespace, hosts = settings.kubernetes.namespace, settings.kubernetes.hosts
    try:
        version = json.loads(run(["version", "--output", "json"], ""))["serverVersion"]["gitVersion"]
        try:
            home = get(run, "namespace", namespace)
        except Missing:
            raise TargetError(
                f"changeover:namespace: there is no namespace {namespace} in the cluster. "
                f"Run: kubectl create namespace {namespace}"
            ) from None
        try:
            there = get(run, "configmap", f"{settings.stack}-{LIVE}")
        except Missing:
            there = None
        select = f"{NODE}={settings.stack}"
        nodes = get(run, "nodes", "--selector", select)["items"]
    except ClusterError as error:
        context = settings.kubernetes.context or "the current one"
        raise TargetError(
            f"the cluster of the kubeconfig's context ({context}) can't be looked at: {error}. Nothing was "
            "changed. Which contexts there are: kubectl config get-contexts; another one: "
            "pulumi config set kubeContext NAME"
        ) from None
    _check_version(version)
    _check_namespace(home, namespace)
    if there is not None:
        _check_owner(there, ours, settings)
    _check_nodes({each["metadata"]["name"]: _places(each, settings) for each in nodes}, settings.stack, hosts)
    return sorted(each["metadata"]["name"] for each in nodes)


def _check_version(version: str) -> None:
    found = re.match(r"v(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise TargetError(
            f"the cluster runs Kubernetes {version}; allowed: {OLDEST[0]}.{OLDEST[1]} or newer, since the "
            "gate beside each engine is a sidecar container. Nothing was changed."
        )


def _check_namespace(home: Mapping[str, Any], name: str) -> None:
    enforced = (home["metadata"].get("labels") or {}).get(ENFORCED, "privileged")
    if enforced != "privileged":
        raise TargetError(
            f"the namespace {name} takes no pods that are less than `{enforced}`, and engines have their "
            "weights in a folder of their node, which no such pod may. Choose another namespace "
            "(pulumi config set namespace NAME), or run: "
            f"kubectl label namespace {name} {ENFORCED}=privileged --overwrite"
        )


def _check_owner(live: Mapping[str, Any], ours: Collection[str], settings: Settings) -> None:
    """A first update that was killed may have made what no state knows: nothing has served of it."""
    metadata = live["metadata"]
    active = (metadata.get("annotations") or {}).get(ACTIVE)
    if not active or metadata["uid"] in ours:
        return
    assert settings.kubernetes is not None
    stack, namespace = settings.stack, settings.kubernetes.namespace
    lines = [
        f"the stack `{stack}` in the namespace {namespace} of this cluster belongs to another state, and "
        f"{active} serves there since {metadata['creationTimestamp']} or later. {NOTHING} You can do one of "
        "these:",
        "use its own state: go to that folder, or name the place of its state in CHANGEOVER_BACKEND",
        "make a second stack beside it: another name (pulumi stack init NAME), or pulumi config set "
        "namespace NAME",
        "remove it, if its state is lost; nothing serves until the next update has ended, and weights stay "
        f"on their nodes: kubectl --namespace {namespace} delete {KINDS} "
        f"--selector {selector(PROJECT, stack)}",
    ]
    raise TargetError("\n  ".join(lines))


def _places(node: Mapping[str, Any], settings: Settings) -> int:
    """How many engines a node can have: none where nothing is put on it now."""
    conditions = {each["type"]: each["status"] for each in node["status"].get("conditions") or []}
    if node.get("spec", {}).get("unschedulable") or conditions.get("Ready") != "True":
        return 0
    if settings.gpu is None:
        return 1
    return int(node["status"].get("allocatable", {}).get(GPU, 0)) // settings.gpu.count


def _check_nodes(places: Mapping[str, int], stack: str, hosts: int) -> None:
    if sum(places.values()) >= hosts:
        return
    found = ", ".join(f"{name} {count}" for name, count in sorted(places.items())) or "there is none"
    raise TargetError(
        f"changeover:hosts: {hosts} cannot work; the nodes with the label {NODE}={stack} have places for "
        f"{sum(places.values())} engines ({found}). Add nodes: kubectl label node NAME {NODE}={stack}"
        + (f"; or run: pulumi config set hosts {sum(places.values())}" if sum(places.values()) > 1 else "")
    )
