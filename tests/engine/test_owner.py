"""A stack on a host belongs to one state, and what of it is missing there is found first."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy as project_copy
from dataclasses import replace
from pathlib import Path

import pytest

from bench.stack import remove_fast_engine, use_fast_engine
from tests.support.load import LoadGenerator
from tests.support.project import (
    NO_BYTECODE,
    CommandFailed,
    Project,
    docker,
    free_port,
    offline_settings,
)
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

VERSION = "0.0.0-owner"
STACK = "owned"


def made(folder: Path, stack: str = STACK, **settings: object) -> Project:
    """A project of the test engine whose stack is in a state of its own."""
    folder.mkdir()
    project = Project(folder, stack, **offline_settings(**settings))
    use_fast_engine(project.folder, VERSION)
    return project


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A stack that serves, and whose it is. Each test leaves it as Pulumi knows it."""
    project = made(tmp_path_factory.mktemp("owned") / "owner")
    project.wipe()
    try:
        project.up()
        yield project
    finally:
        project.wipe()
        remove_fast_engine(VERSION)


def copy(project: Project, folder: Path) -> Project:
    """The same checkout with its state in another folder."""
    shutil.copytree(project.folder, folder, symlinks=True, ignore=NO_BYTECODE)
    return project.moved(folder)


def flip(project: Project) -> None:
    """Changes the engine to the other one."""
    before = "ollama" if project.live().startswith(f"changeover-{project.stack}-ollama-") else "vllm"
    project.configure(engine="vllm" if before == "ollama" else "ollama")
    project.up()
    assert not project.live().startswith(f"changeover-{project.stack}-{before}-")


def refused(project: Project, *words: str) -> str:
    """What Pulumi says where it refuses, after which every container is as it was."""
    before = project.everything()
    with pytest.raises(CommandFailed) as failure:
        project.pulumi(*words)
    assert project.everything() == before, "something was changed"
    text = str(failure.value)
    assert "Traceback" not in text
    return text


UP = ("up", "--yes", "--skip-preview")


def test_another_state_is_told_whose_the_stack_is_and_what_to_type(owner: Project, tmp_path: Path) -> None:
    other = made(tmp_path / "other")
    for words in (UP, ("preview",), (*UP, "--refresh")):
        text = refused(other, *words)
        assert f"it was last changed from {owner.folder} on " in text
        assert "On it, ollama serves tiny, since 20" in text and "Nothing was changed" in text
        for command in ("up STACK=mine", f"adopt STACK={STACK}", f"down STACK={STACK} OWNER="):
            assert command in text
    assert owner.changes() == {}


def test_a_copied_state_is_refused_once_the_other_one_has_changed_the_engine(
    owner: Project, tmp_path: Path
) -> None:
    twin = copy(owner, tmp_path / "twin")
    assert twin.changes() == {}, "as long as both are the same, they are one"
    flip(owner)
    for words in (UP, ("preview",), ("destroy", "--yes", "--skip-preview")):
        text = refused(twin, *words)
        assert re.search(r"counts \d+ changes", text) and str(owner.folder) in text
    assert owner.changes() == {}


def test_a_copied_state_is_refused_once_the_other_one_has_made_another_proxy(
    owner: Project, tmp_path: Path
) -> None:
    twin = copy(owner, tmp_path / "twin")
    code = owner.folder / "proxy" / "http.py"
    code.write_text(f"{code.read_text()}# another version\n")
    owner.up()
    assert "it does not know the proxy that is there" in refused(twin, "preview")


def test_a_copy_destroys_nothing_where_the_switch_does_not_run(owner: Project, tmp_path: Path) -> None:
    twin = copy(owner, tmp_path / "twin")
    flip(owner)
    (switch,) = owner.containers("switch")
    for stopped in (True, False):
        docker("stop" if stopped else "pause", switch)
        text = refused(twin, "destroy", "--yes", "--skip-preview")
        assert "a newer copy of it" in text and str(owner.folder) in text
        docker("start" if stopped else "unpause", switch)
    assert owner.changes() == {}


