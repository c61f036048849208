"""One deployed stack for the story that the tests tell in order, on the real engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import Project, free_port


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A stack `test` with offline images and the tiny model; nothing of it is left afterwards."""
    folder: Path = tmp_path_factory.mktemp("project")
    project = Project(
        folder,
        "test",
        engine="ollama",
        target="docker",
        model="tiny",
        images="offline",
        context=1024,
        parallel=2,
        port=free_port(),
    )
    project.wipe()  # what a killed run left behind
    yield project
    project.wipe()
