"""What an engine's container is told, and what its name by content covers."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

from common import ROOT
from components import engines
from components.catalogue import MODELS, Model, ToolCalls
from components.engines import EngineSpec
from components.gpu_memory import GPUS, KINDS, Gpu, Load, both

T4 = GPUS["t4"]
SEVEN = MODELS["qwen-2.5-coder-7b"]
TINY = MODELS["tiny"]


def load(model: Model, context: int, parallel: int, gpu: Gpu | None) -> Load:
    return Load(model=model, context=context, parallel=both(parallel), gpu=gpu)


def option(spec: EngineSpec, name: str) -> str:
    return spec.command[spec.command.index(name) + 1]


def test_vllm_on_a_t4_gets_half_precision_and_its_memory_in_bytes() -> None:
    spec = engines.vllm(load(SEVEN, 8192, 4, T4))
    assert option(spec, "--dtype") == "half"
    assert option(spec, "--kv-cache-memory-bytes") == str(56 * 1024 * (8192 * 4 + 16))
    assert option(spec, "--max-model-len") == "8192"
    assert option(spec, "--max-num-seqs") == "4"
    assert option(spec, "--max-num-batched-tokens") == "2048"
    assert option(spec, "--tensor-parallel-size") == "1"
    assert option(spec, "--served-model-name") == "qwen-2.5-coder-7b"
    assert int(option(spec, "--shutdown-timeout")) > 0
    assert "--enable-prefix-caching" in spec.command
    assert spec.gpus == "all"
    assert spec.image.name == "vllm"


def test_vllm_never_gets_a_flag_that_it_no_longer_has() -> None:
    for gpu in (None, T4):
        assert "--swap-space" not in engines.vllm(load(SEVEN, 8192, 4, gpu)).command


def test_vllm_on_a_cpu_needs_no_gpu_and_gets_whole_gib() -> None:
    spec = engines.vllm(load(TINY, 4096, 4, None))
    assert spec.gpus is None
    assert spec.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert spec.image.name == "vllm-cpu"
    assert "--kv-cache-memory-bytes" not in spec.command


def test_both_engines_get_the_same_context_model_name_and_port() -> None:
    ollama = engines.ollama(load(SEVEN, 8192, 4, T4))
    vllm = engines.vllm(load(SEVEN, 8192, 4, T4))
    assert ollama.environment["OLLAMA_CONTEXT_LENGTH"] == option(vllm, "--max-model-len")
    assert ollama.environment["OLLAMA_HOST"].rsplit(":")[1] == option(vllm, "--port")
    assert f"/bin/ollama cp qwen2.5-coder:7b-instruct-q4_K_M {SEVEN.name}" in ollama.weights.script


COMMON = (
    "--gpu-memory-utilization", "--max-model-len", "--tensor-parallel-size", "--dtype",
    "--max-num-batched-tokens", "--enable-prefix-caching", "--max-num-seqs", "--swap-space", "--model",
)  # fmt: skip


def test_the_documentation_says_of_each_flag_of_a_common_command_what_is_set_in_its_place() -> None:
    text = (ROOT / "docs/engines.md").read_text()
    rows = dict(re.findall(r"^\| `(--[a-z-]+)[^|]* \| ([^|]+) \|", text, re.MULTILINE))
    assert rows.keys() == {*COMMON}
    spec = engines.vllm(Load(model=SEVEN, context=8192, gpu=T4))
    for flag in COMMON:
        if flag == "--enable-prefix-caching":
            assert rows[flag] == f"`{flag}`" and flag in spec.command
        elif flag not in ("--model", "--swap-space"):
            assert rows[flag] == f"`{flag} {option(spec, flag)}`"
    assert rows["--swap-space"] == "none" and "AWQ" in spec.weights.source and "AWQ" in rows["--model"]


def test_each_engine_works_on_its_own_number_of_requests_and_the_queue_before_it_follows() -> None:
    auto = Load(model=SEVEN, context=8192, gpu=T4)
    ollama, vllm = engines.ollama(auto), engines.vllm(auto)
    assert (ollama.environment["OLLAMA_NUM_PARALLEL"], ollama.parallel, ollama.at_a_time) == ("8", 8, 10)
    assert (option(vllm, "--max-num-seqs"), vllm.parallel, vllm.at_a_time) == ("58", 58, 72)
    four = load(SEVEN, 8192, 4, T4)
    assert [engines.build(kind, four).at_a_time for kind in KINDS] == [6, 8]


def test_vllm_takes_requests_with_tools_by_the_models_parser_where_it_has_one() -> None:
    for gpu in (None, T4):
        spec = engines.vllm(load(SEVEN, 8192, 4, gpu))
        assert "--enable-auto-tool-choice" in spec.command
        assert option(spec, "--tool-call-parser") == "hermes"
    assert not {"--enable-auto-tool-choice", "--tool-call-parser"} & {
        *engines.vllm(load(TINY, 1024, 1, None)).command
    }
    own = engines.vllm(load(SEVEN, 8192, 4, T4), ["--tool-call-parser pythonic"])
    assert own.command[-2:] == ("--tool-call-parser", "pythonic"), "the last of a flag counts"


def test_what_becomes_of_a_call_of_a_tool_is_said_in_one_line() -> None:
    both_find, one = (ToolCalls(vllm_parser="x", found_by=found, source="") for found in (KINDS, KINDS[1:]))
    assert both_find.words == "both engines recognise this model's tool calls"
    assert one.words == "only vllm recognises this model's tool calls; with ollama they arrive as text"
    assert SEVEN.tools and SEVEN.tools.words.startswith(
        "neither engine recognises this model's tool calls, which arrive as"
    )


def test_on_a_gpu_vllm_keeps_tritons_kernels_too() -> None:
    assert (
        engines.vllm(load(SEVEN, 8192, 4, T4)).environment["TRITON_CACHE_DIR"].startswith(engines.CACHE_MOUNT)
    )


def test_under_another_name_both_engines_keep_their_weights_and_are_other_engines() -> None:
    seven = load(SEVEN, 8192, 4, T4)
    for kind in KINDS:
        own, other = engines.build(kind, seven), engines.build(kind, seven, name="chat")
        assert engines.build(kind, seven, name=SEVEN.name) == own
        assert (own.served, other.served) == (SEVEN.name, "chat")
        assert own.weights == other.weights
        assert own.name != other.name
    assert option(engines.build("vllm", seven, name="chat"), "--served-model-name") == "chat"


def test_ollama_gets_another_name_by_a_copy_of_its_models_manifest(tmp_path: Path) -> None:
    spec = engines.ollama(load(TINY, 1024, 1, None), name="chat")
    store, copy = tmp_path / "store", tmp_path / "copy"
    library = store / "manifests/registry.ollama.ai/library"
    (library / "tiny").mkdir(parents=True)
    (library / "tiny/latest").write_text("layers")
    (store / "blobs").mkdir()
    assert spec.entrypoint == ("/bin/sh", "-c")
    (script,) = spec.command
    assert script.endswith("; exec /bin/ollama serve")
    script = script.replace(engines.STORE, str(copy)).replace(
        "/bin/ollama serve", "sh -c 'echo $OLLAMA_MODELS'"
    )
    said = subprocess.run(
        [*spec.entrypoint, script],
        env={**os.environ, "OLLAMA_MODELS": str(store)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{copy}\n"
    assert sorted(each.name for each in library.iterdir()) == ["tiny"], "the store's own is not written"
    assert (copy / library.relative_to(store) / "chat/latest").read_text() == "layers"
    assert (copy / "blobs").resolve() == store / "blobs"
    written = [each for each in (copy, *copy.rglob("manifests/**/*")) if each.stat().st_mode & 0o222]
    assert written == []


def test_ollama_keeps_its_model_loaded_and_prunes_nothing() -> None:
    environment = engines.ollama(load(TINY, 1024, 1, None)).environment
    assert environment["OLLAMA_KEEP_ALIVE"] == "-1"
    assert environment["OLLAMA_NOPRUNE"] == "1"


def test_any_setting_that_changes_answers_changes_the_name() -> None:
    base = engines.vllm(load(SEVEN, 8192, 4, T4))
    assert engines.vllm(load(SEVEN, 8192, 4, T4)).name == base.name
    others = {
        engines.vllm(load(SEVEN, 4096, 4, T4)).name,
        engines.vllm(load(SEVEN, 8192, 2, T4)).name,
        engines.vllm(load(MODELS["qwen-2.5-coder-3b"], 8192, 4, T4)).name,
        engines.vllm(load(SEVEN, 8192, 4, None)).name,
    }
    assert len(others | {base.name}) == 5


def test_weights_of_different_sources_never_share_a_folder() -> None:
    folders = [
        engines.build(kind, each.with_quantization(kind, source.quantization)).weights.folder
        for each in (load(model, 1024, 1, None) for model in MODELS.values())
        for kind in KINDS
        for source in each.model.sources(kind)
    ]
    assert len(set(folders)) == len(folders)


def test_a_flag_does_not_change_where_weights_are() -> None:
    small = engines.vllm(load(SEVEN, 4096, 1, T4))
    large = engines.vllm(load(SEVEN, 8192, 4, T4))
    assert small.weights.folder == large.weights.folder


def test_the_command_line_for_review_has_one_option_a_line() -> None:
    text = engines.vllm(load(TINY, 1024, 1, None)).command_line
    assert "\n  --max-model-len 1024\n" in text
    assert text.splitlines()[-1] == "  --enforce-eager"


def test_7b_is_quantized_by_default_as_a_t4_needs_it() -> None:
    defaults = [SEVEN.sources(kind)[0].quantization for kind in ("ollama", "vllm")]
    assert defaults == ["q4_k_m", "awq-int4"]


def test_of_several_gpus_ollama_takes_each_ones_part_as_the_sum_says() -> None:
    one = engines.ollama(load(SEVEN, 8192, 1, T4))
    two = engines.ollama(load(SEVEN, 8192, 1, replace(T4, count=2)))
    assert two.environment == {**one.environment, "OLLAMA_SCHED_SPREAD": "1"}
    assert "OLLAMA_SCHED_SPREAD" not in engines.ollama(load(TINY, 1024, 1, None)).environment
