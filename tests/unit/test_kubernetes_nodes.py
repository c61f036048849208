"""Every node has weights and got images before anything changes, or it is said which has not, and why."""

import io
import json
import stat
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from components.kubernetes.kubectl import ClusterError, sender
from components.kubernetes.nodes import (
    GONE_SECONDS,
    LASTS_SECONDS,
    LONGEST_SECONDS,
    Nodes,
    NodesPlan,
    Sent,
    all_there,
    main,
    read_plan,
    trouble_of,
)
from components.kubernetes.pods import THERE
from components.labels import Labels
from stacks.cluster import cluster, nodes_plan
from switch.weights import receive
from tests.support.objects import plan

TINY = Sent(engine="vllm", folder="tiny-0a1b2c3d", place="tiny-1")


def told(*sent: Sent) -> NodesPlan:
    return NodesPlan(
        project="changeover",
        stack="fleet",
        namespace="llm",
        context="",
        daemon_set="fleet-weights",
        content="0a1b2c3d",
        sent=sent,
    )


def status(name: str, **state: Any) -> dict[str, Any]:
    again = state.pop("again", 0)
    return {"name": name, "restartCount": again, "state": state}


def waiting(name: str, reason: str, message: str = "", again: int = 0) -> dict[str, Any]:
    return status(name, waiting={"reason": reason, "message": message}, again=again)


RUNS = status("receive", running={})
LOST = {**status(THERE, running={}), "ready": False}


def has_lost_one(container: dict[str, Any]) -> bool:
    return container["name"] == THERE and not container["ready"]


class Cluster:
    """Nodes as folders. `states` has the statuses of the containers of each one's pod; a node is done once it
    has all that is sent and nothing of its pod is said to be wrong."""

    def __init__(self, root: Path, *sent: Sent, **states: list[dict[str, Any]]) -> None:
        self.root, self.sent, self.states = root, sent, states
        self.now, self.said, self.uploads = 1000.0, list[str](), 0
        self.conditions = dict[str, list[dict[str, str]]]()
        self.renewed, self.deleted = list[str](), set[str]()
        self.ending, self.nodes = set[str](), dict[str, str]()
        self.logs = "the weights tiny need 9 KiB, and 1 KiB are free on this node\n"
        (root / "models" / "tiny-1").mkdir(parents=True)
        (root / "models" / "tiny-1" / "config.json").write_text("{}")

    def done(self, node: str) -> bool:
        wrong = any("waiting" in each["state"] or has_lost_one(each) for each in self.states[node])
        there = (self.root / node / it.engine / it.folder / "source" for it in self.sent)
        return not wrong and node not in self.conditions and all(each.is_dir() for each in there)

    def run(self, words: Sequence[str], stdin: str) -> str:
        match list(words):
            case ["get", "daemonset", "fleet-weights", *_]:
                ready = sum(self.done(node) for node in self.states)
                counts = {"desiredNumberScheduled": len(self.states), "numberReady": ready}
                counts |= {"updatedNumberScheduled": len(self.states), "observedGeneration": 2}
                return json.dumps({"metadata": {"generation": 2}, "status": counts})
            case ["get", "pods", "--selector", _, *_]:
                self.deleted.clear()  # there is another one by then
                return json.dumps({"items": [self.pod(node) for node in self.states]})
            case ["exec", "--stdin", pod, "--container", "receive", "--", *program]:
                if pod in self.deleted:
                    raise ClusterError('container not found ("receive")')
                here = [word.replace("/weights", str(self.root / pod)) for word in program]
                return subprocess.check_output(here, text=True)
            case ["logs", _, "--container", _, _, "--previous"]:
                return self.logs
            case ["delete", "pod", pod, "--wait=false"]:
                self.states[pod] = [RUNS] if self.sent else []
                self.renewed.append(pod)
                self.deleted.add(pod)
                return ""
        raise AssertionError(words)

    def pod(self, node: str) -> dict[str, Any]:
        told = {"initContainerStatuses": self.states[node], "conditions": self.conditions.get(node, [])}
        metadata = {"name": node, **({"deletionTimestamp": "2026"} if node in self.ending else {})}
        place = self.nodes.get(node, f"node-{node}")
        return {"metadata": metadata, "spec": {"nodeName": place}, "status": told}

    def send(self, folder: Path, words: Sequence[str]) -> None:
        pod, engine, name = words[2], words[words.index("--engine") + 1], words[words.index("--folder") + 1]
        assert list(words[3:10]) == ["--container", "receive", "--", "python3", "-m", "switch", "receive"]
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.add(folder, ".")
        receive(self.root / pod, engine, name, io.BytesIO(data.getvalue()))
        self.uploads += 1

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def bring(self) -> None:
        Nodes(
            told(*self.sent),
            self.run,
            self.send,
            self.root / "models",
            clock=lambda: self.now,
            sleep=self.sleep,
            say=self.said.append,
        ).bring()

    def refused(self) -> str:
        with pytest.raises(ClusterError) as error:
            self.bring()
        return str(error.value)


