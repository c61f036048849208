"""What this project relies on in the `command` plugin, on the real engine.

The plugin that is built for closed networks is a second implementation of the published one, so both have to
pass: which one runs is whichever is installed.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import link_environment, pulumi_yaml
from tools import environment

PROGRAM = """
import json
from pathlib import Path

import pulumi
from pulumi_command import local

for name, args in json.loads(Path("commands.json").read_text()).items():
    command = local.Command(name, **args)
    pulumi.export(f"{name}_stdout", command.stdout)
    pulumi.export(f"{name}_stderr", command.stderr)
"""


class Stack:
    """A stack of local commands, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "Pulumi.yaml").write_text(pulumi_yaml("commands"))
        link_environment(folder)
        (folder / "__main__.py").write_text(PROGRAM)
        self.environment = {
            **environment.process_environment(folder / ".venv"),
            "PULUMI_BACKEND_URL": environment.backend_in(folder / "state"),
            "PULUMI_CONFIG_PASSPHRASE": "test",
        }
        self.environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        assert self.run("stack", "init", "test").returncode == 0

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [environment.BIN / "pulumi", *words, "--non-interactive"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            text, _ = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, text, "")

    def declare(self, **commands: dict[str, object]) -> None:
        (self.folder / "commands.json").write_text(json.dumps(commands))

    def up(self, **commands: dict[str, object]) -> str:
        self.declare(**commands)
        done = self.run("up", "--yes", "--skip-preview")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def outputs(self) -> dict[str, Any]:
        done = self.run("stack", "output", "--json")
        outputs: dict[str, Any] = json.loads(done.stdout)
        return outputs


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    environment.install_tools()
    return Stack(tmp_path)


def until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition comes to hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def runs(text: str) -> bool:
    """Whether a process has this text in its command line."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in place.read_bytes().decode(errors="replace"):
                return True
        except OSError:
            continue  # it ended meanwhile
    return False


def test_output_is_shown_line_by_line_and_kept_without_its_last_newline(stack: Stack) -> None:
    shown = stack.up(a={"create": "echo one; echo two; echo three >&2"})
    for line in ("one", "two", "three"):
        assert f"a creating (0s) {line}" in shown
    assert stack.outputs() == {"a_stdout": "one\ntwo", "a_stderr": "three"}
    assert stack.run("preview", "--expect-no-changes").returncode == 0


def test_a_changed_input_runs_update_with_the_output_of_the_step_before(stack: Stack) -> None:
    args: dict[str, object] = {
        "create": "echo created $V",
        "update": "echo updated $V, was: $PULUMI_COMMAND_STDOUT",
    }
    stack.up(a={**args, "environment": {"V": "1"}})
    stack.up(a={**args, "environment": {"V": "2"}})
    assert stack.outputs()["a_stdout"] == "updated 2, was: created 1"


def test_without_update_a_changed_input_runs_create_again(stack: Stack) -> None:
    stack.up(a={"create": "cat", "stdin": "first"})
    stack.up(a={"create": "cat", "stdin": "second"})
    assert stack.outputs()["a_stdout"] == "second"


def test_a_changed_trigger_replaces_and_delete_is_the_one_in_state(stack: Stack) -> None:
    log = stack.folder / "log"
    args: dict[str, object] = {"create": f"echo create >> {log}", "update": f"echo update >> {log}"}
    stack.up(a={**args, "delete": f"echo old delete >> {log}", "triggers": ["1"]})
    stack.up(a={**args, "delete": f"echo new delete >> {log}", "triggers": ["2"]})
    assert log.read_text().splitlines() == ["create", "create", "old delete"]
    assert stack.run("destroy", "--yes", "--skip-preview").returncode == 0
    assert log.read_text().splitlines()[-1] == "new delete"


def test_a_failed_command_fails_the_update_with_its_output_and_runs_again(stack: Stack) -> None:
    stack.declare(a={"create": "echo the reason; exit 3"})
    done = stack.run("up", "--yes", "--skip-preview")
    assert done.returncode != 0
    assert "exit status 3" in done.stdout
    assert "the reason" in done.stdout
    stack.up(a={"create": "echo fine"})
    assert stack.outputs()["a_stdout"] == "fine"


def test_a_preview_runs_nothing(stack: Stack) -> None:
    stack.declare(a={"create": f"touch {stack.folder}/ran"})
    assert stack.run("preview").returncode == 0
    assert not (stack.folder / "ran").exists()


def test_the_shell_of_a_running_command_ends_with_a_killed_engine(stack: Stack) -> None:
    mark = f"{stack.folder}/started"
    stack.declare(a={"create": f"touch {mark}; while :; do sleep 0.1; done"})
    with stack.start("up", "--yes", "--skip-preview") as engine:
        assert until(Path(mark).exists)
        assert runs(f"touch {mark}")
        os.kill(engine.pid, signal.SIGKILL)
    assert until(lambda: not runs(f"touch {mark}"))
