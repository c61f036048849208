"""What the endpoint refuses by itself: in OpenAI's shape, with the field, before any engine is asked."""

import gzip
import json
import time

import pytest

from proxy.protocols import COUNT_TOKENS, ENGINES, MESSAGES, RESPONSES
from tests.conformance.asking import CHAT, body, read_all, request, sent
from tests.conformance.conftest import Recorded
from tests.support.way import MAX_BODY, Way, eventually

pytestmark = pytest.mark.engine

KEY, OTHER = "sk-acme~0123456789.abc+def==", "sk-globex-0123456789"


def refused(
    recorded: Recorded, status: int, code: str | None, param: str | None, *asked: object, **headers: str
) -> None:
    method, path, raw = asked
    answer = recorded.ask(str(method), str(path), raw if isinstance(raw, bytes) else None, **headers)
    error = answer.error
    assert (answer.status, error["code"], error["param"]) == (status, code, param), answer
    assert error["message"] and error["type"] == "invalid_request_error"
    assert not recorded.engine.records()


def test_what_is_no_request_is_refused_with_its_field(served: Recorded) -> None:
    for raw in (
        b"",
        b"not JSON",
        b"[]",
        b'{"model":"tiny"',
        b'{"model":"tiny"}x',
        b'{"model":"tiny","a":NaN}',
    ):
        refused(served, 400, "invalid_request", None, "POST", CHAT, raw)
    for raw in (b"{}", b'{"model":null}', b'{"model":7}', b'{"messages":[{"model":"tiny"}]}'):
        refused(served, 400, "invalid_request", "model", "POST", CHAT, raw)
    field = "tensorzero::extra_body"
    for name in (field, "\\u0074ensorzero::extra_body"):
        raw = f'{{"model":"tiny","{name}":[]}}'.encode()
        refused(served, 400, "invalid_request", field, "POST", CHAT, raw)


@pytest.mark.parametrize(
    "name", ["gpt-4o", "", "TINY", "tiny:latest", "tensorzero::model_name::tiny", "\ud800"]
)
def test_a_model_that_is_not_there_is_a_404_that_names_it(served: Recorded, name: str) -> None:
    raw = json.dumps({"model": name}).encode()
    refused(served, 404, "model_not_found", "model", "POST", CHAT, raw)
    refused(served, 404, "model_not_found", "model", "POST", "/v1/embeddings", raw)
    refused(served, 404, "model_not_found", "model", "GET", "/v1/models/gpt-4o", None)


def test_other_paths_methods_sizes_and_encodings_are_refused(served: Recorded) -> None:
    refused(served, 404, "not_found", None, "GET", "/v1/files", None)
    refused(served, 404, "not_found", None, "POST", "/openai/v1/chat/completions", body())
    refused(served, 404, "not_found", None, "GET", "/status", None)
    refused(served, 404, "not_found", None, "GET", "/metrics", None)
    refused(served, 405, "method_not_allowed", None, "GET", CHAT, None)
    refused(served, 405, "method_not_allowed", None, "POST", "/v1/models", body())
    packed = gzip.compress(body())
    refused(
        served,
        415,
        "unsupported_content_encoding",
        "Content-Encoding",
        "POST",
        CHAT,
        packed,
        Content_Encoding="gzip",
    )
    assert served.ask("GET", CHAT).headers["allow"] == "POST"


