"""Docker itself is restarted, or stands still, in a change: an engine of its own, so no other is touched."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from switch.plan import Mode
from tests.support.dockerd import Dockerd
from tests.support.switch_stack import (
    CLIENT_NAME,
    GATEWAY_IMAGE,
    PREFIX,
    PYTHON,
    Stack,
    build_gateway,
    coordinator,
    docker,
    wait,
)

pytestmark = pytest.mark.engine

PREPARED, LOADING = 0, 75
"""What `follow` exits with in that phase of a change."""


@pytest.fixture
def dockerd(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    if os.geteuid() != 0:
        pytest.skip("only root can start a second Docker engine")
    engine = Dockerd(tmp_path_factory.mktemp("dockerd"))
    engine.start()
    engine.load(PYTHON)
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


@pytest.mark.parametrize(
    ("cutover", "code"), [("hold", LOADING), pytest.param("overlap", PREPARED, marks=pytest.mark.long)]
)
def test_docker_restarted_in_a_change_and_while_serving_brings_the_old_engine_back(
    dockerd: Dockerd, cutover: Mode, code: int
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


@pytest.mark.parametrize("cutover", [pytest.param("hold", marks=pytest.mark.long), "overlap"])
def test_a_docker_that_stands_still_in_a_change_is_waited_for_and_nobody_is_blamed(
    dockerd: Dockerd, cutover: Mode, tmp_path: Path
) -> None:
    """For longer than the leases, than a call may take (15 s), and than what hangs is waited for (12 s)."""
    build_gateway()
    stack = Stack()
    new, gateway = stack.new_names()
    stack.make_engine(new, delay=15)
    log = tmp_path / "log"
    leases = {"lease_following": 10, "lease_prepared": 18}
    with coordinator(stack.plan(new, cutover=cutover, seconds=leases), log) as script:
        wait(lambda: new in stack.names() or script.poll() is not None, otherwise=log.read_text())
        dockerd.stand_still(20)
        assert script.wait(120) == 0, log.read_text()
    stack.make_gateway(gateway, new, start=True)
    with coordinator(stack.plan(new, gateway, cutover=cutover, seconds=leases), log, "commit") as script:
        dockerd.stand_still(20)
        assert script.wait(120) == 0, log.read_text()
    assert "certificate: " in log.read_text()
    stack.engine, stack.gateway = new, gateway
    wait(stack.serves, 60)
    assert "hangs" not in docker("logs", f"{PREFIX}-switch")
    assert stack.lost() == []
