"""What serves of a stack on a cluster, for `make status`."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from common import ROOT, StepFailed, say
from components.kubernetes.kubectl import ClusterError, RunKubectl, get, kubectl, selector
from components.kubernetes.looked import is_ready, is_serving, live_of, seen_of
from components.kubernetes.objects import LIVE_CONFIG, PROXIES, name
from components.kubernetes.rolling import PodSeen
from components.labels import Labels, label
from stacks.settings import PROJECT, SettingsError, from_files


def status(stack: str) -> None:
    """Asks the cluster that the stack's settings name. Raises StepFailed."""
    try:
        settings = from_files(stack, ROOT).kubernetes
    except SettingsError as error:
        raise StepFailed(str(error)) from None
    assert settings is not None, "only for a stack on a cluster"
    try:
        for line in lines(stack, kubectl(settings.namespace, settings.context), time.time, settings.hosts):
            say(line)
    except ClusterError as error:
        raise StepFailed(f"the cluster does not say what serves: {error}") from None


def lines(stack: str, run: RunKubectl, clock: Callable[[], float], hosts: int) -> list[str]:
    """What serves, what changes, and each pod with an engine. `hosts` are to serve. Raises ClusterError."""
    labels = Labels(project=PROJECT, stack=stack)
    live = live_of(get(run, "configmap", name(labels, LIVE_CONFIG)))
    select = selector(PROJECT, stack)
    found = get(run, "deployments,pods", "--selector", select)
    seen = seen_of(found["items"], clock())
    serve = sum(each.serving for each in seen.values())
    proxies = [each for each in found["items"] if each["kind"] == "Pod" and _role(each) == "proxy"]
    ready = sum(is_ready(each) and is_serving(each) for each in proxies)  # one that ends is ready meanwhile
    said = [f"{live.preferred}: {serve} of {hosts} hosts serve, behind {ready} of {PROXIES} proxies"]
    if live.to:
        there = seen[live.to].serving if live.to in seen else 0
        said.append(
            f"a change to {live.to} is under way, or was left: {there} of {hosts} hosts have it. `pulumi up` "
            "ends it, with the settings of before or with the new ones"
        )
    for deployment, each in sorted(seen.items()):
        said += [f"  {pod.name}: {_state(pod)}" for pod in sorted(each.pods, key=lambda pod: pod.name)]
        if each.replicas and not each.pods:
            said.append(f"  {deployment}: no pod yet")
    return said


def _role(item: Mapping[str, Any]) -> str:
    return str((item["metadata"].get("labels") or {}).get(label("role"), ""))


def _state(pod: PodSeen) -> str:
    again = f", its engine was started again {pod.restarts} times" if pod.restarts else ""
    if pod.ends:
        return f"ends what it answers{again}"
    if pod.ready:
        return f"serves{again}"
    if pod.waits is not None:
        return f"waits for a node for {pod.waits:.0f} s"
    return f"not ready for {pod.unready:.0f} s{again}"
