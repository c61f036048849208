"""What is typed where an engine fails its gate in the words of a known trap."""

from dataclasses import replace

from common import ROOT
from components import vllm_flags
from components.catalogue import GIB, MIB, MODELS
from components.gate import GATE_MAX_TOKENS, gate_prompt
from components.gpu_memory import GPUS, KINDS, EngineKind, Load, engine_sum
from components.traps import traps
from stacks.settings import Settings, from_values
from switch.machine.traps import hints
from switch.plan import Gate

SEVEN = Load(model=MODELS["qwen-2.5-coder-7b"], context=8192, gpu=GPUS["t4"])
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of 14 GiB"


def said(kind: EngineKind, of: Load, words: str, flags: tuple[str, ...] = ()) -> list[str]:
    """What the switch says where an engine says these words."""
    known = tuple(traps(kind, of, flags))
    return hints(Gate(completions=1, max_tokens=1, timeout=1, tokens_per_second=0, traps=known), words)


def settings(**values: object) -> Settings:
    given = {"engine": "vllm", "target": "docker", "model": "qwen-2.5-coder-7b", "gpu": "t4", "context": 8192}
    return from_values("local", {**given, **values}, ROOT)


def test_vllm_out_of_memory_names_the_setting_to_lower_and_by_how_much_and_that_works() -> None:
    (hint,) = said("vllm", SEVEN, OOM.format("224.00 MiB"))
    assert "lower `gpuMemoryMiB` from 13885 to 13373" in hint
    assert hint.endswith("pulumi config set gpuMemoryMiB 13373")
    less = settings(gpuMemoryMiB="13373").load
    assert engine_sum("vllm", SEVEN).total - engine_sum("vllm", less).total >= 512 * MIB - MIB
    assert engine_sum("vllm", less).requests >= 40
    (hint,) = said("vllm", less, OOM.format("1.02 GiB"))
    assert "from 13373 to 12328" in hint


def test_ollama_partly_on_the_cpu_is_told_how_many_requests_fewer() -> None:
    (hint,) = said("ollama", SEVEN, "3.1 of 4.4 GiB of the model are on the GPU, and the rest on the CPU")
    assert "lower `parallel.ollama` from 8 to 6, which takes" in hint
    assert hint.endswith("pulumi config set --path parallel.ollama 6")
    fewer = settings(parallel={"ollama": "6"}).load
    assert engine_sum("ollama", fewer).total < engine_sum("ollama", SEVEN).total - GIB
    (hint,) = said("ollama", SEVEN.with_parallel("ollama", 1), "CUDA error: out of memory")
    assert hint.endswith("pulumi config set context 6144")


def test_on_a_cpu_it_is_the_hosts_ram() -> None:
    for kind in KINDS:
        (hint,) = said(kind, replace(SEVEN, gpu=None), f"{kind} exited (out of memory) while it was loading")
        assert f"lower `parallel.{kind}` from 4 to 3" in hint


def test_kernels_that_a_t4_can_fall_back_to_are_named_and_may_be_set() -> None:
    words = ("it says one thing over and over: '!!!!!!!!'", "OutOfResources: out of resource: shared memory")
    kernels, attention = (said("vllm", SEVEN, each, ("--enforce-eager",)) for each in words)
    assert "pulumi config set --path 'vllmFlags[1]' -- '--linear-backend triton'" in kernels[0]
    assert "'--attention-backend FLEX_ATTENTION'" in attention[0]
    flags = ["--linear-backend triton", "--attention-backend FLEX_ATTENTION", "--enforce-eager"]
    assert not vllm_flags.refusals(flags, GPUS["t4"])
    assert settings(vllmFlags=flags).vllm_flags == tuple(flags)
    assert not said("vllm", replace(SEVEN, gpu=GPUS["l4"]), words[0])


def test_nothing_is_guessed_where_no_trap_is_named() -> None:
    for kind in KINDS:
        for gpu in (None, GPUS["t4"]):
            assert not said(kind, replace(SEVEN, gpu=gpu), "HTTP 404: no such model")


def test_the_gates_long_prompt_is_longer_than_two_chunks_and_never_longer_than_the_context() -> None:
    assert gate_prompt(SEVEN) > 2 * 2048
    for context in (256, 1024, 4096, 8192):
        for gpu in (None, GPUS["t4"]):
            assert 0 < gate_prompt(replace(SEVEN, context=context, gpu=gpu)) + GATE_MAX_TOKENS < context
    assert gate_prompt(replace(SEVEN, gpu=None)) == 256
