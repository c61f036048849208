"""`make status`: one screen of what a stack serves, from the switch on its Docker host."""

import shutil
import subprocess
import sys

from common import StepFailed, main_guard, say
from components.labels import label
from tools import advice, cluster, port
from tools.host import is_on_cluster, refuse_cluster
from tools.owner import look


class NoContainer(StepFailed):
    """No container of a role runs on the stack's Docker host, or Docker does not say so."""


def containers_of(stack: str, role: str) -> list[str]:
    """The running containers of a role, wherever the stack's Docker host is.

    Raises NoContainer where none runs, and StepFailed where the stack is another state's.
    """
    refuse_cluster(stack)
    if shutil.which("docker") is None:
        raise StepFailed("there is no `docker` command here. Install Docker, and run the same command again")
    look(stack)
    find = ["docker", "ps", "--filter", f"label={label('stack')}={stack}"]
    find += ["--filter", f"label={label('role')}={role}", "--format", "{{.Names}}"]
    found = subprocess.run(find, capture_output=True, text=True, check=False)
    if not (names := found.stdout.split()):
        why = f" ({found.stderr.strip()})" if found.stderr.strip() else ""
        raise NoContainer(f"no {role} of stack `{stack}` runs here{why}. Deploy it: make up STACK={stack}")
    return names


def switch_of(stack: str) -> str:
    """The container of the stack's switch. Raises StepFailed when none runs."""
    return containers_of(stack, "switch")[0]


def status(stack: str) -> None:
    """Ask the stack's switch, and the endpoint's port; on a cluster, ask that. Raises StepFailed where one
    does not answer."""
    if is_on_cluster(stack):
        return cluster.status(stack)
    line = advice.Line(stack)
    switch = switch_of(stack)
    ask = ["docker", "exec", switch, "python3", "-m", "switch", "status"]
    if subprocess.run(ask, check=False).returncode != 0:
        raise StepFailed(f"so it is not known what serves; the switch's log: docker logs {switch}")
    if why := port.trouble(stack):
        raise StepFailed(f"the endpoint can't be reached: {why}")
    if said := line.text():
        say(said)
    return None


if __name__ == "__main__":
    main_guard(lambda: status(sys.argv[1]))
