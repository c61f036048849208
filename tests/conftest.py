"""How tests are shared out between workers (`--numprocesses 2 --dist loadfile`), and what they all have."""

import os

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests.support import project

LONGEST = (
    *("test_aws_dev", "test_aws_plugin", "test_aws_prod", "test_aws_spot", "test_flip"),
    *("test_switch_on_docker", "test_story", "test_review", "test_owner", "test_faults", "test_hangs"),
    *("test_carrying", "test_adopt", "test_monitor", "test_no_prompt", "test_make", "test_survival"),
    *("test_real_engines", "test_handling", "test_alert_faults", "test_bench", "test_hang_up"),
    *("test_docker_restarts", "test_clients", "test_embeddings", "test_upgrade", "test_parallel"),
)
"""Files of tests that take a minute and more, those that take longest first: a worker that gets one of them
when all else is done keeps everybody waiting. Any other file comes after them."""


class Files(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests stay together, for the stack that they share; those of AWS have one network to share."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "aws" if "/test_aws_" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files | None:
    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure() -> None:
    project.known_packages = True
    # Pulumi, its plugins and the Docker CLI run for a second each, and need not tidy their memory in it
    os.environ.setdefault("GOGC", "400")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    slow = ("engine", "conformance", "cluster")  # a fast test may be in a file of the same name
    items.sort(
        key=lambda item: places.get(item.path.stem if item.path.parent.name in slow else "", len(places))
    )
