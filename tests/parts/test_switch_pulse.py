"""What the switch takes for a hang, and what not; with real connections, as far as they are made."""

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from switch import pulse
from switch.machine import Silence, Watch
from switch.proxies import Status, last_heard
from switch.pulse import PAUSE_SECONDS, Pulse, RunHealth, question, token
from tests.support.listening import listening
from tests.support.simulated_host import OLD, OLD_GATEWAY, plan

PLAN = plan(OLD, gateway=OLD_GATEWAY)


def watch(port: int = 1, answers: float = 45, tokens: float = 480, **changed: object) -> Watch:
    seconds = dataclasses.replace(PLAN.seconds, answers=answers, tokens=tokens)
    one = Watch(OLD, "run 0", "127.0.0.1", port, dataclasses.replace(PLAN, seconds=seconds), "engine")
    return dataclasses.replace(one, **changed)  # type: ignore[arg-type]


def wait(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


class HangingEngine(BaseHTTPRequestHandler):
    """Answers what is small, and completions once `goes_on` is set."""

    goes_on = threading.Event()
    asked: list[dict[str, object]]
    says = b"data: {}\n\n"

    def do_GET(self) -> None:
        self.send_error(501)  # any answer will do

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.goes_on.wait()
        self.wfile.write(self.says)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[type[HangingEngine]]:
    class Mine(HangingEngine):
        goes_on, asked, port = threading.Event(), [], 0

    with listening(Mine) as server:
        Mine.port = server.server_port
        yield Mine
        Mine.goes_on.set()


@pytest.fixture
def stopped() -> Iterator[int]:
    """The port of a process that is stopped: the kernel takes its connections, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_any_answer_will_do_and_none_or_no_connection_is_said(
    engine: type[HangingEngine], stopped: int
) -> None:
    assert question(watch(engine.port), 20) == ""  # type: ignore[attr-defined]
    assert question(watch(stopped), 0.2) == "no answer"
    assert question(watch(1), 20) == "it does not listen"
    assert question(watch(1, ending=True), 20) == "", "what ends need not listen any more"
    assert question(watch(stopped, ending=True), 0.2) == "no answer", "and yet it may hang"


def test_a_head_is_no_token(engine: type[HangingEngine]) -> None:
    assert not token(watch(engine.port), 0.3)  # type: ignore[attr-defined]
    engine.goes_on.set()
    assert token(watch(engine.port), 20)  # type: ignore[attr-defined]
    engine.says = b""
    assert not token(watch(engine.port), 20), "nothing at all is no token either"  # type: ignore[attr-defined]
    assert engine.asked[0]["max_tokens"] == 1 and engine.asked[0]["model"] == "tiny"


def test_it_hangs_after_its_patience_and_an_answer_in_between_begins_it_anew() -> None:
    run = RunHealth(watch())
    for _ in range(3):
        run.hears("no answer", run.timeout + PAUSE_SECONDS)
    assert not run.hangs() and run.silent() == Silence("has not answered for 37 s (no answer)", 45)
    run.hears("", 0.1)
    assert not run.silent()
    for _ in range(3):
        run.hears("no answer", run.timeout + PAUSE_SECONDS)
    assert not run.hangs()
    run.hears("no answer", run.timeout + PAUSE_SECONDS)
    assert run.hangs() == "it has not answered for 49 s (no answer)"


def test_a_time_in_which_the_switch_was_stopped_counts_for_nothing() -> None:
    run = RunHealth(watch())
    run.hears("no answer", 90)
    run.listens(float("inf"), 3600)
    assert not run.silent() and run.asked == run.tokens == 0


def test_bytes_that_proxies_have_are_as_good_as_own_ones() -> None:
    run = RunHealth(watch())
    for _ in range(1000):
        run.listens(5, 2)
    assert run.tokens == 5
    for _ in range(237):
        run.listens(float("inf"), 2)
    assert not run.hangs() and run.silent() == Silence("has given no token for 479 s", 480)
    run.listens(float("inf"), 2)
    assert "no completion has given anything for 48" in run.hangs()


def never(engine: str) -> float:
    """No proxy has heard anything of any engine."""
    return float("inf")


def test_what_came_last_to_any_proxy_counts_and_one_that_heard_nothing_says_nothing() -> None:
    said = Status(1, {}, 0, {}, "", False, {"ollama-1": 7.5})
    others = [dataclasses.replace(said, silent=each) for each in ({}, {"ollama-1": 3.0, "vllm-1": 1.0})]
    assert last_heard("ollama-1", [said, *others]) == 3.0
    assert last_heard("vllm-2", [said, *others]) == last_heard("vllm-1", []) == float("inf")


def test_only_what_hangs_is_found_and_what_is_watched_no_more_is_forgotten(
    engine: type[HangingEngine], stopped: int
) -> None:
    good = watch(engine.port, 2)  # type: ignore[attr-defined]
    hung = watch(stopped, 2, container=OLD_GATEWAY, role="gateway")
    one = Pulse(never)
    one.watch([good, hung])
    wait(one.hangs)
    assert list(one.hangs()) == [OLD_GATEWAY] and "no answer" in one.hangs()[OLD_GATEWAY]
    one.forget()
    assert one.hangs() == {}
    wait(one.hangs)
    one.watch([good, dataclasses.replace(hung, started_at="run 1")])
    assert one.hangs() == {}, "another run has its own patience"
    one.watch([])


def test_an_engine_that_answers_and_gives_no_token_is_asked_for_one_itself_and_then_hangs(
    engine: type[HangingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "PAUSE_SECONDS", 0.05)
    ago = 0.0
    one = Pulse(lambda _: ago)
    one.watch([watch(engine.port, tokens=4)])  # type: ignore[attr-defined]
    time.sleep(0.3)
    assert not engine.asked, "while it gives tokens to others it is not asked"
    ago = 1e9
    wait(one.hangs)
    assert len(engine.asked) == 1 and "gives" not in str(one.silent())
    engine.goes_on.set()
    wait(lambda: not one.hangs())
    one.watch([])


def test_an_old_plan_has_the_patience_of_todays() -> None:
    assert (PLAN.seconds.answers, PLAN.seconds.tokens) == (45, 480)
