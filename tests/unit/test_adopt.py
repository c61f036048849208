"""What `make adopt` leaves where it is cut off."""

from pathlib import Path

import pytest

from common import StepFailed
from stacks.owner import DockerObject, FoundOnHost, known
from tools import adopt, owner

EDGE = DockerObject("container", "e1", "changeover-local-edge", "edge")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Docker was asked on whose host is the edge of another state."""
    program, said = tmp_path / "docker", tmp_path / "said"
    program.write_text(f'#!/bin/sh\necho "$@" >>{said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(owner, "state_of", lambda stack: known({}))
    host = FoundOnHost(things=(EDGE,), owner=None, serves="")
    monkeypatch.setattr(owner, "found", lambda stack: host)
    return said


@pytest.mark.parametrize("how", [StepFailed, KeyboardInterrupt])
def test_what_was_stopped_for_another_goes_on_where_there_is_none(
    asked: Path, how: type[BaseException]
) -> None:
    with pytest.raises(how), adopt._stopped("local", "edge"):
        raise how
    assert asked.read_text().splitlines() == ["stop e1", "start e1"]
