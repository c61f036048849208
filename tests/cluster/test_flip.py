"""A stack on a cluster of three machines, under a load: the real Pulumi engine, Kubernetes, proxies and
gateways, and the test engine as both engines."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.kubernetes.files import names
from components.kubernetes.objects import LIVE_CONFIG, PROXIES
from offline.tools import is_cluster_built
from proxy.route import FLEET_FILE
from tests.support.cluster.cluster import NAMESPACE, wait
from tests.support.cluster.images import BROKEN
from tests.support.cluster.project import WAIT_SECONDS, ClusterProject, load, on_cluster
from tests.support.project import CommandFailed, kill_group

pytestmark = pytest.mark.engine

CLIENTS, ABORTS = 6, 5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    if not is_cluster_built():
        pytest.skip("Kubernetes is not built here: `make test-cluster` builds it, which takes half an hour")
    with on_cluster(tmp_path_factory.mktemp("project"), "flips") as project:
        yield project


def kinds(project: ClusterProject) -> dict[str, int]:
    """How many hosts serve with each kind of engine."""
    return {engine.partition("-")[0]: count for engine, count in project.serving().items()}


def other(project: ClusterProject) -> str:
    """The engine that does not serve."""
    (serves,) = kinds(project)
    return "ollama" if serves == "vllm" else "vllm"


def test_the_first_update_brings_three_hosts_and_the_second_one_changes_nothing(
    project: ClusterProject,
) -> None:
    assert kinds(project) == {"ollama": 3} and project.cluster.took < 120
    assert project.make("drift").endswith(f"`{project.stack}`: no drift.\n")


def test_every_node_has_a_host_and_no_pod_has_a_token(project: ClusterProject) -> None:
    pods = [*project.pods("engine"), *project.pods("proxy"), *project.pods("weights")]
    assert {pod["spec"]["nodeName"] for pod in project.pods("engine")} == set(project.cluster.nodes)
    mounts = [
        mount["mountPath"]
        for pod in pods
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        for mount in container.get("volumeMounts", [])
    ]
    assert pods and not [each for each in mounts if "serviceaccount" in each]


def test_pods_are_restricted_but_for_the_folder_of_their_node_and_who_is_root(
    project: ClusterProject,
) -> None:
    enforced = "pod-security.kubernetes.io/enforce=restricted"
    first, *said = project.cluster.warnings(
        "label", "namespace", NAMESPACE, enforced, "--overwrite", "--dry-run=server"
    )
    assert "violate the new PodSecurity enforce level" in first
    found = {
        name.split()[0]: set(why.split(", ")) for name, _, why in (line.partition(": ") for line in said)
    }
    folder, root = {"hostPath volumes", "restricted volume types"}, {"runAsNonRoot != true", "runAsUser=0"}
    for role, allowed in (("engine", folder | root), ("weights", folder | root), ("proxy", set())):
        its = {pod["metadata"]["name"] for pod in project.pods(role)}
        assert {why for name in its & found.keys() for why in found[name]} <= allowed, found
    assert found, "one of several that are alike is named"


def test_the_code_of_this_folder_is_on_the_cluster_and_nothing_else_of_it(project: ClusterProject) -> None:
    found = project.cluster.get("configmaps", "--selector", f"{project.mine},changeover.role=code")["items"]
    wanted = names()
    expected = {f"{project.stack}-{package}-{digest}" for package, digest in wanted.code.items()}
    expected |= {f"{project.stack}-packages-{each}" for each in wanted.packages}
    assert {each["metadata"]["name"] for each in found} == expected


def test_flips_back_and_forth_lose_nothing_and_nobody_waits(project: ClusterProject) -> None:
    """By `pulumi up`, by a review that is applied, and by going back."""
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        project.commit("To vLLM", engine="vllm")
        by_content = ("configmap-gateway-", "configmap-routing-")
        changed = {name for name in project.changes() if not name.startswith(by_content)}
        assert changed <= {"prepare-step", "served", "deployment-proxy"}
        project.up()
        assert kinds(project) == {"vllm": 3}
        there.wait_for_answers(there.round)
        project.commit("To Ollama", engine="ollama")
        said = project.make("review")
        assert f"Engine of `{project.stack}`: vLLM → Ollama, pod by pod, and no request waits" in said
        assert "in a flip 2 hosts go on serving" in said and "deleted first" not in said
        project.make("apply", REVIEW=f"reviews/{project.stack}")
        assert kinds(project) == {"ollama": 3}
        there.wait_for_answers(there.round)
        project.make("rollback", YES="1")
        assert kinds(project) == {"vllm": 3}
        there.wait_for_answers(there.round)
    assert not there.bad and there.longest < WAIT_SECONDS, there.summary()
    flips = project.certificates()[-3:]
    assert [(each["result"], each["fewest"]) for each in flips] == [("committed", 2)] * 3


def test_after_flips_there_is_no_drift_once_the_settings_say_what_serves(project: ClusterProject) -> None:
    (serves,) = kinds(project)
    project.commit("As it serves", engine=serves)
    assert project.make("drift").endswith(f"`{project.stack}`: no drift.\n")


def test_pods_that_are_taken_away_by_hand_are_drift_that_an_update_puts_right(
    project: ClusterProject,
) -> None:
    ((engine, _),) = project.serving().items()
    deployment = project.pods("engine")[0]["metadata"]["labels"]["changeover.deployment"]
    scale = ("scale", "--namespace", NAMESPACE, f"deployment/{deployment}")
    project.cluster.kubectl(*scale, "--replicas=2")
    says(project, f"{engine}: 2 of 3 hosts serve, behind 2 of 2 proxies\n")
    said = project.make("drift", fails=2)
    assert f"wanted was changed: now {deployment}: 2; Pulumi left {deployment}: 3" in said
    project.up()
    says(project, f"{engine}: 3 of 3 hosts serve, ")
    assert project.make("drift").endswith(f"`{project.stack}`: no drift.\n")


def test_files_that_are_gone_and_what_the_proxies_are_told_by_hand_are_drift_that_an_update_puts_right(
    project: ClusterProject,
) -> None:
    def config_map(verb: str, name: str, *words: str) -> str:
        return project.cluster.kubectl("--namespace", NAMESPACE, verb, "configmap", name, *words)

    gone, live = f"{project.stack}-packages-{names().packages[0]}", f"{project.stack}-{LIVE_CONFIG}"
    for _ in range(2):  # the same again is seen again
        config_map("delete", gone)
        data = {FLEET_FILE: json.dumps({"service": "other", "preferred": "other", "flip": False})}
        config_map("patch", live, "--type=merge", "--patch", json.dumps({"data": data}))
        said = project.make("drift", fails=2)
        assert f"code and packages that every new pod needs are gone: `{gone}`" in said
        assert "- the proxies are told to look for engines in the Service other\n" in said
        assert "- the proxies are told that other is to serve\n" in said
        project.up()
        assert config_map("get", gone, "--output", "name") == f"configmap/{gone}\n"
        assert "other" not in config_map("get", live, "--output", "jsonpath={.data}")
        assert project.make("drift").endswith(f"`{project.stack}`: no drift.\n")


def says(project: ClusterProject, words: str) -> None:
    """Waits until the status begins so. A pod that has no core to answer its node in time does not count as
    one that serves, for that moment, and the proxies of the flip before may just begin."""
    wait(lambda: project.make("status").startswith(words), 120, words)


def test_an_engine_that_fails_its_gate_takes_one_host_away_and_mended_it_serves(
    project: ClusterProject,
) -> None:
    """What served comes back meanwhile."""
    before, (serves,) = project.serving(), kinds(project)
    project.pin(vllm=BROKEN)
    project.configure(engine="vllm", context=2048)
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        with pytest.raises(CommandFailed) as failed:
            project.up()
        there.wait_for_answers(there.round)
        assert project.serving() == before
        said = str(failed.value)
        assert "does not serve" in said and "comes back on every host" in said and "as before" in said
        assert project.certificates()[-1]["result"] == "failed"
        assert project.certificates()[-1]["fewest"] == 2
        project.pin()
        project.up()
        there.wait_for_answers(there.round)
    assert not there.bad and there.longest < WAIT_SECONDS, there.summary()
    assert kinds(project) == {"vllm": 3} and not project.serving().keys() & before.keys()
    last = project.certificates()[-1]
    assert (last["result"], last["fewest"]) == ("committed", 2) and project.changes() == {}
    project.configure(engine=serves, context=1024)
    project.up()
    assert project.serving() == before and project.changes() == {}


@pytest.mark.long
def test_another_name_that_keeps_the_one_before_as_an_alias_loses_nothing_and_nobody_waits_long(
    project: ClusterProject,
) -> None:
    (serves,) = kinds(project)
    for before, after in (("tiny", "other"), ("other", "tiny")):
        with load(project, clients=CLIENTS, aborts=ABORTS) as there:
            there.model = before
            there.wait_for_answers(there.round)
            project.configure(name=after, aliases=[before])
            project.up()
            there.wait_for_answers(there.round)
            # until then one that knows the name of before only may be asked
            wait(lambda: len(project.pods("proxy")) == PROXIES, 120, "the proxies of before have gone")
            there.model = after
            there.wait_for_answers(2 * there.round)
        assert not there.bad and there.longest < WAIT_SECONDS, there.summary()
        assert kinds(project) == {serves: 3} and project.changes() == {}
    project.configure(name=None, aliases=None)
    project.up()


MOMENTS = (
    "Updating",
    *(f"{moved} of 3 hosts have" for moved in range(4)),
    "serves from 3 hosts.",
)
"""What the flip says just before `pulumi up` is killed."""

ALWAYS = (("1 of 3 hosts have", "new"), ("2 of 3 hosts have", "old"))
"""Of these moments with each value for the next update, those of `make test-cluster`."""

KILLS = [
    pytest.param(moment, value, marks=[] if (moment, value) in ALWAYS else pytest.mark.long)
    for moment in MOMENTS
    for value in ("new", "old")
]


@pytest.mark.parametrize(("moment", "value"), KILLS)
def test_an_update_that_is_killed_costs_nothing_and_the_next_one_has_every_host_serve_what_it_says(
    project: ClusterProject, moment: str, value: str, tmp_path: Path
) -> None:
    (before,) = kinds(project)
    after = other(project)
    log = tmp_path / "log"
    with load(project, clients=CLIENTS, aborts=ABORTS) as there:
        there.wait_for_answers(there.round)
        project.configure(engine=after)
        update = project.start("up", "--yes", "--skip-preview", log=log)
        wait(lambda: moment in log.read_text(), 180, f"the update says `{moment}`")
        kill_group(update)
        assert update.returncode == -signal.SIGKILL
        there.wait_for_answers(there.round)
        project.pulumi("cancel", "--yes")
        wanted = after if value == "new" else before
        project.configure(engine=wanted)
        project.up()
        there.wait_for_answers(there.round)
    assert kinds(project) == {wanted: 3}
    assert not there.bad, there.summary()
    assert project.changes() == {}
