"""What the running containers may do, with the real images: what was declared is what Linux enforces."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from switch.docker import ENGINE_PROCESSES, PROCESSES
from tests.support.load import LoadGenerator
from tests.support.project import Project, docker, offline_settings
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

NET_BIND_SERVICE = 1 << 10
ROOTS = ("edge", "switch", "vllm")
BLOB = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
"""Of the word hello."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("rights"), "rights", **offline_settings())
    project.wipe()
    project.up()
    yield project
    project.wipe()


def running(project: Project) -> dict[str, dict[str, Any]]:
    """What Docker says of the containers that run, by role, an engine by its kind."""
    found = {}
    for name in project.everything():
        (said,) = json.loads(docker("inspect", name))
        marks = said["Config"]["Labels"]
        if said["State"]["Running"]:
            found[marks.get("changeover.engine") or marks["changeover.role"]] = said
    return found


def first_process(container: dict[str, Any]) -> dict[str, str]:
    """/proc/1/status of a container."""
    said = docker("exec", container["Id"], "cat", "/proc/1/status")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


def can_write(container: dict[str, Any], *folders: str) -> list[str]:
    """Those of the folders in which the container's own user can make a file."""
    found = []
    docker("exec", container["Id"], "sh", "-c", "true")
    for folder in folders:
        file = f"{folder.rstrip('/')}/rights-test"
        command = ["docker", "exec", container["Id"], "sh", "-c", f"echo x >{file} && rm {file}"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            found.append(folder)
    return found


def pids(container: str) -> str:
    return docker("inspect", "-f", "{{.HostConfig.PidsLimit}}", container).strip()


def check(project: Project, *roles: str) -> None:
    there = running(project)
    assert set(roles) <= there.keys(), there.keys()
    limits = {
        role: str(ENGINE_PROCESSES if role in ("ollama", "vllm") else PROCESSES) for role in roles
    }  # the switch sets them when it sees a new container
    wait(lambda: {role: pids(there[role]["Id"]) for role in roles} == limits, 10, "one is not limited")
    for role in roles:
        container = there[role]
        host, process = container["HostConfig"], first_process(container)
        assert host["CapDrop"] == ["ALL"], role
        allowed = NET_BIND_SERVICE if role == "edge" else 0
        for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
            assert int(process[key], 16) & ~allowed == 0, (role, key, process[key])
        assert process["NoNewPrivs"] == "1", role
        assert (process["Uid"].split()[0] == "0") is (role in ROOTS), role
        engine = role in ("ollama", "vllm")
        assert (host["Memory"] > 0) is not engine, role
        if role != "switch":
            assert host["ReadonlyRootfs"] is (role != "gateway"), role
            assert can_write(container, "/", "/etc", "/usr/bin", "/weights", "/app/config", "/wheels") == []


def test_each_container_has_what_it_needs_and_nothing_shows_as_drift(project: Project) -> None:
    check(project, "edge", "proxy", "gateway", "switch", "ollama")
    project.pulumi("preview", "--refresh", "--expect-no-changes")


def models(engine: str) -> set[str]:
    """The names of the models that an Ollama container has."""
    _, *rows = docker("exec", engine, "/bin/ollama", "list").splitlines()
    return {row.split()[0] for row in rows}


def ask(container: dict[str, Any], method: str, path: str, body: object) -> tuple[int, str]:
    """What an engine answers a process on the Docker host."""
    (network,) = container["NetworkSettings"]["Networks"].values()
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://{network['IPAddress']}:8000{path}", raw, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_who_reaches_ollama_on_the_host_changes_nothing_of_its_models(project: Project) -> None:
    """Also where the model has another name, by which it is started in another way."""
    for name in ("tiny", "chat"):
        if name != "tiny":
            project.configure(name=name)
            project.up()
            check(project, "ollama")
        engine = running(project)["ollama"]
        before = models(engine["Id"])
        for method, path, body in (
            ("DELETE", "/api/delete", {"model": name}),
            ("POST", "/api/copy", {"source": name, "destination": "other"}),
            ("POST", "/api/create", {"model": "other", "from": name}),
            ("POST", f"/api/blobs/{BLOB}", b"hello"),
        ):
            status, said = ask(engine, method, path, body)
            assert "read-only file system" in said or "permission denied" in said, (path, status, said)
        assert models(engine["Id"]) == before == {f"{name}:latest"}
        docker("restart", engine["Id"])
        outputs = project.outputs()
        with LoadGenerator(outputs["endpoint"], outputs["model"], clients=1) as load:
            load.wait_for_answers(load.round)
        assert not load.bad, load.summary()
        assert outputs["model"] == name


@pytest.mark.long
def test_the_same_of_the_other_engine(project: Project) -> None:
    project.configure(engine="vllm", name=None)
    project.up()
    check(project, "edge", "proxy", "gateway", "switch", "vllm")
    project.pulumi("preview", "--refresh", "--expect-no-changes")
    project.pulumi("destroy", "--yes")
    left = docker("volume", "ls", "--quiet", "--filter", "dangling=true").split()
    assert not [each for each in left if "rights" in each and "weights" not in each and "cache" not in each]
