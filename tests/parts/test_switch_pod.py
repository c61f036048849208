"""What is beside an engine in its pod: the gate after each start, and an end that nobody notices."""

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from switch import pod as module
from switch.gate import Answer
from switch.machine import Watch
from switch.plan import PlanError, Trap
from switch.pod import FORGET_SECONDS, STALLS_SECONDS, OwnPod, answer, gate, listen, listens, pod_of
from switch.pod_plan import ALIVE, DRAIN, READY, STATE, PodPlan
from switch.pulse import Pulse
from tests.support.project import free_port
from tests.support.simulated_host import NEW, plan

PLAN = plan(NEW)
GOOD = Answer(True, facts={"stream": True, "tokens": 16, "seconds": 0.5})
LOADING = Answer(False, "does not listen yet", loading=True)
BAD = Answer(False, "a completion took more than 60 s")


def gated(pod: OwnPod) -> OwnPod:
    pod.gated = True
    return pod


TOLD = PodPlan(engine=PLAN.engine, gate=PLAN.gate, load=PLAN.seconds.load, at_a_time=4, context=1024)


def made() -> OwnPod:
    return gated(pod_of(TOLD))


class Engine:
    """Gives these answers, the last one again and again, keeps what it was asked, and has a clock."""

    def __init__(self, *answers: Answer, seconds: float = 0.1) -> None:
        self.answers, self.asked, self.now, self.seconds = (
            list(answers),
            list[tuple[bool, bool, float]](),
            0.0,
            seconds,
        )

    def ask(self, stream: bool, last: bool, patience: float) -> Answer:
        self.asked.append((stream, last, patience))
        self.now += self.seconds
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def gate(self, **changed: Any) -> str:
        wanted = replace(PLAN, gate=replace(PLAN.gate, **changed))
        return gate(wanted, self.ask, lambda: self.now, self.sleep)


def test_the_gate_asks_as_often_as_is_set_streamed_and_not_and_the_last_one_is_known() -> None:
    engine = Engine(LOADING, LOADING, GOOD)
    assert engine.gate(completions=3) == ""
    assert [each[:2] for each in engine.asked[2:]] == [(True, False), (False, False), (True, True)]


def test_ollama_has_all_of_the_time_for_its_first_answer_in_which_it_loads() -> None:
    engine, ollama = Engine(GOOD), replace(PLAN, engine=replace(PLAN.engine, kind="ollama"))
    assert gate(ollama, engine.ask, lambda: engine.now, engine.sleep) == ""
    first, *others = [patience for _, _, patience in engine.asked]
    assert first == PLAN.seconds.load and not any(others)


def test_an_engine_that_fails_three_times_or_for_good_or_is_slow_or_late_fails_its_gate() -> None:
    engine = Engine(GOOD, BAD)
    assert engine.gate(completions=2) == f"it failed its gate: {BAD.text}" and len(engine.asked) == 4
    engine = Engine(replace(BAD, final=True))
    assert engine.gate().startswith("it failed its gate") and len(engine.asked) == 1
    assert "32.0 tokens per second, and 33 are wanted" in Engine(GOOD).gate(tokens_per_second=33.0)
    assert Engine(GOOD).gate(tokens_per_second=32.0) == ""
    assert Engine(LOADING, seconds=1).gate().endswith(f"after {PLAN.seconds.load:g} s: {LOADING.text}")


def test_a_known_trap_comes_with_what_to_type() -> None:
    trap = Trap(words=("took more",), hint="Run: pulumi config set …")
    assert Engine(BAD).gate(traps=(trap,)).endswith("Run: pulumi config set …")


