"""One deployed stack for the story that the tests tell in order, on the real engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import Project, offline_settings


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A stack `test` with offline images and the tiny model; nothing of it is left afterwards."""
    folder: Path = tmp_path_factory.mktemp("project")
    project = Project(folder, "test", **offline_settings(parallel=2))
    project.wipe()  # what a killed run left behind
    yield project
    project.wipe()
