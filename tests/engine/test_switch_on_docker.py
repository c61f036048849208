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

from switch.plan import Mode
from tests.support.project import pid_of
from tests.support.switch_stack import (
    GATEWAY_IMAGE,
    PREFIX,
    PYTHON,
    SWITCH,
    VOLUMES,
    Stack,
    asking_for,
    build_gateway,
    docker,
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
def test_a_flip_and_the_way_back_lose_nothing(stack: Stack, cutover: Mode) -> None:
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
    "mode",
    [
        *("exits", "silent", "missing", "lying", "endless", "deaf", "cuts"),
        *(
            pytest.param(mode, marks=pytest.mark.long)
            for mode in ("error", "garbage", "empty", "other", "short")
        ),
    ],
)
def test_an_engine_that_is_no_good_is_found_out_and_the_old_serves_again(stack: Stack, mode: str) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, mode=mode)
    began = time.monotonic()
    code, said = stack.flip(new, gateway, seconds={"load": 6})
    assert code == 1 and "failed: vllm" in said, said
    assert f"ollama ({PREFIX}-{stack.engine}) serves again" in said and f"fast engine: {mode}" in said
    assert ("a known trap: other kernels" in said) == (mode == "endless")
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
    wait(lambda: stack.follow(0.1)[0] == 75 and set(stack.names()) == {new, stack.gateway})
    wait(stack.serves)
    assert "interrupted" in stack.status()["last"]["error"] and stack.lost() == []


def test_a_switch_that_is_killed_in_the_middle_of_a_hold_restores_when_it_is_back(stack: Stack) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new, delay=90)
    stack.tell("prepare", stack.plan(new, seconds={"load": 120, "lease_following": 60}))
    wait(lambda: set(stack.names()) == {new, stack.gateway})
    os.kill(pid_of(SWITCH), signal.SIGKILL)
    time.sleep(2)
    wait(lambda: docker("inspect", "-f", "{{.State.Running}}", SWITCH) == "true")
    wait(stack.serves)
    assert "restarted" in stack.status()["last"]["error"] and stack.lost() == []


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_an_active_engine_that_ends_is_a_hold_until_it_is_gated_again(stack: Stack, how: str) -> None:
    engine, started = f"{PREFIX}-{stack.engine}", stack.started(stack.engine)
    gateway = stack.started(stack.gateway)
    if how == "kill":
        os.kill(pid_of(engine), signal.SIGKILL)
    else:
        docker("stop", "-t", "1", engine)
    wait(lambda: stack.started(stack.engine) != started and stack.serves())
    # a stream that had begun can't be saved; everything else waits, also what came before the switch knew
    assert all("LOST 200" in line for line in stack.lost())
    assert stack.lost() == [] and stack.started(stack.gateway) == gateway


def test_an_engine_started_by_hand_does_not_stay(stack: Stack) -> None:
    new, _ = stack.new_names()
    stack.make_engine(new)
    docker("start", f"{PREFIX}-{new}")
    wait(lambda: new not in stack.names())
    assert stack.serves() and stack.lost() == []


def test_a_drain_that_does_not_end_is_given_up_for_free(stack: Stack) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new)
    started = stack.started(stack.engine)
    with asking_for(600):
        code, said = stack.flip(new, gateway, seconds={"drain": 2})
        assert code == 1 and "no engine was stopped" in said, said
    assert stack.started(stack.engine) == started
    assert stack.serves() and stack.lost() == []


def test_a_gateway_that_ends_comes_back_and_cuts_nobody(stack: Stack) -> None:
    started = stack.started(stack.gateway)
    os.kill(pid_of(f"{PREFIX}-{stack.gateway}"), signal.SIGKILL)
    wait(lambda: stack.started(stack.gateway) != started and stack.serves())
    assert stack.lost() == []


@pytest.mark.parametrize("cutover", ["hold", "overlap"])
def test_the_gateway_goes_and_comes_and_engines_change_without_one(stack: Stack, cutover: Mode) -> None:
    first, (new, gateway) = stack.engine, stack.new_names()
    stack.make_engine(new, delay=1)
    stack.gateways = False
    for engine, held in ((first, False), (new, cutover == "hold")):
        code, said = stack.flip(engine, "", cutover=cutover)
        assert code == 0 and ("released after" in said) == held, said
        assert stack.serves() and stack.route()["gateway"] is None and stack.lost() == []
    stack.gateways = True
    code, said = stack.flip(new, gateway)
    assert code == 0 and "held" not in said, said
    assert stack.serves() and stack.route()["gateway"] == f"{PREFIX}-{gateway}" and stack.lost() == []


def test_a_proxy_takes_over_from_another_in_the_middle_of_a_hold(stack: Stack) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, delay=3)
    lease = {"lease_following": 60, "lease_prepared": 60}
    stack.tell("prepare", stack.plan(new, seconds=lease))
    wait(lambda: set(stack.names()) == {new, stack.gateway})
    stack.make_proxy("proxy-2")
    docker("stop", "-t", "60", f"{PREFIX}-proxy-1")
    docker("rm", f"{PREFIX}-proxy-1")
    docker("rename", f"{PREFIX}-proxy-2", f"{PREFIX}-proxy-1")
    code, said = stack.follow()
    assert code == 0, said
    stack.make_gateway(gateway, new, start=True)
    stack.tell("commit", stack.plan(new, gateway, seconds=lease))
    code, said = stack.follow()
    assert code == 0, said
    stack.engine, stack.gateway = new, gateway
    assert stack.serves() and stack.lost() == []


