"""`make dashboard`: the address of the monitor's page, and on AWS the way to it, by SSH, until Ctrl-C."""

import contextlib
import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit

from common import StepFailed, main_guard, say
from components.docker_host import LOOPBACK
from components.monitor import STORE_PORT
from tools.host import is_on_aws, ssh_config
from tools.status import NoContainer, containers_of

PAGE, ALERTS = "/vmui/#/dashboards", "/vmui/#/rules"


def published(container: str) -> int:
    """The port of the page on the container's own host. Raises StepFailed."""
    asked = ["docker", "port", container, f"{STORE_PORT}/tcp"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise StepFailed(f"{container} publishes no page: {done.stderr.strip()}")
    return int(done.stdout.splitlines()[0].rpartition(":")[2])


def forward(stack: str, port: int) -> tuple[list[str], int]:
    """The command that makes the page of a stack on AWS one of this machine, and the port here: the same
    where that is free. `DOCKER_HOST` names the stack's host."""
    here = port
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            with socket.socket() as other:
                other.bind((LOOPBACK, 0))
                here = int(other.getsockname()[1])
    url = urlsplit(os.environ["DOCKER_HOST"])
    way = f"{LOOPBACK}:{here}:{LOOPBACK}:{port}"
    # a connection of its own: a shared one would go on forwarding after this has ended
    own = ["-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes"]
    to = ["-p", str(url.port)] if url.port else []
    who = f"{url.username}@{url.hostname}" if url.username else str(url.hostname)
    return ["/usr/bin/env", "ssh", "-F", str(ssh_config(stack)), *own, "-N", "-L", way, *to, who], here


def dashboard(stack: str) -> None:
    """Prints the address. Raises StepFailed where the stack has no monitor, or nothing gets there."""
    try:
        container = containers_of(stack, "monitor")[0]
    except NoContainer:
        raise StepFailed(
            f"no monitor of stack `{stack}` runs. Run: pulumi config set monitor true --stack {stack} && "
            f"pulumi up --stack {stack}"
        ) from None
    port = published(container)
    if not is_on_aws(stack):
        _say(port)
        return
    command, here = forward(stack, port)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as ssh, contextlib.suppress(KeyboardInterrupt):
        _say(here)
        say("The tunnel is open until you press Ctrl-C.")
        if ssh.wait() != 0:
            raise StepFailed("ssh has ended; its message is above")


def _say(port: int) -> None:
    say(f"pages:  http://{LOOPBACK}:{port}{PAGE}")
    say(f"alerts: http://{LOOPBACK}:{port}{ALERTS}")


if __name__ == "__main__":
    main_guard(lambda: dashboard(sys.argv[1]))
