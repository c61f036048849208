"""Docker itself is restarted in the middle of a change: an engine of its own, so no other is touched."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.switch_stack import (
    CLIENT_NAME,
    GATEWAY_IMAGE,
    PREFIX,
    PYTHON,
    Stack,
    build_gateway,
    docker,
    wait,
)

pytestmark = pytest.mark.engine

PREPARED, LOADING = 0, 75
"""What `follow` exits with in that phase of a change."""


class Dockerd:
    """A second Docker engine, with its own images, sockets and state in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/docker.sock"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    # a network namespace of its own: two engines would share docker0 and its firewall rules
                    *("unshare", "--net", "sh", "-c", 'ip link set lo up && exec dockerd "$@"', "dockerd"),
                    *("--host", self.address, "--data-root", f"{self.folder}/data"),
                    *("--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ask = ["docker", "--host", self.address, "version"]
        wait(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, 60)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(60)


@pytest.fixture
def dockerd(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    if os.geteuid() != 0:
        pytest.skip("only root can start a second Docker engine")
    engine = Dockerd(tmp_path_factory.mktemp("dockerd"))
    engine.start()
    with subprocess.Popen(["docker", "save", PYTHON], stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "--host", engine.address, "load"], stdin=saved.stdout, check=True)
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    yield engine
    Stack.wipe()
    docker("rmi", "-f", GATEWAY_IMAGE)
    engine.stop()


def restart(dockerd: Dockerd, stack: Stack) -> None:
    """Restarts Docker. Of what is asked from then on nothing is lost; what its end cuts does not count."""
    dockerd.stop()
    time.sleep(1)
    dockerd.start()
    stack.seen = len(docker("logs", CLIENT_NAME).splitlines())
    docker("start", CLIENT_NAME)
    wait(stack.settled, 60)
    wait(stack.serves, 60)
    assert stack.lost() == []


@pytest.mark.parametrize(("cutover", "code"), [("hold", LOADING), ("overlap", PREPARED)])
def test_docker_restarted_in_a_change_and_while_serving_brings_the_old_engine_back(
    dockerd: Dockerd, cutover: str, code: int
) -> None:
    build_gateway()
    stack = Stack()
    new, gateway = stack.new_names()
    stack.make_engine(new, delay=60 if code == LOADING else 0)
    stack.tell("prepare", stack.plan(new, cutover=cutover, seconds={"load": 100}))
    running = sorted([new, stack.gateway, *([] if cutover == "hold" else [stack.engine])])
    wait(lambda: stack.follow(0.1)[0] == code and sorted(stack.names()) == running)
    restart(dockerd, stack)
    # prepared, it may go on where the restart was quick; the engine then is in another run than was gated
    assert any(said in stack.status()["last"]["error"] for said in ("restarted", "after its gate"))

    restart(dockerd, stack)
    docker("rm", "-f", f"{PREFIX}-{new}")
    stack.make_engine(new)
    assert stack.flip(new, gateway, cutover=cutover)[0] == 0
    assert stack.serves() and stack.lost() == []
