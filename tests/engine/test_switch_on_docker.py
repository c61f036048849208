"""The switch in its container on the real Docker engine, with fast engines and a plain gateway."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.switch_stack import (
    CLIENT,
    GATEWAY_IMAGE,
    NETWORK,
    PREFIX,
    PYTHON,
    SWITCH,
    VOLUMES,
    Stack,
    build_gateway,
    docker,
    labelled,
    wait,
)

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def gateway_image() -> Iterator[None]:
    build_gateway()
    yield
    docker("rmi", "-f", GATEWAY_IMAGE)


@pytest.fixture(scope="module")
def made(gateway_image: None) -> Iterator[Stack]:
    stack = Stack()
    yield stack
    print(docker("logs", SWITCH))
    stack.wipe()


@pytest.fixture
def stack(made: Stack) -> Iterator[Stack]:
    """One engine is live, and a client talks to it all the time; each test leaves one engine live."""
    assert made.serves()
    made.lost()
    yield made
    made.tidy()


@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_a_flip_and_the_way_back_lose_nothing(stack: Stack, cutover: str) -> None:
    old = stack.engine
    new, gateway = stack.new_names()
    stack.make_engine(new, delay=1)
    code, said = stack.flip(new, gateway, cutover=cutover)
    assert code == 0, said
    assert stack.serves() and ("released after" in said) == (cutover == "hold")
    code, said = stack.flip(old, stack.new_names()[1], cutover=cutover)
    assert code == 0, said
    assert stack.serves() and stack.lost() == []


@pytest.mark.parametrize(
    "mode", ["exits", "silent", "error", "missing", "garbage", "empty", "lying", "other"]
)
def test_an_engine_that_is_no_good_is_found_out_and_the_old_serves_again(stack: Stack, mode: str) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, mode=mode)
    began = time.monotonic()
    code, said = stack.flip(new, gateway, seconds={"load": 6})
    assert code == 1 and "failed: vllm" in said, said
    assert f"ollama ({PREFIX}-{stack.engine}) serves again" in said and f"fast engine: {mode}" in said
    assert time.monotonic() - began < 40
    assert stack.serves() and stack.lost() == []


def test_a_config_that_the_gateway_refuses_is_found_before_anything_is_drained(stack: Stack) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    code, said = stack.flip(new, gateway, config="engines = ")
    assert code == 1 and "refuses its config" in said and "bad config" in said
    assert "drained" not in said and stack.serves() and stack.lost() == []


def test_weights_that_are_not_there_are_found_before_anything_is_drained(stack: Stack) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    docker("exec", SWITCH, "rm", "/weights/vllm/tiny-1/.complete")
    code, said = stack.flip(new, gateway)
    assert code == 1 and "weights" in said and "drained" not in said
    assert stack.serves() and stack.lost() == []


def test_a_killed_coordinator_is_undone_by_the_switch_alone(stack: Stack) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new, delay=90)
    stack.tell("prepare", stack.plan(new, seconds={"load": 120}))
    wait(lambda: stack.follow(0.1)[0] == 75 and stack.names() == [new])
    wait(stack.serves)
    assert "interrupted" in stack.status()["last"]["error"] and stack.lost() == []


def test_a_switch_that_is_killed_in_the_middle_of_a_hold_restores_when_it_is_back(stack: Stack) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new, delay=90)
    stack.tell("prepare", stack.plan(new, seconds={"load": 120, "lease_following": 60}))
    wait(lambda: stack.names() == [new])
    os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", SWITCH)), signal.SIGKILL)
    time.sleep(2)
    wait(lambda: docker("inspect", "-f", "{{.State.Running}}", SWITCH) == "true")
    wait(stack.serves)
    assert "restarted" in stack.status()["last"]["error"] and stack.lost() == []


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_an_active_engine_that_ends_is_a_hold_until_it_is_gated_again(stack: Stack, how: str) -> None:
    engine, started = f"{PREFIX}-{stack.engine}", stack.started(stack.gateway)
    if how == "kill":
        os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", engine)), signal.SIGKILL)
    else:
        docker("stop", "-t", "1", engine)
    wait(lambda: stack.started(stack.gateway) != started and stack.serves())
    # what was in flight can't be saved, nor what came in before the switch heard of it; then requests wait
    stack.lost()
    assert stack.lost() == []


def test_an_engine_started_by_hand_does_not_stay(stack: Stack) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new)
    docker("start", f"{PREFIX}-{new}")
    wait(lambda: new not in stack.names())
    assert stack.serves() and stack.lost() == []


def test_a_drain_that_does_not_end_is_given_up_for_free(stack: Stack) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    slow, name = CLIENT.replace("4,", "600,").replace("while True", "if True"), "slow"
    docker(
        *("run", "-d", "--name", f"{PREFIX}-{name}", "--network", NETWORK, *labelled("client"), PYTHON),
        *("python3", "-c", slow),
    )
    time.sleep(2)
    started = stack.started(stack.engine)
    code, said = stack.flip(new, gateway, seconds={"drain": 2})
    assert code == 1 and "no engine was stopped" in said, said
    docker("wait", f"{PREFIX}-{name}")
    assert docker("logs", f"{PREFIX}-{name}").startswith("good")
    docker("rm", f"{PREFIX}-{name}")
    assert stack.started(stack.engine) == started
    assert stack.serves() and stack.lost() == []


def test_weights_are_received_and_fetched_once(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"w" * 1000)
    receive = f"docker exec -i {SWITCH} python3 -m switch receive --engine vllm --folder tiny-2"
    said = subprocess.check_output(f"tar -C {tmp_path} -cf - model | {receive}", shell=True, text=True)
    assert "received 1 files" in said
    ask = {
        "engine": "vllm",
        "folder": "tiny-2",
        "image": PYTHON,
        "volume": VOLUMES["/weights/vllm"],
        "script": "printf '10%%\\r20%%\\r30%%\\n'; ls /weights/tiny-2/source/model; echo $GREETING",
        "env": {"GREETING": "hello"},
        "need_bytes": 10,
        "digest": "one",
    }

    def fetch(**changed: Any) -> tuple[int, str]:
        command = ["docker", "exec", "-i", SWITCH, "python3", "-m", "switch", "fetch"]
        done = subprocess.run(
            command, input=json.dumps({**ask, **changed}), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, said = fetch()
    assert code == 0 and "weights.bin" in said and "hello" in said, said
    assert fetch() == (0, "vllm: weights already here (tiny-2)\n")
    code, said = fetch(digest="two", script="echo no such model; exit 4")
    assert code == 1 and "exit status 4" in said and "no such model" in said
    code, said = fetch(digest="two", need_bytes=2**60)
    assert code == 1 and "GiB are free" in said and "pulumi up" in said


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"mode": "oom", "options": ("--memory", "64m", "--memory-swap", "64m")}, "out of memory"),
        ({"tokens": 1.2}, "too slow"),
    ],
    ids=["out of memory", "very slow"],
)
def test_an_engine_that_starts_and_can_not_do_its_work_is_taken_back(
    stack: Stack, fault: dict[str, Any], said: str
) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, **fault)
    code, text = stack.flip(new, gateway, seconds={"load": 60}, gate_timeout=30)
    assert code == 1 and said in text, text
    assert stack.serves() and stack.lost() == []


@pytest.mark.parametrize(
    ("mode", "said"), [("breaks", "ended without [DONE]"), ("hangs", "took more than 1 s")]
)
def test_an_engine_that_stops_in_the_middle_of_its_streams_is_found_out(
    stack: Stack, mode: str, said: str
) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, mode=mode)
    code, text = stack.flip(new, gateway, gate_timeout=1)
    assert code == 1 and "failed its gate" in text and said in text, text
    assert stack.serves() and stack.lost() == []


def test_an_image_that_is_gone_is_found_before_anything_is_drained(stack: Stack) -> None:
    new, gateway = stack.new_names()
    image = f"{PREFIX}-gone:1"
    # an image of its own: its content differs by a label
    subprocess.run(
        ["docker", "build", "-q", "-t", image, "-"],
        input=f"FROM {PYTHON}\nLABEL gone=1\n",
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        text=True,
        check=True,
        capture_output=True,
    )
    stack.make_engine(new, image=image)
    docker("rmi", "-f", image)
    code, text = stack.flip(new, gateway)
    assert code == 1 and "is not on this host any more" in text and "drained" not in text
    assert stack.serves() and stack.lost() == []


def test_two_changes_at_once_are_one_change_and_a_refusal(stack: Stack) -> None:
    (one, gateway), (two, _) = stack.new_names(), stack.new_names()
    stack.make_engine(one, delay=3)
    stack.make_engine(two)
    stack.tell("prepare", stack.plan(one))
    refused = subprocess.run(
        ["docker", "exec", "-i", SWITCH, "python3", "-m", "switch", "prepare"],
        input=stack.plan(two),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 75 and f"a change to vllm ({PREFIX}-{one}) is under way" in refused.stdout
    assert stack.follow()[0] == 0
    stack.make_gateway(gateway, one, start=True)
    stack.tell("commit", stack.plan(one, gateway))
    assert stack.follow()[0] == 0
    stack.engine, stack.gateway = one, gateway
    assert stack.serves() and stack.lost() == []


MOMENTS = [0.0, 0.3, 0.8, 1.5, 2.5, 3.5]
"""Seconds after the beginning of a phase; a change of fast engines takes two to four in all."""


@pytest.mark.parametrize("cutover", ["hold", "overlap"])
@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_a_switch_that_is_killed_at_any_moment_loses_nothing_and_the_next_change_works(
    stack: Stack, cutover: str, phase: str
) -> None:
    for moment in MOMENTS:
        new, gateway = stack.new_names()
        stack.make_engine(new, delay=1)
        stack.tell("prepare", stack.plan(new, cutover=cutover))
        code = 0
        if phase == "commit":
            code, _ = stack.follow()
            assert code == 0
            stack.make_gateway(gateway, new, start=True)
            stack.tell("commit", stack.plan(new, gateway, cutover=cutover))
        time.sleep(moment)
        os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", SWITCH)), signal.SIGKILL)
        wait(stack.settled, 60)
        if stack.live() == new:
            stack.engine, stack.gateway = new, gateway
        wait(stack.serves)
        assert stack.lost() == [], f"killed {moment} s into {phase}"
        stack.tidy()
        stack.forget_kills()
    new, gateway = stack.new_names()
    stack.make_engine(new)
    assert stack.flip(new, gateway, cutover=cutover)[0] == 0
    assert stack.serves() and stack.lost() == []


@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_a_coordinator_that_dies_at_any_moment_is_undone_and_the_next_change_works(
    stack: Stack, cutover: str
) -> None:
    for moment in MOMENTS:
        new, gateway = stack.new_names()
        stack.make_engine(new, delay=1)
        stack.tell("prepare", stack.plan(new, cutover=cutover))
        stack.follow(moment)  # and then nobody follows any more
        wait(stack.settled, 60)
        wait(stack.serves)
        assert stack.lost() == [], f"died {moment} s into the change"
        stack.tidy()
    new, gateway = stack.new_names()
    stack.make_engine(new)
    assert stack.flip(new, gateway, cutover=cutover)[0] == 0
    assert stack.serves() and stack.lost() == []
