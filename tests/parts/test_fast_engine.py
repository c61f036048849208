"""The engine made for tests does what a prompt tells it, in every protocol in which agents ask, and refuses
what a real one refuses."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.protocols import ENGINES
from switch.protocols import PROTOCOLS
from tests.support import fast_engine
from tests.support.fast_engine import prompt_of, told
from tests.support.listening import listening

CALL = '[[call read {"path": "a.txt"}]]'
TOOL = {"name": "read", "description": "", "parameters": {}}
FIRST: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": CALL}], "tools": [{"function": TOOL}]},
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": CALL}]}],
        "tools": [{"type": "function", **TOOL}],
    },
    "messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": CALL}]}],
        "tools": [{"name": "read", "input_schema": {}}],
    },
}
RESULT: dict[str, dict[str, Any]] = {
    "chat": {"role": "tool", "content": "grey"},
    "responses": {"type": "function_call_output", "output": "grey"},
    "messages": {
        "role": "user",
        "content": [{"type": "tool_result", "content": [{"type": "text", "text": "grey"}]}],
    },
}


def does(asked: dict[str, Any]) -> tuple[str, tuple[str, str] | None] | None:
    return told(asked, prompt_of(asked))


@pytest.mark.parametrize("protocol", FIRST)
def test_it_calls_the_tool_that_it_is_told_and_then_says_what_that_gave(protocol: str) -> None:
    asked = FIRST[protocol]
    assert does(asked) == ("", ("read", '{"path": "a.txt"}'))
    given = "input" if protocol == "responses" else "messages"
    assert does({**asked, given: [*asked[given], RESULT[protocol]]}) == ("read gave: grey", None)


def test_it_says_what_it_is_told_quoted_or_not_and_calls_nothing_that_it_was_not_given() -> None:
    for prompt in ('[[say "a b"]]', '"[[say \\"a b\\"]]"', 'First [[say "c"]], no: [[say "a b"]].'):
        assert told({}, prompt) == ("a b", None)
    assert told({}, CALL) == ("There is no read.", None)
    for prompt in ("Hello.", "[[say nothing]]", '[[say "a"', "[[call read {]]"):
        assert told({}, prompt) is None


@pytest.fixture
def port() -> Iterator[int]:
    with listening(fast_engine.Handler) as server:
        yield server.server_port


JSON = {"Content-Type": "application/json"}
SAID = [{"role": "user", "content": "-"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID, "model": "tiny"},
    "/v1/completions": {"prompt": "-", "model": "tiny"},
    "/v1/responses": {"input": "-", "model": "tiny"},
    "/v1/messages": {"messages": SAID, "model": "tiny", "max_tokens": 8},
    "/v1/messages/count_tokens": {"messages": SAID, "model": "tiny"},
    "/v1/embeddings": {"input": "-", "model": "tiny"},
}
"""The least that each path takes."""


def answer(
    port: int, method: str, path: str, body: object = None, headers: dict[str, str] = JSON
) -> tuple[int, str, bytes]:
    """Status, the methods that are allowed where it says so, and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, raw, headers)
        said = connection.getresponse()
        return said.status, said.getheader("Allow", ""), said.read()
    finally:
        connection.close()


def test_it_takes_at_each_path_what_the_proxy_asks_of_engines_and_the_gate_asks(port: int) -> None:
    assert GOOD.keys() == ENGINES.keys()
    for path, body in GOOD.items():
        assert answer(port, "POST", f"{path}?a=b", body)[0] == 200, path
        assert answer(port, "POST", path, {**body, "model": "another"})[0] == 404, path
    for protocol in PROTOCOLS.values():
        asked = protocol.ask("tiny", "-", max_tokens=8, stream=False)
        assert answer(port, "POST", protocol.path, asked)[0] == 200, protocol.path
    for path in ("/", "/health", "/v1/models", "/metrics", "/api/ps"):
        assert answer(port, "GET", path)[0] == 200, path


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat", "/v1/chat/completions/", "/v1/files", "/crash"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_no_engine_has_is_not_found(port: int, method: str, path: str) -> None:
    body = GOOD["/v1/chat/completions"] if method == "POST" else None
    assert answer(port, method, path, body) == (404, "", b'{"detail": "Not Found"}')


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *((method, path, "POST") for path in GOOD for method in ("GET", "PUT")),
        *((method, "/v1/models", "GET") for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
        ("POST", "/health", "GET"),
    ],
)
def test_another_method_is_not_allowed(port: int, method: str, path: str, allowed: str) -> None:
    assert answer(port, method, path) == (405, allowed, b'{"detail": "Method Not Allowed"}')


@pytest.mark.parametrize("path", GOOD)
def test_what_is_no_json_object_with_what_the_path_needs_is_a_bad_request(port: int, path: str) -> None:
    good = GOOD[path]
    for body in (b"", b"{", b"[]", b'"text"', b"1", b"null", b"\xff"):
        assert answer(port, "POST", path, body)[0] == 400, body
    for field in fast_engine.NEEDED[path]:
        assert answer(port, "POST", path, {**good, field: None})[0] == 400, field
        assert f"{field}: Field required" in answer(port, "POST", path, good | {field: []})[2].decode()
    for kind in ({}, {"Content-Type": "text/plain"}):
        assert b"Only 'application/json' is allowed" in answer(port, "POST", path, good, kind)[2]


def test_an_answer_of_no_tokens_cant_be_asked_for(port: int) -> None:
    assert answer(port, "POST", "/v1/chat/completions", {"messages": SAID, "max_tokens": 0})[0] == 400
