"""Stacks that are not like the story's: one whose first engine fails, and one without a standby."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.stack import fast_project, remove_fast_engine, use_fast_engine
from tests.support.load import LoadGenerator
from tests.support.project import CommandFailed, Project, offline_settings

pytestmark = pytest.mark.engine

VERSION = "0.0.0-first"


def test_a_first_engine_that_fails_is_stopped_and_no_edge_appears(tmp_path: Path) -> None:
    """With the test engine, which takes longer to start than `loadSeconds` allows at first."""
    project = Project(tmp_path, "first", **offline_settings(engine="vllm", loadSeconds=2))
    project.wipe()
    try:
        use_fast_engine(project.folder, VERSION, delay=8)
        with pytest.raises(CommandFailed, match="Nothing serves: no engine was active before"):
            project.up()
        assert project.containers("engine", running=True) == []
        assert project.containers("edge") == []
        project.configure(loadSeconds=None)
        project.up()
        assert project.live().startswith("changeover-first-vllm-")
        assert project.changes() == {}
    finally:
        project.wipe()
        remove_fast_engine(VERSION)


@pytest.fixture
def lean(tmp_path: Path) -> Iterator[Project]:
    """A stack of the test engine without a standby."""
    with fast_project(tmp_path, "lean", standby=False) as project:
        yield project


def test_without_a_standby_a_flip_fetches_the_other_engine_before_anything_is_held(lean: Project) -> None:
    (old,) = lean.containers("engine")
    lean.configure(engine="vllm")
    outputs = lean.outputs()
    with LoadGenerator(outputs["endpoint"], outputs["model"]) as load:
        load.wait_for_answers(8)
        text = lean.up()
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    fetched, drained = re.search(r"vllm: weights here", text), re.search(r"drained in", text)
    assert fetched and drained and fetched.start() < drained.start(), text
    (new,) = lean.containers("engine")
    assert new == lean.live() != old
    assert lean.changes() == {}
