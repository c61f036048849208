"""A stack of the version before there was a proxy comes to this one under load, and a way back exists.

The old version is the commit whose edge asked the gateways itself.
"""

import json
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from bench.stack import remove_fast_engine, use_fast_engine
from common import ROOT
from stacks.owner import of_export
from switch import owner, shared
from switch.docker import ENGINE_PROCESSES, PROCESSES
from tests.support.load import LoadGenerator, Outcome
from tests.support.project import CommandFailed, Project, docker, offline_settings

pytestmark = pytest.mark.engine

BEFORE = "0fb29bc"
VERSION = "0.0.0-upgrade"
KEY = "a-key-of-a-tenant-0123456789"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the old version."""
    command = ["git", "-C", str(ROOT), "archive", BEFORE]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this checkout has no commit {BEFORE}: {done.stderr.decode().strip()}")
    folder: Path = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose stack is not there yet."""
    project = Project(tmp_path, "upgrade", **offline_settings())
    project.wipe()
    yield project
    project.wipe()


def up_under_load(project: Project) -> LoadGenerator:
    """`pulumi up` while clients ask, also before and after it.

    They pause between two requests: the edge is reloaded, and can close a connection on which a request just
    arrives (`lost`).
    """
    outputs = project.outputs()
    with LoadGenerator(outputs["endpoint"], outputs["model"], api_key=KEY, pause=0.5) as load:
        load.wait_for_answers(8)
        began = time.monotonic()
        project.up()
        print(f"{time.monotonic() - began:.1f} s, ", end="")
        load.wait_for_answers(8)
    print(load.summary())
    assert project.settled()
    assert project.changes() == {}
    return load


def lost(load: LoadGenerator) -> list[Outcome]:
    """What failed or was cut, but for what a reload of the edge may do: to each client once, no byte of an
    answer and its connection closed, so that whoever asks again is answered."""
    closed = [each for each in load.bad if str(each.problem).startswith("APIConnectionError")]
    assert len(closed) <= load.clients, load.summary()
    return [each for each in load.bad if each not in closed]


def owner_of(project: Project) -> dict[str, Any] | None:
    """What the host has written down of whose the stack is."""
    (switch,) = project.containers("switch", running=True)
    look = f"cat {shared.JOURNAL}/{owner.FILE} 2>/dev/null || true"
    said = docker("exec", switch, "sh", "-c", look).strip()
    return dict(json.loads(said)) if said else None


def inspected(project: Project, role: str) -> dict[str, Any]:
    """What Docker says of the running container of a role."""
    (name,) = project.containers(role, running=True)
    return dict(json.loads(docker("inspect", name))[0])


@pytest.mark.parametrize("engine", ["ollama", pytest.param("vllm", marks=pytest.mark.long)])
def test_a_stack_of_the_old_version_comes_here_under_load_and_loses_nothing(
    project: Project, before: Path, engine: str
) -> None:
    project.configure(engine=engine)
    project.use_sources(before)
    if engine == "ollama":  # who knows keys is another one afterwards
        project.pulumi("config", "set", "--secret", "--path", "apiKeys.tester", KEY)
    project.up()
    assert project.containers("proxy") == []
    before_it = {role: inspected(project, role)["Id"] for role in ("edge", "engine")}
    assert owner_of(project) is None, "the old version wrote down no owner"
    project.use_sources(ROOT)
    load = up_under_load(project)
    assert not lost(load), load.summary()
    record, state = owner_of(project), of_export(json.loads(project.pulumi("stack", "export")))
    assert record and state.id and record["id"] == state.id
    assert record["folder"] == str(project.folder.resolve())
    for (
        role,
        id,
    ) in before_it.items():  # with the rights that they had, and what Docker can give one that runs
        there = inspected(project, role)
        assert (there["Id"], there["HostConfig"]["CapDrop"]) == (id, None), role
        assert there["HostConfig"]["PidsLimit"] in (PROCESSES, ENGINE_PROCESSES), role
    assert f"-{engine}-" in project.live()
    assert len(project.containers("proxy", running=True)) == 1
    networks = inspected(project, "edge")["NetworkSettings"]["Networks"]
    assert set(networks) == {project.labels.prefix, f"{project.labels.prefix}-clients"}
    docker("rm", "--force", inspected(project, "edge")["Id"])  # how SECURITY.md gives an edge its rights
    project.up("--refresh")
    assert inspected(project, "edge")["HostConfig"]["CapDrop"] == ["ALL"]
    assert inspected(project, "edge")["HostConfig"]["ReadonlyRootfs"] is True
    assert project.changes() == {}
    asked = urllib.request.Request(f"{project.outputs()['endpoint']}/models")
    if engine == "ollama":
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked)


@pytest.mark.long
def test_another_name_in_the_same_update_is_refused_before_anybody_is_held(
    project: Project, before: Path
) -> None:
    """The old edge would ask the new gateway by the old name, which is a 400 for everybody."""
    pins = project.folder / "components/pins.py"
    try:
        project.use_sources(before)
        use_fast_engine(project.folder, VERSION)
        fast = pins.read_text()
        project.up()
        outputs = project.outputs()
        project.use_sources(ROOT)
        pins.write_text(fast)
        project.configure(name="other-name", context=512)
        with LoadGenerator(outputs["endpoint"], outputs["model"]) as load:
            load.wait_for_answers(8)
            with pytest.raises(CommandFailed, match="pulumi config set name tiny"):
                project.up()
            load.wait_for_answers(8)
            for name in ("tiny", "other-name"):
                project.configure(name=name)
                project.up()
                load.wait_for_answers(8)
        assert not lost(load), load.summary()
        assert project.outputs()["model"] == "other-name"
        assert project.changes() == {}
    finally:
        project.wipe()
        remove_fast_engine(VERSION)


@pytest.mark.long
def test_afterwards_it_flips_and_a_checkout_of_the_old_version_goes_back_and_forth(
    project: Project, before: Path
) -> None:
    """With the test engine, since nothing here is about how they load."""
    pins = project.folder / "components/pins.py"
    try:
        project.use_sources(before)
        use_fast_engine(project.folder, VERSION)
        fast = pins.read_text()
        project.up()

        def version(root: Path) -> LoadGenerator:
            project.use_sources(root)
            pins.write_text(fast)
            return up_under_load(project)

        load = version(ROOT)
        assert not lost(load), load.summary()

        project.configure(engine="vllm")
        load = up_under_load(project)
        assert not load.bad, load.summary()

        # The old version's edge comes first, and the proxy is taken away at the end. What waits in the edge
        # in the moment of its reload is refused; nothing is cut.
        load = version(before)
        assert all("503" in str(each.problem) for each in lost(load)), load.summary()
        assert len(load.bad) <= load.clients, load.summary()
        assert project.containers("proxy") == []

        load = version(ROOT)
        assert not lost(load), load.summary()
        assert "-vllm-" in project.live()
    finally:
        project.wipe()
        remove_fast_engine(VERSION)
