"""The objects of a stack on a cluster: held by golden files, closed, and changed by a flip in a few lines."""

import difflib
import tomllib
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from components.gpu_memory import KINDS
from components.kubernetes import pods
from components.kubernetes.objects import deployments, objects, render
from components.kubernetes.pods import plain
from components.labels import Labels, label
from components.shell import program
from proxy.finding import Wanted, parse_wanted
from proxy.route import FLEET_FILE, ROUTING_FILE, parse_routing
from stacks.cluster import cluster, rendered
from switch.plan import load
from switch.pod_plan import PodPlan
from tests.support.objects import STACKS, golden, plan
from tools.render import files

Object = dict[str, Any]


def made(stack: str, **changed: object) -> list[Object]:
    return objects(cluster(plan(stack, **changed), Labels(project="changeover", stack=stack)))


def kind(of: list[Object], *kinds: str) -> list[Object]:
    return [each for each in of if each["kind"] in kinds]


def named(of: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in of if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def templates(of: list[Object]) -> list[tuple[str, Object]]:
    """Each pod with the role of what makes it."""
    makers = kind(of, "Deployment", "DaemonSet")
    return [(each["metadata"]["labels"][label("role")], each["spec"]["template"]["spec"]) for each in makers]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def engine(of: list[Object], kind_: str) -> tuple[Object, Object]:
    """The pod of an engine, and its container."""
    (pod,) = (
        each["spec"]["template"]["spec"]
        for each in kind(of, "Deployment")
        if each["spec"]["template"]["metadata"]["labels"].get(label("engine"), "").startswith(kind_)
    )
    (container,) = pod["containers"]
    return pod, container


@pytest.mark.parametrize("stack", STACKS)
def test_the_objects_are_those_of_the_golden_file(stack: str) -> None:
    assert rendered(plan(stack)) == golden(stack).read_text(), "Run: python -m tests.support.objects"


@pytest.mark.parametrize("stack", STACKS)
def test_what_is_rendered_is_what_is_made(stack: str) -> None:
    text = files(plan(stack))
    assert "Caddyfile" not in text
    assert list(yaml.safe_load_all(text["objects.yaml"])) == made(stack)


def not_restricted(pod: Object) -> set[str]:
    """In what a pod is not "restricted": every rule of
    https://kubernetes.io/docs/concepts/security/pod-security-standards that names a field which we set.
    """
    found = set()
    for volume in pod.get("volumes", []):
        (source,) = volume.keys() - {"name"}
        if source not in ("configMap", "emptyDir", "projected", "secret"):
            found.add(f"a volume of {source}")
    if any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")):
        found.add("a namespace of the node")
    for container in containers(pod):
        rights = {**pod["securityContext"], **container["securityContext"]}
        if not rights["runAsNonRoot"] or not rights["runAsUser"]:
            found.add(f"root in {container['name']}")
        if rights["allowPrivilegeEscalation"] or rights["capabilities"] != {"drop": ["ALL"]}:
            found.add(f"capabilities in {container['name']}")
        if rights["seccompProfile"] != {"type": "RuntimeDefault"} or rights.get("privileged"):
            found.add(f"system calls in {container['name']}")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            found.add("a port of the node")
    return found


@pytest.mark.parametrize("stack", STACKS)
def test_every_pod_is_restricted_but_for_what_an_engine_needs(stack: str) -> None:
    disk = "a volume of hostPath"
    found = [(role, sorted(not_restricted(pod))) for role, pod in templates(made(stack))]
    more = ["receive"] if stack == "cpu" else []  # no hub is reached, so folders are sent
    assert sorted(found) == [
        ("engine", [disk]),
        ("engine", [disk, "root in engine"]),
        ("proxy", []),
        ("weights", [disk, *(f"root in {each}" for each in ("fetch-ollama", "fetch-vllm", *more))]),
    ]


@pytest.mark.parametrize("stack", STACKS)
def test_no_pod_has_a_token_or_the_services_of_the_namespace_in_its_environment(stack: str) -> None:
    for _, pod in templates(made(stack)):
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert "serviceAccountName" not in pod


def test_no_key_is_in_any_object() -> None:
    text = render(made("t4", apiKeys={"acme": "0123456789abcdef-secret"}))
    assert "secret" not in text.replace("secret:", "") and "acme" not in text
    assert text == render(made("t4"))


@pytest.mark.parametrize("stack", STACKS)
def test_only_proxies_reach_engines_and_only_the_endpoint_is_there_for_clients(stack: str) -> None:
    of = made(stack)
    policies = {
        each["metadata"]["name"].removeprefix(f"{stack}-"): each["spec"] for each in kind(of, "NetworkPolicy")
    }
    everything = {"matchLabels": {label("project"): "changeover", label("stack"): stack}}
    assert policies["nobody"]["podSelector"] == everything
    assert policies["nobody"]["ingress"] == policies["nobody"]["egress"] == []
    (rule,) = policies["engine"]["ingress"]
    (source,) = rule["from"]
    assert (
        source["podSelector"]["matchLabels"][label("role")] == "proxy" and policies["engine"]["egress"] == []
    )
    (rule,) = policies["proxy"]["ingress"]
    assert rule == {"ports": [{"protocol": "TCP", "port": 8080}]}
    assert ("weights" in policies) is (stack == "t4"), "on a closed cluster nothing is fetched"
    if stack == "t4":
        names, web = policies["weights"]["egress"]
        assert {each["port"] for each in names["ports"]} == {53} and "to" not in names
        assert {each["port"] for each in web["ports"]} == {80, 443}
        blocks = [each["ipBlock"] for each in web["to"]]
        assert [each["cidr"] for each in blocks] == ["0.0.0.0/0", "::/0"]
        for block, metadata in zip(blocks, ("169.254.169.254", "fd00:ec2::254"), strict=True):
            (hidden,) = map(ip_network, block["except"])
            assert ip_address(metadata) in hidden and hidden.num_addresses == 1
    clients = [each for each in kind(of, "Service") if each["spec"].get("clusterIP") != "None"]
    assert [each["spec"]["selector"][label("role")] for each in clients] == ["proxy"]


@pytest.mark.parametrize("stack", STACKS)
def test_every_selector_finds_pods_and_every_name_that_is_mounted_is_made(stack: str) -> None:
    of = made(stack)
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in kind(of, "Deployment", "DaemonSet")]
    selectors = [each["spec"]["selector"] for each in kind(of, "Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in kind(of, "Deployment", "DaemonSet")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in kind(of, "PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in kind(of, "NetworkPolicy")]
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector
    there = {each["metadata"]["name"] for each in kind(of, "ConfigMap")}
    there |= {f"{stack}-proxy-code", f"{stack}-switch-code", f"{stack}-packages-all"}  # these are bytes
    for _, pod in templates(of):
        sources = [volume.get("configMap") for volume in pod["volumes"]]
        for volume in pod["volumes"]:
            sources += [each.get("configMap") for each in volume.get("projected", {}).get("sources", [])]
        assert {source["name"] for source in sources if source} <= there
        mounted = {
            each["name"] for container in containers(pod) for each in container.get("volumeMounts", [])
        }
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_an_engine_gets_what_it_gets_on_one_host() -> None:
    of, specs = made("t4"), {spec.kind: spec for spec in plan("t4").specs}
    for kind_, spec in specs.items():
        _, container = engine(of, kind_)
        assert container["command"] == list(spec.entrypoint) and container["args"] == list(spec.command)
        said = {each["name"]: each["value"] for each in container["env"]}
        assert said == {**spec.environment, **({"HOME": "/tmp"} if kind_ == "ollama" else {})}
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    (told,) = (each["data"] for each in kind(of, "ConfigMap") if ROUTING_FILE in each["data"])
    routing = parse_routing(told[ROUTING_FILE].encode())
    assert routing.names == ("qwen-2.5-coder-7b",) and routing.gateway and routing.gateway.port == 3000


@pytest.mark.parametrize("active", KINDS)
def test_a_gateway_without_a_standby_knows_the_engine_of_the_next_flip_too(active: str) -> None:
    """Until a flip has ended, proxies have the gateway of before: a request for a pod of the new engine that
    it did not know would be answered by nobody."""
    alone, both = (plan("t4", engine=active, standby=standby) for standby in (False, True))
    assert alone.gateway_config is not None and alone.gateway_config == both.gateway_config
    model = tomllib.loads(alone.gateway_config)["models"]["qwen-2.5-coder-7b"]
    assert model["routing"][0] == active and set(model["routing"]) == set(KINDS)
    asked = {kind_: urlsplit(its["api_base"]).path for kind_, its in model["providers"].items()}
    assert asked == {kind_: f"/{kind_}/v1/" for kind_ in KINDS}, "as `proxy.inner` lets it in"
    assert [spec.kind for spec in alone.specs] == [active], "of the other one there is nothing else"


def test_two_cards_for_each_engine_are_two_for_each_pod() -> None:
    _, container = engine(made("t4", gpuCount=2), "vllm")
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert container["args"][container["args"].index("--tensor-parallel-size") + 1] == "2"


def test_without_cards_no_two_engines_are_on_one_node() -> None:
    pod, container = engine(made("cpu"), "vllm")
    (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"][label("role")] == "engine"
    assert "limits" not in container["resources"] and "tolerations" not in pod
    assert "affinity" not in engine(made("t4"), "vllm")[0]


def test_where_all_nodes_are_for_gpus_alone_every_pod_has_a_place() -> None:
    """Such nodes have a taint, and the hosts of a stack may be all that its cluster has."""
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert [pod["tolerations"] for _, pod in templates(made("t4"))] == [[taint]] * 4
    assert not any("tolerations" in pod for _, pod in templates(made("cpu")))


def test_a_pod_is_ready_by_its_gate_and_ends_by_it() -> None:
    pod, container = engine(made("t4"), "ollama")
    gate = next(each for each in pod["initContainers"] if each["name"] == "gate")
    assert gate["restartPolicy"] == "Always" and gate["command"][:3] == ["python3", "-m", "switch.pod"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8002}
    assert container["livenessProbe"]["httpGet"] == {"path": "/alive", "port": 8002}
    assert container["livenessProbe"]["terminationGracePeriodSeconds"] == 30, "it hangs, perhaps"
    assert container["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain", "port": 8002}
    assert "startupProbe" not in container, "the gate knows how long an engine may take"
    assert pod["terminationGracePeriodSeconds"] > plan("t4").plan().seconds.request


@pytest.mark.parametrize("stack", STACKS)
def test_what_gates_and_proxies_are_told_is_read_by_them(stack: str) -> None:
    of, blueprint = made(stack), plan(stack)
    for spec in blueprint.specs:
        raw = named(of, "ConfigMap", f"{stack}-{spec.name}")["data"]["pod.json"]
        told = load(PodPlan, yaml.safe_load(raw), "pod.json")
        assert (told.engine.name, told.engine.container) == (spec.name, "127.0.0.1")
        assert (told.at_a_time, told.context) == (spec.at_a_time, spec.context)
        assert told.gate == blueprint.plan().gate or told.engine.kind != blueprint.active.kind
    raw = named(of, "ConfigMap", f"{stack}-live")["data"][FLEET_FILE]
    assert parse_wanted(raw.encode()) == Wanted(f"{stack}-engines", blueprint.active.name, False)


def changed_lines(before: str, after: str) -> list[str]:
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def test_a_flip_changes_what_is_preferred_and_no_deployment_of_an_engine() -> None:
    before, after = (files(plan("t4", engine=engine_)) for engine_ in ("ollama", "vllm"))
    assert {name for name in before if before[name] != after[name]} == {
        *("routing.toml", "tensorzero.toml", "cutover.txt", "objects.yaml")
    }
    lines = changed_lines(before["objects.yaml"], after["objects.yaml"])
    assert len(lines) == 14, lines  # preferred, routing, the gateway's TOML, both ConfigMaps' names twice
    one, other = (deployments(made("t4", engine=engine_)) for engine_ in ("ollama", "vllm"))
    assert one == other


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ({"hosts": 5, "atOnce": 2}, True),
        ({"loadSeconds": 200, "gateCompletions": 5}, True),
        ({"aliases": ["a"], "maxRequestMiB": 1, "port": 80, "namespace": "llm"}, True),
        ({"context": 4096}, False),
        ({"gpuMemoryMiB": 12000}, False),
        ({"name": "chat"}, False),
    ],
)
def test_only_what_an_engine_is_makes_another_deployment(setting: dict[str, object], same: bool) -> None:
    assert (set(deployments(made("t4")).values()) == set(deployments(made("t4", **setting)).values())) is same


