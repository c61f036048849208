"""A copy of the project with a stack of its own, driven by the real Pulumi CLI."""

import copy
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from common import ROOT
from components.labels import Labels
from stacks.settings import PROJECT
from tools import environment

SOURCES = (
    *("__main__.py", "common.py", "Pulumi.yaml"),
    *("advise", "components", "measure", "monitor", "parity", "proxy", "stacks", "switch", "traffic"),
    "offline",
)

PASSPHRASE = "a test's own"

NO_BYTECODE = shutil.ignore_patterns("__pycache__")
"""For copies of the project: another test's program may write its bytecode just now."""

TEAM = {
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "A tester"), ("EMAIL", "tester@example.org"))
    },
    "MAKEFLAGS": "",  # those of a `make` that runs the tests would make the team's own warn
    "CI": "",  # it is of the tests, and the team's are people at their keyboards
}
"""What git and make need in their environment when a test plays a team."""


known_packages = False
"""Whether the environment that `link_environment` gives a folder knows its packages. The tests set it: before
Pulumi runs a program, it asks pip for them, which takes pip half a second. A measurement does not set it."""

PYTHON = """\
#!/bin/bash
[ "$*" != "-m pip list -v --format json" ] || exec cat '{packages}'
exec -a "$0" '{python}' "$@"
"""
"""A Python that has the answer to Pulumi's question for all packages, and runs everything else."""


