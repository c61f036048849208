"""What cannot start is refused, and each setting that is offered instead would do."""

from dataclasses import replace

import pytest

from components.catalogue import GIB, MODELS
from components.fit import (
    Choice,
    UnworkableSetting,
    counts,
    refused_budget,
    refused_count,
    refused_engine,
    refused_overlap,
)
from components.gpu_memory import GPUS, EngineKind, Load, both
from components.waiting import Bounds

SEVEN = MODELS["qwen-2.5-coder-7b"]
ON_T4 = Load(model=SEVEN, context=4096, parallel=both(4), gpu=GPUS["t4"])


def taken(load: Load, kind: EngineKind, choice: Choice) -> Load:
    """The load once a person has taken the choice."""
    match choice.key:
        case "context":
            return replace(load, context=int(choice.value))
        case key if key == f"parallel.{kind}":
            return load.with_parallel(kind, int(choice.value))
        case "gpuMemoryMiB":
            assert choice.value == "0"
            return replace(load, gpu_memory=None)
        case "hostMemoryGiB":
            return replace(load, host_memory=int(choice.value) * GIB)
        case "gpu":
            assert load.gpu
            return replace(load, gpu=replace(GPUS[choice.value], count=load.gpu.count))
        case "gpuCount":
            assert load.gpu
            return replace(load, gpu=replace(load.gpu, count=int(choice.value)))
        case key if key == f"quantization.{kind}":
            return load.with_quantization(
                kind,
                next(
                    each.quantization
                    for each in load.model.sources(kind)
                    if each.quantization == choice.value
                ),
            )
    raise AssertionError(f"unknown choice {choice}")


def refusal(kind: EngineKind, load: Load) -> UnworkableSetting:
    found = refused_engine(kind, load)
    assert found is not None
    return found


CASES: list[tuple[EngineKind, Load]] = [
    ("vllm", ON_T4.with_quantization("vllm", "fp16")),
    ("vllm", replace(ON_T4, model=MODELS["qwen-2.5-coder-14b"], context=32768, parallel=both(8))),
    ("vllm", replace(ON_T4, gpu_memory=6 * GIB)),
    ("ollama", replace(ON_T4, gpu_memory=6 * GIB)),
    ("ollama", replace(ON_T4, model=MODELS["qwen-2.5-coder-14b"], context=32768, parallel={})),
    ("ollama", replace(ON_T4, context=32768, parallel=both(8))),
    ("vllm", replace(ON_T4, gpu=None, host_memory=4 * GIB)),
    ("ollama", replace(ON_T4, gpu=None, host_memory=2 * GIB)),
    ("vllm", replace(ON_T4, host_memory=1 * GIB)),
]


@pytest.mark.parametrize(("kind", "load"), CASES)
def test_each_choice_that_is_offered_would_do(kind: EngineKind, load: Load) -> None:
    found = refusal(kind, load)
    assert found.choices
    for choice in found.choices:
        assert refused_engine(kind, taken(load, kind, choice)) is None, choice


@pytest.mark.parametrize(("kind", "load"), CASES)
def test_the_nearest_value_is_offered_and_the_next_would_not_do(kind: EngineKind, load: Load) -> None:
    steps = {"context": 256, f"parallel.{kind}": 1}
    for choice in refusal(kind, load).choices:
        if choice.key in steps:
            more = str(int(choice.value) + steps[choice.key])
            assert refused_engine(kind, taken(load, kind, Choice(choice.key, more))) is not None


def test_7b_in_fp16_does_not_fit_a_t4_and_the_sum_says_so() -> None:
    found = refusal("vllm", ON_T4.with_quantization("vllm", "fp16"))
    assert (found.key, found.value) == ("quantization.vllm", "fp16")
    assert "14.19 GiB weights (fp16)" in found.words and "14.56 GiB usable on" in found.words
    assert "quantization.vllm awq" in found.words and "gpu l4" in found.words
    assert Choice("quantization.vllm", "q").command == "pulumi config set --path quantization.vllm q"


def test_what_fits_is_not_refused() -> None:
    assert refused_engine("vllm", ON_T4) is None and refused_engine("ollama", ON_T4) is None


def test_a_model_is_divided_only_among_as_many_gpus_as_its_heads_allow() -> None:
    assert refused_count(replace(ON_T4, gpu=replace(GPUS["t4"], count=4))) is None
    found = refused_count(replace(ON_T4, gpu=replace(GPUS["t4"], count=8)))
    assert found and found.key == "gpuCount" and "28 attention heads and 4 KV heads" in found.why
    assert [each.value for each in found.choices] == ["1", "2", "4"]


def test_awq_is_divided_only_among_gpus_that_get_whole_groups_of_weights() -> None:
    small = replace(ON_T4, model=MODELS["qwen-2.5-coder-1.5b"], gpu=replace(GPUS["t4"], count=4))
    assert refused_count(small) is None, "at 16 bits there are no groups"
    found = refused_count(small.with_quantization("vllm", "awq-int4"))
    assert found and "rows of 1536 and 8960 weights in groups of 128 (awq-int4)" in found.why
    assert [each.value for each in found.choices] == ["1", "2"]
    of = {name: counts(replace(ON_T4, model=MODELS[f"qwen-2.5-coder-{name}"])) for name in ("7b", "14b")}
    assert of == {"7b": [1, 2, 4], "14b": [1, 2, 4]}, "of 14b, 8 GPUs would get 13.5 groups each"


def test_an_overlap_that_does_not_fit_is_refused_with_what_would() -> None:
    found = refused_overlap(replace(ON_T4, context=8192))
    assert found and [each.value for each in found.choices[:2]] == ["hold", "auto"]
    small = replace(ON_T4, model=MODELS["qwen-2.5-coder-0.5b"])
    assert refused_overlap(small) is None
    assert refused_overlap(replace(ON_T4, gpu=None)) is None, "nothing is known of the host's RAM"


def test_a_budget_below_the_worst_wait_is_refused_and_each_way_out_is_one() -> None:
    bounds = Bounds(drain=120, load=300, completions=3)
    assert refused_budget(bounds.worst, bounds) is None
    found = refused_budget(bounds.worst - 1, bounds)
    assert found and [each.key for each in found.choices] == [
        "holdBudgetSeconds", "loadSeconds", "drainSeconds",
    ]  # fmt: skip
    budget, load, drain = (int(each.value) for each in found.choices)
    assert refused_budget(budget, bounds) is None
    assert refused_budget(bounds.worst - 1, replace(bounds, load=load)) is None
    assert refused_budget(bounds.worst - 1, replace(bounds, drain=drain)) is None


def test_no_way_out_that_is_not_one_is_offered() -> None:
    found = refused_budget(60, Bounds(drain=600, load=3000, completions=3))
    assert found and not found.choices and "no single setting" in found.words
