"""`make status`: one screen of what a stack serves, from the switch on its Docker host."""

import shutil
import subprocess
import sys

from offline.steps import StepFailed, main_guard
from tools.host import reach


def switch_of(stack: str) -> str:
    """The container of the stack's switch, wherever its Docker host is. Raises StepFailed when none runs."""
    if shutil.which("docker") is None:
        raise StepFailed("there is no `docker` command")
    reach(stack)
    find = ["docker", "ps", "--filter", f"label=changeover.stack={stack}"]
    find += ["--filter", "label=changeover.role=switch", "--format", "{{.Names}}"]
    found = subprocess.run(find, capture_output=True, text=True, check=False)
    names = found.stdout.split()
    if len(names) != 1:
        raise StepFailed(f"no switch of stack `{stack}` runs here {found.stderr.strip()}. Deploy it: make up")
    return names[0]


def status(stack: str) -> None:
    """Ask the stack's switch. Raises StepFailed when there is none or it does not answer."""
    switch = switch_of(stack)
    ask = ["docker", "exec", switch, "python3", "-m", "switch", "status"]
    if subprocess.run(ask, check=False).returncode != 0:
        raise StepFailed(f"the switch does not answer; its log: docker logs {switch}")


if __name__ == "__main__":
    main_guard(lambda: status(sys.argv[1]))