@functools.cache
def packages() -> str:
    """The packages that are installed here, as pip says them to Pulumi."""
    command = [sys.executable, "-m", "pip", "list", "-v", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def link_environment(folder: Path, *, first: Path | None = None) -> None:
    """Give `folder` the virtual environment that `Pulumi.yaml` names: links to the one that runs this.

    Pulumi's own Python language host runs a program there, whatever is first on PATH, and there the program
    finds other programs first. Those in the folder `first` go before even that.
    """
    here, ours = folder / ".venv", Path(sys.prefix)
    if first is None and not known_packages:
        here.symlink_to(ours)
        return
    (here / "bin").mkdir(parents=True)
    places = (ours / "bin", *([first] if first else []))
    parts = {f"bin/{each.name}": each for place in places for each in place.iterdir()}
    parts |= {each.name: each for each in ours.iterdir() if each.name != "bin"}
    for name, each in parts.items():
        (here / name).symlink_to(each)
    if known_packages:
        (here / "packages.json").write_text(packages())
        for name in ("python", "python3"):
            python = here / "bin" / name
            python.unlink(missing_ok=True)
            python.write_text(PYTHON.format(packages=here / "packages.json", python=ours / "bin" / name))
            python.chmod(0o755)


def pulumi_yaml(name: str) -> str:
    """The text of a project of that name without settings, which runs as this one does."""
    runtime = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["runtime"]
    return yaml.safe_dump({"name": name, "runtime": runtime})


PORTS = range(16_384, 32_768)
"""Linux gives connections those above, one of which may take a port between the look and its use."""

_GIVEN: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody uses now, on any address, and that nobody here was given before."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


def offline_settings(**more: object) -> dict[str, object]:
    """Of a stack with offline images and the tiny model on a free port; `more` is changed in it."""
    return {
        "engine": "ollama",
        "target": "docker",
        "model": "tiny",
        "images": "offline",
        "context": 1024,
        "parallel": 4,
        "port": free_port(),
        **more,
    }


class CommandFailed(Exception):
    """The CLI exited non-zero; the text is everything it printed."""


class Project:
    """One stack of a copied project in `folder`. Pulumi's own output is returned as text."""

    programs: Path | None = None
    """A folder of programs that go before all others for the project's program."""
    sources: Sequence[str] = SOURCES
    """What is copied of the project."""

    _outputs: tuple[object, dict[str, Any]] = None, {}
    """Of which state they are, and what `outputs` gave for it."""

    def __init__(self, folder: Path, stack: str, **settings: object) -> None:
        # A shell has what runs in its background ignore SIGINT. Pulumi ends its language host by it, and
        # waits 5 s where that is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.folder, self.stack = folder, stack
        self.labels = Labels(project=PROJECT, stack=stack)
        self.use_sources(ROOT)
        link_environment(folder, first=self.programs)
        (folder / "state").mkdir()
        self.environment = {
            **environment.process_environment(folder / ".venv"),
            "PULUMI_BACKEND_URL": environment.backend_in(folder / "state"),
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        }
        self.environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE")
        self.settings_file = folder / f"Pulumi.{stack}.yaml"
        self.pulumi("stack", "init", stack)
        self.configure(**settings)

    def moved(self, folder: Path) -> "Project":
        """The same stack for who works in `folder`, which is a copy of this project's."""
        other = copy.copy(self)
        other.folder, other.settings_file = folder, folder / self.settings_file.name
        other.environment = {
            **self.environment,
            "PULUMI_BACKEND_URL": environment.backend_in(folder / "state"),
        }
        return other

    def use_sources(self, root: Path) -> None:
        """Makes this a copy of the project in `root`, perhaps of another version; its stack stays."""
        for source in self.sources:
            here, there = self.folder / source, root / source
            if here.is_dir():
                shutil.rmtree(here)
            else:
                here.unlink(missing_ok=True)
            if there.is_dir():
                shutil.copytree(there, here, ignore=NO_BYTECODE)
            elif there.exists():
                shutil.copy(there, here)

    def configure(self, **settings: object) -> None:
        """Change settings in the stack's file; None removes one."""
        content = yaml.safe_load(self.settings_file.read_text())
        config = content.setdefault("config", {})
        for key, value in settings.items():
            if value is None:
                config.pop(f"{PROJECT}:{key}", None)
            else:
                config[f"{PROJECT}:{key}"] = value
        self.settings_file.write_text(yaml.safe_dump(content))

    def command(self, *words: str) -> Sequence[str]:
        stack = [] if words[0] == "stack" and words[1] in ("init", "ls") else ["--stack", self.stack]
        return [str(environment.BIN / "pulumi"), *words, *stack, "--non-interactive"]

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """The CLI in the background, in a process group of its own, its output in `log`."""
        with log.open("wb") as out:
            return subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def pulumi(self, *words: str, timeout: float = 1200, stdin: str = "") -> str:
        """Run the CLI with `stdin`; raise CommandFailed with its output when it exits non-zero."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(done.stdout)
        return done.stdout

    def up(self, *words: str) -> str:
        return self.pulumi("up", "--yes", "--skip-preview", *words)

    def preview_json(self) -> dict[str, Any]:
        """The preview as the engine's JSON: `steps` with their `op` and `urn`."""
        out = self.pulumi("preview", "--json")
        return dict(json.loads(out[out.index("{") :]))

    def changes(self) -> dict[str, str]:
        """Resource name → operation, of a preview, without those that stay the same."""
        return {
            step["urn"].rsplit("::", 1)[1]: step["op"]
            for step in self.preview_json()["steps"]
            if step["op"] not in ("same", "read")
        }

    @property
    def for_tools(self) -> dict[str, str]:
        """The environment in which this project's tools have its state."""
        return {**self.environment, environment.BACKEND: self.environment["PULUMI_BACKEND_URL"]}

    def outputs(self) -> dict[str, Any]:
        """What the program exports. The CLI is asked again only where the state has been written since."""
        place = Path(urlsplit(self.environment["PULUMI_BACKEND_URL"]).path)
        state = (place / ".pulumi" / "stacks" / PROJECT / f"{self.stack}.json").stat()
        written = (str(place), self.stack, state.st_ino, state.st_mtime_ns)
        if self._outputs[0] != written:
            said = self.pulumi("stack", "output", "--json", "--show-secrets")
            self._outputs = written, json.loads(said)
        return dict(self._outputs[1])

    def containers(self, role: str, *, running: bool = False) -> list[str]:
        """The names of the stack's containers with this role."""
        return docker(
            "ps",
            *([] if running else ["--all"]),
            "--filter",
            f"label=changeover.stack={self.stack}",
            "--filter",
            f"label=changeover.role={role}",
            "--format",
            "{{.Names}}",
        ).split()

    def everything(self) -> list[str]:
        """The names of all its containers, running or not."""
        return sorted(
            docker(
                "ps", "--all", "--filter", f"label=changeover.stack={self.stack}", "--format", "{{.Names}}"
            ).split()
        )

    def live(self) -> str:
        """The name of the engine container that serves, as the switch says it."""
        return str(json.loads(self.switch("status", "--json"))["live"])

    def settled(self) -> bool:
        """Whether nothing is under way and the active engine is the one that passed its gate."""
        status = json.loads(self.switch("status", "--json"))
        return status["under_way"] is None and bool(status["gated"])

    def switch(self, *words: str) -> str:
        (switch,) = self.containers("switch")
        return docker("exec", switch, "python3", "-m", "switch", *words)

    def wipe(self) -> None:
        """Remove whatever carries the stack's label, weights too. For clean-up after a test that failed."""
        wipe(self.stack)


def wipe(stack: str) -> None:
    """Remove whatever carries a stack's label, weights too: also what a killed run has left."""
    filters = ["--filter", f"label=changeover.stack={stack}"]
    if left := docker("ps", "--all", "--quiet", *filters).split():
        docker("rm", "--force", "--volumes", *left)
    if left := docker("network", "ls", "--quiet", *filters).split():
        docker("network", "rm", *left)
    if left := docker("volume", "ls", "--quiet", *filters).split():
        docker("volume", "rm", *left)


@contextmanager
def patched(project: Project, file: str, old: str, new: str) -> Iterator[None]:
    """The project's copy with `old` replaced by `new` in one of its files."""
    path = project.folder / file
    text = path.read_text()
    assert old in text, f"{file} no longer has {old!r}"
    path.write_text(text.replace(old, new))
    try:
        yield
    finally:
        path.write_text(text)


def address_of(container: str) -> str:
    """A container's IP address on its first network."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return docker("inspect", "--format", form, container).split()[0]


def docker(*words: str) -> str:
    """The Docker CLI's output; raises CommandFailed when it exits non-zero."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"docker {' '.join(words)}: {done.stderr}")
    return done.stdout


def pid_of(container: str) -> int:
    """The number of the container's process, for a signal. Where it does not run Docker says 0, by which a
    signal would go to the tests themselves."""
    pid = int(docker("inspect", "--format", "{{.State.Pid}}", container))
    assert pid > 0, f"{container} does not run"
    return pid


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and all it started, as a lost machine would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
