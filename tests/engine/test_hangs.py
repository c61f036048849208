"""What stops answering without an end, under load: the real Docker and proxy, the switch, and fast engines.

The patience is shorter than it is outside of tests, and every other time is as in the tests of the switch.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from components.plan import LEASE_FOLLOWING
from switch.metrics import PATH, PORT
from tests.engine.test_switch_on_docker import gateway_image, made, stack
from tests.support.project import pid_of
from tests.support.switch_stack import (
    CLIENT,
    NETWORK,
    PREFIX,
    PYTHON,
    SECONDS,
    SWITCH,
    Stack,
    asking_for,
    coordinator,
    docker,
    labelled,
    wait,
)

__all__ = ["gateway_image", "made", "stack"]

pytestmark = pytest.mark.engine

NEEDED = {"drain": 40}
"""A drain that is longer than the patience, as it is outside of tests."""


def pid(container: str) -> int:
    return pid_of(f"{PREFIX}-{container}")


def hang(stack: Stack, container: str, how: str) -> None:
    match how:
        case "paused":
            docker("pause", f"{PREFIX}-{container}")
        case "stopped":
            os.kill(pid(container), signal.SIGSTOP)
        case "frozen":
            docker("exec", f"{PREFIX}-{container}", "touch", "/tmp/frozen")


COUNTING = """
import http.client, json, time
ask = {"model": "tiny", "messages": [{"role": "user", "content": "-"}]}
asks = ("/v1/messages/count_tokens", ask), ("/v1/chat/completions", ask | {"max_tokens": 0})
while True:
    for path, asked in asks:
        try:
            c = http.client.HTTPConnection("proxy", 8080, timeout=5)
            c.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
            answer = c.getresponse()
            answer.read()
            print(path, answer.status, flush=True)
        except (OSError, http.client.HTTPException):
            pass
        c.close()
    time.sleep(0.5)
"""


@contextmanager
def asking_what_no_model_computes() -> Iterator[None]:
    """A client that an engine's HTTP server answers by itself: it has tokens counted, and asks what is
    refused."""
    name = f"{PREFIX}-counts"
    docker(
        *("run", "-d", "--name", name, "--network", NETWORK, *labelled("client"), PYTHON),
        *("python3", "-c", COUNTING),
    )
    yield
    said = docker("logs", name)
    docker("rm", "-f", name)
    assert said.count("/v1/messages/count_tokens 200") > 20 and said.count("/v1/chat/completions 400") > 20


def metrics() -> str:
    """What the switch's page of metrics says now."""
    url = f"http://127.0.0.1:{PORT}{PATH}"
    return docker(
        *("exec", f"{PREFIX}-switch", "python3", "-c"),
        f"import urllib.request as r; print(r.urlopen('{url}', timeout=10).read().decode())",
    )


@pytest.mark.parametrize(
    ("role", "how"),
    [
        ("engine", "paused"),
        pytest.param("engine", "stopped", marks=pytest.mark.long),
        ("engine", "frozen"),
        pytest.param("gateway", "paused", marks=pytest.mark.long),
        ("gateway", "stopped"),
        pytest.param("proxy", "paused", marks=pytest.mark.long),
        ("proxy", "stopped"),
    ],
)
def test_what_hangs_is_said_at_once_given_up_and_brought_back(stack: Stack, role: str, how: str) -> None:
    name = {"engine": stack.engine, "gateway": stack.gateway, "proxy": "proxy-1"}[role]
    started, logged = stack.started(name), docker("logs", SWITCH)
    silent = f'changeover_silent{{container="{PREFIX}-{name}"}} 1.0'
    with asking_what_no_model_computes() if how == "frozen" else nullcontext():
        hang(stack, name, how)
        wait(
            lambda: f"{PREFIX}-{name}" in stack.status()["silent"] and silent in metrics(),
            60,
            "it is not said",
        )
        wait(lambda: stack.started(name) != started, 90, "it is not brought back")
    wait(stack.serves, 60)
    assert silent not in metrics()
    healed = stack.status()["healed"]["what"]
    assert healed.startswith(f"{'ollama' if role == 'engine' else role} ({PREFIX}-{name}) hangs"), healed
    assert healed in docker("logs", SWITCH).removeprefix(logged)
    assert stack.status()["trouble"] == ""
    # a stream that had begun in what hung can't be saved; everything else waits, and gets its answer
    lost = stack.lost()
    assert role != "gateway" or lost == []
    cut = (
        "LOST 504" if how == "frozen" else "LOST 200"
    )  # the patience with tokens is longer than the proxies'
    assert all("LOST 200" in line or cut in line for line in lost) and len(lost) <= 2, lost
    assert stack.lost() == []


