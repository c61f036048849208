"""A test double of a cluster, as far as a flip sees it: Deployments, their pods, and `kubectl` in front of
it.

What its controllers and nodes do happens in turns, by chance, as it may on a real one: pods wait for a GPU,
start, serve or fail their gate, and take their time to end.
"""

import base64
import datetime
import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from components.kubernetes.kubectl import ClusterError, Missing
from components.kubernetes.looked import PARALLEL
from components.kubernetes.pods import GPU
from components.kubernetes.rolling import DeploymentSeen, PodSeen, Scale, Seen
from components.labels import label
from components.plan import STOP_GRACE

ENDS = ("ends", "lost")
"""States of a pod that was told to end."""


@dataclass
class Played:
    """A cluster with a GPU on each of its nodes. Pods end and start in their own time, by `chance`."""

    chance: random.Random
    hosts: int
    good: frozenset[str]
    """The Deployments whose engines pass their gate."""
    replicas: dict[str, int] = field(default_factory=Counter)
    pods: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Deployment and state by the pod's name: waits, starts, ready, failed, ends, or lost: told to end on a
    node that says nothing any more."""
    made: int = 0

    def scale(self, each: Scale) -> None:
        self.replicas[each.deployment] = each.replicas

    def of(self, name: str) -> dict[str, str]:
        return {pod: state for pod, (of, state) in self.pods.items() if of == name}

    def turn(self) -> None:
        """Something happens, as the cluster's own controllers and nodes do it."""
        for name, count in self.replicas.items():
            there = {pod: state for pod, state in self.of(name).items() if state not in ENDS}
            order = sorted(there, key=lambda pod: (there[pod] == "ready", pod))
            for pod in order[: max(0, len(there) - count)]:
                self.pods[pod] = (name, "ends")
                if there[pod] == "waits":
                    del self.pods[pod]
            for _ in range(count - len(there)):
                self.made += 1
                self.pods[f"{name}-{self.made}"] = (name, "waits")
        for pod, (name, state) in list(self.pods.items()):
            used = sum(other not in ("waits", "lost") for _, other in self.pods.values())
            if self.chance.random() < 0.5:
                continue
            if state == "waits" and used < self.hosts:
                self.pods[pod] = (name, "starts")
            elif state == "starts":
                self.pods[pod] = (name, "ready" if name in self.good else "failed")
            elif state == "ends":
                del self.pods[pod]

    def seen(self) -> Seen:
        return {
            name: DeploymentSeen(
                replicas=count,
                pods=tuple(
                    PodSeen(
                        name=pod,
                        ready=state == "ready",
                        ends=state in ENDS,
                        waits=0 if state == "waits" else None,
                        restarts=int(state == "failed"),
                    )
                    for pod, state in self.of(name).items()
                ),
            )
            for name, count in self.replicas.items()
        }

    @property
    def serve(self) -> int:
        return sum(state == "ready" for _, state in self.pods.values())


Object = dict[str, Any]


def stamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def proxy(name: str, ready: str = "True", **metadata: str) -> Object:
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
    return {"kind": "Pod", "metadata": {"name": name, **metadata}, "status": status}


PROXIES = tuple(
    {
        "kind": "Pod",
        "metadata": {"name": name, "labels": {label("role"): "proxy"}, **metadata},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
    }
    for name, status, metadata in (
        ("proxy-1", "True", {}),
        ("proxy-2", "False", {}),
        ("proxy-0", "True", {"deletionTimestamp": "2026-11-30T10:00:00Z"}),
    )
)
"""With their state: one of them is not ready, and one was replaced and ends what it carries."""


def weights(node: str, there: bool) -> Object:
    """The pod of a node that has its weights, or lacks them."""
    ready = {"type": "Ready", "status": "True" if there else "False"}
    metadata = {"name": f"weights-on-{node}"}
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": {"conditions": [ready]}}


