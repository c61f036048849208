"""Settings of a stack on Kubernetes, refused before anything is changed."""

from dataclasses import replace

import pytest

from common import ROOT
from components.catalogue import GIB
from components.kubernetes.settings import KubernetesSettings
from components.labels import Labels
from stacks.blueprint import blueprint_of
from stacks.kubernetes_settings import OF_ONE_HOST
from stacks.owner import known
from stacks.settings import Settings, SettingsError, declared, from_values
from stacks.target_error import TargetError
from stacks.targets import docker_host

GOOD = {
    "engine": "ollama",
    "target": "kubernetes",
    "model": "qwen-2.5-coder-7b",
    "gpu": "t4",
    "hosts": 3,
    "apiKeys": {"acme": "0123456789abcdef"},
}


def read(**values: object) -> Settings:
    return from_values("fleet", {**GOOD, **values}, ROOT)


def refusal(**values: object) -> str:
    with pytest.raises(SettingsError) as error:
        read(**values)
    return str(error.value)


def test_a_cluster_is_the_current_one_and_one_host_at_a_time_is_away_unless_said() -> None:
    said = KubernetesSettings(hosts=3, at_once=1, context="", namespace="changeover")
    assert read().kubernetes == said and said.left == 2
    arn = "arn:aws:eks:eu-west-1:123456789012:cluster/llm"
    values = {"hosts": "100", "atOnce": "99", "kubeContext": arn, "namespace": "llm"}
    assert read(**values).kubernetes == KubernetesSettings(
        hosts=100, at_once=99, context=arn, namespace="llm"
    )


def test_all_other_settings_are_each_pods() -> None:
    load = read(hostMemoryGiB=12).load
    assert load.gpu and load.gpu.name == "NVIDIA T4"
    assert load.host_memory == 12 * GIB and load.services == 0, "the services are in other pods"
    docker = from_values("local", {**GOOD, "target": "docker", "hosts": 0}, ROOT).load
    assert read().load == replace(docker, services=0)


def test_images_that_are_on_the_nodes_already_are_taken() -> None:
    offline = {"images": "offline", "model": "tiny", "gpu": "none"}
    assert read(**offline).images == "offline"
    assert "with images public" in refusal(model="tiny")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hosts": 0}, "hosts: 0 cannot work; it must be 2 to 100 hosts. Run: pulumi config set hosts 2"),
        (
            {"hosts": 101},
            "hosts: 101 cannot work; it must be 2 to 100 hosts. Run: pulumi config set hosts 100",
        ),
        ({"atOnce": 0}, "atOnce: 0 cannot work; it must be 1 to 2 hosts, so that one goes on serving. Run"),
        ({"atOnce": 3}, "atOnce: 3 cannot work; it must be 1 to 2 hosts, so that one goes on serving. Run"),
        (
            {"kubeContext": "a b"},
            "kubeContext: 'a b' cannot work; it must be one of the contexts that `kubectl config",
        ),
        ({"kubeContext": "--x"}, "kubeContext: '--x' cannot work"),
        ({"namespace": ""}, "namespace: '' cannot work; it must be an existing namespace whose"),
        ({"namespace": "kube-system"}, "namespace: 'kube-system' cannot work"),
        ({"namespace": "A"}, "Run: pulumi config set namespace changeover"),
        (
            {"apiKeys": {}},
            "apiKeys: {} cannot work; with target kubernetes at least one key is needed, since",
        ),
        (
            {"spot": True},
            "spot: '[set]' cannot work; it applies only with target aws. Run: pulumi",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_what_is_allowed(values: dict[str, object], said: str) -> None:
    assert said in refusal(**values)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("drainSeconds", 60, "a pod is drained for"),
        ("cutover", "hold", "a pod has one engine, and others serve while it changes"),
        ("cutover", "overlap", "a pod has one engine, and others serve while it changes"),
        ("requireParity", True, "`make parity` compares"),
        ("acceptedDifferences", ["max-tokens"], "`make parity` compares"),
        ("reportFirstTokenSeconds", 3, "`make report` measures"),
        ("reportTokensPerSecond", 10, "`make report` measures"),
        ("monitor", True, "there is no monitor"),
        ("monitorPort", 9000, "there is no monitor"),
    ],
)
def test_what_only_one_host_has_is_refused(key: str, value: object, why: str) -> None:
    said = f"{key}: {value!r} cannot work; it applies only with target docker or aws: {why}"
    text = refusal(**{key: value})
    assert said in text and f"Run: pulumi config rm {key}" in text and text.count("changeover:") == 1


def test_a_receiver_of_alerts_is_refused_without_its_value_and_not_with_a_monitor() -> None:
    for receiver in ("https://alerts.example.com", "https://user:password@alerts.example.com"):
        text = refusal(alertReceiver=receiver)
        assert "alertReceiver: '[set]' cannot work; it applies only with target docker or aws" in text
        assert "example" not in text and "monitor true" not in text


def test_the_defaults_of_what_only_one_host_has_may_be_written_down() -> None:
    block = declared(ROOT)
    said = {key: block[key]["default"] for key in OF_ONE_HOST}
    assert said["cutover"] == "auto" and read(**said) == read()


def test_one_host_is_refused_with_where_to_go_instead() -> None:
    text = refusal(hosts=1)
    assert "hosts: 1 cannot work; it must be 2 to 100 hosts. For one, a cluster only adds parts" in text
    assert "Run: pulumi config set target docker" in text
    assert "atOnce" not in text


@pytest.mark.parametrize("stack", ["Fleet", "1st", "a_b", "a-", "a" * 31])
def test_a_stack_whose_name_no_object_can_have_is_refused(stack: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_values(stack, GOOD, ROOT)
    assert f"(this one is {stack!r}). Run: pulumi stack rename" in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("hosts", 3), ("atOnce", 2), ("kubeContext", "x"), ("namespace", "llm")]
)
@pytest.mark.parametrize("target", ["docker", "aws"])
def test_what_only_a_cluster_has_is_refused_elsewhere(target: str, key: str, value: object) -> None:
    values = {"engine": "ollama", "target": target, "model": "qwen-2.5-coder-7b", key: value}
    with pytest.raises(SettingsError) as error:
        from_values("local", values, ROOT)
    assert f"changeover:{key}: '[set]' cannot work; it applies only with target kubernetes" in str(
        error.value
    )
    assert f"Run: pulumi config rm {key}" in str(error.value)


def test_a_reviewer_needs_no_keys() -> None:
    assert from_values("fleet", {**GOOD, "apiKeys": {}}, ROOT, deploying=False).tenants == ()


def test_no_docker_engine_is_asked_for_a_stack_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    with pytest.raises(TargetError, match="there is no Docker host; nothing was changed"):
        docker_host(blueprint_of(read()), Labels(project="changeover", stack="fleet"), known({}))
