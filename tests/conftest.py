"""How the tests are shared out between workers (`--numprocesses 2 --dist loadfile`): mostly they wait."""

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]


class Files(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests stay together, for the stack that they share; those of AWS have one network to share."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "aws" if "/test_aws_" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files | None:
    return Files(config, log) if config.getvalue("dist") == "loadfile" else None
