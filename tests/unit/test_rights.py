"""What each container of a stack may do: nothing that it doesn't need."""

import copy
import json
import socketserver
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components.catalogue import GIB
from components.containers import NOBODY
from components.gpu_memory import (
    ALERTS_RAM,
    EDGE_RAM,
    GATEWAY_RAM,
    MONITOR_RAM,
    PROXY_RAM,
    SERVICES_RAM,
    STORE_RAM,
    SWITCH_RAM,
)
from components.labels import labels_in
from review.events import Resource
from review.policies import CONTAINER, SECURITY_GROUPS, check
from stacks.blueprint import blueprint_of
from stacks.settings import MonitorSettings, from_files, stacks
from switch import docker as switch_docker
from switch.docker import Docker
from tests.parts.test_switch_daemon import box
from tests.support.recorder import Recorder
from tests.unit.test_policies import ON_AWS, declared, declared_on_aws, on_aws
from tests.unit.test_program import build

__all__ = ["on_aws"]  # a fixture

MIB = 2**20
ADDS = {"edge": ["NET_BIND_SERVICE"]}
ROOTS = {
    "edge": "its volumes are root's in stacks that are there",
    "switch": "Docker's socket is root's",
    "vllm": "its cache is root's in stacks that are there",
}
WRITABLE = {
    "gateway": "its TOML is uploaded to it",
    "switch": "its code is uploaded to it",
    "vllm on a GPU": "it compiles, and was never tried",
}
LIMITED = {"edge": EDGE_RAM, "proxy": PROXY_RAM, "gateway": GATEWAY_RAM, "switch": SWITCH_RAM}
BESIDE = {"monitor": STORE_RAM, "alerts": ALERTS_RAM}


def role(container: Resource) -> str:
    marks = labels_in(container.inputs)
    return str(marks.get("engine") or marks["role"])


def excess(container: Resource) -> list[str]:
    """What a container may do beyond what it needs, in words."""
    inputs, which = container.inputs, role(container)
    capabilities = inputs.get("capabilities") or {}
    kind = f"{which} on a GPU" if inputs.get("gpus") and which != "switch" else which
    limit = {**LIMITED, **BESIDE}.get(which)
    return [
        words
        for words, too_much in {
            "capabilities are not dropped": capabilities.get("drops") != ["ALL"],
            "capabilities are added": (capabilities.get("adds") or []) != ADDS.get(which, []),
            "new privileges": inputs.get("securityOpts") != ["no-new-privileges:true"],
            "privileged": bool(inputs.get("privileged") or inputs.get("devices")),
            "root": which not in ROOTS and inputs.get("user") != NOBODY,
            "a writable root": kind not in WRITABLE and inputs.get("readOnly") is not True,
            "memory without a limit": limit is not None and inputs.get("memory") != limit // MIB,
            "weights can be written": any(
                each["containerPath"] == "/weights" and not each.get("readOnly")
                for each in inputs.get("volumes") or []
            ),
        }.items()
        if too_much
    ]


def too_much(resources: list[Resource], *more: str) -> dict[str, list[str]]:
    containers = [each for each in resources if each.type == CONTAINER]
    roles = {"edge", "proxy", "gateway", "switch", "ollama", "vllm", *more}
    assert {role(each) for each in containers} == roles
    return {each.name: said for each in containers if (said := excess(each))}


@pytest.mark.parametrize("stack", [stack for stack in stacks(ROOT) if stack not in ON_AWS])
def test_no_container_on_a_docker_engine_may_do_more_than_it_needs(stack: str) -> None:
    recorder = Recorder.start(stack)
    build(from_files(stack, ROOT))
    assert too_much(declared(recorder)) == {}


def test_a_monitor_may_do_no_more_than_it_needs() -> None:
    recorder = Recorder.start("local")
    build(replace(from_files("local", ROOT), monitor=MonitorSettings(port=8428, receiver="")))
    assert too_much(declared(recorder), *BESIDE) == {}