def test_a_record_that_says_nothing_leaves_the_stack_to_who_has_its_containers(
    owner: Project, tmp_path: Path
) -> None:
    (switch,) = owner.containers("switch")
    other = made(tmp_path / "other")
    for text in ("{", ""):
        docker("exec", switch, "sh", "-c", f"printf '%s' '{text}' >/journal/owner.json")
        assert "OWNER=unknown" in refused(other, "preview")
        assert owner.changes() == {}
        owner.up()
        assert f"it was last changed from {owner.folder} on " in refused(other, "preview")


def test_an_older_state_that_was_restored_is_refused(owner: Project) -> None:
    before = owner.pulumi("stack", "export")
    flip(owner)
    after = owner.pulumi("stack", "export")
    owner.pulumi("stack", "import", stdin=before)
    assert f"make adopt STACK={STACK}" in refused(owner, "preview")
    owner.pulumi("stack", "import", stdin=after)
    assert owner.changes() == {}


def test_a_state_that_moves_to_another_place_goes_on_there(owner: Project, tmp_path: Path) -> None:
    moved = copy(owner, tmp_path / "moved")
    shutil.rmtree(moved.folder / "state")
    (moved.folder / "state").mkdir()
    moved.pulumi("stack", "init", STACK)
    moved.pulumi("stack", "import", stdin=owner.pulumi("stack", "export"))
    assert moved.changes() == {}
    flip(moved)
    assert "is older than the host" in refused(owner, "preview")
    owner.settings_file.write_text(moved.settings_file.read_text())
    owner.pulumi("stack", "import", stdin=moved.pulumi("stack", "export"))
    assert owner.changes() == {}


def test_one_state_in_a_place_of_its_own_is_one_owner_from_any_checkout(
    owner: Project, tmp_path: Path
) -> None:
    runner = copy(owner, tmp_path / "runner")
    runner.environment["PULUMI_BACKEND_URL"] = owner.environment["PULUMI_BACKEND_URL"]
    for project, other in ((runner, owner), (owner, runner)):
        flip(project)
        other.settings_file.write_text(project.settings_file.read_text())
        assert other.changes() == {}


def test_a_renamed_stack_is_refused_until_it_has_its_name_again(owner: Project) -> None:
    owner.pulumi("stack", "rename", "renamed")
    owner.stack, file = "renamed", owner.settings_file
    owner.settings_file = file.with_name("Pulumi.renamed.yaml")
    text = refused(owner, "preview")
    assert f"pulumi stack rename {STACK}" in text
    owner.pulumi("stack", "rename", STACK)
    owner.stack, owner.settings_file = STACK, file
    assert owner.changes() == {}


def second_stack(project: Project, stack: str) -> Project:
    """Another stack of the same checkout and the same place of its states."""
    other = project_copy(project)
    other.stack, other.labels = stack, replace(project.labels, stack=stack)
    other.settings_file = project.folder / f"Pulumi.{stack}.yaml"
    other.pulumi("stack", "init", stack)
    other.configure(**offline_settings())
    return other


@pytest.mark.parametrize("checkouts", [pytest.param("one", marks=pytest.mark.long), "two"])
def test_two_stacks_on_one_host_do_not_see_each_other(owner: Project, tmp_path: Path, checkouts: str) -> None:
    beside = made(tmp_path / "beside", "owned-2") if checkouts == "two" else second_stack(owner, "owned-2")
    beside.wipe()
    try:
        beside.up()
        for one, other in ((owner, beside), (beside, owner)):
            before = other.everything()
            flip(one)
            assert other.everything() == before
            assert other.changes() == {}
        beside.pulumi("destroy", "--yes", "--skip-preview")
        assert owner.changes() == {}
        assert owner.settled()
    finally:
        beside.wipe()


def names(project: Project, kind: str, role: str) -> list[str]:
    labels = [f"--filter=label={key}={value}" for key, value in project.labels.of(role).items()]
    command = {"container": ("ps", "--all"), "volume": ("volume", "ls"), "network": ("network", "ls")}[kind]
    name = "{{.Names}}" if kind == "container" else "{{.Name}}"
    return docker(*command, *labels, "--format", name).split()


