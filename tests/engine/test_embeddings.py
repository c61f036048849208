"""An embedding model on both engines: its gate, the endpoint, and a flip there and back."""

import json
import math
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.stack import deployed
from components.catalogue import MODELS

pytestmark = pytest.mark.engine

MODEL = MODELS["tiny-embedding"]


def asked(endpoint: str, path: str, **body: object) -> tuple[int, Any]:
    """Status and body of an answer of the endpoint."""
    request = urllib.request.Request(
        f"{endpoint}/{path}",
        json.dumps({"model": MODEL.name, **body}).encode(),
        {"Content-Type": "application/json", "X-Tenant-ID": "test"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def vectors(endpoint: str) -> list[list[float]]:
    status, answer = asked(endpoint, "embeddings", input=["the sea", "a function of two numbers"])
    assert status == 200, answer
    assert answer["usage"]["prompt_tokens"] > 2
    return [each["embedding"] for each in answer["data"]]


def similar(one: list[float], other: list[float]) -> float:
    """Their cosine: engines may give vectors of another length, which means the same."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def test_embeddings_are_served_by_both_engines_and_mean_the_same(tmp_path: Path) -> None:
    with deployed(
        "embeddings",
        engine="ollama",
        model=MODEL.name,
        gateway="none",
        parallel={"vllm": 4},
        cutover="hold",
    ) as project:
        endpoint = str(project.outputs()["endpoint"])
        of_ollama = vectors(endpoint)
        project.configure(engine="vllm")
        project.up()
        of_vllm = vectors(endpoint)
        for each in (of_ollama, of_vllm):
            assert [len(vector) for vector in each] == [MODEL.hidden] * 2 and each[0] != each[1]
        assert all(similar(*pair) > 0.9 for pair in zip(of_ollama, of_vllm, strict=True))
        status, _ = asked(endpoint, "chat/completions", messages=[{"role": "user", "content": "Hi."}])
        assert status in (400, 404, 501), "as vLLM itself says it"
        assert project.changes() == {}