def test_other_code_of_ours_is_another_deployment_too() -> None:
    labels = Labels(project="changeover", stack="t4")
    code = {"proxy": "11111111", "switch": "22222222"}
    other = objects(cluster(plan("t4"), labels, code, ("33333333", "44444444")))
    assert not set(deployments(made("t4")).values()) & set(deployments(other).values())
    text = render(other)
    for name in ("t4-proxy-11111111", "t4-switch-22222222", "t4-packages-33333333", "t4-packages-44444444"):
        assert f"name: {name}\n" in text


def test_as_many_may_be_away_as_is_set_whatever_deployment_they_are_of() -> None:
    budget = named(made("t4", hosts=10, atOnce=3), "PodDisruptionBudget", "t4-engines")
    assert budget["spec"]["maxUnavailable"] == 3
    assert label("engine") not in budget["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("word", "written"),
    [("$(HOME)", "$$(HOME)"), ("echo $$", "echo $$$"), ("$HOME ${A}", "$HOME ${A}"), ("$$(x)", "$$$$(x)")],
)
def test_the_cluster_replaces_nothing_in_a_command(word: str, written: str) -> None:
    assert plain(word) == written
    assert expanded(written) == word


def expanded(text: str) -> str:
    """What the cluster makes of a word, with no variable known (third_party/forked/golang/expansion)."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "$" and text[at + 1 : at + 2] == "$":
            out, at = out + "$", at + 2
        else:
            out, at = out + text[at], at + 1
    return out


def test_the_store_on_a_node_is_the_stacks_own() -> None:
    volumes = [volume for _, pod in templates(made("t4")) for volume in pod["volumes"]]
    paths = {volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume}
    assert paths == {f"{pods.STORE}/t4/{each}" for each in ("weights/ollama", "weights/vllm", "cache/vllm")}


def test_a_node_is_ready_only_as_long_as_it_has_the_weights_of_each_engine() -> None:
    of = made("cpu")
    (fetches,) = kind(of, "DaemonSet")
    pod = fetches["spec"]["template"]["spec"]
    (there,) = pod["containers"]
    assert there["readinessProbe"]["exec"]["command"] == ["/bin/sh", "-c", program("kubernetes/there")]
    (places,) = (one["value"].split() for one in there["env"] if one["name"] == "PLACES")
    assert len(places) == 2
    folders = {mount["name"]: mount["mountPath"] for mount in there["volumeMounts"]}
    assert folders == {f"weights-{each}": f"/weights/{each}" for each in ("ollama", "vllm")}
    for each in pod["initContainers"]:
        if each["name"].startswith("fetch-"):
            told = {one["name"]: one["value"] for one in each["env"]}
            place = f"{each['name'].removeprefix('fetch-')}/{told['FOLDER']}"
            assert f"{place}={told['DIGEST']}" in places
