"""The plain gateway takes what the project renders and asks, and refuses what the real one refuses."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from common import ROOT
from components import tensorzero
from components.tensorzero import ChatModel, GatewayConfig, Provider, Timeouts
from proxy import gateway
from switch.gate import complete
from switch.plan import EngineKind
from tests.support import fast_engine, plain_gateway
from tests.support.listening import listening
from tests.support.plain_gateway import BadConfig, read

GOLDEN = ROOT / "tests" / "unit" / "golden"
QUESTION: dict[str, Any] = json.loads(gateway.question("tiny", "1.2", stream=False))


@pytest.fixture
def engine() -> Iterator[int]:
    with listening(fast_engine.Handler) as server:
        yield server.server_port


def config(engine: int) -> str:
    """For an engine at this port, behind one that does not listen."""
    ports: dict[EngineKind, int] = {"ollama": 1, "vllm": engine}
    providers = tuple(
        Provider(kind=kind, api_base=f"http://127.0.0.1:{port}/v1/", model_name="tiny")
        for kind, port in ports.items()
    )
    times = Timeouts(total=60, first_token=30, stream=60)
    model = ChatModel(name="tiny", providers=providers, timeouts=times)
    return tensorzero.render(GatewayConfig(models=(model,)))


@pytest.fixture
def port(engine: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(plain_gateway, "config", read(config(engine)))
    with listening(plain_gateway.Handler) as server:
        yield server.server_port


def answer(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str, Any]:
    """Status, the methods that are allowed where it says so, and what is said."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        said = connection.getresponse()
        text = said.read()
        return said.status, said.getheader("Allow", ""), json.loads(text) if text else None
    finally:
        connection.close()


def ask(port: int, **changed: Any) -> tuple[int, Any]:
    """What it answers to the proxy's question with these changes."""
    asked = {key: value for key, value in {**QUESTION, **changed}.items() if value is not None}
    status, _, said = answer(port, "POST", tensorzero.CHAT_PATH, json.dumps(asked).encode())
    return status, said


def test_it_takes_what_the_project_renders_and_the_active_engine_is_first() -> None:
    for file in ("gateway-ollama.toml", "gateway-vllm-alone.toml"):
        text = (GOLDEN / file).read_text()
        ((_, (first, *others)),) = read(text).models.items()
        assert ("ollama" if others else "vllm") in first.api_base
        assert read(text) != read(text + "\n")


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("[gateway]", "[gateway", "Expected"),
        ("[gateway]", "[gateways]", "unknown field `gateways`"),
        ("[gateway]", "[gateway]\nauth = {enabled = true}", "unknown field `auth`"),
        ('routing = ["ollama", "vllm"]', 'routing = ["ollama"]', "routing is ['ollama']"),
        ('routing = ["ollama", "vllm"]', 'routing = ["ollama", "vllm", "tgi"]', "and the providers are"),
        ('routing = ["ollama", "vllm"]', "", "missing field `routing`"),
        ('routing = ["ollama", "vllm"]', 'routing = ["ollama", "vllm"]\nretries = 1', "field `retries`"),
        ('model_name = "tiny"', "", "missing field `model_name`"),
        ('type = "vllm"', 'type = "ollama"', "a test double for vllm"),
        ("total_ms = 60000", "total_ms = 60001", "is 60001, beyond the bound of 60000"),
    ],
)
def test_a_configuration_with_which_the_real_one_does_not_start_is_refused(
    was: str, becomes: str, said: str
) -> None:
    good = config(8000)
    assert was in good and read(good)
    with pytest.raises(BadConfig, match=said.replace("[", r"\[")):
        read(good.replace(was, becomes))


def test_what_the_switch_and_the_proxy_ask_is_answered(port: int) -> None:
    name = tensorzero.qualified("tiny")
    for stream in (False, True):
        ask_it = {"stream": stream, "max_tokens": 8, "timeout": 10.0, "same_model": False}
        said = complete("127.0.0.1", port, tensorzero.CHAT_PATH, name, **ask_it)  # type: ignore[arg-type]
        assert said.ok, said.text
    assert ask(port)[0] == 200
    status, _, said = answer(port, "GET", tensorzero.STATUS_PATH)
    assert status == 200 and {"version", "config_hash"} <= said.keys()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "tiny"}, "must start with `tensorzero::model_name::`"),
        ({"model": tensorzero.qualified("other")}, "'other' not found in model table"),
        ({"model": tensorzero.qualified("")}, "'' not found in model table"),
        ({"model": None}, "missing or wrong field"),
        ({"messages": None}, "missing or wrong field"),
        ({"messages": "-"}, "missing or wrong field"),
        ({"messages": [{"role": "robot", "content": "-"}]}, "a role that is none"),
        ({"n": 2}, "does not support `n` other than 1"),
    ],
)
def test_a_request_that_the_real_one_refuses_is_refused(
    port: int, changed: dict[str, Any], said: str
) -> None:
    status, error = ask(port, **changed)
    assert status == 400 and said in error["error"]["message"]


def test_what_is_no_json_object_is_a_bad_request(port: int) -> None:
    for body in (b"", b"{", b"[]", b'"text"', b"\xff"):
        status, _, said = answer(port, "POST", tensorzero.CHAT_PATH, body)
        assert status == 400 and said["error"]["message"], body


def test_no_other_path_and_no_other_method_is_served(port: int) -> None:
    for path in ("/v1/chat/completions", "/openai/v1/models", "/openai/v1/completions", "/"):
        found = answer(port, "POST", path, json.dumps(QUESTION).encode())
        assert found == (404, "", {"error": f"Route not found: POST {path}"})
    assert answer(port, "GET", tensorzero.CHAT_PATH) == (405, "POST", None)
    assert answer(port, "POST", tensorzero.STATUS_PATH, b"{}") == (405, "GET", None)


def test_where_no_engine_answers_it_is_a_bad_gateway(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_engine, "MODE", "error")
    assert ask(port)[0] == 502
