"""What is said of an endpoint whose port gives no answer, and of a switch or a Docker that gives none."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import StepFailed
from switch.asking import UNAVAILABLE
from tools import advice, port, status

DOCKER = """#!/bin/sh
# a test double of Docker's CLI, with one edge and one switch
case "$*" in
  "ps "*role=edge*) echo dev-edge ;;
  "ps "*role=switch*) echo dev-switch ;;
  "inspect "*State.Running*) echo true ;;
  "inspect "*PortBindings*) echo "$PUBLISHED " ;;
  "exec dev-edge sh -c "*) printf '3000\\n3\\n' ;;
  "exec dev-edge timeout 1 wget "*) exit "${INSIDE:?}" ;;
  "exec dev-switch "*) exit "${STATUS:?}" ;;
  *) echo "the double knows no: $*" >&2; exit 64 ;;
esac
"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A port that accepts connections, and says nothing."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(port, "SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("PUBLISHED", address)
        monkeypatch.setattr(port, "pulumi", lambda *_, **__: f'{{"endpoint": "http://{address}/v1"}}')
        yield address


def on_aws(monkeypatch: pytest.MonkeyPatch, *, so: bool) -> None:
    monkeypatch.setattr(port, "is_on_aws", lambda stack: so)


def test_an_edge_that_hangs_is_said_to_give_no_answer(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_aws(monkeypatch, so=False)
    monkeypatch.setenv("INSIDE", "143")
    said = port.trouble("dev")
    assert f"port {published} does not answer" in said and "dev-edge runs, and gives no answer" in said
    assert "forwards" not in said and "docker restart dev-edge (or make up STACK=dev)" in said
    monkeypatch.setenv("INSIDE", "0")
    said = port.trouble("dev")
    assert "Docker no longer forwards the port" in said and "gives no answer" not in said


def test_on_aws_an_edge_that_hangs_is_trouble_and_a_firewall_is_none(
    published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_aws(monkeypatch, so=True)
    monkeypatch.setenv("INSIDE", "143")
    said = port.trouble("dev")
    assert f"port {published} does not answer" in said and "dev-edge runs, and gives no answer" in said
    assert "With the DOCKER_HOST of its instance, run: docker restart dev-edge" in said
    assert "allowedCidrs" not in capsys.readouterr().out
    monkeypatch.setenv("INSIDE", "0")
    assert port.trouble("dev") == ""
    assert "allowedCidrs" in capsys.readouterr().out


def test_a_status_that_does_not_come_is_not_put_down_to_the_switch(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "look", lambda stack: None)
    monkeypatch.setattr(advice, "Line", lambda stack: None)
    monkeypatch.setenv("STATUS", str(UNAVAILABLE))
    with pytest.raises(StepFailed, match="it is not known what serves; the switch's log: docker logs dev-sw"):
        status.status("dev")
