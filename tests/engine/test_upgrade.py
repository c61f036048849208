"""A stack of the version before there was a proxy comes to this one under load, and a way back exists.

The old version is the commit whose edge asked the gateways itself.
"""

import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from bench.stack import remove_fast_engine, use_fast_engine
from tests.support.load import Load
from tests.support.project import Project, offline_settings
from tools.environment import ROOT

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


def up_under_load(project: Project) -> Load:
    """`pulumi up` while clients ask, also before and after it.

    They pause between two requests: the edge is reloaded, and a Go server that closes its idle connections
    can close one on which a request just arrives.
    """
    outputs = project.outputs()
    with Load(outputs["endpoint"], outputs["model"], pause=0.05, api_key=KEY) as load:
        load.wait_for_answers(8)
        began = time.monotonic()
        project.up()
        print(f"{time.monotonic() - began:.1f} s, ", end="")
        load.wait_for_answers(8)
    print(load.summary())
    assert project.settled()
    assert project.changes() == {}
    return load


@pytest.mark.parametrize("engine", ["ollama", "vllm"])
def test_a_stack_of_the_old_version_comes_here_under_load_and_loses_nothing(
    project: Project, before: Path, engine: str
) -> None:
    project.configure(engine=engine)
    project.use_sources(before)
    if engine == "vllm":  # who knows keys is another one afterwards
        project.pulumi("config", "set", "--secret", "--path", "apiKeys.tester", KEY)
    project.up()
    assert project.containers("proxy") == []
    project.use_sources(ROOT)
    load = up_under_load(project)
    assert not load.bad, load.summary()
    assert f"-{engine}-" in project.live()
    assert len(project.containers("proxy", running=True)) == 1
    asked = urllib.request.Request(f"{project.outputs()['endpoint']}/models")
    if engine == "vllm":
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked)


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

        def version(root: Path) -> Load:
            project.use_sources(root)
            pins.write_text(fast)
            return up_under_load(project)

        load = version(ROOT)
        assert not load.bad, load.summary()

        project.configure(engine="vllm")
        load = up_under_load(project)
        assert not load.bad, load.summary()

        # The old version's edge comes first, and the proxy is taken away at the end. What waits in the edge
        # in the moment of its reload is refused; nothing is cut.
        load = version(before)
        assert all("503" in str(each.problem) for each in load.bad), load.summary()
        assert len(load.bad) <= load.clients, load.summary()
        assert project.containers("proxy") == []

        load = version(ROOT)
        assert not load.bad, load.summary()
        assert "-vllm-" in project.live()
    finally:
        project.wipe()
        remove_fast_engine(VERSION)
