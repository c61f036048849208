"""The parts around the switch's machine: the plan, the gate, the weights, and what is shown."""

import http.client
import importlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common import ROOT
from components import switch as switch_component
from switch import __main__ as cli
from switch import certificate, gate, journal, metrics, observe, verbs
from switch.checks import Failed
from switch.docker import Docker, DockerError
from switch.exchange import exchange
from switch.gate import Answer, complete, embed, over_and_over, sound
from switch.live import live, serving
from switch.machine import Active, Container, Started, State, Transaction, advance
from switch.plan import Fetch, PlanError, load, parse
from switch.proxies import Status
from switch.report import report
from switch.weights import EVERY_SECONDS, _lines, calm, fetch, receive
from tests.parts.conftest import Serve
from tests.support import fast_engine
from tests.support.listening import listening
from tests.support.simulated_host import (
    NEW,
    OLD,
    OLD_GATEWAY,
    PROXY,
    SECONDS,
    before_proxies,
    plan,
    raw_plan,
)

GOLDEN = ROOT / "tests" / "unit" / "golden"
JOURNALS = json.loads((GOLDEN / "journals-e278fa6.json").read_text())
"""Journals of several moments of a change, as that commit's switch wrote them."""


def without(raw: dict[str, Any], section: str, key: str) -> dict[str, Any]:
    del raw[section][key]
    return raw


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": 3}, "plan.engine must be an object"),
        ({"cutover": "swap"}, "plan.cutover must be 'hold' or 'overlap', not 'swap'"),
        ({"memory": {"gpu": 0}}, "plan.memory must have the key 'host'"),
        ({"more": 1}, "plan must not have the key 'more'"),
        (without(raw_plan(), "seconds", "drain"), "plan.seconds must have the key 'drain'"),
        (raw_plan(seconds=replace(SECONDS, drain=0)), "plan.seconds.drain must be positive, not 0"),
        (raw_plan(gateway="g"), "plan.gateway.container must be empty in prepare"),
        (
            {"gate": {"completions": True, "max_tokens": 8, "timeout": 60, "tokens_per_second": 1}},
            "plan.gate.completions must be an integer",
        ),
        (raw_plan("../vllm"), "plan.engine.container must be a plain name"),
    ],
)
def test_a_wrong_plan_is_refused_with_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said.replace(".", r"\.")):
        parse({**raw_plan(), **change}, "prepare")


def test_a_commit_names_its_gateway() -> None:
    with pytest.raises(PlanError, match=r"plan\.gateway\.container"):
        parse(raw_plan(), "commit")
    assert parse(raw_plan(gateway="g-1"), "commit").gateway_container == "g-1"
    assert parse(raw_plan(gateway=None), "commit").gateway_container == ""


def test_a_plan_leads_to_its_engine_by_a_gateway_or_by_the_proxies() -> None:
    raw = raw_plan(gateway=None)
    with pytest.raises(PlanError, match="nothing would lead to the engine"):
        parse({**raw, "routing": ""}, "prepare")
    raw["engine"]["name"] = ""
    with pytest.raises(PlanError, match=r"plan\.engine\.name"):
        parse(raw, "prepare")


@pytest.mark.parametrize("verb", ["prepare", "commit"])
def test_a_plan_is_written_with_the_keys_that_commit_af49f66_wrote_in_their_order(verb: Any) -> None:
    file = ROOT / "tests" / "unit" / "golden" / "plans-af49f66.json"
    told = json.loads(file.read_text())[verb]
    assert as_pairs(parse(told, verb).text) == as_pairs(json.dumps(told))


def as_pairs(text: str) -> Any:
    """JSON with its order."""
    return json.loads(text, object_pairs_hook=list)


def test_a_journal_of_the_version_without_proxies_is_read_and_its_change_is_undone() -> None:
    there = journal.loads((GOLDEN / "journal-0fb29bc.json").read_text())
    assert there.active and there.transaction and there.transaction.phase == "loading" and there.also == {}
    assert there.active.plan == before_proxies(plan(OLD, gateway=OLD_GATEWAY))
    assert there.last and there.last.phase == "committed" and there.seen == "none since change 0"
    assert advance(there, Started(), there.transaction.since)[0].transaction.phase == "restoring"  # type: ignore[union-attr]
    json.dumps(certificate.certificate(there.last))


