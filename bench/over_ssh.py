"""How long a preview without changes and a flip take where a session to the host takes seconds to open.

Run, as root: `python -m bench.over_ssh`.

It deploys the stack `dev` on the stand-ins of the tests. The Pulumi engine, the docker provider over Debian's
`ssh` and `sshd`, and the program are real. Through AWS a session (`aws ssm start-session`) takes about two
seconds to open; here it waits for as long. Preview and flip are each measured with the connection shared, as
the program has it, and with one connection for each command, as it would be without `ControlMaster`. The
table has seconds, and how many sessions were opened.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.stack import machine, table
from common import main_guard
from tests.support.aws.emulator import Emulator
from tests.support.aws.host.machines import Machines
from tests.support.aws.project import AwsProject, deployable

KEY = "bench-key-0123456789abcdef"
"""The API key of a tenant: an endpoint on AWS is never open."""
SHARED, OWN = "ControlMaster auto", "ControlMaster no"
"""The line of the SSH configuration by which commands share a connection, and the one by which they don't."""


class Sessions:
    """The host of a deployed stack, reached by sessions that are counted."""

    def __init__(self, project: AwsProject, machines: Machines) -> None:
        self.project, self.machines = project, machines
        self.file = machines.agents.parent / "sessions"

    def share(self, shared: bool) -> None:
        """Has the program render the SSH configuration with a connection that is shared, or with one for each
        command."""
        file = self.project.folder / "components/ssh_config.py"
        text = file.read_text()
        file.write_text(text.replace(OWN, SHARED) if shared else text.replace(SHARED, OWN))

    def hang_up(self) -> None:
        """Ends the connection that the last command left open, so that the next command opens one."""
        host = self.machines.only().instance
        command = ["ssh", "-F", f".changeover/ssh/{self.project.stack}/config", "-O", "exit", host]
        subprocess.run(
            command,
            cwd=self.project.folder,
            env=self.project.environment,
            capture_output=True,
            check=False,
        )

    def opened(self) -> int:
        """How many sessions were opened so far."""
        return len(self.file.read_text().splitlines())

    def measured(self, what: Callable[[AwsProject], None]) -> tuple[float, int]:
        """How many seconds `what` took with the project, and how many sessions were opened for it."""
        self.hang_up()
        began, before = time.monotonic(), self.opened()
        what(self.project)
        return time.monotonic() - began, self.opened() - before


def preview(project: AwsProject) -> None:
    """Previews the stack, which finds nothing to change."""
    project.pulumi("preview")


def flip(project: AwsProject) -> None:
    """Changes the engine to the other one, and updates the stack."""
    project.configure(engine="vllm" if project.outputs()["engine"] == "ollama" else "ollama")
    project.pulumi("up", "--yes", "--skip-preview")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-n", type=int, default=3, help="times of each (default: 3)")
    parser.add_argument("--seconds", type=float, default=2, help="to open a session (default: 2)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("only root can make the stand-in host")
    rows = []
    with (
        tempfile.TemporaryDirectory() as name,
        Emulator() as emulator,
        Machines(emulator, Path(name)) as machines,
    ):
        (folder := Path(name) / "project").mkdir()
        project = deployable("dev", emulator, machines, folder, {"bench": KEY})
        try:
            print("deploying the stack `dev` on the stand-in host …", flush=True)
            project.up()
            sessions = Sessions(project, machines)
            for seconds in (0.0, options.seconds):
                project.environment["CHANGEOVER_TEST_SESSION_SECONDS"] = str(seconds)
                for shared in (True, False):
                    sessions.share(shared)
                    for what in (preview, flip):
                        found = [sessions.measured(what) for _ in range(options.n)]
                        took, opened = (statistics.median(column) for column in zip(*found, strict=True))
                        how = "shared" if shared else "one for each command"
                        rows.append([what.__name__, f"{seconds:g}", how, float(took), int(opened)])
                        print(f"{what.__name__}, {seconds:g} s, {how}: {took:.1f} s", flush=True)
        finally:
            project.pulumi("destroy", "--yes", "--skip-preview")
    print(f"\nOver SSH, median of N = {options.n}, {machine()}\n")
    print(table(["what", "to open a session, s", "connection", "took, s", "sessions"], rows))


if __name__ == "__main__":
    main_guard(main)
