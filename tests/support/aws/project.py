"""A copied project whose plugin `aws` is the test plugin, and whose AWS is the emulator."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from common import ROOT
from tests.support.aws.emulator import ADDRESSES, Emulator
from tests.support.aws.host.images import with_their_sums, without_digest
from tests.support.aws.host.machines import Machines
from tests.support.project import NO_BYTECODE, CommandFailed, Project
from tools import environment

PLUGIN = Path(__file__).parent / "bin"
DEPLOYER = Path(__file__).parent / "deployer"
"""The deployer's `aws`, first on PATH."""


class AwsProject(Project):
    """A stack of a copied project on the emulator's account."""

    programs = DEPLOYER

    def __init__(self, folder: Path, stack: str, emulator: Emulator, **settings: object) -> None:
        super().__init__(folder, stack, **settings)
        self.environment |= emulator.environment
        self.environment["PATH"] = f"{DEPLOYER}:{self.environment['PATH']}"
        self.environment["CHANGEOVER_TEST_AWS_CALLS"] = str(folder / "aws-calls")
        self._name_plugin()

    def use_sources(self, root: Path) -> None:
        super().use_sources(root)
        pins = self.folder / "components" / "pins.py"
        pins.write_text(without_digest(pins.read_text()))
        catalogue = self.folder / "components" / "models.toml"
        catalogue.write_text(with_their_sums(catalogue.read_text()))

    def _name_plugin(self) -> None:
        file = self.folder / "Pulumi.yaml"
        content = yaml.safe_load(file.read_text())
        content["plugins"] = {"providers": [{"name": "aws", "path": str(PLUGIN)}]}
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def program(self, text: str) -> None:
        """Run this program in place of the project's own, without the project's settings."""
        (self.folder / "__main__.py").write_text(text)
        file = self.folder / "Pulumi.yaml"
        content = yaml.safe_load(file.read_text())
        content.pop("config", None)
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def have_tools(self) -> None:
        """What the make targets run, and the CLI for it."""
        if not (self.folder / "tools").exists():
            shutil.copytree(ROOT / "tools", self.folder / "tools", ignore=NO_BYTECODE)
            own = self.folder / ".changeover"
            (own / "bin").mkdir(parents=True)
            (own / "pulumi").symlink_to(environment.PULUMI_HOME)
            for program in (*environment.BIN.iterdir(), *DEPLOYER.iterdir()):
                (own / "bin" / program.name).symlink_to(program)

    def tool(self, name: str) -> str:
        """Run what a make target runs, on this stack; raise CommandFailed with its output when it fails."""
        done = subprocess.run(
            self.tool_command(name),
            cwd=self.folder,
            env=self.tool_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(done.stdout)
        return done.stdout

    @contextmanager
    def running(self, name: str) -> Iterator[Iterator[str]]:
        """The lines of what a make target runs until Ctrl-C, which ends it."""
        with subprocess.Popen(
            self.tool_command(name),
            cwd=self.folder,
            env=self.tool_environment() | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout
            try:
                yield iter(process.stdout)
            finally:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(30)

    def tool_command(self, name: str) -> list[str]:
        """What runs the tool of a make target."""
        self.have_tools()
        return [sys.executable, "-m", f"tools.{name}", *([] if name == "down" else [self.stack])]

    def tool_environment(self) -> dict[str, str]:
        """And in which environment."""
        return {
            **self.for_tools,
            "STACK": self.stack,
            "YES": "1",
        }

    def state_text(self) -> str:
        """The state file as it lies in the backend."""
        (file,) = (self.folder / "state").rglob(f"{self.stack}.json")
        return file.read_text()

    def secret(self, path: str, value: str) -> None:
        """Put a secret into the stack's settings; never through a command line."""
        self.pulumi("config", "set", "--secret", "--path", path, stdin=value)

    def make_keys(self) -> None:
        """The stack's SSH keys, by `make keys`."""
        self.tool("keys")

    def aws_writes(self) -> int:
        """How many API calls of the plugin and of the deployer's `aws` were not for looking only."""
        calls = (self.folder / "aws-calls").read_text().split()
        looks = (":Describe", ":Get", ":List")
        return len([each for each in calls if not any(look in each for look in looks)])

    def aws_calls(self, since: int = 0) -> list[str]:
        """The API calls of both so far, as `service:Operation`, each once; without the first `since` ones."""
        return sorted(set((self.folder / "aws-calls").read_text().split()[since:]))

    def aws_counted(self) -> int:
        """How many API calls of both there were so far."""
        return len((self.folder / "aws-calls").read_text().split())


def deployable(
    stack: str, emulator: Emulator, machines: Machines, folder: Path, keys: Mapping[str, str]
) -> AwsProject:
    """A stack with the settings of its own file, for the networks that the stand-ins have.

    `keys` are the API key of each tenant.
    """
    settings = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    given = {key.removeprefix("changeover:"): value for key, value in settings.items()}
    network = ADDRESSES.format(number=0) + "/24"
    project = AwsProject(folder, stack, emulator, **{**given, "allowedCidrs": [network]})
    project.environment |= machines.environment
    project.make_keys()
    for tenant, key in keys.items():
        project.secret(f"apiKeys.{tenant}", key)
    return project
