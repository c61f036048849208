"""The sums agree with figures that were published or computed elsewhere."""

import math
from dataclasses import replace

import pytest

from components.catalogue import GIB, MODELS
from components.cutover_mode import Cutover, choose, mode_changed, sums_of
from components.gpu_memory import (
    CUDA_CONTEXT,
    CUDA_GRAPH,
    GPUS,
    KINDS,
    MARGIN,
    SAMPLER_BYTES,
    SERVICES_RAM,
    TYPICAL_TOKENS,
    Load,
    both,
    cuda_graphs,
    engine_sum,
    kv_cache_bytes,
    vllm_share,
    weights_bytes,
)
from components.waiting import Bounds

SEVEN = MODELS["qwen-2.5-coder-7b"]
T4 = GPUS["t4"]
ON_T4 = Load(model=SEVEN, context=8192, parallel=both(4), gpu=T4)
SMALL_ON_T4 = Load(model=MODELS["qwen-2.5-coder-0.5b"], context=4096, parallel=both(4), gpu=T4)
TINY_ON_CPU = Load(model=MODELS["tiny"], context=1024, parallel=both(1), gpu=None)


def auto(load: Load) -> Cutover:
    return choose("auto", "vllm", load, Bounds(drain=120, load=300, completions=3))


@pytest.mark.parametrize(("size", "kib"), [("0.5b", 12), ("1.5b", 28), ("3b", 36), ("7b", 56), ("14b", 192)])
def test_kv_cache_per_token(size: str, kib: int) -> None:
    assert MODELS[f"qwen-2.5-coder-{size}"].kv_bytes_per_token == kib * 1024


def test_7b_weights_are_those_that_were_published() -> None:
    assert weights_bytes(SEVEN, "fp16") / GIB == pytest.approx(14.19, abs=0.01)
    assert weights_bytes(SEVEN, "awq-int4") / GIB == pytest.approx(5.19, abs=0.01)
    assert weights_bytes(SEVEN, "q4_k_m") == pytest.approx(4.7e9, rel=0.01)


def test_7b_at_16k_takes_seven_eighths_of_a_gib_a_request() -> None:
    assert kv_cache_bytes(SEVEN, context=16384, parallel=2) == 2 * 0.875 * GIB


def test_the_sum_is_written_out() -> None:
    assert engine_sum("vllm", ON_T4).words == (
        "5.19 GiB weights (awq-int4) + 1.75 GiB KV cache (56 KiB × 32768 tokens) "
        "+ 1.42 GiB overhead = 8.36 GiB"
    )


@pytest.mark.parametrize(
    ("size", "context", "parallel", "least"),
    [
        ("0.5b", 256, 1, 1.22),
        ("0.5b", 4096, 4, 1.56),
        ("0.5b", 16384, 8, 6.59),
        ("1.5b", 256, 1, 1.78),
        ("1.5b", 4096, 4, 2.37),
        ("1.5b", 8192, 4, 3.32),
        ("3b", 4096, 4, 3.56),
        ("7b", 256, 1, 5.25),
        ("7b", 4096, 1, 5.61),
        ("7b", 4096, 4, 6.71),
        ("7b", 8192, 4, 8.75),
        ("7b", 32768, 1, 8.75),
        ("7b", 16384, 4, 12.81),
        ("14b", 4096, 4, 13.26),
    ],
)
def test_ollama_had_its_model_wholly_on_an_h100_with_as_much_free_as_the_sum_says(
    size: str, context: int, parallel: int, least: float
) -> None:
    load = Load(
        model=MODELS[f"qwen-2.5-coder-{size}"], context=context, parallel=both(parallel), gpu=GPUS["h100"]
    )
    spare = {"0.5b": 0.26, "1.5b": 0.26, "3b": 0.01, "7b": 0.32, "14b": 0.50}[size]
    assert least - 0.005 <= engine_sum("ollama", load).total / GIB <= least + spare


def test_each_of_several_gpus_keeps_room_for_a_layer_of_ollama_more() -> None:
    one, two = (engine_sum("ollama", replace(ON_T4, gpu=replace(T4, count=count))) for count in (1, 2))
    layer = (one.weights + one.kv_cache) / SEVEN.layers
    assert two.overhead - one.overhead == pytest.approx(layer, abs=1)


