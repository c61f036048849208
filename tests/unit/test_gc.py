"""What `make gc` frees after it has asked."""

from pathlib import Path

import pytest

from common import StepFailed
from switch.answers import CAN_GO
from tools import gc

ONE, TWO = (f"{CAN_GO} weights ollama/{each}: 1.00 GiB\n" for each in ("one", "two"))


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a `docker` that names what is in the file `can-go`, and keeps what it was asked."""
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\ncat {tmp_path}/can-go\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(gc, "switch_of", lambda stack: "switch")
    (tmp_path / "can-go").write_text(ONE)
    return tmp_path


@pytest.mark.parametrize("later", [ONE, ONE + TWO])
def test_what_was_named_is_freed_and_nothing_that_can_go_only_since_then(
    docker: Path, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    def asked(*_: str) -> bool:
        (docker / "can-go").write_text(later)  # an update ran before the answer
        return True

    monkeypatch.setattr(gc, "yes", asked)
    if later == ONE:
        gc.gc("local")
    else:
        with pytest.raises(StepFailed, match="not what was named any more"):
            gc.gc("local")
    assert ("--free" in (docker / "asked").read_text()) == (later == ONE)
