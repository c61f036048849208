"""Which flags of vLLM a person may add, and what is said of the others."""

import pytest

from components.gpu_memory import GPUS
from components.vllm_flags import OWN, REMOVED, SETTING, pairs, refusals, words

T4, L4 = GPUS["t4"], GPUS["l4"]


def test_flags_are_read_as_vllm_reads_them() -> None:
    given = ["--max-num-queued-reqs 32", "--kv_cache_dtype=auto", "--enable-sleep-mode", "--seed", "-1"]
    assert list(pairs(given)) == [
        ("--max-num-queued-reqs", "32"),
        ("--kv-cache-dtype", "auto"),
        ("--enable-sleep-mode", ""),
        ("--seed", "-1"),
    ]
    assert words(["--chat-template 'a b.jinja'"]) == ("--chat-template", "a b.jinja")
    assert refusals(given, T4) == []


@pytest.mark.parametrize("flag", REMOVED)
def test_a_flag_that_vllm_no_longer_has(flag: str) -> None:
    (found,) = refusals([f"{flag} 4"], None)
    assert "no longer has this flag" in found.why and found.setting is None


@pytest.mark.parametrize("flag", SETTING)
def test_a_flag_that_is_a_setting_is_answered_with_the_setting(flag: str) -> None:
    (found,) = refusals([f"{flag}=x"], None)
    assert found.setting == SETTING[flag] and f"`{SETTING[flag]}`" in found.why


@pytest.mark.parametrize("flag", OWN)
def test_a_flag_whose_memory_or_access_the_program_answers_for(flag: str) -> None:
    (found,) = refusals([f"{flag} 1"], None)
    assert found.why == OWN[flag]


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--kv-cache-dtype fp8", "FP8 needs 8.9"),
        ("--quantization fp8", "FP8 needs 8.9"),
        ("--dtype bfloat16", "bfloat16 needs 8.0"),
        ("--quantization bitsandbytes", "no longer has bitsandbytes"),
        ("--load-format gguf", "no longer has gguf"),
        ("--dtype float32", "the sum of memory assumes 16 bits"),
        ("--ssl-keyfile /key", "without TLS"),
        ("--hf-overrides.x 1 --port 1", "engines are reached only inside the stack"),
        ("--enable-log-requests", "it would write prompts into the log"),
        ("--enable_log_outputs", "it would write answers into the log"),
        ("--max-log-len=100", "it says how much of a prompt is logged"),
        ("max-num-seqs 4", "a flag must begin with --"),
        ("--chat-template 'open", "cannot be read as a command line"),
    ],
)
def test_what_a_t4_cannot_do_the_sum_does_not_count_or_a_log_must_not_have(flag: str, why: str) -> None:
    assert any(why in each.why for each in refusals([flag], T4))


@pytest.mark.parametrize("flag", [each for each in (*SETTING, *OWN) if each.startswith("--")])
def test_the_beginning_of_a_flag_is_refused_as_the_flag(flag: str) -> None:
    (found,) = refusals([f"{flag[:-1]} 1"], T4)
    assert found.why in [each.why for other in (*SETTING, *OWN) for each in refusals([other], T4)]


def test_a_value_that_is_refused_is_refused_after_the_beginning_of_its_flag() -> None:
    for flag, why in (("--dt float32", "16 bits"), ("--kv-cache-dt fp8", "8.9"), ("--load-f gguf", "gguf")):
        assert why in refusals([flag], T4)[0].why


def test_a_value_that_is_a_part_of_the_flag_is_seen() -> None:
    assert "FP8 needs 8.9" in refusals(["-qfp8"], T4)[0].why
    assert refusals(["-qawq"], L4)[0].setting == "quantization"
    assert refusals(["-n2"], L4)[0].setting == "gpuCount"


def test_what_is_no_part_of_a_reserved_flag_may_be_added() -> None:
    given = ["--config-format hf", "--max-logprobs 5", "--enable-sleep-mode", "-O3", "--model-impl auto"]
    assert refusals([*given, "--quantization-config {}", "-ac.backend TRITON_ATTN"], T4) == []


def test_a_newer_gpu_can_do_what_a_t4_cannot() -> None:
    assert refusals(["--kv-cache-dtype fp8", "--dtype bfloat16"], L4) == []
