"""The sums agree with figures that were published or computed elsewhere."""

import pytest

from components.catalogue import GIB, MODELS
from components.cutover_mode import choose
from components.gpu_memory import T4, engine_sum, kv_cache_bytes, weights_bytes

SEVEN = MODELS["qwen-2.5-coder-7b"]


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
    words = engine_sum("vllm", SEVEN, context=8192, parallel=4).words
    assert words == (
        "5.19 GiB weights (awq-int4) + 1.75 GiB KV cache (56 KiB × 8192 tokens × 4 requests) "
        "+ 1.30 GiB overhead = 8.24 GiB"
    )


def test_both_7b_engines_do_not_fit_a_t4_together_so_it_holds() -> None:
    cutover = choose("auto", SEVEN, context=8192, parallel=4, gpu=T4)
    assert cutover.mode == "hold"
    assert cutover.reason == "15.35 GiB for both engines, 14.56 GiB usable on NVIDIA T4: one at a time"


def test_both_small_engines_fit_a_t4_so_they_overlap() -> None:
    assert choose("auto", MODELS["qwen-2.5-coder-0.5b"], context=4096, parallel=4, gpu=T4).mode == "overlap"


def test_a_mode_that_was_asked_for_is_taken() -> None:
    assert choose("hold", MODELS["tiny"], context=1024, parallel=1, gpu=T4).mode == "hold"
    assert choose("overlap", MODELS["tiny"], context=1024, parallel=1, gpu=None).mode == "overlap"


def test_without_a_gpu_it_holds() -> None:
    assert choose("auto", MODELS["tiny"], context=1024, parallel=1, gpu=None).mode == "hold"
