"""The whole program under mocks: what it declares, and what it must never declare."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pulumi
import pulumi_docker as docker
import pytest

from common import ROOT
from components import proxy
from components.docker_host import DockerHost
from components.facts import memory_in
from components.labels import Labels
from components.plan import ATTACH, DETACH, LOOK, REQUEST_SECONDS
from stacks.blueprint import blueprint_of
from stacks.endpoint import Endpoint, EndpointArgs
from stacks.settings import Settings, from_values
from switch.answers import looked
from tests.support.recorder import SECRET, Recorder

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
        Endpoint("endpoint", EndpointArgs(blueprint=blueprint_of(checked), host=host, api_keys=keys))

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
        "proxy": "always",
        "switch": "always",
        "gateway": "no",  # the switch starts it, once the engine is gated
    }
    assert {role for role, inputs in named.items() if inputs.get("healthcheck")} >= {
        "ollama",
        "vllm",
        "gateway",
        "proxy",
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


def test_a_review_reads_in_a_step_what_the_engine_takes_of_what_proxy_and_edge_leave() -> None:
    cases: list[tuple[dict[str, object], float | None]] = [({}, None), ({"hostMemoryGiB": 16}, 13.75)]
    for more, there in cases:
        recorder = Recorder.start("local")
        build(settings(**more))
        said = recorder.of("Command")["prepare-step"]["environment"]["MEMORY"]
        ((what, (need, found)),) = memory_in(said).items()
        assert (what, need, found) == ("RAM", 1.01, there)


def test_a_monitor_is_two_containers_beside_the_stack_and_only_its_own_host_reaches_its_page(
    recorder: Recorder,
) -> None:
    build(settings(monitor=True, monitorPort=9428, alertReceiver="http://alerts.example.com:9093"))
    containers = recorder.of("Container")
    store, alerts = containers["changeover-local-monitor"], containers["changeover-local-alerts"]
    assert store["ports"] == [{"external": 9428.0, "internal": 8428.0, "ip": "127.0.0.1"}]
    assert not alerts.get("ports")
    assert "-retentionPeriod=90d" in store["command"] and "-http.disableCORS" in store["command"]
    assert "-notifier.url=http://alerts.example.com:9093" in alerts["command"]
    assert not any("blackhole" in word for word in alerts["command"])
    mounts = {each["containerPath"]: each for each in store["volumes"]}
    assert mounts["/config"]["readOnly"] and not mounts["/history"].get("readOnly")
    for name in ("changeover-local-monitor", "changeover-local-alerts"):
        assert recorder.options("Container", name).deleteBeforeReplace is True


def test_nothing_that_serves_waits_for_a_monitor_and_a_destroy_begins_with_the_guard(
    recorder: Recorder,
) -> None:
    build(settings(monitor=True))
    parts = ("monitor", "changeover-local-monitor", "changeover-local-alerts")
    waiting = set()
    for each in recorder.requests:
        waits = {urn.rsplit("::", 1)[1] for urn in each.dependencies}
        if not each.name.startswith(parts) and [name for name in waits if name.startswith(parts)]:
            waiting.add(each.name)
    assert waiting == {"guard"}
    (files,) = [each for name, each in requests(recorder, "Command") if name == "monitor-files"]
    assert any(urn.endswith("::edge-configuration") for urn in files.dependencies)


def test_a_flip_with_a_monitor_changes_what_one_without_changes() -> None:
    seen: list[dict[str, Any]] = []
    for engine in ("ollama", "vllm"):
        recorder = Recorder.start("local")
        build(settings(engine=engine, monitor=True))
        seen.append({f"{each.typ}::{each.name}": each.inputs for each in recorder.resources})
    before, after = seen
    assert before.keys() == after.keys()
    changed = {name.rsplit("::", 1)[1] for name in before if before[name] != after[name]}
    assert changed == {"prepare-step", "changeover-local-gateway", "commit-step"}


def test_without_a_monitor_nothing_of_one_is_there() -> None:
    seen: list[set[str]] = []
    for monitor in (False, True):
        recorder = Recorder.start("local")
        build(settings(monitor=monitor))
        seen.append({each.name for each in recorder.resources})
    without, there = seen
    assert without < there
    assert sorted(there - without) == [
        "changeover-local-alerts",
        "changeover-local-monitor",
        "monitor",
        "monitor-alerts-image",
        "monitor-config",
        "monitor-files",
        "monitor-history",
        "monitor-store-image",
    ]


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


def test_no_pull_ends_at_the_providers_twenty_minutes(recorder: Recorder) -> None:
    build(settings())
    for name in recorder.of("RemoteImage"):
        timeouts = recorder.options("RemoteImage", name).customTimeouts
        assert (timeouts.create, timeouts.update) == ("2h", "2h"), name


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


def test_without_a_gateway_a_flip_changes_the_inputs_of_the_two_steps_only() -> None:
    seen: list[dict[str, Any]] = []
    for engine in ("ollama", "vllm"):
        recorder = Recorder.start("local")
        build(settings(engine=engine, gateway="none"))
        seen.append({f"{each.typ}::{each.name}": each.inputs for each in recorder.resources})
    before, after = seen
    assert before.keys() == after.keys()
    changed = {name.rsplit("::", 1)[1] for name in before if before[name] != after[name]}
    assert changed == {"prepare-step", "commit-step"}


def test_without_a_gateway_there_is_none_and_the_switch_is_told_so(recorder: Recorder) -> None:
    build(settings(gateway="none"))
    assert "gateway" not in roles(recorder.of("Container"))
    assert "gateway-image" not in recorder.of("RemoteImage")
    for step in ("prepare-step", "commit-step"):
        told = json.loads(recorder.of("Command")[step]["stdin"])
        assert told["gateway"] is None
        assert told["about"]["gateway_image"] == ""
        assert told["routing"] == blueprint_of(settings(gateway="none")).routing
    assert "GATEWAY" not in recorder.of("Command")["commit-step"]["environment"]


def test_both_steps_tell_the_routing_and_a_preview_shows_it(recorder: Recorder) -> None:
    build(settings())
    routing = blueprint_of(settings()).routing
    commands = recorder.of("Command")
    for step in ("prepare-step", "commit-step"):
        told = json.loads(commands[step]["stdin"])
        assert told["routing"] == routing
        assert told["engine"]["name"] == blueprint_of(settings()).active.name
    assert commands["prepare-step"]["environment"]["ROUTING"] == routing
    assert routing.splitlines()[1].startswith('engines = ["ollama-')


def test_the_proxy_is_nobody_with_a_limit_no_socket_and_nothing_that_it_could_write_but_its_log(
    recorder: Recorder,
) -> None:
    build(settings())
    proxy = recorder.of("Container")["changeover-local-proxy"]
    assert (proxy["user"], proxy["readOnly"], proxy["memory"]) == ("65534:65534", True, 512)
    mounts = {each["containerPath"]: each for each in proxy["volumes"]}
    assert sorted(mounts) == ["/live", "/log", "/wheels"]
    assert all(mounts[path]["readOnly"] for path in ("/live", "/wheels"))
    assert mounts["/live"]["volumeName"] == "changeover-local-live"
    assert not any(each.get("hostPath") for each in mounts.values())
    switch = recorder.of("Container")["changeover-local-switch"]
    assert {"containerPath": "/live", "volumeName": "changeover-local-live"} in switch["volumes"]


def test_a_proxy_that_is_replaced_may_end_its_longest_answer_and_the_new_one_is_there_first(
    recorder: Recorder,
) -> None:
    build(settings())
    assert recorder.of("Container")["changeover-local-proxy"]["destroyGraceSeconds"] > REQUEST_SECONDS
    assert recorder.options("Container", "changeover-local-proxy").deleteBeforeReplace is False


def test_what_the_proxy_needs_is_there_before_it_and_it_answers_before_anything_changes(
    recorder: Recorder,
) -> None:
    build(settings())

    def waits_for(kind: str, name: str) -> set[str]:
        return {urn.rsplit("::", 1)[1] for urn in recorder.options(kind, name).dependencies}

    assert {"proxy-files", "changeover-local-switch"} <= waits_for("Container", "changeover-local-proxy")
    assert "changeover-local-proxy" in waits_for("Command", "proxy-ready")
    assert "proxy-ready" in waits_for("Command", "prepare-step")
    assert {"keys-step", "commit-step"} <= waits_for("Container", "changeover-local-edge")
    assert "changeover-local-edge" in waits_for("Command", "edge-configuration")


def test_other_packages_of_the_proxy_are_another_volume_and_another_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    for text in ("aiohttp==1\n", "aiohttp==2\n"):
        (tmp_path / "requirements.lock").write_text(text)
        monkeypatch.setattr(proxy, "LOCK", tmp_path / "requirements.lock")
        recorder = Recorder.start("local")
        build(settings())
        (volume,) = [name for name in recorder.of("Volume") if name.startswith("proxy-wheels-")]
        lock = recorder.of("Command")["proxy-files"]["environment"]["LOCK"]
        assert volume == f"proxy-wheels-{lock}"
        labels = recorder.of("Container")["changeover-local-proxy"]["labels"]
        assert {"label": "changeover.wheels", "value": lock} in labels
        seen.append(volume)
    assert len(set(seen)) == 2


def test_another_edge_is_never_made_for_what_a_reload_can_do() -> None:
    seen = []
    for values in ({}, {"maxRequestMiB": 8}, {"gateway": "none"}, {"apiKeys": {"acme": f"{KEY}-acme"}}):
        recorder = Recorder.start("local")
        build(settings(**values))
        seen.append(recorder.of("Container")["changeover-local-edge"])
    assert all(each == seen[0] for each in seen)
    (network,) = seen[0]["networksAdvanced"]
    assert network["aliases"] == ["edge"], "without it one that an older version made would be replaced"


def test_who_asks_from_a_container_has_a_network_on_which_the_edge_is_and_nothing_else(
    recorder: Recorder,
) -> None:
    build(settings(monitor=True))
    networks = {name: each["name"] for name, each in recorder.of("Network").items()}
    assert networks == {"network": "changeover-local", "clients": "changeover-local-clients"}
    assert sorted(networks.values())[0] == "changeover-local", "Docker publishes the edge's port by the first"
    for name, each in recorder.of("Container").items():
        (own,) = each["networksAdvanced"]
        assert own["name"] == "changeover-local", f"{name}: another network here would be another container"
    attaching = {
        name
        for name, each in recorder.of("Command").items()
        if each.get("environment", {}).get("NETWORK") == "changeover-local-clients"
    }
    assert attaching == {"edge-clients"}
    attached = recorder.of("Command")["edge-clients"]["environment"]["EDGE"]
    assert attached.startswith("changeover-local-edge-")


@pytest.mark.parametrize(("on", "done"), [("n ", ["connect --alias edge n-clients e"]), ("n n-clients ", [])])
def test_the_edge_is_put_on_the_network_of_clients_where_it_is_not(
    tmp_path: Path, on: str, done: list[str]
) -> None:
    assert networks_done(tmp_path, ATTACH, on) == done


def test_before_the_network_of_clients_goes_everything_is_taken_off_it(tmp_path: Path) -> None:
    said = networks_done(tmp_path, DETACH, "e page ")
    assert said == ["disconnect --force n-clients e", "disconnect --force n-clients page"]


def networks_done(folder: Path, program: str, found: str) -> list[str]:
    """What `docker network` is told to do by a program to which every `inspect` answers `found`."""
    command = folder / "docker"
    command.write_text(
        f"""#!/bin/sh