def test_an_engine_that_hangs_after_its_gate_is_neither_ready_nor_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod, said, looks = pod_of(TOLD), list[str](), iter(range(5))

    class End(Exception):
        pass

    class Hangs(Pulse):
        def hangs(self) -> dict[str, str]:
            return {PLAN.engine.name: "it has not answered for 45 s (no answer)"}

    def listens(port: int) -> bool:
        if next(looks) == 4:
            raise End
        return True

    monkeypatch.setattr(module, "probe", lambda *_: GOOD)
    monkeypatch.setattr(module, "Pulse", Hangs)
    monkeypatch.setattr(module, "listens", listens)
    with pytest.raises(End):
        module.watch(pod, lambda: TOLD, said.append)
    assert said[1:] == [f"{PLAN.engine.name} hangs: it has not answered for 45 s (no answer)"]
    assert answer(pod, READY) == answer(pod, ALIVE) == (503, "it has not answered for 45 s (no answer)\n")


def test_an_engine_that_takes_connections_and_answers_none_is_known_to_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        seconds = replace(TOLD.plan.seconds, answers=2)
        engine = replace(TOLD.engine, container="127.0.0.1", port=silent.getsockname()[1])
        plan = replace(TOLD.plan, engine=engine, seconds=seconds)
        pulse = Pulse(lambda _: float("inf"))
        pulse.watch([Watch(engine.name, "1", engine.container, engine.port, plan, "engine")])
        ends = time.monotonic() + 20
        while not pulse.hangs() and time.monotonic() < ends:
            time.sleep(0.1)
        assert "it has not answered for" in pulse.hangs()[engine.name]
        pulse.watch([])


