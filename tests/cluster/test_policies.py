"""What a stack's NetworkPolicies let through, on a cluster that keeps them: from pods of several kinds, every
port is tried that the stack and the cluster have."""

import json
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from components import engines, pins, proxy, tensorzero
from components.kubernetes.objects import network_policies
from components.labels import Labels
from stacks.cluster import cluster
from stacks.settings import PROJECT
from switch import pod_plan
from switch.shared import PROXY_PORT
from tests.support.cluster.cluster import BRIDGE, NAMESPACE, Cluster, wait
from tests.support.cluster.configuration import CONTROL, KUBELET_PORT, SERVICES, address
from tests.support.cluster.project import ClusterProject, load, on_cluster
from tests.support.objects import plan

pytestmark = pytest.mark.engine

Places = Mapping[str, tuple[str, int]]
"""Names of ports with their addresses."""

ELSEWHERE, FETCHES = "elsewhere", "t4"
"""Another namespace, and another stack, whose nodes may fetch weights."""
WEB = (80, 443)
METADATA = "169.254.169.254"
"""Where a cloud gives a machine its credentials."""
LOOK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def answers(name):
    address, port = places[name]
    try:
        if name.startswith("UDP"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(3)
                asking.connect((address, port))
                asking.send(bytes.fromhex("0001 0100 0001 0000 0000 0000 00 0001 0001"))
                asking.recv(512)
        else:
            socket.create_connection((address, port), 3).close()
    except OSError:
        return False
    return True

places = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps([name for name, open in zip(places, pool.map(answers, places)) if open]))
"""
"""Which places answer the pod in which this runs."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    with on_cluster(tmp_path_factory.mktemp("project"), "closed") as project:
        there = project.cluster
        for port in WEB:
            there.control.start("python3", "-m", "http.server", "--directory=/run/tmp", str(port))
        there.control.run("ip", "address", "add", f"{METADATA}/32", "dev", BRIDGE)
        for machine in there.nodes.values():
            machine.run("ip", "route", "add", METADATA, "via", CONTROL)
        there.kubectl("create", "namespace", ELSEWHERE)
        node = project.pods("proxy")[0]["spec"]["nodeName"]  # on which there is an engine, too
        for namespace in (NAMESPACE, ELSEWHERE):
            begin(there, "stranger", namespace, node, {})
        labels = Labels(project=PROJECT, stack=FETCHES)
        made = network_policies(cluster(plan(FETCHES, namespace=NAMESPACE), labels))
        there.kubectl("create", "--filename", "-", stdin=listed(*made))
        for role in ("weights", "unknown"):
            begin(there, f"{FETCHES}-{role}", NAMESPACE, node, labels.of(role))
        yield project


def begin(there: Cluster, called: str, namespace: str, node: str, labels: Mapping[str, str]) -> None:
    """A pod that does nothing by itself."""
    container = {
        "name": "main",
        "image": pins.SWITCH.offline,
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": called, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1},
    }
    there.kubectl("create", "--filename", "-", stdin=json.dumps(pod))
    there.kubectl("wait", "--namespace", namespace, "--for=condition=Ready", "--timeout=60s", f"pod/{called}")


def listed(*objects: object) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def ports(project: ClusterProject, *, but: str = "") -> tuple[dict[str, tuple[str, int]], ...]:
    """Of the engines' pods, of the proxies' pods and of their Service; not those of the pod `but`."""
    engine = {"engine": engines.PORT, "gate": pod_plan.PORT}
    proxies = {"endpoint": proxy.PORT, "inside": PROXY_PORT, "gateway": tensorzero.PORT}
    of_engines, of_proxies = (
        {
            f"{what} on {pod['spec']['nodeName']}": (str(pod["status"]["podIP"]), port)
            for pod in project.pods(role)
            if pod["metadata"]["name"] != but
            for what, port in its.items()
        }
        for role, its in (("engine", engine), ("proxy", proxies))
    )
    service = urlsplit(project.endpoint)
    assert service.hostname is not None and service.port is not None
    return of_engines, of_proxies, {"Service": (service.hostname, service.port)}