@pytest.mark.parametrize(
    ("role", "how", "cutover"),
    [
        ("engine", "paused", "hold"),
        ("gateway", "paused", "overlap"),
        pytest.param("engine", "paused", "overlap", marks=pytest.mark.long),
        pytest.param("gateway", "paused", "hold", marks=pytest.mark.long),
        *(
            pytest.param(role, "stopped", cutover, marks=pytest.mark.long)
            for role in ("engine", "gateway")
            for cutover in ("hold", "overlap")
        ),
    ],
)
def test_a_flip_away_from_what_hangs_succeeds(stack: Stack, role: str, how: str, cutover: str) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    hang(stack, stack.engine if role == "engine" else stack.gateway, how)
    code, said = stack.flip(new, gateway, seconds=NEEDED, cutover=cutover)
    assert code == 0, said
    assert stack.serves() and all("LOST 200" in line for line in stack.lost())
    assert stack.lost() == []


def test_a_drain_that_is_shorter_than_the_patience_is_given_up_as_ever_and_the_hang_is_found_after_it(
    stack: Stack,
) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    started = stack.started(stack.engine)
    time.sleep(1)
    hang(stack, stack.engine, "stopped")
    code, said = stack.flip(new, gateway, seconds={"drain": 2})
    assert code == 1 and "no engine was stopped" in said, said
    wait(lambda: stack.started(stack.engine) != started, 90, "it is not brought back")
    wait(stack.serves, 60)
    assert all("LOST 200" in line for line in stack.lost())
    assert stack.lost() == []


def test_a_flip_away_from_completions_that_stand_still_says_when_it_can_succeed_and_then_does(
    stack: Stack,
) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    started = stack.started(stack.engine)
    hang(stack, stack.engine, "frozen")
    code, said = stack.flip(new, gateway, seconds={"drain": 15})
    assert code == 1 and "no engine was stopped" in said and "has given no token for" in said, said
    assert f"after {SECONDS.tokens:g} s of that it is given up" in said, said
    assert stack.started(stack.engine) == started, "it may be working on something long"
    code, said = stack.flip(new, gateway, seconds=NEEDED)
    assert code == 0, said
    assert stack.serves() and all("LOST 200" in line or "LOST 504" in line for line in stack.lost())
    assert stack.lost() == []


def test_on_the_way_back_an_old_engine_that_hangs_is_started_anew(stack: Stack) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, mode="error")
    started = stack.started(stack.engine)
    hang(stack, stack.engine, "stopped")
    code, said = stack.flip(new, gateway, seconds=NEEDED)
    assert code == 1 and "hangs" in said and "serves again" in said, said
    assert stack.started(stack.engine) != started
    assert stack.serves() and all("LOST 200" in line for line in stack.lost())
    assert stack.lost() == []


@pytest.mark.parametrize("role", ["engine", "gateway", "proxy", "standby", "switch"])
def test_what_is_taken_off_the_network_is_put_back_and_nothing_ends_for_it(stack: Stack, role: str) -> None:
    standby, _ = stack.new_names()
    stack.make_engine(standby)
    name = {"proxy": "proxy-1", "switch": "switch", "standby": standby}.get(role, getattr(stack, role, ""))
    container = f"{PREFIX}-{name}"
    if role == "standby":
        docker("start", container)
        wait(lambda: standby not in stack.names())
    aliases = docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container)
    started = stack.started(name)
    docker("network", "disconnect", NETWORK, container)
    wait(lambda: NETWORK in docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container), 30)
    wait(stack.serves, 60)
    now = docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container)
    assert aliases[aliases.index('"Aliases"') : aliases.index('"MacAddress"')] in now
    assert stack.status()["healed"]["what"] == (
        f"{container} was taken off the network {NETWORK}, and was put back"
    )
    assert stack.started(name) == started
    # a stream that was on its way has lost its connection
    assert all("LOST 200" in line for line in stack.lost()), "one that had not begun was lost"
    assert stack.lost() == []


@contextmanager
def switch_stopped() -> Iterator[None]:
    number = pid("switch")
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


def phase(stack: Stack) -> str:
    return str((stack.status()["under_way"] or {}).get("phase", ""))


@pytest.mark.parametrize("stall", [8, pytest.param(60, marks=pytest.mark.long)])
def test_a_switch_that_is_stopped_in_a_drain_is_waited_for_and_the_change_goes_on(
    stack: Stack, tmp_path: Path, stall: float
) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    log = tmp_path / "log"
    # the lease as it is in a stack: after a stall the coordinator has what is left of it to ask again
    seconds = {"drain": 60, "lease_following": LEASE_FOLLOWING}
    with asking_for(1000), coordinator(stack.plan(new, seconds=seconds), log) as script:
        wait(lambda: phase(stack) == "draining")
        with switch_stopped():
            time.sleep(stall)
        assert script.wait(120) == 0, log.read_text()
    said = log.read_text()
    assert "gives no answer; waiting for it" in said and "gate 3/3" in said and "certificate" not in said
    stack.make_gateway(gateway, new, start=True)
    stack.tell("commit", stack.plan(new, gateway))
    code, said = stack.follow()
    assert code == 0, said
    stack.engine, stack.gateway = new, gateway
    assert stack.serves() and stack.lost() == []


