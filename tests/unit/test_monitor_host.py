"""The monitor on its host: how its configuration gets there, and how its page is reached."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT, StepFailed
from tools import dashboard, down
from tools.status import NoContainer


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `docker` whose volumes are folders here; what it runs sees them by their paths in the container."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    for name in ("config", "history"):
        (tmp_path / name).mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -c ]; do shift; done\n'
        f'script=$(printf %s "$2" | sed "s#/config#{tmp_path}/config#; s#/history#{tmp_path}/history#")\n'
        f'exec {sys.executable} -c "$script" {os.getuid()}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return tmp_path


def fill(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """What is in the volume once the step has run."""
    environment = {
        **os.environ,
        "CONFIG": "c",
        "HISTORY": "h",
        "IMAGE": "i",
        "OWNER": f"{os.getuid()}:0",
        "CONTENT": "0",
    }
    subprocess.run(
        ["sh", ROOT / "components/monitor_files.sh"],
        input=json.dumps(files),
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    config = folder / "config"
    return {str(each.relative_to(config)): each.read_text() for each in config.rglob("*") if each.is_file()}


def test_the_configuration_on_the_host_is_what_is_rendered_and_a_key_that_stays(helper: Path) -> None:
    first = fill(helper, {"scrape.yml": "a", "vmui/1.json": "b", "vmui/2.json": "c"})
    key = first.pop("key")
    assert len(key) == 48 and first == {"scrape.yml": "a", "vmui/1.json": "b", "vmui/2.json": "c"}
    assert fill(helper, {"scrape.yml": "A", "vmui/1.json": "b"}) == {
        "scrape.yml": "A",
        "vmui/1.json": "b",
        "key": key,
    }


class Terminal:
    """Doubles of `docker port`, of `ssh` and of the person."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, aws: bool) -> None:
        self.said: list[str] = []
        monkeypatch.setattr(dashboard, "say", self.said.append)
        monkeypatch.setattr(dashboard, "containers_of", lambda stack, role: [f"changeover-{stack}-{role}-1"])
        monkeypatch.setattr(dashboard, "published", lambda container: 8428)
        monkeypatch.setattr(dashboard, "is_on_aws", lambda stack: aws)


def test_the_address_of_the_page_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, aws=False)
    dashboard.dashboard("local")
    assert terminal.said[0] == "pages:  http://127.0.0.1:8428/vmui/#/dashboards"


def test_on_aws_ssh_makes_the_page_one_of_this_machine_on_a_connection_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://ubuntu@i-0123")
    command, here = dashboard.forward("prod", 8428)
    assert f"127.0.0.1:{here}:127.0.0.1:8428" in command and command[-1] == "ubuntu@i-0123"
    assert "ControlPath=none" in command and "ExitOnForwardFailure=yes" in command
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        _, other = dashboard.forward("prod", port)
        assert other != port, "another one where it is taken"


def test_a_stack_without_a_monitor_is_told_what_gives_it_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(stack: str, role: str) -> list[str]:
        raise NoContainer(f"no {role} of stack `{stack}` runs here. Deploy it: make up STACK={stack}")

    monkeypatch.setattr(dashboard, "containers_of", none)
    with pytest.raises(StepFailed, match="pulumi config set monitor true --stack local"):
        dashboard.dashboard("local")


def test_make_down_leaves_the_history_of_a_monitor_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = "urn:pulumi:local::changeover::docker:index/volume:Volume::monitor-history"
    other = "urn:pulumi:local::changeover::docker:index/volume:Volume::monitor-config"
    resources = [{"urn": urn, "type": "docker:index/volume:Volume"} for urn in (history, other)]
    asked: list[tuple[str, ...]] = []

    def pulumi(*words: str, capture: bool = False) -> str:
        asked.append(words)
        return json.dumps({"deployment": {"resources": resources}})

    monkeypatch.setattr(down, "pulumi", pulumi)
    assert down._leave_history("local") is True
    assert asked[1] == ("state", "delete", history, "--target-dependents", "--yes", "--stack", "local")
    asked.clear()
    resources.pop(0)
    assert down._leave_history("local") is False and len(asked) == 1