@pytest.mark.parametrize("moment", JOURNALS)
def test_a_journal_of_commit_e278fa6_is_read_and_one_of_today_is_the_same_for_that_version(
    moment: str,
) -> None:
    """The file's own words are those of the first version, so that each can read what the other wrote."""
    there = JOURNALS[moment]
    state = journal.loads(json.dumps(there))
    assert as_pairs(journal.dumps(state)) == as_pairs(json.dumps(there))
    of, _, phase = moment.partition(": ")
    if change := state.transaction:
        assert phase in (change.phase, "what served hangs", "given up, another waits", "")
        assert phase in ("", "checking", "what served hangs") or change.way == of


@pytest.fixture
def port() -> Iterator[int]:
    with listening(fast_engine.Handler) as server:
        # A client that hung up: to print a traceback, Python 3.11 parses its line, and upsets a parse
        # elsewhere.
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        yield server.server_port


def once(port: int, stream: bool, timeout: float = 5, patience: float = 0) -> Answer:
    return complete(
        "127.0.0.1",
        port,
        "/v1/chat/completions",
        "tiny",
        stream=stream,
        max_tokens=8,
        timeout=timeout,
        patience=patience,
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("ok", ""),
        ("error", "HTTP 500"),
        ("missing", "HTTP 404"),
        ("garbage", "not in OpenAI's format|without \\[DONE\\]"),
        ("empty", "no content"),
        ("lying", "10000 completion tokens"),
        ("promptless", "0 prompt tokens"),
        ("sumless", "7 prompt tokens, and 99 with 8 completion tokens"),
        ("other", "the model 'other'"),
        ("nameless", "the model None"),
        ("hangs", "took more than 0.3 s"),
    ],
)
def test_the_gate_finds_out(
    port: int, stream: bool, mode: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_engine, "MODE", mode)
    monkeypatch.setattr(time, "sleep", lambda seconds: threading.Event().wait(min(seconds, 1)))
    answer = once(port, stream, 0.3 if mode == "hangs" else 5)
    assert answer.ok == (mode == "ok") and not answer.loading
    assert answer.final == (mode == "missing")
    if said:
        assert any(part.replace("\\", "") in answer.text for part in said.split("|")), answer.text
    else:
        assert answer.facts == {"stream": stream, "tokens": 8, "seconds": answer.facts["seconds"]}
        assert 0 <= answer.facts["seconds"] < 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!!!!!!!!!!!!!!!", True),
        (" certainly" * 8, True),
        ("ab" * 6, True),
        ("the the the the the the th", True),
        ("!!!!!", False),
        ("The sea is wide and blue.", False),
        ("no, no, no. Not again", False),
        ("", False),
    ],
)
def test_one_thing_over_and_over_is_no_answer(text: str, said: bool) -> None:
    assert over_and_over(text) == said


def test_a_model_with_sense_may_not_say_one_thing_over_and_over(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_engine, "MODE", "endless")
    assert once(port, True).ok
    for stream in (True, False):
        answer = complete(
            *("127.0.0.1", port, "/v1/chat/completions", "tiny"),
            stream=stream,
            max_tokens=8,
            timeout=5,
            sense=True,
        )
        assert not answer.ok and "one thing over and over: '!!!!!!!!'" in answer.text


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("ok", ""),
        ("deaf", "asked to say only 'harbour', it said 'w0 w1"),
        ("endless", "over and over"),
        ("cuts", "it read 100 tokens of a prompt of 300"),
        ("short", "with a prompt of 300 tokens: HTTP 500: "),
        ("promptless", "0 prompt tokens"),
    ],
)
def test_after_short_completions_an_engine_has_to_obey_and_to_read_a_long_prompt(
    port: int, mode: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_engine, "MODE", mode)
    answer = sound("127.0.0.1", port, "tiny", prompt_tokens=300, sense=True, max_tokens=8, timeout=5)
    assert answer.ok == (not said), answer.text
    assert any(part in answer.text for part in said.split("|")), answer.text
    if not said:
        assert 290 < answer.prompt_tokens <= 300


def test_what_a_model_cannot_do_is_not_asked_of_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_engine, "MODE", "deaf")
    ask = {"max_tokens": 8, "timeout": 5.0}
    assert sound("127.0.0.1", port, "tiny", prompt_tokens=200, sense=False, **ask).ok  # type: ignore[arg-type]
    monkeypatch.setattr(fast_engine, "MODE", "short")
    assert sound("127.0.0.1", port, "tiny", prompt_tokens=0, sense=True, **ask).ok  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("ok", ""),
        ("error", "HTTP 500"),
        ("missing", "HTTP 404"),
        ("garbage", "not in OpenAI's format"),
        ("other", "the model 'other', not 'tiny'"),
        ("zeros", "they are all zeros"),
        ("alike", "two different texts have the same vector"),
        ("cuts", "it read 100 tokens of a text of 301"),
        ("short", "with a text of 301 tokens: HTTP 500: "),
    ],
)
def test_a_model_that_embeds_has_to_give_a_vector_of_its_own_to_each_text(
    port: int, mode: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_engine, "MODE", mode)
    answer = embed("127.0.0.1", port, "tiny", timeout=5, prompt_tokens=303)
    assert answer.ok == (not said), answer.text
    assert said in answer.text
    assert answer.final == (mode == "missing")
    if not said:
        assert answer.facts["tokens"] == 8 and not answer.facts["stream"], "each word of the two texts"


