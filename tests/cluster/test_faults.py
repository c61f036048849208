"""What ends, or goes, under a stack on a cluster, with a load on it: what that costs, and what comes back."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.kubernetes.pods import STORE
from tests.support.cluster.cluster import NAMESPACE, wait
from tests.support.cluster.project import ClusterProject, load, on_cluster
from tests.support.project import CommandFailed

pytestmark = pytest.mark.engine

CLIENTS, ABORTS = 6, 5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    with on_cluster(tmp_path_factory.mktemp("project"), "faults") as project:
        yield project


@pytest.fixture(autouse=True)
def all_serve(project: ClusterProject) -> None:
    wait(lambda: sum(project.serving().values()) == 3, 120, "all hosts serve")
    wait(lambda: proxies(project) == 2, 60, "both proxies serve")


def proxies(project: ClusterProject) -> int:
    """How many are ready."""
    return sum(
        condition["status"] == "True"
        for pod in project.pods("proxy")
        for condition in pod["status"].get("conditions") or []
        if condition["type"] == "Ready" and "deletionTimestamp" not in pod["metadata"]
    )


def kill(project: ClusterProject, role: str) -> str:
    """Ends a pod at once, and gives the name of its node."""
    pod = project.pods(role)[0]
    words = ("--namespace", NAMESPACE, "--force", "--grace-period=0", "--wait=false")
    project.cluster.kubectl("delete", "pod", pod["metadata"]["name"], *words)
    return str(pod["spec"]["nodeName"])


def test_a_pod_that_is_killed_costs_what_had_begun_there_and_nothing_else(project: ClusterProject) -> None:
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        began = time.monotonic()
        kill(project, "engine")
        wait(lambda: sum(project.serving().values()) == 3, 60, "another pod serves in its place")
        there.wait_for_answers(there.round)
        project.up()
        there.wait_for_answers(there.round)
    assert project.changes() == {}
    assert all(each.cut for each in there.bad), there.summary()
    assert all(began <= each.ended <= began + 15 for each in there.bad), there.summary()


def test_a_proxy_that_is_killed_costs_what_was_at_it_and_nothing_else(project: ClusterProject) -> None:
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        began = time.monotonic()
        kill(project, "proxy")
        wait(lambda: proxies(project) == 2, 90, "another proxy serves in its place")
        there.wait_for_answers(there.round)
        project.up()
        there.wait_for_answers(there.round)
    assert project.changes() == {}
    cut = Counter(each.client for each in there.bad if each.cut)
    unanswered = Counter(each.client for each in there.bad if not each.cut)
    assert all(count == 1 for count in (cut + unanswered).values()), (cut, unanswered, there.summary())
    assert all(began <= each.ended <= began + 15 for each in there.bad), there.summary()


def test_a_node_that_is_emptied_costs_nothing_and_serves_again_afterwards(project: ClusterProject) -> None:
    node = str(project.pods("engine")[0]["spec"]["nodeName"])
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        more = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        project.cluster.kubectl("drain", node, *more)
        assert sum(project.serving().values()) == 2
        there.wait_for_answers(there.round)
        left = project.serving()
        (serves,) = {engine.partition("-")[0] for engine in left}
        project.configure(engine="ollama" if serves == "vllm" else "vllm")
        with pytest.raises(CommandFailed) as failed:
            project.up()
        assert f"have places for 2 of 3 engines now, and these take none: {node}. " in str(failed.value)
        project.configure(engine=serves)
        assert f"these nodes take no pods now: {node}. " in project.up()
        assert project.serving() == left
        there.wait_for_answers(there.round)
        project.cluster.kubectl("uncordon", node)
        wait(lambda: sum(project.serving().values()) == 3, 60, "all hosts serve")
    assert not there.bad, there.summary()


def test_a_node_that_has_lost_its_weights_gets_them_before_a_change_begins_or_none_does(
    project: ClusterProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.serving()
    (engine,) = {name.partition("-")[0] for name in before}
    new = "ollama" if engine == "vllm" else "vllm"
    node = project.cluster.nodes["node3"]
    (folder,) = (node.folder / "lib" / Path(STORE).name / project.stack / "weights" / new).glob("tiny-*")
    shutil.rmtree(folder)
    wait(lambda: ready(project, "node3") is False, 60, "the node says that it lacks them")
    project.configure(engine=new)
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        with monkeypatch.context() as patch:
            patch.setitem(project.environment, "CHANGEOVER_CACHE", str(tmp_path))  # it has no models
            with pytest.raises(CommandFailed) as failed:
                project.up()
        assert "lack images or weights: node3" in str(failed.value) and "make up" in str(failed.value)
        assert project.serving() == before
        said = project.up()
        there.wait_for_answers(there.round)
    assert "node3: its weights are gone, and are fetched again" in said
    assert "node3: the weights tiny-" in said
    assert not there.bad, there.summary()
    assert ready(project, "node3") and (folder / ".complete").exists()
    assert project.serving().keys() != before.keys() and sum(project.serving().values()) == 3
    assert project.certificates()[-1]["fewest"] == 2


def ready(project: ClusterProject, node: str) -> bool:
    """Whether a node says that it has its weights."""
    (pod,) = [pod for pod in project.pods("weights") if pod["spec"]["nodeName"] == node]
    conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
    return bool(conditions["Ready"] == "True")