case "$*" in
  *inspect*) echo "{found}" ;;
  network*) shift; echo "$*" >>{folder}/done ;;
esac
"""
    )
    command.chmod(0o755)
    told = {"PATH": f"{folder}:{os.environ['PATH']}", "EDGE": "e", "NETWORK": "n-clients"}
    subprocess.run(["sh", "-c", program], check=True, env=told, stdout=subprocess.DEVNULL)
    return (folder / "done").read_text().splitlines() if (folder / "done").exists() else []


def test_no_api_key_is_in_any_input_and_its_digest_is_a_secret_of_one_step(recorder: Recorder) -> None:
    build(settings(apiKeys={"acme": f"{KEY}-acme"}))
    assert recorder.holders(KEY) == []
    digest = hashlib.sha256(f"{KEY}-acme".encode()).hexdigest()
    assert recorder.holders(digest) == ["keys-step"]
    assert SECRET in recorder.of("Command")["keys-step"]["stdin"]


def test_a_change_of_keys_changes_the_inputs_of_one_step_and_says_whose_they_are() -> None:
    seen: list[dict[str, Any]] = []
    for values in (
        {"apiKeys": {"acme": f"{KEY}-acme"}},
        {"apiKeys": {"acme": f"{KEY}-acme", "zoo": f"{KEY}-zoo"}},
        {},
    ):
        recorder = Recorder.start("local")
        build(settings(**values))
        seen.append({each.name: each.inputs for each in recorder.resources})
    tenants = [each["keys-step"]["environment"]["TENANTS"] for each in seen]
    assert tenants == ["acme", "acme, zoo", ""]
    assert [json.loads(each["keys-step"]["stdin"]["value"])["open"] for each in seen] == [False, False, True]
    for other in seen[1:]:
        assert [name for name in other if other[name] != seen[0][name]] == ["keys-step"]


def test_the_phases_look_at_what_is_live_at_every_preview(recorder: Recorder) -> None:
    build(settings())
    assert {call.token for call in recorder.calls} == {"command:local:run"}
    assert recorder.of("Command")["commit-step"]["environment"]["LIVE"] == "changeover-local-ollama-0000"


def test_a_config_that_was_edited_in_place_is_looked_for_at_every_preview(recorder: Recorder) -> None:
    build(settings())
    labels = recorder.of("Container")["changeover-local-gateway"]["labels"]
    assert {"label": "changeover.config", "value": "as declared"} in labels
    assert recorder.of("Command")["edge-configuration"]["environment"]["SEEN"] == "edited in place 0a1b"
    assert recorder.of("Command")["keys-step"]["environment"]["SEEN"] == "edited in place 2c3d"
    (looked,) = [call for call in recorder.calls if call.args["command"] == LOOK]
    known = {"DOCKER_HOST", "PROJECT", "STACK", "SEEN"}
    assert set(looked.args["environment"]) == known, "known in every preview"


def test_switch_and_edge_look_at_once_and_do_not_mix_what_they_say(tmp_path: Path) -> None:
    """The `docker` here writes in pieces, as a program without a buffer does."""
    command = tmp_path / "docker"
    command.write_text(
        """#!/bin/sh
