"""The settings that only the target `kubernetes` has, and what it has none of yet."""

import re
from collections.abc import Mapping
from typing import Any

from components.kubernetes.settings import HOSTS_MAXIMUM, LONGEST_STACK, KubernetesSettings
from stacks.raw_settings import RawSettings

KEYS = ("hosts", "atOnce", "kubeContext", "namespace")

CONTEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9@:/._+-]{0,252}")
"""A context's name as the usual tools write it, ARNs of EKS included: it is a word of a command line."""

NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names"""

STACK = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
"""How the name of a Service must begin and end, which begins with the stack's."""

CLUSTERS_OWN = "kube-"
"""Namespaces that begin so are the cluster's own."""


_REPORT = "`make report` measures the engines of a Docker host"
_PARITY = "`make parity` compares the engines of a Docker host"
_MONITOR = "there is no monitor, which is two containers of a Docker host"

OF_ONE_HOST = {
    "drainSeconds": "a pod is drained for as long as an answer may last",
    "cutover": "a pod has one engine, and others serve while it changes",
    "requireParity": _PARITY,
    "acceptedDifferences": _PARITY,
    "reportFirstTokenSeconds": _REPORT,
    "reportTokensPerSecond": _REPORT,
    "monitor": _MONITOR,
    "monitorPort": _MONITOR,
    "alertReceiver": _MONITOR,
}
"""Settings that have no part on a cluster, each with why."""

SECRET = "alertReceiver"
"""That of them whose value may have a password in it."""


def read(raw: RawSettings, stack: str) -> KubernetesSettings:
    """The settings of `stack` on Kubernetes; every problem is noted with `raw`."""
    if len(stack) > LONGEST_STACK or not STACK.fullmatch(stack):
        allowed = (
            f"it needs a stack whose name has at most {LONGEST_STACK} lower-case letters, digits and "
            "hyphens, begins with a letter and does not end with a hyphen, since names in the cluster begin "
            f"with it (this one is {stack!r})"
        )
        raw.problem("target", "kubernetes", allowed, "pulumi stack rename …")
    hosts = int(raw.value("hosts"))
    if hosts == 1:
        allowed = (
            f"it must be 2 to {HOSTS_MAXIMUM} hosts. For one, a cluster only adds parts: with target docker "
            "or aws it serves as many users, and requests wait while its engine changes"
        )
        raw.problem("hosts", hosts, allowed, "pulumi config set target docker")
    else:
        hosts = raw.number("hosts", 2, HOSTS_MAXIMUM, "hosts")
    return KubernetesSettings(
        hosts=hosts,
        at_once=raw.number("atOnce", 1, max(hosts - 1, 1), "hosts", ", so that one goes on serving"),
        context=_context(raw),
        namespace=_namespace(raw),
    )


def check_deployable(raw: RawSettings, *, tenants: int) -> None:
    """Notes what a stack needs to be deployed, and a reviewer can do without."""
    if not tenants:
        key = "pulumi config set --secret --path apiKeys.TENANT $(openssl rand -hex 24)"
        allowed = (
            "with target kubernetes at least one key is needed, since the whole cluster reaches the endpoint"
        )
        raw.problem("apiKeys", {}, allowed, key)


def check_served(raw: RawSettings, block: Mapping[str, Mapping[str, Any]]) -> None:
    """Notes what there is with a Docker host only; `block` is that of Pulumi.yaml, with the defaults."""
    for key, why in OF_ONE_HOST.items():
        value = raw.value(key)
        if value != block[key]["default"]:  # Pulumi hands defaults over as if they had been set
            allowed = f"it applies only with target docker or aws: {why}"
            raw.problem(key, "[set]" if key == SECRET else value, allowed, f"pulumi config rm {key}")


def _context(raw: RawSettings) -> str:
    value = str(raw.value("kubeContext"))
    if value and not CONTEXT.fullmatch(value):
        allowed = "it must be one of the contexts that `kubectl config get-contexts` lists"
        raw.problem("kubeContext", value, allowed, "pulumi config rm kubeContext")
    return value


def _namespace(raw: RawSettings) -> str:
    name = str(raw.value("namespace"))
    if not NAMESPACE.fullmatch(name) or name.startswith(CLUSTERS_OWN):
        allowed = (
            "it must be an existing namespace whose name has only lower-case letters, digits and hyphens, "
            f"and none of the cluster's own ({CLUSTERS_OWN}…)"
        )
        raw.problem("namespace", name, allowed, "pulumi config set namespace changeover")
    return name