def test_no_container_on_aws_may_do_more_than_it_needs(on_aws: tuple[str, list[Resource]]) -> None:
    _, resources = on_aws
    assert too_much(resources) == {}


@pytest.mark.parametrize("stack", ON_AWS)
def test_a_monitor_on_aws_is_for_its_own_host_alone_and_leaves_the_logs_where_they_go(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = from_files(stack, ROOT)
    without = declared_on_aws(given, monkeypatch)
    resources = declared_on_aws(replace(given, monitor=MonitorSettings(port=8428, receiver="")), monkeypatch)
    assert too_much(resources, *BESIDE) == {}
    assert check(resources, stack=stack, keys=True) == []
    of = {role(each): each.inputs for each in resources if each.type == CONTAINER}
    assert [(port["external"], port["ip"]) for port in of["monitor"]["ports"]] == [(8428, "127.0.0.1")]
    assert not of["alerts"].get("ports")
    before = {role(each): each.inputs for each in without if each.type == CONTAINER}
    assert all(of[each]["logDriver"] == inputs["logDriver"] for each, inputs in before.items())
    assert of["proxy"]["logDriver"] == "awslogs" and of["monitor"]["logDriver"] == "json-file"
    firewalls = [[each for each in there if each.type in SECURITY_GROUPS] for there in (without, resources)]
    assert [each.inputs for each in firewalls[0]] == [each.inputs for each in firewalls[1]], "by SSH alone"
    files = blueprint_of(replace(given, monitor=MonitorSettings(port=8428, receiver=""))).monitor_files
    assert "alert: GpuHot" in files["rules.yml"] and "job_name: gateway" in files["scrape.yml"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("capabilities", {"adds": ["SYS_ADMIN"], "drops": ["ALL"]}, "capabilities are added"),
        ("capabilities", None, "capabilities are not dropped"),
        ("securityOpts", [], "new privileges"),
        ("privileged", True, "privileged"),
        ("user", "0:0", "root"),
        ("readOnly", False, "a writable root"),
        ("memory", None, "memory without a limit"),
    ],
)
def test_what_a_container_has_beyond_it_is_named(key: str, value: object, words: str) -> None:
    recorder = Recorder.start("local")
    build(from_files("local", ROOT))
    resources = declared(recorder)
    (proxy,) = [each for each in resources if each.type == CONTAINER and role(each) == "proxy"]
    spoilt = copy.deepcopy(dict(proxy.inputs))
    spoilt[key] = value
    assert words in excess(Resource(type=CONTAINER, name="p", inputs=spoilt, protect=False))


def test_what_the_services_may_take_is_what_engines_leave() -> None:
    assert sum(LIMITED.values()) == SERVICES_RAM
    assert sum(BESIDE.values()) == MONITOR_RAM
    there = from_files("prod", ROOT)
    watched = replace(there, monitor=MonitorSettings(port=8428, receiver=""))
    assert watched.load.services - there.load.services == MONITOR_RAM
    assert f"{SERVICES_RAM / GIB:.2f} GiB services" in blueprint_of(there).cutover.host_ram
    assert f"{(SERVICES_RAM + MONITOR_RAM) / GIB:.2f} GiB services" in blueprint_of(watched).cutover.host_ram
    assert blueprint_of(there).plan().memory.host - blueprint_of(watched).plan().memory.host == MONITOR_RAM


def test_a_proxy_gives_back_at_once_what_a_large_body_took() -> None:
    recorder = Recorder.start("local")
    build(from_files("local", ROOT))
    (proxy,) = [each for each in declared(recorder) if each.type == CONTAINER and role(each) == "proxy"]
    assert "MALLOC_MMAP_THRESHOLD_=65536" in proxy.inputs["envs"]