def test_a_cluster_that_has_all_is_asked_once(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[RUNS], b=[RUNS])
    at.bring()
    assert at.said == ["Every node has got its images, and has its weights."] and at.now == 1000


def test_a_folder_goes_to_each_node_that_lacks_it_and_to_no_other(tmp_path: Path) -> None:
    at = Cluster(tmp_path, TINY, a=[RUNS], b=[RUNS])
    at.bring()
    assert at.uploads == 2
    assert at.said[:2] == [f"node-{node}: the weights tiny-0a1b2c3d are sent" for node in "ab"]
    for node in "ab":
        assert (tmp_path / node / "vllm" / "tiny-0a1b2c3d" / "source" / "config.json").read_text() == "{}"
    at.states["c"] = [RUNS]
    at.bring()
    assert at.uploads == 3 and (tmp_path / "c" / "vllm" / "tiny-0a1b2c3d" / "source").is_dir()


def test_nothing_is_sent_to_a_pod_before_it_can_take_it(tmp_path: Path) -> None:
    at = Cluster(tmp_path, TINY, a=[waiting("receive", "PodInitializing")])
    assert "not all nodes have images and weights after 2 h" in at.refused() and at.uploads == 0
    assert at.now - 1000 > LONGEST_SECONDS


def test_a_folder_that_is_not_on_this_machine_is_said_before_anything(tmp_path: Path) -> None:
    other = Sent(engine="vllm", folder="x-0a1b2c3d", place="x-1")
    at = Cluster(tmp_path, other, a=[RUNS])
    assert "the model x-1 is not in" in at.refused() and at.uploads == 0 and at.said == []


def test_a_registry_that_answers_again_is_waited_for(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[waiting("fetch-vllm", "ImagePullBackOff", "Back-off pulling image")])

    def sleep(seconds: float) -> None:
        at.now += seconds
        if at.now > 1000 + LASTS_SECONDS / 2:
            at.states["a"] = [RUNS]

    at.sleep = sleep  # type: ignore[method-assign]
    at.bring()
    assert at.said == [
        "node-a: ImagePullBackOff: Back-off pulling image",
        "Every node has got its images, and has its weights.",
    ]


def test_an_image_that_is_nowhere_is_given_up_and_the_node_is_named(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[RUNS], b=[waiting("fetch-vllm", "ErrImageNeverPull", "it is not present")])
    text = at.refused()
    assert text.startswith(
        "the node node-b does not get its images and weights (fetch-vllm: ErrImageNeverPull"
    )
    assert "What serves goes on as before" in text and "pulumi up" in text
    assert LASTS_SECONDS <= at.now - 1000 < LASTS_SECONDS + 10


def test_a_fetch_that_fails_again_and_again_is_said_with_its_log(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[waiting("fetch-vllm", "CrashLoopBackOff", again=3)])
    text = at.refused()
    assert "(fetch-vllm: it has failed 3 times)" in text and at.now == 1000
    assert text.endswith("\n  the weights tiny need 9 KiB, and 1 KiB are free on this node")


def test_one_that_has_failed_twice_is_tried_again() -> None:
    told = {"initContainerStatuses": [waiting("fetch-vllm", "CrashLoopBackOff", again=2)]}
    assert trouble_of({"metadata": {"name": "a"}, "status": told}) is None


def test_a_node_without_a_place_for_the_pod_is_given_up(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[])
    at.conditions["a"] = [{"type": "PodScheduled", "status": "False", "message": "Insufficient memory"}]
    assert "(Insufficient memory)" in at.refused()


@pytest.mark.parametrize(
    "other",
    [
        {"observedGeneration": 1},
        {"desiredNumberScheduled": 0, "updatedNumberScheduled": 0, "numberReady": 0},
        {"updatedNumberScheduled": 2},
        {"numberReady": 2},
    ],
)
def test_nodes_have_all_once_each_has_what_the_newest_pods_bring(other: dict[str, int]) -> None:
    counts = {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 3}
    seen = {"metadata": {"generation": 2}, "status": {**counts, "observedGeneration": 2}}
    assert all_there(seen)
    assert not all_there({**seen, "status": {**seen["status"], **other}})
    assert not all_there({"metadata": {"generation": 1}})


