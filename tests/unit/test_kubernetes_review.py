"""What a review says of a change on a cluster."""

from typing import Any

import pytest

from components.facts import POD_BY_POD
from review.events import Change, Preview
from review.sentence import sentence

STEP = "command:local:Command"
OLD, NEW = "ollama-0a1b2c3d", "vllm-4e5f6a7b"


def changed(kind: str, name: str, before: Any = None, after: Any = None) -> Change:
    return Change(op="changed", type=kind, name=name, before=before or {}, after=after or {})


def preview(*changes: Change, engine: tuple[str, str] = ("ollama", "vllm")) -> Preview:
    outputs = {"cutover": POD_BY_POD, "endpoint": "http://fleet", "model": "chat"}
    return Preview(
        stack="fleet",
        config={},
        changes=changes,
        drift=(),
        resources=(),
        outputs_before={**outputs, "engine": engine[0]},
        outputs_after={**outputs, "engine": engine[1]},
        notes=(),
        warned=(),
    )


def step(before: str, after: str) -> Change:
    return changed(
        STEP, "prepare-step", {"environment": {"ENGINE": before}}, {"environment": {"ENGINE": after}}
    )


FOLLOW = (
    changed("kubernetes:core/v1:ConfigMap", "configmap-routing"),
    changed("kubernetes:apps/v1:Deployment", "deployment-proxy"),
    changed(STEP, "served"),
)


def test_a_flip_is_said_as_one_with_what_it_costs() -> None:
    said = sentence(preview(step(OLD, NEW), *FOLLOW))
    assert said.startswith("Engine of `fleet`: Ollama → vLLM, pod by pod, and no request waits as long as")
    assert said.endswith("back with `make rollback STACK=fleet`")


def test_other_settings_of_the_same_engine_are_no_flip() -> None:
    said = sentence(preview(step(OLD, "ollama-ffffffff"), *FOLLOW, engine=("ollama", "ollama")))
    assert said.startswith("Engine of `fleet`: Ollama stays and moves to")
    assert "pod by pod" in said


@pytest.mark.parametrize("change", FOLLOW)
def test_what_is_no_change_of_the_engine_says_that_it_stays(change: Change) -> None:
    said = sentence(preview(change, engine=("vllm", "vllm")))
    assert "the engine stays vLLM" in said