def gone(stack: Stack, proxy: str) -> bool:
    """Whether it could be stopped and removed; the switch may just start it again."""
    # one that has only begun to start does not hear that it is to end, and is killed at last
    wait(lambda: bool(stack.status()["proxies"].get(proxy)), 60, "it does not answer")
    docker("stop", "-t", "60", proxy)
    return subprocess.run(["docker", "rm", proxy], capture_output=True, check=False).returncode == 0


def test_a_proxy_that_hangs_lets_no_engine_be_stopped_and_holds_up_nothing_else(stack: Stack) -> None:
    patient, between = stack.new_names()
    stack.make_engine(patient)
    # else the switch starts it anew, on a busy machine just when it is let go
    assert stack.flip(patient, between, seconds={"answers": 300})[0] == 0
    new, gateway = stack.new_names()
    stack.make_engine(new)
    stack.make_proxy("proxy-2")
    started = stack.started(stack.engine)
    docker("pause", f"{PREFIX}-proxy-2")
    code, said = stack.flip(new, gateway)
    assert code == 1 and f"{PREFIX}-proxy-2 did not answer after 5 s; no engine was stopped" in said, said
    assert stack.started(stack.engine) == started and stack.serves()
    assert stack.status()["proxies"].get(f"{PREFIX}-proxy-2") is None
    docker("unpause", f"{PREFIX}-proxy-2")
    assert stack.lost() == []
    wait(lambda: gone(stack, f"{PREFIX}-proxy-2"), 120, "the second proxy comes back each time")
    assert stack.flip(new, gateway)[0] == 0
    assert stack.serves() and stack.lost() == []


def test_keys_are_in_force_at_once_and_an_edit_of_them_shows(stack: Stack) -> None:
    closed, everybody = '{"open": false, "keys": {}}', '{"open": true, "keys": {}}'
    before = stack.look()
    assert before[0] == "gateway as declared" and before[1] == "keys as declared"
    docker("exec", SWITCH, "sh", "-c", f"echo '{closed}' >/live/keys.json")
    edited = stack.look()[1]
    assert edited.startswith("keys edited in place ")
    said = stack.give_keys(everybody, edited.removeprefix("keys "))
    assert said == f"no key is needed: known to {PREFIX}-proxy-1"
    assert stack.look()[1] == edited
    stack.lost()
    assert stack.lost() == []


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
        ({"tokens": 0.2}, "too slow: "),
    ],
    ids=["out of memory", "very slow"],
)
def test_an_engine_that_starts_and_can_not_do_its_work_is_taken_back(
    stack: Stack, fault: dict[str, Any], said: str
) -> None:
    new, gateway = stack.new_names()
    stack.make_engine(new, **fault)
    code, text = stack.flip(new, gateway, seconds={"load": 60}, gate_timeout=30, floor=10)
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


def make_image(image: str) -> None:
    """An image of its own for an engine: its content differs by a label."""
    subprocess.run(
        ["docker", "build", "-q", "-t", image, "-"],
        input=f"FROM {PYTHON}\nLABEL name={image}\n",
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        text=True,
        check=True,
        capture_output=True,
    )


def test_an_image_that_is_gone_is_found_before_anything_is_drained(stack: Stack) -> None:
    new, gateway = stack.new_names()
    image = f"{PREFIX}-gone:1"
    make_image(image)
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
        input=stack.plan(two).text,
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


SOME, OTHERS = (0.0, 0.8, 2.5), (0.3, 1.5, 3.5)
"""Seconds after the beginning of a phase; a change of fast engines takes two to four in all."""
MOMENTS = [
    pytest.param("hold", SOME, id="hold-some"),
    pytest.param("overlap", OTHERS, id="overlap-others"),
    pytest.param("hold", OTHERS, id="hold-others", marks=pytest.mark.long),
    pytest.param("overlap", SOME, id="overlap-some", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("cutover", "moments"), MOMENTS)
@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_a_switch_that_is_killed_at_any_moment_loses_nothing_and_the_next_change_works(
    stack: Stack, cutover: Mode, moments: tuple[float, ...], phase: str
) -> None:
    for moment in moments:
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
        os.kill(pid_of(SWITCH), signal.SIGKILL)
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


@pytest.mark.parametrize(("cutover", "moments"), MOMENTS)
def test_a_coordinator_that_dies_at_any_moment_is_undone_and_the_next_change_works(
    stack: Stack, cutover: Mode, moments: tuple[float, ...]
) -> None:
    for moment in moments:
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


def test_gc_frees_an_image_that_neither_serves_nor_leads_back(stack: Stack) -> None:
    image = f"{PREFIX}-used-once:1"
    make_image(image)
    (once, gateway), others = stack.new_names(), [stack.new_names(), stack.new_names()]

    def gc(*words: str) -> str:
        return docker("exec", SWITCH, "python3", "-m", "switch", "gc", *words)

    try:
        stack.make_engine(once, image=image)
        assert stack.flip(once, gateway, image=image)[0] == 0
        assert f"image {image}" not in gc(), "it serves"
        for number, (engine, new_gateway) in enumerate(others):
            stack.make_engine(engine)
            assert stack.flip(engine, new_gateway)[0] == 0
            if number == 0:
                # as Pulumi does at the end of an update
                docker("rm", "-f", "-v", f"{PREFIX}-{once}")
                assert f"image {image}" not in gc("--free"), "it is the way back"
        assert f"can go image {image}" in gc()
        assert docker("images", "-q", image)
        said = gc("--free")
        assert f"freed  image {image}" in said and PYTHON not in said and GATEWAY_IMAGE not in said
        assert not docker("images", "-q", image)
        assert f"image {image}" not in gc()
    finally:
        docker("rmi", "-f", image, check=False)
    assert stack.serves() and stack.lost() == []