def test_the_plan_has_what_both_engines_are_sent_where_no_hub_is_reached() -> None:
    args = cluster(plan("cpu"), Labels(project="changeover", stack="cpu"))
    made = nodes_plan(args)
    assert [each.engine for each in made.sent] == ["ollama", "vllm"]
    assert {each.place for each in made.sent} == {it.spec.weights.upload for it in args.engines}
    assert read_plan(made.text) == made


def test_a_plan_that_can_not_be_read_is_an_error_and_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("{}") == 1 and capsys.readouterr().err.startswith("error: ")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `kubectl` that keeps what it is given, or fails where its folder has a file `fails`."""
    there = tmp_path / "bin"
    there.mkdir()
    kubectl = there / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\ncd {there}\n[ ! -e fails ] || {{ echo "pod is gone" >&2; exit 1; }}\n'
        'echo "$@" >words\ncat >sent.tar\n'
    )
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{there}:/usr/bin:/bin")
    return there


def test_a_folder_goes_through_kubectl_as_a_tar_for_as_long_as_it_takes(program: Path) -> None:
    folder = program.parent / "tiny"
    folder.mkdir()
    (folder / "model").write_bytes(bytes(2**20))
    sender("llm", "prod")(folder, ["exec", "pod"])
    words = (program / "words").read_text()
    assert words == "--namespace llm --context prod exec pod\n" and "timeout" not in words
    with tarfile.open(program / "sent.tar") as tar:
        assert "./model" in tar.getnames()


def test_a_pod_that_is_gone_meanwhile_and_a_folder_that_is_not_there_are_errors(program: Path) -> None:
    with pytest.raises(ClusterError, match="could not be read"):
        sender("llm", "")(program.parent / "none", ["exec", "pod"])
    (program / "fails").touch()
    big = program.parent / "big"
    big.mkdir()
    (big / "model").write_bytes(bytes(2**22))
    with pytest.raises(ClusterError, match="pod is gone"):
        sender("llm", "")(big, ["exec", "pod"])


def test_a_folder_that_no_node_needs_may_be_missing_on_this_machine(tmp_path: Path) -> None:
    at = Cluster(tmp_path, TINY, a=[RUNS])
    at.bring()
    (tmp_path / "models" / "tiny-1" / "config.json").unlink()
    (tmp_path / "models" / "tiny-1").rmdir()
    at.bring()
    assert at.said[-1] == "Every node has got its images, and has its weights."


THERE_NOW = {**status(THERE, running={}), "ready": True}


@pytest.mark.parametrize("ends", [True, False])
def test_a_node_that_does_not_answer_any_more_is_given_up(tmp_path: Path, ends: bool) -> None:
    at = Cluster(tmp_path, a=[RUNS, THERE_NOW])
    at.conditions["a"] = [{"type": "Ready", "status": "Unknown"}]
    if ends:
        at.ending.add("a")
        at.states["a"] = [RUNS, LOST]
    assert "the node node-a does not get its images and weights (its node does not answer)" in at.refused()
    assert LASTS_SECONDS <= at.now - 1000 < LASTS_SECONDS + 10
    assert at.renewed == [] and at.uploads == 0 and at.said == []


def test_a_pod_that_ends_is_no_trouble_where_another_one_is_there(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[RUNS], b=[waiting("fetch-vllm", "ContainerCreating")])
    at.nodes["b"], at.ending = "node-a", {"a"}
    pods = Nodes(told(), at.run, at.send, tmp_path)._pods()
    assert [pod["metadata"]["name"] for pod in pods] == ["b"]


def test_a_node_that_has_lost_its_weights_fetches_them_again(tmp_path: Path) -> None:
    at = Cluster(tmp_path, a=[], b=[LOST])
    began = at.now
    at.bring()
    assert at.renewed == ["b"] and at.now - began >= GONE_SECONDS
    assert at.said[0] == "node-b: its weights are gone, and are fetched again"


def test_nothing_is_sent_to_the_pod_that_has_just_been_deleted(tmp_path: Path) -> None:
    at = Cluster(tmp_path, TINY, a=[RUNS, LOST])
    folder = tmp_path / "a" / TINY.engine / TINY.folder / "source"
    folder.mkdir(parents=True)
    at.bring()
    assert at.renewed == ["a"]