def test_gpus_share_weights_and_kv_cache_and_each_has_its_overhead() -> None:
    one, two = engine_sum("vllm", ON_T4), engine_sum("vllm", replace(ON_T4, gpu=replace(T4, count=2)))
    assert two.weights * 2 == pytest.approx(one.weights, abs=2)
    assert two.kv_cache * 2 == pytest.approx(one.kv_cache, abs=2)
    assert two.overhead == one.overhead
    assert two.host > one.host
    assert two.words.endswith("on each of 2 GPUs")


def test_more_gpus_than_kv_heads_hold_copies_of_the_cache() -> None:
    small = replace(SMALL_ON_T4, model=MODELS["qwen-2.5-coder-3b"])
    two, four = (engine_sum("vllm", replace(small, gpu=replace(T4, count=count))) for count in (2, 4))
    assert small.model.kv_heads == 2
    assert four.kv_cache == two.kv_cache
    assert four.weights < two.weights


def test_on_a_cpu_the_sum_is_the_hosts_and_vllms_cache_comes_in_whole_gib() -> None:
    for kind in KINDS:
        assert engine_sum(kind, TINY_ON_CPU).host == engine_sum(kind, TINY_ON_CPU).total
    assert engine_sum("vllm", TINY_ON_CPU).kv_cache == GIB


def test_what_vllm_looks_for_at_its_start_is_free_beside_ollama_wherever_both_fit() -> None:
    for model in MODELS.values():
        for parallel in range(1, 65):
            for gpu in GPUS.values():
                load = Load(model=model, context=4096, parallel=both(parallel), gpu=gpu)
                sums = sums_of(load)
                free = gpu.usable - sums["ollama"].total - CUDA_CONTEXT
                if sum(each.total for each in sums.values()) <= gpu.usable:
                    assert vllm_share(load) * gpu.usable <= free


def test_both_7b_engines_do_not_fit_a_t4_together_so_it_holds() -> None:
    cutover = auto(ON_T4)
    assert cutover.mode == "hold"
    assert cutover.reason == (
        "both engines need 17.42 GiB, plus 1.00 GiB to spare, and there are 14.56 GiB usable on NVIDIA T4: "
        "one at a time"
    )


def test_both_small_engines_fit_a_t4_so_they_overlap_and_nobody_waits() -> None:
    cutover = auto(SMALL_ON_T4)
    assert cutover.mode == "overlap"
    assert cutover.expected == 0
    assert "wait: none, the old engine answers until the new one is ready" in cutover.lines


def test_a_change_of_one_engines_settings_is_added_up_as_two_of_it() -> None:
    load = replace(ON_T4, context=4096)
    bounds = Bounds(drain=120, load=300, completions=3)
    asked = choose("overlap", "vllm", load, bounds)
    assert asked.same["ollama"] == "by overlap if the old one and the new one fit"
    assert asked.same["vllm"].startswith(
        "refused while `cutover` is overlap, since the old one and the new one need 14.97 GiB, and"
    )
    roomy = auto(replace(load, gpu=GPUS["l4"], parallel={"ollama": 4, "vllm": 24}))
    assert roomy.mode == "overlap"
    assert roomy.same["vllm"].startswith(
        "by hold, since the old one and the new one need 24.13 GiB, and there are 21.95 GiB usable on NVIDIA "
        "L4; wait: 126 s = 10 s"
    )
    assert "2 s stopping vllm" in roomy.same["vllm"]
    assert f"other settings of vllm: {roomy.same['vllm']}" in roomy.lines
    assert not any("other settings" in line for line in auto(ON_T4).lines), "all goes by hold"


def test_a_host_without_the_ram_for_both_holds_although_the_gpu_has_room() -> None:
    cutover = auto(replace(SMALL_ON_T4, host_memory=int(6.25 * GIB)))
    assert cutover.mode == "hold"
    assert (
        "both engines and the services need 6.25 GiB, plus 1.00 GiB to spare, and there are 6.25 GiB of host "
        "RAM" in cutover.reason
    )


