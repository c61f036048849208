"""What `kubectl get -o json` says of a stack, and what is written to the cluster for whoever looks next.
Pure."""

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from components.kubernetes.flip import Places
from components.kubernetes.kubectl import ClusterObject
from components.kubernetes.nodes import NodesPlan
from components.kubernetes.pods import GPU
from components.kubernetes.rolling import START_SECONDS, DeploymentSeen, PodSeen, Seen
from components.labels import label
from proxy.route import FLEET_FILE
from switch.plan import load
from traffic.busiest import KnownMinutes

ACTIVE, TO, BUSIEST = label("active"), label("to"), label("busiest")
"""Annotations of the ConfigMap that the proxies are told by: the Deployment that serves since the last flip
that has ended, the one to which a flip is under way, and the minutes of the last hour that an update has
seen: proxies that are replaced take their logs with them."""


PARALLEL = label("parallel")
"""Annotation of a Deployment: how many requests its engine works on at a time."""


@dataclass(frozen=True, kw_only=True)
class FlipPlan:
    """What the program tells the step of a flip.

    `to` is the Deployment that is to serve, and `engine` the name of its engine. `service` is that of all
    pods, and `live` the ConfigMap that the proxies are told by. `load` is in seconds. `nodes` is what each
    node has to have before a pod of it is changed.
    """

    project: str
    stack: str
    namespace: str
    context: str
    to: str
    engine: str
    service: str
    live: str
    hosts: int
    at_once: int
    load: float
    nodes: NodesPlan

    @property
    def served(self) -> str:
        """What there is to be once it is carried out, in the words of `components.facts.fleet`."""
        return pods_words({self.to: self.hosts})

    @property
    def text(self) -> str:
        """As JSON, which `read_plan` reads."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def pods_words(replicas: Mapping[str, int]) -> str:
    """How many pods each Deployment is to have, for a person."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(replicas.items()) if count)


def read_plan(text: str) -> FlipPlan:
    """The plan of a flip from its JSON. Raises ValueError for what is none."""
    plan: FlipPlan = load(FlipPlan, json.loads(text))
    return plan


@dataclass(frozen=True, kw_only=True)
class LiveConfigMap:
    """The ConfigMap that the proxies are told by: what serves, and what they are told. `active` is empty
    before the first engine served, and `to` while no flip is under way. `service` is empty where what they
    are told can't be read."""

    active: str = ""
    to: str = ""
    preferred: str = ""
    flip: bool = False
    service: str = field(default="", compare=False)
    """The Service in which they look for pods: it is always the same, and no part of a change."""

    def begun(self, to: str, *, flip: bool) -> "LiveConfigMap":
        """A change to the Deployment `to` is under way; in a `flip` others serve as well."""
        return replace(self, to=to, flip=flip)

    def ended(self, active: str, engine: str) -> "LiveConfigMap":
        """`active` has all pods, whose engine is `engine`."""
        return replace(self, active=active, to="", preferred=engine, flip=False)

    def patch(self, service: str) -> dict[str, Any]:
        """What of the ConfigMap is to be as it says."""
        told = {"service": service, "preferred": self.preferred, "flip": self.flip}
        return {
            "metadata": {"annotations": {ACTIVE: self.active, TO: self.to}},
            "data": {FLEET_FILE: json.dumps(told, indent=1) + "\n"},
        }


def live_of(config_map: ClusterObject) -> LiveConfigMap:
    """What the proxies' ConfigMap says; of what the proxies can't read either, nothing."""
    annotations = config_map["metadata"].get("annotations") or {}
    live = LiveConfigMap(active=annotations.get(ACTIVE, ""), to=annotations.get(TO, ""))
    try:
        told = json.loads(config_map["data"][FLEET_FILE])
        service, preferred, flip = str(told["service"]), str(told["preferred"]), told["flip"]
    except (ValueError, KeyError, TypeError):
        return live  # somebody else has written it
    if type(flip) is not bool:
        return live
    return replace(live, preferred=preferred, flip=flip, service=service)


