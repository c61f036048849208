"""What `make down` does with containers that are not the stack's."""

from pathlib import Path

import pytest

from stacks.owner import DockerObject, FoundOnHost
from tools import down

NETWORK = DockerObject("network", "n1", "changeover-local", "network")
EDGE = DockerObject("container", "e1", "changeover-local-edge", "edge")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a `docker` was asked on whose network are the edge and two containers of others."""
    program, said = tmp_path / "docker", tmp_path / "said"
    rows = r"e1 changeover-local-edge\no1 page\no2 a-chat\n"
    program.write_text(f'#!/bin/sh\necho "$@" >>{said}\n[ "$1" != ps ] || printf "{rows}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return said


def test_what_is_still_attached_is_named_taken_off_and_left_as_it_is(
    asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down._let_go(FoundOnHost(things=(NETWORK, EDGE), owner=None, serves=""))
    assert "attached to the network changeover-local: a-chat, page. They stay" in capsys.readouterr().out
    look, *rest = asked.read_text().splitlines()
    assert look.startswith("ps --all --no-trunc --filter network=n1")
    assert rest == ["network disconnect --force n1 o1", "network disconnect --force n1 o2"]


def test_without_a_network_nobody_is_asked(asked: Path) -> None:
    down._let_go(FoundOnHost(things=(EDGE,), owner=None, serves=""))
    assert not asked.exists()
