"""The whole program under mocks: what it declares, and what it must never declare."""

import json
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker
import pytest

from components.docker_host import DockerHost
from components.labels import Labels
from components.plan import LOOK
from review.text import memory
from stacks.blueprint import blueprint
from stacks.endpoint import Endpoint, EndpointArgs
from stacks.settings import Settings, from_values
from tests.support.recorder import Recorder

ROOT = Path(__file__).parent.parent.parent
KEY = "0123456789abcdef-secret"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder.start("local")


def settings(**values: object) -> Settings:
    base = {"engine": "ollama", "target": "docker", "model": "tiny", "images": "offline"}
    return from_values("local", {**base, **values}, ROOT)


def build(checked: Settings) -> None:
    """Build the stack and wait for everything that was registered."""

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        host = DockerHost(
            address="unix:///var/run/docker.sock",
            socket="/var/run/docker.sock",
            bind="127.0.0.1",
            gpu=checked.gpu,
            provider=docker.Provider("host", host="unix:///var/run/docker.sock"),
            labels=Labels(project="changeover", stack="local"),
            origin="from its vendor",
        )
        keys = pulumi.Output.secret({tenant: f"{KEY}-{tenant}" for tenant in checked.tenants})
        Endpoint("endpoint", EndpointArgs(blueprint=blueprint(checked), host=host, api_keys=keys))

    program()


def requests(recorder: Recorder, kind: str) -> list[tuple[str, Any]]:
    """Name and request of each resource of a kind: its options are fields of the request."""
    return [(each.name, each) for each in recorder.requests if each.type.endswith(f":{kind}")]


