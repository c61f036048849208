"""What the good end of an answer is in each protocol, and that the gate asks in each."""

import itertools
import json
from typing import Any

import pytest

from proxy import protocols as proxied
from switch.exchange import exchange
from switch.gate import complete, speaks
from switch.protocols import CHAT, COMPLETIONS, MESSAGES, PROTOCOLS, RESPONSES, Broken, Said, TextProtocol
from tests.parts.test_switch_parts import port
from tests.support import fast_engine
from tests.support.load import LIMIT, LoadGenerator

assert port, "a fixture that is used in this module too"

every = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))


def events(port: int, protocol: TextProtocol) -> list[str]:
    """What a good stream of four tokens says."""
    body = json.dumps(protocol.ask("tiny", "Count.", max_tokens=4, stream=True))
    asked = {"container": "127.0.0.1", "port": port, "path": protocol.path, "body": body}
    said: list[str] = exchange(asked)["events"]
    return said


def heard(protocol: TextProtocol, stream: list[str]) -> Said:
    said = Said()
    for event in stream:
        assert not said.ended
        protocol.hear(said, event)
    return said


def test_the_proxy_carries_each_protocol_at_the_same_path() -> None:
    assert [each.path for each in PROTOCOLS.values()] == [
        proxied.CHAT,
        proxied.COMPLETIONS,
        proxied.RESPONSES,
        proxied.MESSAGES,
    ]


@every
@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_is_read_alike_in_every_protocol(
    port: int, protocol: TextProtocol, stream: bool
) -> None:
    answer = complete(
        *("127.0.0.1", port, protocol.path, "tiny"),
        stream=stream,
        max_tokens=8,
        timeout=5,
        prompt="one two three",
        protocol=protocol,
    )
    assert answer.ok, answer.text
    assert answer.content == "".join(f"w{n} " for n in range(8)) and answer.prompt_tokens == 3
    assert answer.facts["tokens"] == 8


@every
def test_a_stream_that_lacks_its_end_or_says_an_error_is_no_answer(port: int, protocol: TextProtocol) -> None:
    stream = events(port, protocol)
    whole = heard(protocol, stream)
    assert whole.ended and whole.finish in LIMIT[protocol.name] and whole.tokens == 4
    assert not heard(protocol, stream[:-1]).ended
    killed = [{"error": {"message": "EngineDeadError"}}, {"type": "error", "error": {"type": "api_error"}}]
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error"}}}
    for event in (*killed, failed):
        with pytest.raises(Broken, match=r"EngineDeadError|api_error|server_error"):
            protocol.hear(Said(), json.dumps(event))


def test_a_response_at_its_limit_is_what_each_engine_calls_it(port: int) -> None:
    last = json.loads(events(port, RESPONSES)[-1])
    assert (last["type"], last["response"]["status"]) == ("response.completed", "incomplete")  # vLLM
    for kind, status in (("response.completed", "completed"), ("response.incomplete", "incomplete")):
        said = Said()
        changed = {**last, "type": kind, "response": {**last["response"], "status": status}}
        assert RESPONSES.hear(said, json.dumps(changed)) and said.finish == status
    said = Said()
    RESPONSES.hear(said, json.dumps({**last, "response": {**last["response"], "status": "cancelled"}}))
    assert said.finish is None


def test_tokens_that_were_read_from_a_cache_are_of_the_prompt() -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 16, "output_tokens": 2}
    answer = {"content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn", "usage": usage}
    said = MESSAGES.read({**answer, "model": "tiny"})
    assert (said.given, said.tokens, said.total) == (19, 2, 21)


def test_reasoning_is_content_in_every_protocol_that_has_it() -> None:
    thinking = {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm"}}
    delta = {"choices": [{"delta": {"reasoning": "Hm"}}]}
    reasoned = {"type": "response.reasoning_text.delta", "delta": "Hm"}
    for protocol, event in ((MESSAGES, thinking), (CHAT, delta), (RESPONSES, reasoned)):
        said = Said()
        protocol.hear(said, json.dumps(event))
        assert said.content == "Hm"


def test_the_gate_asks_in_every_protocol_that_the_engine_speaks(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, refuse = list[str](), dict[str, int]()
    post = fast_engine.Handler.do_POST

    def do_post(handler: fast_engine.Handler) -> None:
        asked.append(handler.path)
        if status := refuse.get(handler.path):
            handler.rfile.read(int(handler.headers["Content-Length"]))
            return handler.refuse(status, "no")
        return post(handler)

    monkeypatch.setattr(fast_engine.Handler, "do_POST", do_post)
    ask: dict[str, Any] = {"max_tokens": 8, "timeout": 5}
    answer = speaks("127.0.0.1", port, "tiny", **ask)
    assert answer.ok and answer.facts == {"protocols": list(PROTOCOLS)}
    assert asked == [COMPLETIONS.path, RESPONSES.path, MESSAGES.path]
    refuse[RESPONSES.path], refuse[MESSAGES.path] = 501, 404
    assert speaks("127.0.0.1", port, "tiny", **ask).facts == {"protocols": ["chat", "completions"]}
    refuse[RESPONSES.path] = 500
    failed = speaks("127.0.0.1", port, "tiny", **ask)
    assert not failed.ok and failed.text == 'asked at /v1/responses: HTTP 500: {"error": {"message": "no"}}'


@pytest.mark.parametrize("mode", ["other", "sumless", "lying", "breaks"])
def test_an_engine_that_is_wrong_in_a_further_protocol_only_does_not_pass(
    port: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = fast_engine.Handler.do_POST

    def do_post(handler: fast_engine.Handler) -> None:
        with monkeypatch.context() as only:
            if handler.path == COMPLETIONS.path:
                only.setattr(fast_engine, "MODE", mode)
            post(handler)

    monkeypatch.setattr(fast_engine.Handler, "do_POST", do_post)
    answer = speaks("127.0.0.1", port, "tiny", max_tokens=8, timeout=5)
    assert not answer.ok and answer.text.startswith("asked at /v1/completions: a ")


def test_a_load_in_all_protocols_takes_every_whole_answer_for_good_and_no_other(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> LoadGenerator:
        protocols = list(PROTOCOLS)
        with LoadGenerator(
            f"http://127.0.0.1:{port}/v1", "tiny", clients=2, pause=0, protocols=protocols
        ) as load:
            load.wait_for_answers(load.round)
        return load

    good = load()
    assert not good.bad, good.summary()
    asked = {(each.protocol, each.streamed, each.tokens) for each in good.outcomes}
    assert asked == set(itertools.product(PROTOCOLS, (True, False), (8, 96)))
    for mode in ("breaks", "lying", "error"):
        monkeypatch.setattr(fast_engine, "MODE", mode)
        bad = load()
        streamed = [each for each in bad.outcomes if each.streamed or mode != "breaks"]
        lost = [each for each in bad.bad if each in streamed]
        assert len(lost) == len(streamed), bad.summary()
        assert all(each.cut == (mode != "error") for each in lost), bad.summary()
