"""The target `kubernetes`: what is looked at in the cluster before anything is changed."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.kubernetes import rights
from components.kubernetes.files import Files, Names
from components.kubernetes.kubectl import ClusterError, Missing, RunKubectl, get, selector
from components.kubernetes.looked import ACTIVE, places_on, takes_pods
from components.kubernetes.objects import LIVE_CONFIG
from components.kubernetes.pods import NODE
from components.labels import Labels
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


@dataclass(frozen=True, kw_only=True)
class FoundOnCluster:
    """The names of a stack's nodes, what is to be said of them, empty for nothing, and the names of the
    ConfigMaps with its `files` that are not there."""

    names: list[str]
    warning: str
    gone: list[str]


def look(settings: Settings, files: Names, run: RunKubectl, ours: Collection[str]) -> FoundOnCluster:
    """What the cluster has of the stack. `ours` are the ids of what this state has made on a cluster.

    Raises TargetError where the cluster can't be reached or is too old, there is no such namespace or it
    takes no engine, a stack of this name there is another state's, too few nodes are the stack's, or whoever
    asks lacks a right.
    """
    assert settings.kubernetes is not None
    namespace = settings.kubernetes.namespace
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
            there = get(run, "configmap", f"{settings.stack}-{LIVE_CONFIG}")
        except Missing:
            there = None
        select = f"{NODE}={settings.stack}"
        nodes = get(run, "nodes", "--selector", select)["items"]
        labels = Labels(project=PROJECT, stack=settings.stack)
        gone = Files(labels, namespace, run).gone(files)
        lacking = rights.lacking(run, namespace)
    except ClusterError as error:
        context = settings.kubernetes.context or "the current one"
        raise TargetError(
            f"the cluster of the kubeconfig's context ({context}) can't be looked at: {error}. Nothing was "
            "changed. Which contexts there are: kubectl config get-contexts; another one: "
            "pulumi config set kubeContext NAME"
        ) from None
    _check_version(version)
    _check_namespace(home, namespace)
    _check_rights(lacking, namespace)
    if there is not None:
        _check_owner(there, ours, settings)
    return FoundOnCluster(
        names=sorted(each["metadata"]["name"] for each in nodes),
        warning=_check_nodes(nodes, settings, serves=there is not None and bool(_active(there))),
        gone=gone,
    )


def _check_version(version: str) -> None:
    found = re.match(r"v(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise TargetError(
            f"the cluster runs Kubernetes {version}; it must be {OLDEST[0]}.{OLDEST[1]} or newer, since the "
            "gate beside each engine is a sidecar container. Nothing was changed."
        )


def _check_namespace(home: Mapping[str, Any], name: str) -> None:
    enforced = (home["metadata"].get("labels") or {}).get(ENFORCED, "privileged")
    if enforced != "privileged":
        raise TargetError(
            f"the namespace {name} takes only pods that meet the standard `{enforced}`, and engines read "
            "their weights from a folder of their node, which it forbids. Choose another namespace "
            "(pulumi config set namespace NAME), or run: "
            f"kubectl label namespace {name} {ENFORCED}=privileged --overwrite"
        )


def _check_rights(lacking: Sequence[rights.Right], namespace: str) -> None:
    if lacking:
        here = f"kubectl --namespace {namespace}"
        raise TargetError(
            f"in the namespace {namespace} you may not do all that an update does there. What is lacking: "
            f"{rights.words(lacking)}. Nothing was changed. Have somebody who administers the cluster run: "
            f"{here} apply --filename {rights.FILE}; and once, with your NAME: "
            f"{here} create rolebinding {rights.ROLE} --role {rights.ROLE} --user NAME"
        )


def _active(live: Mapping[str, Any]) -> str:
    """What serves, as the ConfigMap says that the proxies are told by; empty: nothing."""
    return str((live["metadata"].get("annotations") or {}).get(ACTIVE) or "")


def _check_owner(live: Mapping[str, Any], ours: Collection[str], settings: Settings) -> None:
    """A first update that was killed may have made what no state knows: nothing has served of it."""
    metadata, active = live["metadata"], _active(live)
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


def _check_nodes(nodes: Sequence[Mapping[str, Any]], settings: Settings, *, serves: bool) -> str:
    """What is to be said of nodes that are away, which refuses nothing where a stack `serves`. Raises
    TargetError where there are too few."""
    assert settings.kubernetes is not None
    stack, hosts = settings.stack, settings.kubernetes.hosts
    gpus = settings.gpu.count if settings.gpu else 0
    all_places = {each["metadata"]["name"]: places_on(each, gpus) for each in nodes}
    away = {each["metadata"]["name"] for each in nodes if not takes_pods(each)}
    places = {name: 0 if name in away else count for name, count in all_places.items()}
    if sum(places.values()) >= hosts:
        return ""
    if serves and sum(all_places.values()) >= hosts:
        return (
            f"these nodes take no pods now: {', '.join(sorted(away))}. The others have places for "
            f"{sum(places.values())} of {hosts} engines, so a change to another one is refused until they do"
        )
    found = ", ".join(f"{name} {count}" for name, count in sorted(places.items())) or "there is none"
    raise TargetError(
        f"changeover:hosts: {hosts} cannot work; the nodes with the label {NODE}={stack} have places for "
        f"{sum(places.values())} engines ({found}). Add nodes: kubectl label node NAME {NODE}={stack}"
        + (f"; or run: pulumi config set hosts {sum(places.values())}" if sum(places.values()) > 1 else "")
    )