def roles(containers: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Container resource name by role; engines by their kind."""
    found = {}
    for name, inputs in containers.items():
        labels = {each["label"]: each["value"] for each in inputs["labels"]}
        found[labels.get("changeover.engine") or labels["changeover.role"]] = name
    return found


def test_only_the_edge_publishes_a_port_and_only_on_loopback(recorder: Recorder) -> None:
    build(settings())
    with_ports = {
        name: inputs["ports"] for name, inputs in recorder.of("Container").items() if inputs.get("ports")
    }
    assert with_ports == {
        "changeover-local-edge": [{"external": 8080.0, "internal": 8080.0, "ip": "127.0.0.1"}]
    }


def test_engines_are_created_and_not_started(recorder: Recorder) -> None:
    build(settings())
    containers = recorder.of("Container")
    for kind in ("ollama", "vllm"):
        inputs = containers[roles(containers)[kind]]
        assert inputs["start"] is False
        assert inputs["mustRun"] is False
        assert inputs["restart"] == "unless-stopped"


def test_who_starts_what_again_and_how_it_is_known_to_be_well(recorder: Recorder) -> None:
    build(settings())
    containers = recorder.of("Container")
    named = {role: containers[name] for role, name in roles(containers).items()}
    assert {role: inputs["restart"] for role, inputs in named.items()} == {
        "ollama": "unless-stopped",
        "vllm": "unless-stopped",
        "edge": "unless-stopped",
        "switch": "always",
        "gateway": "no",  # the switch starts it, once the engine is gated
    }
    assert {role for role, inputs in named.items() if inputs.get("healthcheck")} >= {
        "ollama",
        "vllm",
        "gateway",
    }
    assert named["vllm"]["shmSize"] >= 1024


def test_every_container_stops_with_grace_rotates_its_log_and_carries_project_and_stack(
    recorder: Recorder,
) -> None:
    build(settings())
    for inputs in recorder.of("Container").values():
        assert inputs["destroyGraceSeconds"] > 0
        assert inputs["logOpts"]["max-size"]
        labels = {each["label"]: each["value"] for each in inputs["labels"]}
        assert labels["changeover.project"] == "changeover"
        assert labels["changeover.stack"] == "local"


def test_a_review_reads_in_a_step_what_the_engine_takes_of_what_there_is() -> None:
    cases: list[tuple[dict[str, object], float | None]] = [({}, None), ({"hostMemoryGiB": 16}, 16.0)]
    for more, there in cases:
        recorder = Recorder.start("local")
        build(settings(**more))
        said = recorder.of("Command")["prepare-step"]["environment"]["MEMORY"]
        ((what, (need, found)),) = memory(said)
        assert (what, need, found) == ("RAM", 1.01, there)


def test_the_gateway_may_drain_as_long_as_a_flip_waits(recorder: Recorder) -> None:
    build(settings(drainSeconds=77))
    assert recorder.of("Container")["changeover-local-gateway"]["destroyGraceSeconds"] == 77


def test_the_gateways_toml_is_an_upload_that_a_preview_shows(recorder: Recorder) -> None:
    build(settings())
    (upload,) = recorder.of("Container")["changeover-local-gateway"]["uploads"]
    assert 'routing = ["ollama", "vllm"]' in upload["content"]


def test_without_a_standby_the_other_engine_is_not_there_at_all(recorder: Recorder) -> None:
    build(settings(standby=False))
    everything = json.dumps([[each.name, each.inputs] for each in recorder.resources])
    assert "vllm-cpu" not in everything
    assert not [name for name in recorder.of("Container") if "vllm" in name]


def test_offline_and_public_images_are_never_mixed(recorder: Recorder) -> None:
    build(settings())
    names = [inputs["name"] for inputs in recorder.of("RemoteImage").values()]
    assert len(names) == 5
    assert all(name.startswith("changeover-offline/") for name in names)


def test_the_switch_is_told_of_every_image_so_that_old_ones_can_be_freed(recorder: Recorder) -> None:
    build(settings())
    about = json.loads(recorder.of("Command")["prepare-step"]["stdin"])["about"]
    told = [about["engine_image"], about["gateway_image"], *about["images"]]
    assert sorted(told) == sorted(inputs["name"] for inputs in recorder.of("RemoteImage").values())


def test_no_image_is_latest(recorder: Recorder) -> None:
    build(settings(images="public", model="qwen-2.5-coder-0.5b"))
    for inputs in recorder.of("RemoteImage").values():
        assert ":" in inputs["name"]
        assert not inputs["name"].endswith(":latest")


def test_weights_come_before_the_engine_and_survive_a_destroy(recorder: Recorder) -> None:
    build(settings())
    assert {"ollama-weights", "vllm-weights", "vllm-cache"} <= recorder.of("Volume").keys()
    steps = {name: request for name, request in requests(recorder, "Command") if name.endswith("-weights")}
    assert len(steps) == 2
    for step in steps:  # named as its engine, whose container waits for it
        engine = step.removesuffix("-weights")
        (container,) = [each for name, each in requests(recorder, "Container") if name.endswith(engine)]
        assert any(urn.endswith(f"::{step}") for urn in container.dependencies)
    kept = [request for name, request in requests(recorder, "Volume") if "weights" in name]
    assert len(kept) == 2 and all(each.retainOnDelete for each in kept)


def test_a_flip_changes_the_inputs_of_three_resources_only() -> None:
    seen: list[dict[str, Any]] = []
    for engine in ("ollama", "vllm"):
        recorder = Recorder.start("local")
        build(settings(engine=engine))
        seen.append({f"{each.typ}::{each.name}": each.inputs for each in recorder.resources})
    before, after = seen
    assert before.keys() == after.keys()
    changed = {name.rsplit("::", 1)[1] for name in before if before[name] != after[name]}
    assert changed == {"prepare-step", "changeover-local-gateway", "commit-step"}


def test_an_api_key_is_only_in_the_edges_configuration_and_there_a_secret(recorder: Recorder) -> None:
    build(settings(apiKeys={"acme": f"{KEY}-acme"}))
    holders = [each.name for each in recorder.resources if KEY in json.dumps(each.inputs)]
    assert holders == ["edge-configuration"]


def test_what_changes_in_the_edges_secret_is_shown_by_its_tenants_and_a_digest_without_keys(
    recorder: Recorder,
) -> None:
    shown = []
    for values in (
        {"apiKeys": {"acme": f"{KEY}-acme", "zoo": f"{KEY}-zoo"}},
        {"apiKeys": {"acme": f"{KEY}-other", "zoo": f"{KEY}-zoo"}},
        {"apiKeys": {"acme": f"{KEY}-acme", "zoo": f"{KEY}-zoo"}, "holdBudgetSeconds": 1200},
    ):
        recorder = Recorder.start("local")
        build(settings(**values))
        environment = recorder.of("Command")["edge-configuration"]["environment"]
        shown.append((environment["TENANTS"], environment["CADDYFILE"]))
    first, other_key, other_budget = shown
    assert first[0] == "acme, zoo"
    assert other_key == first
    assert other_budget[0] == first[0]
    assert other_budget[1] != first[1]


def test_the_phases_look_at_what_is_live_at_every_preview(recorder: Recorder) -> None:
    build(settings())
    assert {call.token for call in recorder.calls} == {"command:local:run"}
    assert recorder.of("Command")["commit-step"]["environment"]["LIVE"] == "changeover-local-ollama-0000"


def test_a_config_that_was_edited_in_place_is_looked_for_at_every_preview(recorder: Recorder) -> None:
    build(settings())
    labels = recorder.of("Container")["changeover-local-gateway"]["labels"]
    assert {"label": "changeover.config", "value": "as declared"} in labels
    assert recorder.of("Command")["edge-configuration"]["environment"]["SEEN"] == "edited in place 0a1b"
    (looked,) = [call for call in recorder.calls if call.args["command"] == LOOK]
    assert set(looked.args["environment"]) == {"DOCKER_HOST", "PROJECT", "STACK", "SEEN"}, (
        "known in every preview"
    )


def test_on_a_gpu_engines_get_all_of_it(recorder: Recorder) -> None:
    build(settings(images="public", model="qwen-2.5-coder-7b", context=8192, gpu="t4"))
    containers = recorder.of("Container")
    for kind in ("ollama", "vllm"):
        assert containers[roles(containers)[kind]]["gpus"] == "all"
    assert any(each["name"].startswith("vllm/vllm-openai:") for each in recorder.of("RemoteImage").values())