@dataclass
class Kubectl:
    """Answers as `kubectl` does that reaches the cluster. Each second that is slept it has some turns."""

    played: Played
    parallel: dict[str, int]
    """How many requests an engine of each Deployment works on at a time."""
    live: Object
    """The ConfigMap."""
    log: list[list[Any]] = field(default_factory=list)
    """The proxies' access log, as `proxy.traffic` has its lines."""
    ends: list[list[Any]] | None = None
    """The same of a proxy that was replaced and ends what it carries; None: it has just ended."""
    began: float = 0
    """Since when there is one."""
    lease: Object | None = None
    now: float = 1_800_000_000.0
    asked: list[list[str]] = field(default_factory=list)
    away: set[str] = field(default_factory=set)
    """The nodes that take no pods."""
    made: dict[str, float] = field(default_factory=dict)
    """When each pod was seen first."""
    unheard: int = 0
    """How many answers do not arrive, to what was done all the same."""
    broken: int = 0
    """So many of the next commands fail."""
    version: int = 0
    weights: dict[str, bool] = field(default_factory=dict)
    """Whether each node has its weights."""
    ended: dict[str, float] = field(default_factory=dict)
    """By when a pod was to have ended, where that is not now."""

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(self.played.chance.randrange(1, 4)):
            self.played.turn()

    def __call__(self, words: Sequence[str], stdin: str) -> str:
        self.asked.append(list(words))
        if self.broken:
            self.broken -= 1
            raise ClusterError("Unable to connect to the server: EOF")
        said = self._answer(words, stdin)
        if self.unheard:
            self.unheard -= 1
            raise ClusterError("Unable to connect to the server: net/http: TLS handshake timeout")
        return said

    def _answer(self, words: Sequence[str], stdin: str) -> str:
        match list(words):
            case ["get", "lease", name, *_]:
                if self.lease is None:
                    raise Missing(f'Error from server (NotFound): leases "{name}" not found')
                return json.dumps(self.lease)
            case ["create" | "replace" as verb, "--filename", "-", *_]:
                return self._hold(verb, json.loads(stdin))
            case ["get", "configmap", _, *_]:
                return json.dumps(self.live)
            case ["patch", "configmap", _, "--type=merge", "--patch", patch]:
                said = json.loads(patch)
                self.live["metadata"].setdefault("annotations", {}).update(said["metadata"]["annotations"])
                self.live["data"] |= said.get("data", {})
                return ""
            case ["get", "pods", "--selector", told, *_] if told.endswith(f"{label('role')}=weights"):
                return json.dumps({"items": [weights(name, there) for name, there in self.weights.items()]})
            case ["get", "pods", *_]:
                gone = (proxy(f"proxy-{n}", str(n == 2), deletionTimestamp="2026") for n in (2, 3))
                return json.dumps({"items": [proxy("proxy-1"), *gone]})
            case ["get", "nodes", "--selector", "changeover.stack=fleet", *_]:
                return json.dumps({"items": self._nodes()})
            case ["get", "deployment", name, *_]:
                for each in self._deployments():
                    if each["metadata"]["name"] == name:
                        return json.dumps(each)
                raise Missing(f'Error from server (NotFound): deployments.apps "{name}" not found')
            case ["get", "deployments", *_]:
                return json.dumps({"items": self._deployments()})
            case ["get", "deployments,pods", *_]:
                return json.dumps({"items": [*self._deployments(), *self._pods(), *PROXIES]})
            case ["scale", deployment, replicas]:
                name = deployment.partition("/")[2]
                self.played.scale(Scale(name, int(replicas.partition("=")[2])))
                return ""
            case ["delete", "pod", pod, "--wait=false", grace] if grace == f"--grace-period={STOP_GRACE}":
                self.played.pods[pod] = (self.played.pods[pod][0], "ends")
                return ""
            case ["exec", "proxy-1" | "proxy-2" as name, "--container", "proxy", "--", "sh", "-c", ask]:
                if name == "proxy-2" and self.ends is None:
                    raise ClusterError("error: cannot exec into a container in a completed pod")
                assert ask.startswith("python3 -m proxy.traffic ") and " http://127.0.0.1:8001 | " in ask
                log = self.log if name == "proxy-1" else self.ends or []
                lines = [*log, {"since": self.began if name == "proxy-1" else self.now, "unreadable": 0}]
                raw = gzip.compress("\n".join(map(json.dumps, lines)).encode())
                return base64.b64encode(raw).decode()
            case ["logs", pod, "--container", "gate", _, "--previous"]:
                raise ClusterError(f'previous terminated container "gate" in pod "{pod}" not found')
            case ["logs", pod, "--container", container, *_]:
                return f"the {container} of {pod} says why\n"
            case ["annotate", *_]:
                return ""
        raise AssertionError(f"nobody has said what this does: {words}")

    def _hold(self, verb: str, lease: Object) -> str:
        there = self.lease and self.lease["metadata"]["resourceVersion"]
        if verb == "create" and there:
            raise ClusterError("Error from server (AlreadyExists): it exists")
        if verb == "replace" and lease["metadata"]["resourceVersion"] != there:
            raise ClusterError("Error from server (Conflict): the object has been modified")
        self.version += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.version)}}
        return json.dumps(self.lease)

    def _deployments(self) -> list[Object]:
        return [
            {
                "kind": "Deployment",
                "metadata": {
                    "name": name,
                    "labels": {label("role"): "engine"},
                    "annotations": {PARALLEL: str(self.parallel[name])},
                },
                "spec": {
                    "replicas": count,
                    "template": {
                        "metadata": {"labels": {label("engine"): name.partition("-")[2]}},
                        "spec": {
                            "containers": [
                                {"name": "gate"},
                                {"name": "engine", "resources": {"limits": {GPU: "1"}}},
                            ]
                        },
                    },
                },
            }
            for name, count in self.played.replicas.items()
        ]

    def _nodes(self) -> list[Object]:
        return [
            {
                "metadata": {"name": f"node{number}"},
                "spec": {"unschedulable": True} if f"node{number}" in self.away else {},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "allocatable": {GPU: "1"},
                },
            }
            for number in range(1, self.played.hosts + 1)
        ]

    def _pods(self) -> list[Object]:
        found = []
        for pod, (name, state) in self.played.pods.items():
            conditions = [{"type": "PodScheduled", "status": "False" if state == "waits" else "True"}]
            conditions.append({"type": "Ready", "status": "True" if state == "ready" else "False"})
            item: Object = {
                "kind": "Pod",
                "metadata": {
                    "name": pod,
                    "labels": {label("role"): "engine", label("deployment"): name},
                    "creationTimestamp": stamp(self.made.setdefault(pod, self.now)),
                },
                "status": {
                    "phase": "Running",
                    "conditions": conditions,
                    "containerStatuses": [{"name": "engine", "restartCount": int(state == "failed")}],
                },
            }
            if state in ENDS:
                item["metadata"]["deletionTimestamp"] = stamp(self.ended.get(pod, self.now))
            found.append(item)
        return found
