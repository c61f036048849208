"""`python -m components.kubernetes.nodes`: waits until images and weights are on every node of a stack.

The pods of a DaemonSet fetch what is public. A folder of the offline builder's models is sent to each of
them.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import cache_root
from components.kubernetes.kubectl import (
    ClusterError,
    ClusterObject,
    RunKubectl,
    Send,
    get,
    kubectl,
    selector,
    sender,
)
from components.kubernetes.pods import RECEIVES, THERE
from components.shell import program
from switch.plan import load
from switch.shared import WEIGHTS

LOOK_SECONDS = 5
LASTS_SECONDS = 120
"""So long a node may lack an image or a place before it is given up: a registry may answer again."""
AWAY = "its node does not answer"
GONE_SECONDS = 30
"""So long a node may be without the weights that it had, before its pod is made anew: that one fetches
them."""
ENDED = 3
"""How often a container may have been started again before it is given up."""
LONGEST_SECONDS = 2 * 3600
"""As long as a Docker host may take for an image."""
TAIL = 20
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}
FAILS = "CrashLoopBackOff"
HERE = "here"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A folder of weights that is sent: `place` is its name among the builder's models."""

    engine: str
    folder: str
    place: str


@dataclass(frozen=True, kw_only=True)
class NodesPlan:
    """What the program tells the step. `content` changes with whatever the DaemonSet's pods do, and is empty
    where that is no reason to run again."""

    project: str
    stack: str
    namespace: str
    context: str
    daemon_set: str
    content: str
    sent: tuple[Sent, ...]

    @property
    def text(self) -> str:
        """As JSON, which `read_plan` reads."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def read_plan(text: str) -> NodesPlan:
    """The plan of the nodes from its JSON. Raises ValueError for what is none."""
    plan: NodesPlan = load(NodesPlan, json.loads(text))
    return plan


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What keeps a node from having its images and weights. `container` is empty where the cause is
    not a container."""

    container: str
    why: str
    at_once: bool
    """Whether waiting has been tried already."""


def all_there(daemon_set: ClusterObject) -> bool:
    """Whether every node has what this version of the DaemonSet brings."""
    status = daemon_set.get("status") or {}
    wanted = status.get("desiredNumberScheduled", 0)
    return bool(
        status.get("observedGeneration") == daemon_set["metadata"]["generation"]
        and wanted > 0
        and wanted == status.get("updatedNumberScheduled", 0) == status.get("numberReady", 0)
    )


def trouble_of(pod: ClusterObject) -> Trouble | None:
    """What keeps the pod of a node from going on, as far as it shows."""
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble(container="", why=condition.get("message", "it has no place"), at_once=False)
    for each in _containers(pod):
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in NO_IMAGE:
            why = f"{reason}: {waiting.get('message', '')}".removesuffix(": ")
            return Trouble(container=each["name"], why=why, at_once=False)
        if reason == FAILS and each.get("restartCount", 0) >= ENDED:
            why = f"it has failed {each['restartCount']} times"
            return Trouble(container=each["name"], why=why, at_once=True)
    if pod["metadata"].get("deletionTimestamp") or _is_silent(pod):
        return Trouble(container="", why=AWAY, at_once=False)
    return None


def _is_silent(pod: ClusterObject) -> bool:
    """Whether the cluster does not believe any more what the node said last: that all are ready."""
    ready = [each["status"] for each in pod["status"].get("conditions") or [] if each["type"] == "Ready"]
    there = [each for each in _containers(pod) if each["name"] == THERE]
    return ready not in ([], ["True"]) and bool(there) and all(each.get("ready") for each in there)


def receives(pod: ClusterObject) -> bool:
    """Whether a folder can be sent to it now."""
    return any(
        each["name"] == RECEIVES and "running" in (each.get("state") or {}) for each in _containers(pod)
    )


def has_lost(pod: ClusterObject) -> bool:
    """Whether all that it fetches was there once, and is not now."""
    return any(
        each["name"] == THERE and "running" in (each.get("state") or {}) and not each.get("ready")
        for each in _containers(pod)
    )


def _containers(pod: ClusterObject) -> list[ClusterObject]:
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def node_of(pod: ClusterObject) -> str:
    """Name of the node that the pod is on; where it is on none yet, the pod's own."""
    return str(pod["spec"].get("nodeName") or pod["metadata"]["name"])