case "$*" in
  ps*) printf 'switch=s\\nedge=e\\nproxy=p\\n' ;;
  *look) for each in 'gateway g' '
' 'keys as declared' '
'; do printf '%s' "$each"; sleep 0.1; done ;;
  *) sleep 0.25; echo as declared ;;
esac
"""
    )
    command.chmod(0o755)
    told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROJECT": "p", "STACK": "s", "SEEN": ""}
    done = subprocess.run(["sh", "-c", LOOK], capture_output=True, text=True, check=True, env=told)
    assert sorted(done.stdout.splitlines()) == ["edge as declared", "gateway g", "keys as declared"]
    assert looked(done.stdout) == {"gateway": "g", "keys": "as declared", "edge": "as declared"}


def test_what_is_not_looked_at_is_taken_to_be_as_declared() -> None:
    assert looked("keys edited in place 0a1b\n") == {
        "gateway": "as declared",
        "keys": "edited in place 0a1b",
        "edge": "as declared",
    }


def test_on_a_gpu_engines_get_all_of_it(recorder: Recorder) -> None:
    build(settings(images="public", model="qwen-2.5-coder-7b", context=8192, gpu="t4"))
    containers = recorder.of("Container")
    for kind in ("ollama", "vllm"):
        assert containers[roles(containers)[kind]]["gpus"] == "all"
    assert any(each["name"].startswith("vllm/vllm-openai:") for each in recorder.of("RemoteImage").values())