def test_an_edge_and_engines_that_are_there_are_not_made_anew_for_their_rights() -> None:
    recorder = Recorder.start("local")
    build(from_files("local", ROOT))
    kept = {
        each.name: set(each.ignoreChanges) for each in recorder.requests if each.type.endswith(":Container")
    }
    for name, ignored in kept.items():
        rights = {"capabilities", "readOnly", "securityOpts", "tmpfs", "user"}
        stays = any(part in name for part in ("edge", "ollama", "vllm"))
        assert (rights <= ignored) is stays, name
        assert not ignored & {"image", "ports", "memory"}, name


class DockerEngine(socketserver.ThreadingUnixStreamServer):
    """Docker's API for as much as a look at the stack's containers takes; 404 for what it does not have."""

    def __init__(self, path: Path, roles: dict[str, str]) -> None:
        self.roles, self.updates, self.refuses = roles, list[tuple[str, Any]](), False
        super().__init__(str(path), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: DockerEngine

    def handle(self) -> None:
        method, path, _ = self.rfile.readline().decode().split()
        size = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        body = self.rfile.read(size)
        status, answer = self.answer(method, path.partition("?")[0], body)
        raw = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        self.wfile.write(head.encode() + raw)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        match method, *path.strip("/").split("/"):
            case "POST", "containers", id, "update" if id in self.server.roles:
                if self.server.refuses:
                    return 500, {"message": "no pids cgroup here"}
                self.server.updates.append((id, json.loads(body)))
                return 200, {"Warnings": None}
        return 404, {"message": f"no {method} {path}"}


def test_the_switch_limits_the_processes_of_each_container_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.sock"
    with DockerEngine(path, {"a": "edge", "b": "engine", "c": "switch", "d": "gateway"}) as engine:
        threading.Thread(target=engine.serve_forever, args=(0.01,), daemon=True).start()
        docker = Docker("p", "s", str(path))

        def look() -> None:
            own = {name: role for name, role in engine.roles.items() if role != "monitor"}
            docker.bound({name: replace(box("a-b", role, True), name=name) for name, role in own.items()})

        for _ in range(2):
            look()
        few, many = switch_docker.PROCESSES, switch_docker.ENGINE_PROCESSES
        assert engine.updates == [
            (id, {"PidsLimit": limit}) for id, limit in zip("abcd", (few, many, few, few), strict=True)
        ]
        engine.roles["e"] = "proxy"
        look()
        assert engine.updates[4:] == [("e", {"PidsLimit": few})]
        docker.beside = {"m": replace(box("a-b", "monitor", True), name="m")}
        engine.roles["m"] = "monitor"
        look()
        assert engine.updates[5:] == [("m", {"PidsLimit": few})], "what runs beside the stack, too"
        engine.roles["f"], engine.refuses = "proxy", True
        for _ in range(2):  # a host that can't is said once, and nothing else depends on it
            look()
        assert capsys.readouterr().out.count("can't be limited: no pids cgroup here") == 1
        engine.refuses, tried = False, len(engine.updates)
        look()
        assert engine.updates[tried:] == [], "it is not asked again in each look"
        monkeypatch.setattr(switch_docker, "LIMIT_AGAIN_SECONDS", 0)
        for _ in range(2):
            look()
        assert engine.updates[tried:] == [("f", {"PidsLimit": few})], "what has failed is tried again"
        engine.shutdown()


def test_a_docker_that_gives_no_answer_about_a_limit_keeps_the_switch_from_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    docker = Docker("p", "s", "/nowhere")
    for _ in range(2):
        docker.bound({"a": replace(box("a-b", "proxy", True), name="a")})
    assert capsys.readouterr().out.count("the number of processes of a can't be limited") == 1


def test_a_helper_of_the_switch_has_the_least_rights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    docker = Docker("p", "s")
    monkeypatch.setattr(docker, "call", lambda _method, url, body=None, timeout=15: asked.update({url: body}))
    docker.create("p-s-check", "check", Image="i", HostConfig={"NetworkMode": "none"})
    host = asked["/containers/create?name=p-s-check"]["HostConfig"]
    assert host == {"NetworkMode": "none", **switch_docker.LEAST}
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges:true"]