def test_an_engine_that_does_not_listen_yet_is_loading_when_it_is_asked_for_embeddings_too() -> None:
    assert embed("127.0.0.1", 1, "tiny", timeout=5).loading


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0, 2.0]], "1 vectors of 2 numbers for 2 texts"),
        ([[1.0, 2.0], [1.0]], "2 vectors of 2, 1 numbers for 2 texts"),
        ([[], []], "2 vectors of 0, 0 numbers for 2 texts"),
        ([[1.0, float("nan")], [1.0, 2.0]], "they contain something that is not a finite number"),
        ([[0.0, 0.0], [1.0, 2.0]], "they are all zeros"),
        ([[1.0, 2.0], [1.0, 3.0]], ""),
    ],
)
def test_what_is_no_embedding_is_found(vectors: list[list[float]], said: str) -> None:
    assert gate._not_vectors(vectors, 2) == said


@pytest.mark.parametrize("mode", ["promptless", "sumless", "nameless"])
def test_through_the_gateway_only_what_the_gateway_itself_vouches_for_is_judged(
    port: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_engine, "MODE", mode)
    for stream in (True, False):
        assert complete(
            *("127.0.0.1", port, "/v1/chat/completions", "tiny"),
            stream=stream,
            max_tokens=8,
            timeout=5,
            same_model=False,
        ).ok


def test_an_answer_that_is_waited_for_with_patience_has_to_go_on_at_once_when_it_has_begun(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = threading.Event().wait
    monkeypatch.setattr(time, "sleep", lambda seconds: slept(min(seconds, 1)))
    monkeypatch.setattr(fast_engine, "TOKEN_SECONDS", 0.06)
    assert "more than 0.3 s" in once(port, False, 0.3).text  # its answer begins when it is whole
    assert once(port, False, 0.3, patience=5).ok
    monkeypatch.setattr(fast_engine, "MODE", "hangs")
    assert "more than 0.3 s" in once(port, True, 0.3, patience=5).text


def test_what_an_engine_loads_in_its_first_completion_does_not_make_it_slow(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = fast_engine.Handler.do_POST

    def load_first(handler: fast_engine.Handler) -> None:
        time.sleep(0.5)
        answered(handler)

    monkeypatch.setattr(fast_engine, "TOKEN_SECONDS", 0)
    monkeypatch.setattr(fast_engine.Handler, "do_POST", load_first)
    assert once(port, True).facts["seconds"] >= 0.5
    assert once(port, True, 1, patience=5).facts["seconds"] < 0.4
    assert once(port, False, 1, patience=5).facts["seconds"] >= 0.5  # its answer begins when it is whole


def test_an_engine_that_does_not_listen_is_loading() -> None:
    assert once(1, True).loading


def asked(port: int, **more: Any) -> dict[str, Any]:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "-"}], "max_tokens": 2}
    body = json.dumps({**chat, **more.pop("ask", {})})
    request = {"container": "127.0.0.1", "port": port, "path": "/v1/chat/completions", "body": body}
    return exchange({**request, **more})


def test_an_exchange_gives_the_whole_answer_or_the_events_in_their_order(port: int) -> None:
    whole = asked(port)
    assert whole["status"] == 200 and whole["headers"] == {"content-type": "application/json"}
    assert json.loads(whole["body"])["usage"]["completion_tokens"] == 2 and whole["seconds"] >= 0
    events = asked(port, ask={"stream": True})["events"]
    assert [json.loads(e)["choices"][0]["delta"].get("content") for e in events[:2]] == ["w0 ", "w1 "]
    assert events[-1] == "[DONE]" and len(events) == 4
    assert "tiny" in asked(port, method="GET", path="/v1/models", body="")["body"]