VOLUMES = {
    "ollama-weights": "ollama-weights",
    "vllm-weights": "vllm-weights",
    "vllm-cache": "vllm-cache",
    "journal": "journal",
    "live": "live",
    "wheels": "wheels",
    "log": "log",
    "edge-volumes": "edge",
    "monitor-volume": "monitor",
    "history": "history",
}
"""The role of each volume, by what it is called here: edge and monitor have the role of their containers."""
CONTAINERS = ("switch", "engine", "standby", "gateway", "proxy", "edge", "monitor", "alerts")
NETWORKS = {"network": ["network"], "clients": ["clients"], "everything": ["network", "clients"]}
MONITORS = ("monitor", "alerts", "monitor-volume", "history")
SHORT = ("switch", "everything")


@contextmanager
def with_monitor(project: Project, *, wanted: bool) -> Iterator[None]:
    """The stack has a monitor meanwhile, if it is wanted."""
    if not wanted:
        yield
        return
    project.configure(monitor=True, monitorPort=free_port())
    project.up()
    try:
        yield
    finally:
        project.configure(monitor=None, monitorPort=None)
        project.up()


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(each, marks=() if each in SHORT else pytest.mark.long)
        for each in (*CONTAINERS, *VOLUMES, *NETWORKS)
    ],
)
def test_what_is_missing_is_said_and_made_again(owner: Project, what: str) -> None:
    with with_monitor(owner, wanted=what in MONITORS):
        lose(owner, what)


def lose(owner: Project, what: str) -> None:
    """Takes it away; it is said, made again, and the stack serves."""
    serves = owner.live()
    gone: list[str]
    match what:
        case "engine" | "standby":
            engines = names(owner, "container", "engine")
            gone = [each for each in engines if (each == serves) is (what == "engine")]
        case "network" | "everything":
            gone = [name for name in owner.everything() if name]
        case "clients":  # Docker removes no network that a container is on
            gone = names(owner, "container", "edge")
        case volume if volume in VOLUMES:
            # Docker removes no volume that a container uses
            lost = set(names(owner, "volume", VOLUMES[volume]))
            gone = [each for each in owner.everything() if lost & set(volumes_of(each))]
        case role:
            gone = names(owner, "container", role)
    assert gone
    docker("rm", "--force", *gone)
    for role in NETWORKS.get(what, []):
        lost = set(names(owner, "network", role))
        docker("network", "rm", *lost)
        gone += lost
    if what in (*VOLUMES, "everything"):
        if what == "everything":
            lost = set(docker("volume", "ls", "-q", "--filter", f"label=changeover.stack={STACK}").split())
        docker("volume", "rm", *lost)
        gone += lost
    for words in (("preview",), UP):
        text = refused(owner, *words)
        said = text[text.index("Missing on the Docker host: ") :]
        for each in gone:
            assert each in said
        assert f"pulumi up --refresh --stack {STACK}, which creates it again" in said
        assert ("GiB to fetch" in said) is (what in ("ollama-weights", "vllm-weights", "everything"))
    owner.up("--refresh")
    assert owner.changes() == {}
    outputs = owner.outputs()
    with LoadGenerator(outputs["endpoint"], outputs["model"]) as load:
        load.wait_for_answers(4)
        if what == "everything":
            flip(owner)
            load.wait_for_answers(4)
    assert not load.bad, load.summary()


def volumes_of(container: str) -> list[str]:
    (said,) = json.loads(docker("inspect", container))
    return [each["Name"] for each in said["Mounts"] if each["Type"] == "volume"]


def test_killed_in_a_change_it_is_still_the_owners(owner: Project, tmp_path: Path) -> None:
    owner.configure(engine="vllm" if "-ollama-" in owner.live() else "ollama")
    process = owner.start(*UP, log=tmp_path / "log")
    log = tmp_path / "log"
    wait(lambda: "released" in log.read_text() or process.poll() is not None, 120)
    assert "released" in log.read_text() and process.poll() is None, log.read_text()
    process.kill()
    process.wait()
    owner.pulumi("cancel", "--yes")
    owner.up()
    assert owner.changes() == {}