def edited(live: LiveConfigMap, service: str, engines: Mapping[str, str]) -> list[str]:
    """What the ConfigMap says that it should not, each in words. `engines` are the names of the engines that
    have pods, by their Deployments."""
    if live.to:
        return [f"a change to {_plain(live.to)} has not ended"]  # which tells the proxies all anew
    words = list[str]()
    if not live.active:
        words.append("what serves is not written down")
    elif live.active not in engines:
        words.append(f"{_plain(live.active)} is written down as what serves")
    if not live.service:
        return [*words, "what the proxies are told can't be read"]
    if live.service != service:
        words.append(f"the proxies are told to look for engines in the Service {_plain(live.service)}")
    if live.preferred != engines.get(live.active, live.preferred):
        words.append(f"the proxies are told that {_plain(live.preferred) or 'nothing'} is to serve")
    if live.flip:
        words.append("the proxies are told of a flip that nobody makes")
    return words


def engines_with_pods(items: Iterable[ClusterObject]) -> dict[str, str]:
    """The names of the engines that are to have pods, by their Deployments."""
    return {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"][label("engine")]
        for item in items
        if item["kind"] == "Deployment"
        and (item["metadata"].get("labels") or {}).get(label("role")) == "engine"
        and item["spec"].get("replicas", 1)
    }


def _plain(text: str) -> str:
    """What somebody has written, as one word of a sentence."""
    return re.sub(r"[^\w.-]", "?", text)[:60]


def kept_of(config_map: ClusterObject) -> KnownMinutes | None:
    """The minutes that an update has seen; None where none has. Until December 2026 it was the busiest one
    only."""
    said = (config_map["metadata"].get("annotations") or {}).get(BUSIEST)
    try:
        kept = json.loads(said) if said else None
        if kept is None:
            return None
        if "minutes" not in kept:
            at = float(kept["at"])
            return KnownMinutes({at: float(kept["requests"])}, at, at)
        minutes = {float(at): float(count) for at, count in kept["minutes"]}
        return KnownMinutes(minutes, float(kept["since"]), float(kept["until"]))
    except (ValueError, TypeError, KeyError):
        return None  # somebody else has written it


def kept_patch(known: KnownMinutes) -> dict[str, Any]:
    """What of the ConfigMap keeps them."""
    said = {"since": known.since, "until": known.until, "minutes": list(known.minutes.items())}
    return {"metadata": {"annotations": {BUSIEST: json.dumps(said)}}}


def places_of(items: Iterable[ClusterObject]) -> dict[str, Places]:
    """How many requests an engine of each Deployment works on at a time, by its name."""
    found = {}
    for item in items:
        metadata = item["metadata"]
        parallel = (metadata.get("annotations") or {}).get(PARALLEL)
        if item["kind"] == "Deployment" and parallel:
            engine = item["spec"]["template"]["metadata"]["labels"][label("engine")]
            found[metadata["name"]] = Places(engine, int(parallel))
    return found


def takes_pods(node: ClusterObject) -> bool:
    """Whether the cluster puts anything on this node now."""
    conditions = {each["type"]: each["status"] for each in node["status"].get("conditions") or []}
    return not node.get("spec", {}).get("unschedulable") and conditions.get("Ready") == "True"


def places_on(node: ClusterObject, gpus: int) -> int:
    """How many engines with so many GPUs each fit this node; one without any."""
    return int(node["status"].get("allocatable", {}).get(GPU, 0)) // gpus if gpus else 1