def test_an_exchange_says_why_there_is_no_whole_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "refused" in asked(1)["error"]
    monkeypatch.setattr(fast_engine, "MODE", "error")
    assert asked(port)["status"] == 500
    monkeypatch.setattr(fast_engine, "MODE", "hangs")
    monkeypatch.setattr(time, "sleep", lambda seconds: threading.Event().wait(min(seconds, 2)))
    cut = asked(port, ask={"stream": True}, timeout=0.3)
    assert cut["error"] == "no whole answer within 0.3 s" and len(cut["events"]) == 1


@pytest.mark.parametrize("wrong", [{"container": "../x"}, {"path": "v1"}, {"colour": "red"}])
def test_what_is_no_request_is_not_sent(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="request"):
        asked(1, **wrong)


def tar(*members: tuple[str, bytes | None], kind: bytes = tarfile.REGTYPE) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as out:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else kind
            member.size = len(content or b"") if kind == tarfile.REGTYPE else 0
            out.addfile(member, io.BytesIO(content or b""))
    raw.seek(0)
    return raw


def test_a_received_folder_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    receive(tmp_path, "vllm", "tiny-1", tar(("./", None), ("./old", b"1")))
    said = receive(tmp_path, "vllm", "tiny-1", tar(("model", None), ("model/a", b"12"), ("b", b"3")))
    assert said.startswith("received 2 files")
    home = tmp_path / "vllm" / "tiny-1"
    assert {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()} == {
        "source/model/a",
        "source/b",
    }


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
def test_a_tar_that_leads_outside_is_refused_and_the_old_folder_stays(tmp_path: Path, name: str) -> None:
    receive(tmp_path, "vllm", "tiny-1", tar(("a", b"1")))
    with pytest.raises(ValueError, match="leads outside"):
        receive(tmp_path, "vllm", "tiny-1", tar((name, b"2")))
    assert (tmp_path / "vllm/tiny-1/source/a").read_bytes() == b"1"
    assert not (tmp_path / "out").exists()


def test_a_tar_with_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file or folder"):
        receive(tmp_path, "vllm", "tiny-1", tar(("a", b""), kind=tarfile.SYMTYPE))
    with pytest.raises(PlanError):
        receive(tmp_path, "vllm", "../tiny", tar(("a", b"")))


class Helper(Docker):
    """The one helper container that a fetch may run."""

    def __init__(self, code: int = 0) -> None:
        super().__init__("changeover", "test", "/nowhere")
        self.code, self.spec, self.calls = code, dict[str, Any](), list[str]()

    def create(self, name: str, role: str, **spec: Any) -> None:
        self.spec = spec
        self.calls.append(f"create {name} {role}")

    def start(self, name: str) -> None:
        self.calls.append("start")

    def follow(self, name: str, timeout: float) -> Iterator[bytes]:
        yield from (b"pull", b"ing 1%\rpulling 2%\r", b"done\n")

    def wait(self, name: str, timeout: float) -> int:
        return self.code

    def logs(self, name: str, lines: int = 15) -> str:
        return "no such model\n"

    def remove(self, name: str) -> None:
        self.calls.append("remove")


ASK = {
    "engine": "vllm",
    "folder": "tiny-1",
    "image": "vllm:1",
    "volume": "v",
    "script": "get",
    "env": {"A": "b"},
    "need_bytes": 1,
    "digest": "d1",
}


def fetched(tmp_path: Path, helper: Helper, **changed: Any) -> list[str]:
    (tmp_path / "vllm").mkdir(exist_ok=True)
    said: list[str] = []
    fetch(load(Fetch, {**ASK, **changed}), helper, tmp_path, said.append, tmp_path)
    return said


def test_weights_are_fetched_once_for_each_digest(tmp_path: Path) -> None:
    helper = Helper()
    said = fetched(tmp_path, helper)
    assert said[:2] == ["pulling 1%", "done"] and "weights here" in said[2]
    assert helper.calls == ["create changeover-test-fetch-vllm-tiny-1 fetch", "start", "remove"]
    assert helper.spec["HostConfig"]["Binds"] == ["v:/weights"] and helper.spec["Env"] == ["A=b"]
    assert (
        "NetworkMode" not in helper.spec["HostConfig"] and "DeviceRequests" not in helper.spec["HostConfig"]
    )
    assert fetched(tmp_path, helper) == ["vllm: weights already here (tiny-1)"]
    assert len(fetched(tmp_path, helper, digest="d2")) == 3


def test_a_fetch_that_fails_is_told_and_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"exit status 3\):\n  no such model"):
        fetched(tmp_path, Helper(3))
    assert not (tmp_path / "vllm/tiny-1/.complete").exists()