def test_a_mode_that_was_asked_for_is_taken() -> None:
    bounds = Bounds(drain=1, load=1, completions=1)
    assert choose("hold", "vllm", SMALL_ON_T4, bounds).mode == "hold"
    assert choose("overlap", "vllm", TINY_ON_CPU, bounds).mode == "overlap"


def test_on_a_cpu_the_hosts_ram_decides_and_without_it_it_holds() -> None:
    need = sum(each.total for each in sums_of(TINY_ON_CPU).values()) + SERVICES_RAM + MARGIN
    assert auto(TINY_ON_CPU).mode == "hold"
    assert auto(replace(TINY_ON_CPU, host_memory=need)).mode == "overlap"
    assert auto(replace(TINY_ON_CPU, host_memory=need - 1)).mode == "hold"


AUTO_ON_T4 = Load(model=SEVEN, context=8192, gpu=T4)


def test_the_default_on_a_t4_serves_forty_users_at_a_typical_length() -> None:
    vllm = engine_sum("vllm", AUTO_ON_T4)
    assert vllm.tokens // TYPICAL_TOKENS >= 40
    assert 40 <= vllm.requests <= 64
    assert AUTO_ON_T4.quantization_of("vllm") == "awq-int4"
    assert AUTO_ON_T4.quantization_of("ollama") == "q4_k_m"
    ollama = engine_sum("ollama", AUTO_ON_T4)
    assert ollama.requests == 8 and ollama.total <= T4.usable


def test_vllm_takes_what_is_left_of_the_gpu_but_a_margin_and_no_block_more() -> None:
    for model in MODELS.values():
        for gpu in GPUS.values():
            for count in (1, 2):
                load = Load(model=model, context=4096, gpu=replace(gpu, count=count))
                vllm = engine_sum("vllm", load)
                spare = gpu.usable - vllm.total
                if vllm.requests > 1:
                    assert MARGIN <= spare < MARGIN + 16 * model.kv_bytes_per_token
                    assert vllm.tokens >= vllm.requests * min(TYPICAL_TOKENS, load.context)


def test_graphs_and_sampler_grow_with_the_requests_at_a_time() -> None:
    assert [cuda_graphs(n) for n in (1, 2, 4, 32, 60, 256)] == [2, 3, 4, 11, 18, 51]
    small, large = (engine_sum("vllm", replace(AUTO_ON_T4, parallel={"vllm": n})) for n in (4, 48))
    assert large.overhead - small.overhead == 11 * CUDA_GRAPH + 44 * SAMPLER_BYTES * SEVEN.vocabulary


def test_a_number_for_one_engine_leaves_the_other_its_own() -> None:
    load = replace(AUTO_ON_T4, parallel={"vllm": 48})
    assert engine_sum("vllm", load).requests == 48
    assert engine_sum("ollama", load) == engine_sum("ollama", AUTO_ON_T4)


def test_a_small_number_takes_no_more_cache_than_it_can_fill() -> None:
    assert engine_sum("vllm", ON_T4).tokens == 4 * 8192
    assert engine_sum("vllm", replace(ON_T4, parallel={"vllm": 48})).tokens < 48 * 8192


def test_what_a_person_says_there_is_of_the_gpu_is_used_to_the_last_block() -> None:
    load = replace(AUTO_ON_T4, gpu_memory=12 * GIB)
    vllm = engine_sum("vllm", load)
    assert 0 <= 12 * GIB - vllm.total < 16 * SEVEN.kv_bytes_per_token
    assert engine_sum("ollama", load).requests < 8


def test_on_a_cpu_a_few_requests_are_enough_and_fewer_where_ram_is_short() -> None:
    seven = replace(AUTO_ON_T4, gpu=None)
    assert [engine_sum(kind, seven).requests for kind in KINDS] == [4, 4]
    need = engine_sum("ollama", replace(seven, parallel=both(2))).host + SERVICES_RAM
    assert engine_sum("ollama", replace(seven, host_memory=need)).requests == 2