@dataclass
class Nodes:
    """The nodes of one stack, on a cluster that is reached by `run` and `send`."""

    plan: NodesPlan
    run: RunKubectl
    send: Send
    models: Path
    """Where the builder's models are."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = lambda line: print(line, flush=True)

    def __post_init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}
        self._gone = dict[str, float]()
        self._said = set[str]()

    def bring(self) -> None:
        """Comes back once each node has all. Raises ClusterError."""
        until = self.clock() + LONGEST_SECONDS
        while not all_there(self._get("daemonset", self.plan.daemon_set)):
            for each in self.plan.sent:  # not before a node needs it: who flips need not have built it
                if not (self.models / each.place).is_dir():
                    raise ClusterError(
                        f"the model {each.place} is not in {self.models}. To build it, run: make up. What "
                        "serves goes on as before"
                    )
            for pod in self._pods():
                self._help(pod)
            if self.clock() > until:
                raise ClusterError(
                    f"not all nodes have images and weights after {LONGEST_SECONDS // 3600} h. What serves "
                    "goes on as before. What they do: "
                    f"kubectl --namespace {self.plan.namespace} describe pods --selector {self._mine}"
                )
            self.sleep(LOOK_SECONDS)
        self.say("Every node has got its images, and has its weights.")

    def _help(self, pod: ClusterObject) -> None:
        """Sends what a pod waits for, and raises ClusterError where nothing helps."""
        node = node_of(pod)
        if (trouble := trouble_of(pod)) is not None:
            since = self._since.setdefault((node, trouble.container), self.clock())
            if trouble.at_once or self.clock() - since >= LASTS_SECONDS:
                self._give_up(pod, trouble)
            if trouble.why == AWAY:  # it may only be on its way from one pod to the next
                return
            self._once(f"{node}: {trouble.why}")
        else:
            for known in [key for key in self._since if key[0] == node]:
                del self._since[known]
        if self._renew(pod, node):  # it is gone, and the next one is sent what it lacks
            return
        if self.plan.sent and receives(pod):
            for each in self.plan.sent:
                self._bring_folder(pod["metadata"]["name"], node, each)

    def _renew(self, pod: ClusterObject, node: str) -> bool:
        """Has a node fetch again what it has lost, by another pod. Whether it did that now."""
        name = pod["metadata"]["name"]
        if not has_lost(pod):
            self._gone.pop(name, None)
        elif self.clock() - self._gone.setdefault(name, self.clock()) >= GONE_SECONDS:
            self.say(f"{node}: its weights are gone, and are fetched again")
            self.run(["delete", "pod", name, "--wait=false"], "")
            del self._gone[name]
            return True
        return False

    def _bring_folder(self, pod: str, node: str, it: Sent) -> None:
        into = ["exec", "--stdin", pod, "--container", RECEIVES, "--"]
        place = f"{WEIGHTS}/{it.engine}/{it.folder}/source"
        look = program("kubernetes/is_sent", PLACE=place, HERE=HERE)
        if self.run([*into, "sh", "-c", look], "").strip() == HERE:
            return
        self.say(f"{node}: the weights {it.folder} are sent")
        receive = ["python3", "-m", "switch", "receive", "--engine", it.engine, "--folder", it.folder]
        self.send(self.models / it.place, [*into, *receive])

    def _give_up(self, pod: ClusterObject, trouble: Trouble) -> None:
        log = ""
        if trouble.at_once:
            words = ["logs", pod["metadata"]["name"], "--container", trouble.container, f"--tail={TAIL}"]
            with contextlib.suppress(ClusterError):
                log = "".join(f"\n  {line}" for line in self.run([*words, "--previous"], "").splitlines())
        of = f"{trouble.container}: " if trouble.container else ""
        raise ClusterError(
            f"the node {node_of(pod)} does not get its images and weights ({of}{trouble.why}). What serves "
            f"goes on as before. Mend it and run: pulumi up{log}"
        )

    def _once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    @property
    def _mine(self) -> str:
        return selector(self.plan.project, self.plan.stack, "weights")

    def _get(self, *words: str) -> Any:
        return get(self.run, *words)

    def _pods(self) -> list[ClusterObject]:
        """Those that stay, and of a node that has none of these the one that ends."""
        found = self._get("pods", "--selector", self._mine)["items"]
        stay = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
        there = {node_of(pod) for pod in stay}
        return [*stay, *(pod for pod in found if node_of(pod) not in there)]


def main(text: str) -> int:
    """Carries out the plan in `text`. The exit status."""
    try:
        plan = read_plan(text)
        where = (plan.namespace, plan.context)
        Nodes(plan, kubectl(*where), sender(*where), cache_root() / "models").bring()
    except (ClusterError, ValueError, KeyError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