def test_a_body_that_is_too_large_is_refused_however_it_comes(served: Recorded) -> None:
    raw = body(x="y" * MAX_BODY)
    refused(served, 413, "request_too_large", None, "POST", CHAT, raw)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(raw), raw)
    with sent(
        served.way.port, request(CHAT, b"", "Transfer-Encoding: chunked", "Connection: close") + chunks
    ) as client:
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 413") and b"request_too_large" in answer
    left = MAX_BODY - len(body(x=""))
    largest = body(x="y1" * (left // 2) + "y" * (left % 2))
    assert len(largest) == MAX_BODY and served.post(largest).status == 200


@pytest.mark.parametrize("path", ENGINES)
def test_each_protocol_hears_it_in_its_own_shape(served: Recorded, path: str) -> None:
    def says(
        status: int, kind: str, param: str | None, raw: bytes, method: str = "POST", **headers: str
    ) -> None:
        answer = served.ask(method, path, raw, **headers)
        assert answer.status == status, answer
        if path in (MESSAGES, COUNT_TOKENS):
            assert answer.anthropic["type"] == kind and answer.anthropic["message"]
        else:
            assert (answer.error["type"], answer.error["param"]) == ("invalid_request_error", param)
        assert not served.engine.records()

    says(400, "invalid_request_error", None, b"[]")
    says(400, "invalid_request_error", "model", b"{}")
    says(404, "not_found_error", "model", b'{"model":"gpt-4o"}')
    says(405, "invalid_request_error", None, body(), method="PUT")
    says(415, "invalid_request_error", "Content-Encoding", gzip.compress(body()), Content_Encoding="gzip")
    served.way.keys(acme=KEY)
    try:
        says(401, "authentication_error", None, body())
        assert served.post(body(max_output_tokens=1), path, X_Api_Key=KEY).status == 200
    finally:
        served.way.keys()


SCHEMA = {"type": "json_schema", "schema": {"type": "string", "pattern": "^(?:a|b)$"}}
ENDS: dict[str, tuple[str, str, str, dict[str, object]]] = {
    "a run of letters": ("ollama", CHAT, "messages", {"x": "y" * 10_000}),
    "a pattern": ("ollama", CHAT, "response_format", {"response_format": {"json_schema": SCHEMA}}),
    "a pattern in a response": ("ollama", RESPONSES, "text", {"text": {"format": SCHEMA}}),
    "the prompt's probabilities": ("vllm", CHAT, "prompt_logprobs", {"prompt_logprobs": 1, "x": "y1" * 256}),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_an_engine_does_not_reach_it_and_reaches_the_other(served: Recorded, name: str) -> None:
    kind, path, field, fields = ENDS[name]
    raw = body(max_output_tokens=3, **fields)
    if served.engine.kind == kind:
        refused(served, 400, "invalid_request", field, "POST", path, raw)
    else:
        assert served.post(raw, path).status == 200 and served.engine.record().body == raw


def test_keys_decide_who_may_and_who_it_was_from_one_moment_to_the_next(served: Recorded) -> None:
    way = served.way
    try:
        way.keys(acme=KEY, globex=OTHER)
        for headers in (
            {},
            {"Authorization": "Bearer nobody"},
            {"X_Tenant_ID": "acme"},
            {"Authorization": KEY},
        ):
            for path in (CHAT, "/v1/models", "/v1/files"):
                refused(served, 401, "invalid_api_key", None, "POST", path, body(), **headers)
        answer = served.ask("GET", "/v1/models")
        assert answer.headers["www-authenticate"] == "Bearer"
        for almost in (KEY[:-1], KEY + "x", KEY.upper()):
            assert served.ask("GET", "/v1/models", Authorization=f"Bearer {almost}").status == 401
        assert served.post(body(), Authorization=f"Bearer {KEY}").status == 200
        assert served.post(body(), Authorization=f"bearer {OTHER}", X_Tenant_ID="acme").status == 200
        eventually(lambda: [line["tenant"] for line in way.access_log()[-2:]] == ["acme", "globex"])
        way.keys(globex=OTHER)
        assert served.post(body(), Authorization=f"Bearer {KEY}").status == 401
    finally:
        way.keys()
    assert served.post(body(), X_Tenant_ID="anybody").status == 200
    eventually(lambda: way.access_log()[-1]["tenant"] == "anybody")
    assert KEY not in json.dumps(way.access_log())


def test_models_are_listed_also_while_requests_are_held(served: Recorded) -> None:
    for held in (False, True):
        served.way.route(held=held)
        assert [model["id"] for model in json.loads(served.ask("GET", "/v1/models").body)["data"]] == ["tiny"]
        assert json.loads(served.ask("GET", "/v1/models/tiny").body)["object"] == "model"
    served.way.route()


def test_who_waited_as_long_as_there_is_patience_is_told_when_to_come_back() -> None:
    with Way(kinds=("vllm",), hold_seconds=2) as way:
        way.start_gateway()
        way.route(held=True)
        way.start_proxy()
        way.start_edge()
        began = time.monotonic()
        with sent(way.port, request(CHAT, body(), "Connection: close")) as client:
            answer = read_all(client)
        assert 2 <= time.monotonic() - began < 5
        assert answer.startswith(b"HTTP/1.1 503") and b"service_unavailable" in answer
        assert b"retry-after: " in answer.lower()