def test_in_overlap_both_fit_at_once_and_it_is_said_what_that_costs() -> None:
    bounds = Bounds(drain=120, load=300, completions=3)
    for context in (4096, 8192):
        together = replace(AUTO_ON_T4, context=context, together=True)
        sums = sums_of(together)
        assert sum(each.total for each in sums.values()) + MARGIN <= T4.usable
        cutover = choose("overlap", "vllm", replace(together, together=False), bounds)
        assert cutover.mode == "overlap"
        (line,) = [line for line in cutover.lines if line.startswith("what overlap costs: ")]
        assert f"vllm has {sums['vllm'].requests} parallel requests instead of 58" in line
        assert f"ollama has {sums['ollama'].requests} parallel request" in line and "instead of 8," in line
    assert "overlap costs" not in "\n".join(auto(AUTO_ON_T4).lines)
    assert not choose("overlap", "vllm", TINY_ON_CPU, bounds).cost


def test_the_preview_says_how_much_each_engine_can_do() -> None:
    lines = auto(AUTO_ON_T4).lines
    assert (
        "at the same time, ollama: 8 requests, each with all of its 8192 tokens; any further one waits until "
        "one of these ends"
    ) in lines
    assert (
        "at the same time, vllm: up to 58 requests: 14 if each uses all of its 8192 tokens, 58 if each uses "
        "2048; if they average more than 2068 tokens, it preempts some and computes them again later; any "
        "further one waits until one of these ends"
    ) in lines


def test_a_stack_whose_auto_meant_overlap_is_told_once_that_it_means_hold() -> None:
    held, overlaps = auto(AUTO_ON_T4), auto(SMALL_ON_T4)
    said = mode_changed(held, "auto", "overlap")
    assert (
        "pulumi config set cutover overlap" in said
        and "an expected 125 s, and in the worst case 1012 s" in said
    )
    first = mode_changed(overlaps, "overlap", "hold")
    assert first.startswith("`cutover` was hold at the last update.") and "in the worst case" in first
    assert not mode_changed(overlaps, "overlap", "overlap") and not mode_changed(overlaps, "overlap", None)
    assert not mode_changed(held, "auto", "hold") and not mode_changed(held, "auto", None)
    assert not mode_changed(held, "hold", "overlap") and not mode_changed(overlaps, "auto", "overlap")


def test_on_a_cpu_vllm_keeps_a_block_for_itself_beside_the_requests_that_it_was_given() -> None:
    fourteen = Load(model=MODELS["qwen-2.5-coder-14b"], context=16384, gpu=None, parallel=both(1))
    whole = engine_sum("ollama", fourteen).kv_cache
    assert whole == 3 * GIB, "in whole GiB without a rest"
    assert engine_sum("vllm", fourteen).kv_cache == 4 * GIB
    for load in (fourteen, replace(fourteen, context=8192, parallel={}), TINY_ON_CPU):
        vllm = engine_sum("vllm", load)
        blocks = vllm.kv_cache // (128 * load.model.kv_bytes_per_token)
        assert blocks > vllm.requests * math.ceil(load.context / 128)


@pytest.mark.parametrize("kv_heads", [8, 32])
@pytest.mark.parametrize("vocabulary", [32_000, 128_256])
@pytest.mark.parametrize("context", [256, 4096, 8192])
def test_of_llama_and_mistral_as_much_is_free_as_ollama_wants_before_it_loads(
    kv_heads: int, vocabulary: int, context: int
) -> None:
    eight = replace(MODELS["qwen3-8b"], family="llama", kv_heads=kv_heads, vocabulary=vocabulary)
    batch, hidden, heads = min(512, context), eight.hidden, eight.attention_heads
    # `GraphSize` in fs/ggml/ggml.go of 0.17.4, `case "llama"`: the architecture of both in a GGUF
    full = max(4 * batch * (1 + 4 * hidden + context * (1 + heads)), 4 * batch * (hidden + vocabulary))
    partial = 4 * batch * hidden + max(
        4 * batch * (1 + hidden + max(context, hidden))
        + hidden * hidden * 9 // 16
        + 4 * context * (batch * heads + eight.head_dim * kv_heads),
        4 * batch * (hidden + vocabulary) + hidden * vocabulary * 105 // 128,
    )
    for family in ("llama", "mistral"):
        load = Load(model=replace(eight, family=family), context=context, parallel=both(1), gpu=GPUS["h100"])
        ollama = engine_sum("ollama", load)
        layer = (ollama.weights + ollama.kv_cache) // eight.layers
        assert ollama.overhead - 457 * 2**20 - layer >= max(full, partial)
