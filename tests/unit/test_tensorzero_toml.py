"""The gateway's TOML: the same bytes for the same data, and one line per change of engine."""

import difflib
import tomllib
from pathlib import Path

import pytest

from components import tensorzero
from components.tensorzero import ChatModel, GatewayConfig, Provider, Timeouts
from switch.plan import EngineKind

GOLDEN = Path(__file__).parent / "golden"
NAME = "qwen-2.5-coder-7b"
TIMEOUTS = Timeouts(total=600, first_token=120.5, stream=900)


def providers(*kinds: EngineKind) -> tuple[Provider, ...]:
    return tuple(
        Provider(kind=kind, api_base=f"http://proxy:8001/{kind}-1a2b3c4d/v1/", model_name=NAME)
        for kind in kinds
    )


def config(*kinds: EngineKind) -> GatewayConfig:
    return GatewayConfig(models=(ChatModel(name=NAME, providers=providers(*kinds), timeouts=TIMEOUTS),))


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("gateway-ollama.toml", config("ollama", "vllm")),
        ("gateway-vllm-alone.toml", config("vllm")),
    ],
)
def test_the_text_is_the_reviewed_one(file: str, data: GatewayConfig) -> None:
    assert tensorzero.render(data) == (GOLDEN / file).read_text()


def test_a_flip_of_the_engine_changes_exactly_one_line() -> None:
    old, new = (tensorzero.render(config(*order)) for order in (("ollama", "vllm"), ("vllm", "ollama")))
    changes = [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "+-"]
    assert changes == ['- routing = ["ollama", "vllm"]', '+ routing = ["vllm", "ollama"]']


def test_a_name_with_a_dot_is_one_key_and_no_table_of_its_own() -> None:
    assert list(tomllib.loads(tensorzero.render(config("vllm")))["models"]) == [NAME]


def test_every_provider_is_routed_to_because_the_gateway_starts_with_no_other() -> None:
    model = tomllib.loads(tensorzero.render(config("vllm", "ollama")))["models"][NAME]
    assert sorted(model["routing"]) == sorted(model["providers"])


def test_both_engines_are_of_a_type_that_sends_max_tokens() -> None:
    model = tomllib.loads(tensorzero.render(config("vllm", "ollama")))["models"][NAME]
    assert {provider["type"] for provider in model["providers"].values()} == {"vllm"}


def test_the_gateways_own_bound_is_never_below_a_models_timeout() -> None:
    document = tomllib.loads(tensorzero.render(config("vllm")))
    assert document["gateway"]["global_outbound_http_timeout_ms"] == 900_000
    assert document["models"][NAME]["timeouts"]["streaming"] == {"ttft_ms": 120_500, "total_ms": 900_000}


def test_nothing_is_observed_and_nothing_is_reported() -> None:
    gateway = tomllib.loads(tensorzero.render(config("vllm")))["gateway"]
    assert gateway["observability"] == {"enabled": False}
    assert gateway["disable_pseudonymous_usage_analytics"] is True


def test_a_model_is_qualified_as_the_gateway_wants_it() -> None:
    assert tensorzero.qualified(NAME) == f"tensorzero::model_name::{NAME}"


@pytest.mark.parametrize("name", ["", "openai::gpt", "a/", "-a", "a b", "x" * 129])
def test_a_name_that_the_gateway_or_a_path_would_misread_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model name"):
        ChatModel(name=name, providers=providers("vllm"), timeouts=TIMEOUTS)


@pytest.mark.parametrize("kinds", [(), ("vllm", "vllm")])
def test_a_model_without_a_provider_or_with_one_twice_is_refused(kinds: tuple[EngineKind, ...]) -> None:
    with pytest.raises(ValueError, match="one or two providers"):
        ChatModel(name=NAME, providers=providers(*kinds), timeouts=TIMEOUTS)


@pytest.mark.parametrize("api_base", ["http://vllm:8000/v1", "vllm:8000/v1/", "http:///v1/"])
def test_a_base_url_that_would_lose_its_last_part_is_refused(api_base: str) -> None:
    with pytest.raises(ValueError, match="trailing slash"):
        Provider(kind="vllm", api_base=api_base, model_name=NAME)


def test_a_timeout_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="millisecond"):
        Timeouts(total=0, first_token=1, stream=1)


def test_no_model_and_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        GatewayConfig(models=())
    with pytest.raises(ValueError, match="different names"):
        GatewayConfig(models=config("vllm").models * 2)
