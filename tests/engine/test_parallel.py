"""How many requests an engine gets, as Pulumi's own settings say it, and a mode that has become another."""

import pytest

from bench.stack import remove_fast_engine, use_fast_engine
from tests.support.project import CommandFailed, Project, offline_settings

pytestmark = pytest.mark.engine

VERSION = "0.0.0-parallel"


def test_a_number_for_one_engine_is_an_ordinary_change_and_overlap_that_became_hold_is_said_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = offline_settings(cutover="auto", hostMemoryGiB=16)
    project = Project(tmp_path_factory.mktemp("project"), "parallel", **settings)
    project.wipe()
    try:
        use_fast_engine(project.folder, VERSION)
        project.up()
        assert project.outputs()["cutover"] == "overlap"
        live = project.live()

        # less RAM, so that it holds: an older version's stack is in this place where only the rule changed
        project.configure(hostMemoryGiB=None)
        said = project.pulumi("preview")
        assert "`cutover: auto` meant overlap at the last update and means hold now" in said
        assert "pulumi config set cutover overlap" in said
        assert "means hold now" in project.up()
        assert "means hold now" not in project.pulumi("preview")
        assert project.live() == live

        # the file still has an integer for both; a path makes an object of it, and each form is read
        project.pulumi("config", "set", "--path", "parallel.ollama", "3")
        said = project.up()
        assert "at the same time, ollama: 3 requests" in said and "at the same time, vllm: 4 requests" in said
        assert project.live() != live and project.changes() == {}
        project.pulumi("config", "set", "parallel", "auto")
        assert "at the same time, ollama: 4 requests" in project.up()
        assert project.live().rpartition("-")[0] == live.rpartition("-")[0], "as before, by its content"
        project.pulumi("config", "set", "parallel", "plenty")
        with pytest.raises(
            CommandFailed, match="parallel: 'plenty' cannot work; it must be auto, or 1 to 256"
        ):
            project.pulumi("preview")
    finally:
        project.wipe()
        remove_fast_engine(VERSION)