def assert_given_up(stack: Stack, new: str, started: str) -> None:
    """A change to `new` was taken back before the old engine, which `started` then, was stopped."""
    assert "interrupted" in stack.status()["last"]["error"]
    assert stack.started(stack.engine) == started, "an engine was stopped for a change that nobody wants"
    assert new not in stack.names() and stack.serves() and stack.lost() == []


def test_a_change_whose_coordinator_has_gone_while_the_switch_was_stopped_is_not_carried_out(
    stack: Stack, tmp_path: Path
) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new)
    started = stack.started(stack.engine)
    with asking_for(600):
        with coordinator(stack.plan(new, seconds={"drain": 60}), tmp_path / "log"):
            wait(lambda: phase(stack) == "draining")
            number = pid("switch")
            os.kill(number, signal.SIGSTOP)
            time.sleep(5)
        try:
            time.sleep(25)  # what it had still asked in the container has hung up as well
        finally:
            os.kill(number, signal.SIGCONT)
        wait(stack.settled, 60)
    assert_given_up(stack, new, started)


def test_what_was_asked_before_a_short_stall_is_not_done_after_it_for_a_coordinator_that_has_gone(
    stack: Stack, tmp_path: Path
) -> None:
    """The stall is shorter than the CLI waits for its answer; and the CLI outlives its client."""
    new, _ = stack.new_names()
    stack.make_engine(new)
    started = stack.started(stack.engine)
    follow = ["docker", "exec", SWITCH, "python3", "-m", "switch", "follow"]
    with asking_for(400):
        with coordinator(stack.plan(new, seconds={"drain": 60}), tmp_path / "log"):
            wait(lambda: phase(stack) == "draining")
            number = pid("switch")
            os.kill(number, signal.SIGSTOP)
        try:
            with subprocess.Popen(follow) as asked:  # as if it had ended just after it had asked
                time.sleep(3)
                asked.kill()
            time.sleep(5)
        finally:
            os.kill(number, signal.SIGCONT)
        wait(stack.settled, 60)
    assert_given_up(stack, new, started)


def test_a_failed_change_prints_no_certificate_of_another(stack: Stack, tmp_path: Path) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new, mode="error")
    log = tmp_path / "log"
    with coordinator(stack.plan(new), log) as script:
        assert script.wait(120) == 1
    said = log.read_text()
    assert said.count("certificate: ") == 1 and "failed by hold" in said, said
    with coordinator(stack.plan(new).leading_to(f"{PREFIX}-nothing"), log) as script:
        assert script.wait(120) == 1
    assert "certificate" not in log.read_text(), log.read_text()


def test_an_engine_that_works_slowly_at_full_load_with_long_prompts_is_not_taken_for_hung(
    stack: Stack,
) -> None:
    """No byte comes of any answer for most of the time, and a new request waits for all that are there: for
    longer than `answers`. It is looked at for longer than `tokens`, after which an engine hangs anyway."""
    new, gateway = stack.new_names()
    slow = ("-e", "FAST_PROMPT=5", "-e", "FAST_SLOTS=2")
    stack.make_engine(new, options=slow)
    code, said = stack.flip(new, gateway, gate_timeout=60, seconds={"load": 120, "gateway": 60, "drain": 60})
    assert code == 0, said
    whole = CLIENT.replace('"stream": True', '"stream": False').replace(
        'b"length" in said and b"[DONE]" in said', 'b"length" in said'
    )
    for number in range(6):
        docker(
            *("run", "-d", "--name", f"{PREFIX}-crowd-{number}", "--network", NETWORK, *labelled("client")),
            *(PYTHON, "python3", "-c", whole),
        )
    started, end = stack.started(new), time.monotonic() + 1.5 * SECONDS.tokens
    while time.monotonic() < end:
        status = stack.status()
        assert status["gated"] and not status["trouble"], status
        time.sleep(2)
    for number in range(6):
        lines = docker("logs", f"{PREFIX}-crowd-{number}").splitlines()
        docker("rm", "-f", f"{PREFIX}-crowd-{number}")
        assert lines and all(line.startswith("good") for line in lines), lines
    assert stack.started(new) == started
    next_one, gateway = stack.new_names()
    stack.make_engine(next_one)
    code, said = stack.flip(next_one, gateway, seconds={"drain": 60})
    assert code == 0, said
    assert stack.serves() and stack.lost() == []