class OneSlot(BaseHTTPRequestHandler):
    """An engine that gives one completion at a time, a token every 50 ms; the others wait in its queue."""

    slot = threading.Lock()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        ask = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.slot, contextlib.suppress(OSError):
            self.send_response(200)
            self.end_headers()
            for _ in range(ask["max_tokens"]):
                self.wfile.write(b"data: -\n\n")
                time.sleep(0.05)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Watching:
    """A pod that is watched in a thread, until its engine is to be gated once more after `end`."""

    def __init__(self, pod: OwnPod, told: PodPlan) -> None:
        self.said, self._told, self._over = list[str](), told, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pod,), daemon=True)
        self._thread.start()

    def _watch(self, pod: OwnPod) -> None:
        with contextlib.suppress(InterruptedError):
            module.watch(pod, self._read, self.said.append)

    def _read(self) -> PodPlan:
        if self._over.is_set():
            raise InterruptedError
        return self._told

    def end(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_an_engine_without_a_place_for_the_gates_own_question_hangs_only_if_no_proxy_hears_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One answer may take longer than an engine has to give its own token."""
    monkeypatch.setattr(module, "probe", lambda *_: GOOD)
    plan = replace(TOLD.plan, seconds=replace(TOLD.plan.seconds, tokens=2))
    monkeypatch.setattr(PodPlan, "plan", property(lambda self: replace(plan, engine=self.engine)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), OneSlot)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = replace(TOLD.engine, container="127.0.0.1", port=server.server_port)
    told, pod = replace(TOLD, engine=engine), pod_of(TOLD)
    watching = Watching(pod, told)
    body = json.dumps({"max_tokens": 1000, "stream": True})
    client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    client.request("POST", "/v1/chat/completions", body)
    streams = client.getresponse()
    ends = time.monotonic() + 6
    while time.monotonic() < ends:
        assert streams.readline() and streams.readline()
        said = answer(pod, f"{STATE}?proxy=a&running=1&draining=0&silent=0.1")
        assert said[0] == 200 and not pod.failed
    for _ in range(100):  # it goes on to give tokens, of which no proxy says anything
        assert answer(pod, f"{STATE}?proxy=a&running=1&draining=0&silent=inf")[0] == 200
        if pod.failed:
            break
        time.sleep(0.1)
    assert pod.failed and "no completion has given anything" in pod.why
    client.close()
    server.shutdown()
    server.server_close()
    watching.end()


def test_an_engine_that_never_listens_is_not_alive_until_the_cluster_has_seen_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing shows that it was started again: it is gated anew afterwards."""
    monkeypatch.setattr(module, "SEEN_SECONDS", 3)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        engine = replace(TOLD.engine, container="127.0.0.1", port=bound.getsockname()[1])
        told = replace(TOLD, load=1, engine=engine)
        pod = pod_of(told)
        watching = Watching(pod, told)
        said = watching.said
        began, dead = time.monotonic(), list[float]()
        while len(said) < 2 and time.monotonic() < began + 30:
            if answer(pod, ALIVE)[0] == 503:
                dead.append(time.monotonic())
            time.sleep(0.02)
        watching.end()
    assert len(said) == 2 and all("was not ready after 1 s" in line for line in said)
    assert dead[-1] - dead[0] > 2.5


def test_a_proxy_hears_what_engine_there_is_and_what_others_have_there() -> None:
    pod = made()
    engine = {"name": PLAN.engine.name, "kind": PLAN.engine.kind, "port": PLAN.engine.port}
    engine |= {"model": PLAN.engine.model, "at_a_time": 4, "context": 1024}
    said = {"engine": engine, "ready": True, "draining": False, "elsewhere": 0}
    assert pod.asked("a", 2, False, 10) == said
    assert pod.asked("b", 1, False, 10)["elsewhere"] == 2
    assert pod.asked("c", 0, False, 11)["elsewhere"] == 3
    assert pod.asked("b", 1, False, 10 + FORGET_SECONDS)["elsewhere"] == 0, "the others have gone, but for c"


def test_a_drain_ends_once_every_proxy_knows_of_it_and_has_nothing_there() -> None:
    pod = made()
    pod.asked("a", 2, False, 10)
    pod.asked("b", 0, False, 10)
    assert not pod.drained(10)
    pod.drain(10.1)
    assert not pod.drained(10.1) and not pod.ready
    assert pod.asked("a", 2, False, 10.2)["draining"] is True
    pod.asked("a", 0, True, 10.4)
    assert not pod.drained(10.4), "b may send something in this moment"
    pod.asked("b", 1, False, 10.4)  # and it has
    pod.asked("b", 1, True, 10.6)
    assert not pod.drained(10.6)
    pod.asked("b", 0, True, 10.8)
    assert pod.drained(10.8)


def test_a_proxy_that_has_gone_is_not_waited_for() -> None:
    pod = made()
    pod.asked("a", 0, False, 10)
    pod.drain(10)
    assert not pod.drained(10 + FORGET_SECONDS - 0.1)
    assert pod.drained(10 + FORGET_SECONDS)


def test_a_proxy_that_stalls_with_answers_under_way_is_waited_for_a_little_longer() -> None:
    pod = made()
    pod.asked("a", 2, True, 10)
    pod.drain(10)
    assert not pod.drained(10 + STALLS_SECONDS - 0.1)
    assert pod.drained(10 + STALLS_SECONDS)


def test_where_no_proxy_has_asked_there_may_be_one_that_just_begins_to() -> None:
    pod = made()
    pod.drain(10)
    assert not pod.drained(10 + FORGET_SECONDS - 0.1)
    assert pod.drained(10 + FORGET_SECONDS)


def test_the_gate_is_told_what_the_switch_would_be(tmp_path: Path) -> None:
    trap = Trap(words=("a",), hint="b")
    written = replace(TOLD, gate=replace(TOLD.gate, traps=(trap,)))
    file = tmp_path / "pod.json"
    file.write_text(written.text)
    assert module.read(file) == written
    plan = written.plan
    assert (plan.engine, plan.gate, plan.seconds.load) == (PLAN.engine, written.gate, PLAN.seconds.load)
    file.write_text("{}")
    with pytest.raises(PlanError):
        module.read(file)


def test_what_has_failed_is_not_alive_until_another_start_of_it_and_that_is_not_drained() -> None:
    pod = made()
    assert answer(pod, ALIVE)[0] == 200
    pod.gated, pod.failed, pod.why = False, True, "it is too slow"
    assert answer(pod, ALIVE) == (503, "it is too slow\n") == answer(pod, READY)
    pod.drain(10)  # the cluster ends it as it ends any other
    pod.started()
    assert answer(pod, ALIVE)[0] == 200 and answer(pod, READY) == (503, "it does not listen\n")
    pod.gated = True
    assert answer(pod, READY)[0] == 200


def test_an_engine_is_gated_again_after_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the plan of then, of an engine that is there, goes, comes back slow, and goes for good."""
    pod, said = pod_of(TOLD), list[str]()
    looks = iter([True, False, True, False])

    class End(Exception):
        pass

    def listens(port: int) -> bool:
        seen.append((pod.ready, pod.failed))
        return next(looks)

    plans, seen = (
        iter([TOLD, replace(TOLD, gate=replace(TOLD.gate, tokens_per_second=33.0))]),
        list[tuple[bool, bool]](),
    )

    def read() -> PodPlan:
        if (plan := next(plans, None)) is None:
            raise End
        return plan

    monkeypatch.setattr(module, "probe", lambda *_: GOOD)
    monkeypatch.setattr(module, "listens", listens)
    with pytest.raises(End):
        module.watch(pod, read, said.append)
    assert seen == [(True, False), (True, False), (False, True), (False, True)]
    assert said[0].endswith("has passed its gate, 0.0 s") and "it is too slow" in said[1]


@pytest.mark.parametrize(
    "path",
    [
        STATE,
        f"{STATE}?proxy=a",
        f"{STATE}?proxy=a&running=x&draining=0",
        f"{STATE}?proxy=a&running=1&draining=0&silent=x",
    ],
)
def test_a_proxy_that_does_not_say_what_it_has_is_refused(path: str) -> None:
    assert answer(made(), path)[0] == 400


@pytest.fixture
def server() -> Iterator[tuple[OwnPod, str]]:
    port, pod = free_port(), made()
    serving = listen(pod, port)
    yield pod, f"http://127.0.0.1:{port}"
    serving.shutdown()
    serving.server_close()


def test_the_pod_is_ready_while_its_engine_is_gated_and_says_why_it_is_not(
    server: tuple[OwnPod, str],
) -> None:
    pod, url = server
    assert urllib.request.urlopen(url + READY, timeout=5).status == 200
    pod.gated, pod.why = False, "it does not listen"
    with pytest.raises(HTTPError) as error:
        urllib.request.urlopen(url + READY, timeout=5)
    assert (error.value.code, error.value.read()) == (503, b"it does not listen\n")
    error.value.close()


def test_who_asks_for_the_drain_gets_no_answer_before_its_end(server: tuple[OwnPod, str]) -> None:
    _, url = server

    def ask(running: int, draining: int) -> dict[str, object]:
        query = f"?proxy=a&running={running}&draining={draining}"
        return dict(json.loads(urllib.request.urlopen(url + STATE + query, timeout=5).read()))

    ask(1, 0)
    ended = threading.Event()

    def drain() -> None:
        assert urllib.request.urlopen(url + DRAIN, timeout=10).read() == b"drained\n"
        ended.set()

    thread = threading.Thread(target=drain)
    thread.start()
    while not ask(1, 0)["draining"]:
        time.sleep(0.01)
    ask(1, 1)
    assert not ended.wait(0.2)
    ask(0, 1)
    assert ended.wait(5)
    thread.join()


def test_an_engine_that_has_ended_does_not_listen(server: tuple[OwnPod, str]) -> None:
    _, url = server
    assert listens(int(url.rpartition(":")[2])) and not listens(free_port())


def test_the_gate_ends_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the first process of its container it hears SIGTERM only where it has asked for it: without that a
    pod that has ended all it answered would hold its GPU for as long as an answer may last."""
    file, before = tmp_path / "pod.json", signal.getsignal(signal.SIGTERM)
    file.write_text(TOLD.text)
    monkeypatch.setattr(module, "listen", lambda pod: None)
    monkeypatch.setattr(module, "watch", lambda *_: None)
    ended = list[int]()
    monkeypatch.setattr("os._exit", ended.append)
    try:
        module.main([str(file)])
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [0]
