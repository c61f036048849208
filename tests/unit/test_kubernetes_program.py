"""The program of a stack on a cluster as a whole, and what the tools say of one."""

import json
import random
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
import pytest

import stacks.kubernetes_target
import stacks.ours
import stacks.settings
from common import ROOT, StepFailed
from components.kubernetes.looked import ACTIVE, TO
from proxy.route import FLEET_FILE
from stacks.kubernetes_target import FoundOnCluster
from stacks.settings import from_values
from tests.support.objects import STACKS
from tests.support.played_cluster import Kubectl, Played
from tests.support.recorder import Recorder
from tools import adopt, cluster, down, host, recover, status, up

OLD, NEW = "fleet-ollama-1", "fleet-vllm-2"


def program(
    monkeypatch: pytest.MonkeyPatch,
    engine: str = "vllm",
    files: Mapping[str, Any] | None = None,
    gone: Sequence[str] = (),
) -> tuple[Recorder, dict[str, Any], list[object]]:
    """What it declares, what it exports, and what it has looked at. `files` is what the state has of that
    step, and `gone` is not there of its files."""
    chosen = {**STACKS["t4"], "engine": engine, "apiKeys": {"acme": "0123456789abcdef"}}
    settings = from_values("t4", chosen, ROOT)
    looked, exported = list[object](), dict[str, Any]()
    monkeypatch.setattr(stacks.settings, "from_program", lambda root: settings)
    keys = {"acme": "0123456789abcdef"}
    monkeypatch.setattr(stacks.settings, "api_keys", lambda: pulumi.Output.secret(keys))

    def look(settings: object, files: object, run: object, ours: object) -> FoundOnCluster:
        looked.append(ours)
        return FoundOnCluster(names=["node-1", "node-2", "node-3"], warning="one is away", gone=[*gone])

    monkeypatch.setattr(stacks.kubernetes_target, "look", look)
    state = {
        "urn:live": {"type": "kubernetes:core/v1:ConfigMap", "outputs": {"metadata": {"uid": "our-uid"}}},
        "urn::files": {"type": "command:local:Command", "outputs": files or {}},
        "urn:none": {"type": "pulumi:providers:kubernetes"},
    }
    monkeypatch.setattr(stacks.ours, "_resources", lambda: state)
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    monkeypatch.setattr(pulumi, "warn", lambda text: exported.__setitem__("warned", text))
    recorder = Recorder.start("t4")

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def run() -> None:
        runpy.run_path(str(ROOT / "__main__.py"))

    run()
    return recorder, exported, looked


def test_the_program_looks_at_the_cluster_and_declares_no_docker_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, exported, looked = program(monkeypatch)
    assert looked == [{"our-uid"}]
    assert exported.pop("warned") == "one is away"
    kinds = {each.typ.partition(":")[0] for each in recorder.resources}
    assert kinds == {"changeover", "command", "kubernetes", "pulumi"}
    assert set(exported) == {"endpoint", "engine", "model", "cutover", "routing", "gateway_config"}
    assert exported["engine"] == "vllm"
    assert recorder.of("Command")["weights"]["environment"]["NODES"] == "node-1, node-2, node-3"


def test_the_code_that_is_mounted_is_that_of_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, _, _ = program(monkeypatch)
    (proxy,) = (each for each in recorder.resources if each.name == "deployment-proxy")
    volumes = {each["name"]: each for each in proxy.inputs["spec"]["template"]["spec"]["volumes"]}
    name = volumes["code"]["configMap"]["name"]
    assert name.startswith("t4-proxy-") and name != "t4-proxy-code"


def test_nodes_need_the_same_whichever_engine_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (program(monkeypatch, engine)[0].of("Command") for engine in ("vllm", "ollama"))
    assert one["weights"] == other["weights"] and one["files"] == other["files"]


def test_what_is_gone_of_what_the_state_has_brought_has_a_step_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = program(monkeypatch)[0].of("Command")["files"]
    after = program(monkeypatch, files=before, gone=["t4-proxy-1"])[0].of("Command")["files"]
    assert after == {**before, "environment": {**before["environment"], "LOST": "1: t4-proxy-1"}}


def cluster_of(to: str = "") -> Kubectl:
    played = Played(random.Random(1), 3, frozenset((OLD, NEW)), {OLD: 2, NEW: 1})
    played.pods = {"a": (OLD, "ready"), "b": (OLD, "ends"), "c": (NEW, "failed"), "d": (OLD, "ready")}
    told = {"service": "fleet-engines", "preferred": "ollama-1", "flip": bool(to)}
    annotations = {ACTIVE: OLD, TO: to}
    live = {"metadata": {"annotations": annotations}, "data": {FLEET_FILE: json.dumps(told)}}
    return Kubectl(played, {OLD: 8, NEW: 58}, live)


def test_the_status_says_what_serves_and_how_each_pod_is() -> None:
    at = cluster_of()
    assert cluster.lines("fleet", at, at.clock, 4) == [
        "ollama-1: 2 of 4 hosts serve, behind 1 of 2 proxies",
        "  a: serves",
        "  b: ends what it answers",
        "  d: serves",
        "  c: not ready for 0 s, its engine was started again 1 times",
    ]


def test_the_status_says_of_a_change_that_was_left_how_to_end_it() -> None:
    at = cluster_of(NEW)
    assert cluster.lines("fleet", at, at.clock, 3)[1] == (
        f"a change to {NEW} is under way, or was left: 0 of 3 hosts have it. `pulumi up` ends it, with the "
        "settings of before or with the new ones"
    )


def test_a_tool_that_asks_a_docker_host_says_that_a_cluster_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Pulumi.fleet.yaml").write_text("config:\n  changeover:target: kubernetes\n")
    assert host.is_on_cluster("fleet", tmp_path) and not host.is_on_aws("fleet", tmp_path)
    monkeypatch.setattr(host, "is_on_cluster", lambda stack: True)
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no docker
    for ask in (
        lambda: host.reach("fleet", None),
        lambda: status.switch_of("fleet"),
        lambda: adopt.adopt("fleet"),
        lambda: recover.recover("fleet"),
    ):
        with pytest.raises(StepFailed, match="on a cluster, which has none"):
            ask()


def test_up_and_down_say_what_to_run_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in (up, down):
        monkeypatch.setattr(tool, "is_on_cluster", lambda stack: True)
    (tmp_path / "Pulumi.local.yaml").write_text("config: {}")
    monkeypatch.setattr(up, "CONFIG", tmp_path / "Pulumi.local.yaml")
    with pytest.raises(StepFailed, match="Run: make cli STACK=local && pulumi up --stack local"):
        up.prepare()
    with pytest.raises(StepFailed, match="Run: pulumi destroy --stack fleet"):
        down.down("fleet")
