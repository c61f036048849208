"""The proxies' routing: the same bytes for the same data, and one line per change of engine."""

import difflib
import tomllib
from pathlib import Path
from typing import Any

from components import engines, routing
from components.catalogue import MODELS
from components.gpu_memory import EngineKind, Load, both
from proxy.route import Limits

GOLDEN = Path(__file__).parent / "golden"
LIMITS = Limits(
    hold_seconds=1080, first_token_seconds=300, answer_seconds=600, request_bytes=16 * 1024 * 1024
)
GATEWAY = routing.RoutingGateway(kind="tensorzero", port=3000)


def rendered(*kinds: EngineKind, **changes: Any) -> str:
    load = Load(model=MODELS["qwen-2.5-coder-0.5b"], context=4096, parallel=both(4), gpu=None)
    values: dict[str, Any] = {
        "name": "qwen-2.5-coder-0.5b",
        "engines": tuple(engines.build(kind, load) for kind in kinds),
        "gateway": GATEWAY,
        "limits": LIMITS,
    }
    return routing.render(routing.Routing(**values | changes))


def test_the_text_is_the_reviewed_one() -> None:
    assert rendered("ollama", "vllm") == (GOLDEN / "routing.toml").read_text()


def test_a_flip_of_the_engine_changes_exactly_one_line() -> None:
    for gateway in (GATEWAY, None):
        old, new = (rendered(*order, gateway=gateway) for order in (("ollama", "vllm"), ("vllm", "ollama")))
        changes = [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "+-"]
        assert [line[:11] for line in changes] == ["- engines =", "+ engines ="]


def test_a_name_with_a_dot_is_one_key_and_no_table_of_its_own() -> None:
    assert list(tomllib.loads(rendered("vllm"))["models"]) == ["qwen-2.5-coder-0.5b"]


def test_each_engine_is_told_once_with_what_it_calls_the_model() -> None:
    told = tomllib.loads(rendered("vllm", "ollama"))
    assert sorted(told["models"]["qwen-2.5-coder-0.5b"]["engines"]) == list(told["engines"])
    assert {each["model"] for each in told["engines"].values()} == {"qwen-2.5-coder-0.5b"}
    assert {each["context"] for each in told["engines"].values()} == {4096}


def test_without_a_gateway_none_is_told() -> None:
    assert "gateway" not in tomllib.loads(rendered("vllm", gateway=None))


def test_a_few_more_requests_are_at_an_engine_than_it_works_on() -> None:
    def at_a_time(kind: EngineKind, parallel: int) -> int:
        load = Load(model=MODELS["tiny"], context=1024, parallel=both(parallel), gpu=None)
        return engines.build(kind, load).at_a_time

    assert [at_a_time("ollama", parallel) for parallel in (1, 4, 8, 16, 64)] == [3, 6, 10, 20, 80]
    assert [at_a_time("vllm", parallel) for parallel in (1, 4, 8, 16, 64)] == [5, 8, 12, 20, 80]
