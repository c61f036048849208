"""What `make down` does with containers that are not the stack's, and with a stack that is being updated."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from common import StepFailed
from stacks.owner import DockerObject, FoundOnHost, known
from tools import down, environment, owner

NETWORK = DockerObject("network", "n1", "changeover-local", "network")
EDGE = DockerObject("container", "e1", "changeover-local-edge", "edge")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a `docker` was asked on whose network are the edge and three containers of others, one of which is
    just being removed."""
    program, said = tmp_path / "docker", tmp_path / "said"
    rows = r"e1=changeover-local-edge\no1=page\no2=a-chat\no3=\n"
    program.write_text(f'#!/bin/sh\necho "$@" >>{said}\n[ "$1" != ps ] || printf "{rows}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return said


def test_what_is_still_attached_is_named_taken_off_and_left_as_it_is(
    asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down._let_go(FoundOnHost(things=(NETWORK, EDGE), owner=None, serves=""))
    assert "attached to the network changeover-local: a-chat, o3, page. They stay" in capsys.readouterr().out
    look, *rest = asked.read_text().splitlines()
    assert look.startswith("ps --all --no-trunc --filter network=n1")
    assert rest == [f"network disconnect --force n1 {each}" for each in ("o1", "o2", "o3")]


def test_without_a_network_nobody_is_asked(asked: Path) -> None:
    down._let_go(FoundOnHost(things=(EDGE,), owner=None, serves=""))
    assert not asked.exists()


def test_a_stack_that_is_nowhere_is_not_said_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(down, "_stacks", lambda: ["local"])
    monkeypatch.setattr(owner, "state_of", lambda stack: known({}))
    monkeypatch.setattr(owner, "found", lambda stack: FoundOnHost(things=(), owner=None, serves=""))
    with pytest.raises(StepFailed, match=r"there is no stack `lcoal`.*nothing was changed"):
        down.down("lcoal")


def test_the_state_in_this_folder_stays_while_it_has_a_stack_though_another_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "HOME", tmp_path)
    monkeypatch.setattr(environment, "STATE", tmp_path / "state")
    monkeypatch.setattr(down, "ROOT", tmp_path)
    monkeypatch.setattr(down, "pulumi", lambda *words, **_: "[]")  # the bucket has none
    monkeypatch.setattr(down, "_docker", lambda *words: [])
    monkeypatch.setenv(environment.BACKEND, "s3://here?region=eu-central-1")
    file = tmp_path / "state" / ".pulumi" / "stacks" / "changeover" / "local.json"
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(
        StepFailed, match=r"`local` still exists.*env -u CHANGEOVER_BACKEND make down STACK=local"
    ):
        down.clean_all()
    assert file.exists()


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("the stack is currently locked by 1 lock(s)", "pulumi cancel --stack local"),
        ("no resource named 'urn:pulumi:local' found", ""),
        ("incorrect passphrase", "incorrect passphrase"),
    ],
)
def test_a_stack_is_refused_unless_its_lock_was_to_be_had(
    monkeypatch: pytest.MonkeyPatch, said: str, refused: str
) -> None:
    def pulumi(*words: str, capture: bool) -> str:
        assert "--target" in words, "everything would go"
        raise StepFailed(f"`pulumi {' '.join(words)}` exited 255:\nerror: {said}")

    monkeypatch.setattr(down, "pulumi", pulumi)
    with pytest.raises(StepFailed, match=refused) if refused else nullcontext():
        down._refuse_locked("local")