def test_a_full_disk_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    helper = Helper()
    with pytest.raises(Failed, match=r"need 1127428915\.2 GiB, and .* are free"):
        fetched(tmp_path, helper, need_bytes=2**60)
    assert helper.calls == []


def test_progress_is_calm() -> None:
    text = b"\x1b[?25lpulling abc 1%\x1b[K\x1b[1Gpulling abc 2%\x1b[1Gpulling abc 99%\nverifying\nverifying\n"
    now = iter(range(100))
    assert list(calm(_lines([text]), lambda: next(now))) == ["pulling abc 1%", "verifying"]
    assert EVERY_SECONDS == 5


def test_docker_errors_and_output_are_read_as_docker_sends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socketserver

    replies: dict[bytes, bytes | None] = {
        b"/bad": b"HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
        b'{"message":"no!"}',
        b"/containers/c/logs?stdout=1&stderr=1&tail=15": b"HTTP/1.1 200 OK\r\n\r\n"
        b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x04two\n",
        # colours, a title and a C1 code: an engine may say what a client has sent
        b"/containers/told/logs?stdout=1&stderr=1&tail=15": b"HTTP/1.1 200 OK\r\n\r\n"
        b"\x01\0\0\0\0\0\0\x33\x1b[1;36m(APIServer)\x1b[0m 5\r10 %\tno "
        b"\x1b]0;a\x07 \xc2\x9b8m\xc3\xb6\xe2\x80\xae\n\n",
        b"/half": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{",
        b"/containers/half/logs?stdout=1&stderr=1&follow=1": b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"
        b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0",
        b"/none": b"",
        b"/containers/silent/logs?stdout=1&stderr=1&follow=1": None,
        b"/stalled": None,
    }
    ended = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            reply = replies[self.rfile.readline().split()[1]]
            if reply is None:
                ended.wait()
            else:
                self.wfile.write(reply)

    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        docker = Docker("p", "s", path)
        with pytest.raises(DockerError, match="no!") as caught:
            docker.call("GET", "/bad")
        assert caught.value.status == 409
        assert docker.logs("c") == "one\ntwo\n"
        assert docker.logs("told") == "(APIServer) 5\r10 %\tno ]0;a 8mö\n\n"
        for broken in ("/half", "/none"):
            with pytest.raises(OSError, match="Docker broke off its answer"):
                docker.call("GET", broken)
        said = docker.follow("half", 5)
        assert next(said) == b"one\n"
        with pytest.raises(OSError, match="Docker broke off its answer"):
            next(said)
        with pytest.raises(TimeoutError, match=r"Docker gives no answer within 0\.1 s"):
            docker.call("GET", "/stalled", timeout=0.1)
        with pytest.raises(TimeoutError, match=r"nothing came from silent within 0\.1 s"):
            next(docker.follow("silent", 0.1))
        ended.set()
        server.shutdown()


def state(phase: str = "") -> State:
    there = State(active=Active(plan(OLD, gateway=OLD_GATEWAY), "run 0", 100.0))
    if phase:
        change = Transaction("1", plan(), "prepare", 900.0, 0, phase=load(Any, phase), since=950.0)
        there.transaction = there.last = change
    return there


def box(name: str, running: bool) -> dict[str, Container]:
    return {name: Container(name, "engine", "ollama", running, False, "run 0", 0, False, 0, 0)}


def test_what_serves_is_the_engine_that_will_once_the_change_under_way_has_ended() -> None:
    assert serving(State(), {}) == "none"
    assert serving(state(), box(OLD, True)) == OLD
    assert serving(state(), box(OLD, False)) == "none"
    assert serving(state(), {}) == "none"
    assert serving(state("loading"), box(OLD, False)) == OLD
    assert serving(state("prepared"), box(OLD, False)) == NEW
    assert serving(state("failed"), box(OLD, False)) == "none"


def inspected(
    name: str, role: str, *, running: bool = True, aliases: list[str] | None = None
) -> dict[str, Any]:
    """What Docker says of one container, as far as the switch reads it."""
    return {
        "Id": f"{name} of 64 letters",
        "Name": f"/{name}",
        "Created": "1970-01-01T00:00:05.123456789Z",
        "RestartCount": 0,
        "Config": {"Labels": {"changeover.role": role}},
        "State": {
            "Running": running,
            "Restarting": False,
            "StartedAt": "run 0",
            "ExitCode": 0,
            "OOMKilled": False,
        },
        "NetworkSettings": {"Networks": {"p-s": {"Aliases": aliases, "IPAddress": ""}}},
    }


def test_what_is_beside_the_stack_is_seen_and_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, dict[str, Any] | Exception] = {
        "1": inspected("m", "monitor", aliases=["monitor"]),
        "2": inspected("a", "alerts", running=False),
        "3": inspected("p", "peek"),
        "4": DockerError(500, "it is half gone"),
        "5": TimeoutError("it is stuck"),
    }
    roles = {"1": "monitor", "2": "alerts", "3": "peek", "4": "monitor", "5": "alerts"}

    def call(method: str, url: str, timeout: float = 15) -> Any:
        if url.startswith("/containers/json"):
            names = {"1": "m", "2": "a"}
            return [
                {"Id": id, "Names": [f"/{names.get(id, id)}"], "Labels": {"changeover.role": role}}
                for id, role in roles.items()
            ]
        said = there[url.split("/")[2]]
        if isinstance(said, Exception):
            assert timeout < 5 or roles["4"] == "engine", "nothing waits for what is beside the stack"
            raise said
        return said

    docker = Docker("p", "s")
    monkeypatch.setattr(docker, "call", call)
    assert docker.world() == {} and set(docker.beside) == {"m", "a"}
    store, alerts = docker.beside["m"], docker.beside["a"]
    assert (store.role, store.running, store.created) == ("monitor", True, 5.0)
    assert store.networks == {"p-s": ["monitor"]} and not alerts.running
    there["1"], there["2"] = TimeoutError("it is stuck for a moment"), DockerError(404, "it is gone")
    assert docker.world() == {} and docker.beside == {"m": store}, "what is there is not forgotten"
    roles["4"] = "engine"
    with pytest.raises(DockerError):  # of what serves nothing is left out
        docker.world()