NAMES: Places = {f"{protocol} names": (CONTROL, 53) for protocol in ("UDP", "TCP")}
PAGES: Places = {f"web {port}": (CONTROL, port) for port in WEB}
OUTSIDE: Places = {
    "API": (CONTROL, 6443),
    "metadata": (METADATA, 80),
    "API's Service": (f"{SERVICES}.0.1", 443),
    **{f"kubelet {number}": (address(number), KUBELET_PORT) for number in (1, 2, 3)},
}
"""What is no pod."""


def look(
    project: ClusterProject, pod: str, *places: Places, container: str = "main", namespace: str = NAMESPACE
) -> set[str]:
    """Which of these places a pod reaches."""
    told = json.dumps({name: where for each in places for name, where in each.items()})
    words = ("exec", "--namespace", namespace, pod, "--container", container, "--", "python3", "-c", LOOK)
    return set(json.loads(project.cluster.kubectl(*words, told)))


def test_a_strange_pod_reaches_the_endpoint_and_nothing_else_of_the_stack(project: ClusterProject) -> None:
    of_engines, of_proxies, service = ports(project)
    endpoints = {name for name in of_proxies if name.startswith("endpoint")}
    assert len(of_engines) == 2 * 3 and len(endpoints) == 2
    for namespace in (NAMESPACE, ELSEWHERE):
        found = look(project, "stranger", of_engines, of_proxies, service, namespace=namespace)
        assert found == {*endpoints, *service}, namespace


def test_an_engine_reaches_nothing(project: ClusterProject) -> None:
    for pod in project.pods("engine"):
        name = pod["metadata"]["name"]
        all_of_it = (*ports(project, but=name), NAMES, PAGES, OUTSIDE)
        assert look(project, name, *all_of_it, container="gate") == set()


def test_a_proxy_reaches_engines_and_names_and_nothing_outside(project: ClusterProject) -> None:
    for pod in project.pods("proxy"):
        name = pod["metadata"]["name"]
        of_engines, of_proxies, _ = ports(project, but=name)
        found = look(project, name, of_engines, of_proxies, NAMES, PAGES, OUTSIDE, container="proxy")
        # the policy does not let it ask the other one's endpoint, but kube-router takes that all may be asked
        # there for leave to ask
        assert found - {each for each in of_proxies if "endpoint" in each} == {*of_engines, *NAMES}


def test_the_pod_that_keeps_the_weights_reaches_nothing_where_nothing_is_fetched(
    project: ClusterProject,
) -> None:
    pod = project.pods("weights")[0]["metadata"]["name"]
    assert look(project, pod, *ports(project), NAMES, PAGES, OUTSIDE, container="there") == set()


def test_a_pod_that_fetches_weights_reaches_names_and_the_web_and_one_without_a_role_nothing(
    project: ClusterProject,
) -> None:
    all_of_it = (*ports(project), NAMES, PAGES, OUTSIDE)
    wait(lambda: not look(project, f"{FETCHES}-unknown", PAGES), 30, "what has just begun is closed")
    assert look(project, f"{FETCHES}-weights", *all_of_it) == {*NAMES, *PAGES}
    assert look(project, f"{FETCHES}-unknown", *all_of_it) == set()


def test_without_the_policies_every_port_is_open_to_all_of_these(project: ClusterProject) -> None:
    """So what is closed in the tests before is closed by them."""
    with load(project, clients=2) as there:
        there.wait_for_answers(there.round)
        project.cluster.kubectl("delete", "networkpolicies", "--all", "--namespace", NAMESPACE)
        all_of_it = (*ports(project), NAMES, PAGES, OUTSIDE)
        everything = {name for each in all_of_it for name in each}
        engine, of_proxies = (project.pods(role)[0]["metadata"]["name"] for role in ("engine", "proxy"))
        wait(
            lambda: look(project, engine, *all_of_it, container="gate") == everything,
            60,
            "an engine reaches all",
        )
        assert look(project, of_proxies, *all_of_it, container="proxy") == everything
        for name in ("stranger", f"{FETCHES}-weights", f"{FETCHES}-unknown"):
            assert look(project, name, *all_of_it) == everything
        assert look(project, "stranger", *all_of_it, namespace=ELSEWHERE) == everything
    assert not there.bad, there.summary()
