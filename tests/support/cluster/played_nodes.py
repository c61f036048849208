"""Nodes of which a real API server, its controllers and its scheduler have only what such nodes would say:
they run nothing, and each pod on them is ready at once.

So a hundred of them fit on a small machine, for what asks the cluster alone.
"""

import contextlib
import datetime
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from components.kubernetes.pods import ARCHITECTURE, NODE
from tests.support.cluster.cluster import NAMESPACE, Cluster

Object = dict[str, Any]

BEAT_SECONDS, LOOK_SECONDS = 10.0, 0.5
"""Between two times that the nodes say that they are there, and between two looks at pods. After 50 s without
a word a node is given up."""
ROOM = {"cpu": "64", "memory": "256Gi", "pods": "110"}
PODS = (f"10.245.{third}.{fourth}" for third in range(256) for fourth in range(1, 255))
"""Addresses, which nobody asks."""


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(name: str, stack: str) -> Object:
    """A node that is ready, and the stack's."""
    told = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": now()}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                NODE: stack,
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": ARCHITECTURE,
            },
        },
        "status": {"capacity": ROOM, "allocatable": ROOM, "conditions": [told]},
    }


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def made_ready(pod: Object) -> Object:
    """The same pod, all of whose containers are ready."""
    kept = [each for each in pod["status"].get("conditions") or [] if each["type"] == "PodScheduled"]
    good = [
        {"type": kind, "status": "True", "lastTransitionTime": now()}
        for kind in ("Initialized", "ContainersReady", "Ready")
    ]
    address = next(PODS)
    status = {
        "phase": "Running",
        "startTime": now(),
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [*kept, *good],
    }
    return {**pod, "status": status}


class PlayedNodes:
    """`count` nodes for each stack, as long as the block lasts."""

    def __init__(self, cluster: Cluster, counts: Mapping[str, int]) -> None:
        self.cluster = cluster
        self._names = [(f"{stack}-{at}", stack) for stack, count in counts.items() for at in range(count)]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> "PlayedNodes":
        self._send("create", (node(*each) for each in self._names))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _play(self) -> None:
        for turn in itertools.count(1):
            if self._ends.wait(LOOK_SECONDS):
                return
            with contextlib.suppress(RuntimeError):  # somebody else has changed one: it is looked at again
                self._look()
            if turn % round(BEAT_SECONDS / LOOK_SECONDS) == 0:
                with contextlib.suppress(RuntimeError):
                    self._send("replace", (node(*each) for each in self._names), "--subresource=status")

    def _look(self) -> None:
        pods = [pod for pod in self.cluster.get("pods")["items"] if pod["spec"].get("nodeName")]
        ended = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]]
        if ended:
            words = ("--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
            self.cluster.kubectl("delete", "pods", "--namespace", NAMESPACE, *ended, *words)
        begun = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not is_ready(pod)]
        self._send("replace", map(made_ready, begun), "--subresource=status")

    def _send(self, verb: str, objects: Iterator[Object], *words: str) -> None:
        items = list(objects)
        if items:
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
            self.cluster.kubectl(verb, "--filename", "-", *words, stdin=text)