def gpus_of(deployment: ClusterObject) -> int:
    """How many GPUs a pod of this Deployment's has."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    limits = (each.get("resources", {}).get("limits", {}) for each in containers)
    return max(int(each.get(GPU, 0)) for each in limits)


def seen_of(items: Iterable[ClusterObject], now: float) -> Seen:
    """The Deployments of engines among these objects, with their pods. `now` is in seconds since the
    epoch.

    A pod that was to have ended long ago is none: its node is gone, or does not answer, and as long as that
    is so the pod stays in what the cluster says.
    """
    pods, replicas = list[tuple[str, PodSeen]](), dict[str, int]()
    for item in items:
        labels = item["metadata"].get("labels") or {}
        if labels.get(label("role")) != "engine":
            continue
        if item["kind"] == "Deployment":
            replicas[item["metadata"]["name"]] = item["spec"].get("replicas", 1)
        elif (
            item["kind"] == "Pod"
            and item.get("status", {}).get("phase") not in ("Succeeded", "Failed")
            and _until(item) + START_SECONDS > now
        ):
            pods.append((labels.get(label("deployment"), ""), _pod(item, now)))
    return {
        name: DeploymentSeen(replicas=count, pods=tuple(pod for of, pod in pods if of == name))
        for name, count in replicas.items()
    }


def _until(pod: ClusterObject) -> float:
    """By when a pod will have ended at the latest, as the cluster has promised it."""
    ends = pod["metadata"].get("deletionTimestamp")
    return _seconds(ends) if ends else math.inf


def _pod(item: ClusterObject, now: float) -> PodSeen:
    metadata, status = item["metadata"], item.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    placed = conditions.get("PodScheduled", {}).get("status") == "True"
    ready = conditions.get("Ready", {})
    turned = ready.get("lastTransitionTime")
    since = [metadata["creationTimestamp"], status.get("startTime"), turned]
    engines = [each for each in status.get("containerStatuses") or [] if each["name"] == "engine"]
    began = [each["state"]["running"]["startedAt"] for each in engines if "running" in each.get("state", {})]
    return PodSeen(
        name=metadata["name"],
        ready=ready.get("status") == "True",
        ends="deletionTimestamp" in metadata,
        waits=None if placed else now - _seconds(metadata["creationTimestamp"]),
        unready=now - max(_seconds(each) for each in since if each) if placed else 0,
        restarts=sum(each.get("restartCount", 0) for each in engines),
        # a pod that was never ready is unready since before its engine began
        served=bool(turned) and any(_seconds(turned) > _seconds(each) for each in began),
    )


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp).timestamp()


@dataclass(frozen=True)
class Lease:
    """Who changes the stack, and for how many seconds that is sure; empty: nobody does. `version` is that of
    the object, another one each time it is renewed, and nobody may have changed it since where it is
    replaced.

    When it was renewed is not looked at: whoever did that has a clock of its own.
    """

    holder: str
    seconds: float
    version: str


def lease_of(item: ClusterObject) -> Lease:
    """What an object of the cluster says as a lease. Raises KeyError, TypeError or ValueError where it is
    none of ours."""
    spec = item["spec"]
    seconds = float(spec["leaseDurationSeconds"])
    return Lease(spec.get("holderIdentity") or "", seconds, item["metadata"]["resourceVersion"])


def is_serving(pod: ClusterObject) -> bool:
    """Whether a pod runs and is to go on."""
    return pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def is_ready(pod: ClusterObject) -> bool:
    """Whether all of its containers say that they are ready."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def lease_name(stack: str) -> str:
    """The name of the lease for which the changes of a stack wait."""
    return f"{stack}-flip"


def lease_object(
    name: str, plan: FlipPlan, holder: str, now: float, seconds: int, version: str
) -> ClusterObject:
    """One that `holder` has for so many seconds from now on; empty: nobody has it. Without a `version` it is
    a new one."""
    renewed = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": plan.namespace,
            "labels": {
                label("project"): plan.project,
                label("stack"): plan.stack,
                label("role"): "lease",
            },
            **({"resourceVersion": version} if version else {}),
        },
        "spec": {
            "leaseDurationSeconds": seconds,
            **({"holderIdentity": holder, "renewTime": renewed} if holder else {}),
        },
    }