def test_alerts_that_fire_are_told_and_a_monitor_that_is_not_well_is_no_error(
    serve_json: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = Docker("p", "s")
    assert observe.alerts(docker) == [], "without a monitor nobody is asked"
    alerts = replace(box("p-s-alerts", True)["p-s-alerts"], role="alerts")
    docker.beside = {alerts.name: replace(alerts, running=False)}
    assert observe.alerts(docker) == [], "nor is one that does not run"
    docker.beside = {alerts.name: alerts}
    labels, told = {"severity": "critical"}, {"summary": "No engine is gated."}
    alert = {"name": "NoEngine", "labels": labels, "annotations": told, "activeAt": "2026-11-28T20:00:00Z"}
    said = {"data": {"alerts": [{**alert, "state": "firing"}, {**alert, "state": "pending"}]}}
    monkeypatch.setattr(observe, "ALERTS_ALIAS", "127.0.0.1")
    monkeypatch.setattr(observe, "ALERTS_PORT", serve_json({observe.ALERTS: said}))
    (one,) = observe.alerts(docker)
    assert one == {"name": "NoEngine", **labels, **told, "since": "2026-11-28T20:00:00Z"}
    monkeypatch.setattr(observe, "ALERTS_PORT", serve_json({observe.ALERTS: {"data": None}}))
    assert observe.alerts(docker) == []


class Edited(Docker):
    """One gateway, with a file and labels as given; it is gone where there is none."""

    def __init__(self, text: str | None, labels: dict[str, str]) -> None:
        self.text, self.own = text, labels

    def get(self, name: str, path: str) -> str:
        assert (name, path) == (OLD_GATEWAY, "/app/config/tensorzero.toml")
        if self.text is None:
            raise DockerError(404, "no such container")
        return self.text

    def labels_of(self, name: str) -> dict[str, str]:
        return self.own


def test_an_edited_config_is_said_and_after_its_repair_what_was_said_before_it() -> None:
    committed, declared, keys = state(), "x = 1\n", "keys as declared"

    def look(text: str | None, **labels: str) -> list[str]:
        return verbs.look(
            committed, Edited(text, {f"changeover.{key}": value for key, value in labels.items()})
        )

    assert look(declared) == ["gateway as declared", keys]
    gateway, _ = look(declared + "#")
    assert gateway.startswith("gateway edited in place ")
    assert look(declared, config=gateway.removeprefix("gateway ")) == [gateway, keys]
    assert look(None) == [keys] and verbs.look(State(), Edited("", {})) == [keys]
    committed.active = Active(plan(OLD, gateway=None), "run 0", 100.0)
    assert look(None) == [keys]


def test_live_repeats_what_its_coordinator_keeps_until_something_else_serves() -> None:
    committed = state()
    committed.seen, committed.commits = "none since change 6", 7
    assert live(committed, box(OLD, True)) == "none since change 6"
    assert live(committed, box(OLD, False)) == "none since change 7"
    under_way = state("prepared")
    under_way.seen = OLD
    assert live(under_way, box(OLD, False)) == NEW
    assert live(state(), box(OLD, True)) == OLD


def test_status_fits_one_screen_and_is_json_as_well(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    there = state("loading")
    there.trouble, there.held = "it is loud", 990.0
    one = Status(7, {"ollama-1": 3}, 5, {"acme": 6, "beta": 2}, "", False)
    one = replace(one, waiting={"gamma": 5})
    told = {PROXY: one, "stack-proxy-2": Status(7, {"vllm-2": 1}, 0, {"beta": 9}, "", True), "late": None}
    there.healed, there.healed_at = f"ollama ({OLD}) hangs: it is quiet. It was stopped", 880.0
    silent = {OLD: "has not answered for 12 s"}
    seen = report(there, box(OLD, True), told, tmp_path, 1000.0, silent=silent)
    json.dumps(seen)
    text = verbs.screen(seen, 1000.0)
    assert len(text.splitlines()) <= 24
    for part in (
        f"ollama ({OLD}) serves",
        "requests  4 in flight, 5 waiting",
        "tenants   beta 11, acme 6\nwaiting   gamma 5\n",
        "proxy     late does not answer",
        "wait since 10 s",
        "it is loud",
        f"silent    {OLD} has not answered for 12 s",
        "it is quiet. It was stopped, 2.0 min ago",
        "loading for 50 s",
        "weights/vllm",
    ):
        assert part in text
    assert there.last
    there.last.phase, there.last.abandoned, there.last.error = "failed", True, "given up as asked"
    text = verbs.screen(report(there, box(OLD, True), told, tmp_path, 1000.0), 1000.0)
    assert "given up as asked" in text and "failed" not in text
    text = verbs.screen(report(State(), {}, {}, tmp_path, 1.0), 1.0)
    assert "no change has been committed" in text and "proxy     none runs" in text
    there.active = Active(plan(OLD, gateway=None), "run 0", 1.0)
    text = verbs.screen(report(there, {}, told, tmp_path, 1.0), 1.0)
    assert "gateway   none: the proxies ask the engine" in text


def test_every_verb_is_known_and_nothing_but_the_standard_library_is_needed() -> None:
    import ast
    import sys

    for file in Path(cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(n.split(".")[0] in {*sys.stdlib_module_names, "switch"} for n in names), file
    for verb in (
        "serve",
        "prepare",
        "commit",
        "follow",
        "check",
        "status",
        "release",
        "fetch",
        "keys",
        "look",
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main([verb, "--help"])
        assert caught.value.code == 0
    importlib.import_module("switch.daemon")


def test_what_a_change_asks_again_and_again_imports_no_machine() -> None:
    program = "import sys, switch.__main__; print(*(name for name in sys.modules if name[:6] == 'switch'))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) == {"switch", "switch.__main__", "switch.asking", "switch.shared"}


def test_the_modules_are_laid_out_beside_their_archive_once(tmp_path: Path) -> None:
    archive = tmp_path / "switch.zip"
    archive.write_bytes(switch_component.CODE.zip())
    environment = {"PYTHONPATH": f"{tmp_path}:{archive}"}

    def run(program: str) -> str:
        command = [sys.executable, "-c", f"import switch.verbs as verbs; {program}"]
        return subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, check=True
        ).stdout

    where = "print(verbs.__file__)"
    assert run(where).startswith(str(archive))
    run("verbs.unpack()")
    assert run(where).strip() == str(tmp_path / "switch" / "verbs.py")
    run("verbs.unpack()")
    package = Path(cli.__file__).parent
    for file in package.rglob("*.py"):
        assert (tmp_path / "switch" / file.relative_to(package)).read_bytes() == file.read_bytes()


def test_what_is_scraped_is_prometheus_own_format_and_says_what_is(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    there = state("loading")
    there.trouble, there.held, there.commits = 'it is "loud"\nand \\ odd', 990.0, 7
    seen = report(there, box(OLD, True), {}, tmp_path, 1000.0, silent={OLD: "has not answered for 12 s"})
    seen["gpus"] = [{"busy": 50.0, "free": 1, "used": 2, "size": 3, "watts": None, "celsius": 60.0}]
    families = {
        each.name: each for each in text_string_to_metric_families(metrics.page(seen, there.commits, 1000.0))
    }

    def value(name: str, **labels: str) -> float:
        (found,) = [each.value for each in families[name].samples if each.labels == labels]
        return found

    assert value("changeover_engine", kind="ollama", engine="ollama-1", model="tiny") == 1
    assert value("changeover_engine_gated") in (0, 1)
    assert families["changeover_commits"].type == "counter"
    assert value("changeover_held_duration_seconds") == 10
    assert value("changeover_trouble") == 1 and value("changeover_silent", container=OLD) == 1
    assert value("changeover_change_phase", kind="vllm", phase="loading") == 1
    assert value("changeover_change_duration_seconds") > 0
    assert value("changeover_gpu_utilization_ratio", gpu="0") == 0.5
    assert families["changeover_gpu_power_watts"].samples == [], "what the card does not tell is left out"
    assert value("changeover_disk_free_bytes", volume="vllm") > 0
    assert value("changeover_host_boot_time_seconds") > 1e9 and value("changeover_host_load1") >= 0
    assert value("changeover_host_memory_bytes") == seen["memory"]["size"], "to the last byte"
    assert families["changeover_model_gpu_ratio"].samples == []
    idle = [
        each.value
        for each in families["changeover_host_cpu_seconds"].samples
        if each.labels["mode"] == "idle"
    ]
    assert idle and idle[0] > 0
    assert all(name.startswith("changeover_") for name in families)


def test_a_disk_is_counted_once_and_a_kernel_that_tells_less_is_no_error(tmp_path: Path) -> None:
    for name, text in {
        "loadavg": "0.50 0.40 0.30 1/100 4711\n",
        "meminfo": "MemTotal: 16 kB\nSwapTotal: 8 kB\nSwapFree: 5 kB\n",
        "vmstat": "nr_free_pages 1\n",
        "stat": "cpu  1 2 3\nintr 5 0\nbtime 1700000000\n",
        "diskstats": "259 0 nvme0n1 10 0 8 1 20 0 16 1 0 1 1\n259 1 nvme0n1p1 10 0 8 1 20 0 16 1 0 1 1\n"
        "7 0 loop0 1 0 2 1 0 0 0 0 0 1 1\n",
    }.items():
        (tmp_path / name).write_text(text)
    found = {family.name: list(family.samples) for family in metrics._kernel(tmp_path)}
    assert found["changeover_host_disk_read_bytes_total"] == [({"disk": "nvme0n1"}, 8 * 512)]
    assert found["changeover_host_disk_written_bytes_total"] == [({"disk": "nvme0n1"}, 16 * 512)]
    assert found["changeover_host_swap_used_bytes"] == [({}, 3 * 1024)]
    assert found["changeover_host_boot_time_seconds"] == [({}, 1700000000)]
    assert found["changeover_host_oom_kills_total"] == []
    (tmp_path / "loadavg").unlink()
    (found_less,) = [family for family in metrics._kernel(tmp_path) if family.name == "changeover_host_load1"]
    assert found_less.samples == []


def test_what_runs_is_what_a_monitor_scrapes(tmp_path: Path) -> None:
    def one(name: str, role: str, kind: str, running: bool = True) -> Container:
        return Container(name, role, kind, running, False, "run 0", 0, False, 0, 0)

    world = {
        each.name: each
        for each in (
            one("proxy-2", "proxy", ""),
            one("proxy-1", "proxy", ""),
            one("vllm-1", "engine", "vllm"),
            one("vllm-0", "engine", "vllm", running=False),
            one("ollama-1", "engine", "ollama"),
        )
    }

    def found(query: str) -> list[str]:
        said = json.loads(metrics.targets(world, query))
        assert all(each["labels"]["instance"] == each["targets"][0].split(":")[0] for each in said)
        return [target for each in said for target in each["targets"]]

    assert found("role=proxy&port=8001") == ["proxy-1:8001", "proxy-2:8001"]
    assert found("role=engine&kind=vllm&port=8000") == ["vllm-1:8000"]
    assert found("") == []


def test_before_a_first_change_there_is_a_page_as_well(tmp_path: Path) -> None:
    page = metrics.page(report(State(), {}, {}, tmp_path, 1.0), 0, 1.0)
    families = {each.name: each for each in text_string_to_metric_families(page)}
    assert families["changeover_engine"].samples == []
    assert "changeover_last_change_failed" not in families


def test_a_scrape_gets_the_page_and_anything_else_is_refused() -> None:
    server = metrics.listen(lambda: "changeover_trouble 0\n", 0, lambda query: f"[{query}]")
    try:
        for path, status, said in (
            ("/metrics", 200, b"changeover_trouble 0\n"),
            ("/targets?role=proxy", 200, b"[role=proxy]"),
            ("/", 404, None),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == status and (said is None or answer.read() == said)
            connection.close()
    finally:
        server.shutdown()
        server.server_close()
