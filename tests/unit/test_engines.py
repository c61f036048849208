"""What an engine's container is told, and what its name by content covers."""

import os
import subprocess
from pathlib import Path

from components import engines
from components.catalogue import MODELS
from components.engines import EngineSpec
from components.gpu_memory import GPUS, KINDS, Load

T4 = GPUS["t4"]
SEVEN = MODELS["qwen-2.5-coder-7b"]
TINY = MODELS["tiny"]


def option(spec: EngineSpec, name: str) -> str:
    return spec.command[spec.command.index(name) + 1]


def test_vllm_on_a_t4_gets_half_precision_and_its_memory_in_bytes() -> None:
    spec = engines.vllm(SEVEN, context=8192, parallel=4, gpu=T4)
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
        assert "--swap-space" not in engines.vllm(SEVEN, context=8192, parallel=4, gpu=gpu).command


def test_vllm_on_a_cpu_needs_no_gpu_and_gets_whole_gib() -> None:
    spec = engines.vllm(TINY, context=4096, parallel=4, gpu=None)
    assert spec.gpus is None
    assert spec.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert spec.image.name == "vllm-cpu"
    assert "--kv-cache-memory-bytes" not in spec.command


def test_both_engines_get_the_same_context_parallelism_model_name_and_port() -> None:
    ollama = engines.ollama(SEVEN, context=8192, parallel=4, gpu=T4)
    vllm = engines.vllm(SEVEN, context=8192, parallel=4, gpu=T4)
    assert ollama.environment["OLLAMA_CONTEXT_LENGTH"] == option(vllm, "--max-model-len")
    assert ollama.environment["OLLAMA_NUM_PARALLEL"] == option(vllm, "--max-num-seqs")
    assert ollama.environment["OLLAMA_HOST"].rsplit(":")[1] == option(vllm, "--port")
    assert f"/bin/ollama cp qwen2.5-coder:7b-instruct-q4_K_M {SEVEN.name}" in ollama.weights.script


def test_under_another_name_both_engines_keep_their_weights_and_are_other_engines() -> None:
    load = Load(model=SEVEN, context=8192, parallel=4, gpu=T4)
    for kind in KINDS:
        own, other = engines.build(kind, load), engines.build(kind, load, name="chat")
        assert engines.build(kind, load, name=SEVEN.name) == own
        assert (own.served, other.served) == (SEVEN.name, "chat")
        assert own.weights == other.weights
        assert own.name != other.name
    assert option(engines.build("vllm", load, name="chat"), "--served-model-name") == "chat"


def test_ollama_gets_another_name_by_a_copy_of_its_models_manifest(tmp_path: Path) -> None:
    spec = engines.ollama(TINY, context=1024, parallel=1, gpu=None, name="chat")
    library = tmp_path / "manifests/registry.ollama.ai/library"
    (library / "tiny").mkdir(parents=True)
    (library / "tiny/latest").write_text("layers")
    assert spec.entrypoint == ("/bin/sh", "-c")
    (script,) = spec.command
    assert script.endswith(" && exec /bin/ollama serve")
    script = script.replace("/bin/ollama", "echo")
    for _ in range(2):  # a container is started more than once
        said = subprocess.run(
            [*spec.entrypoint, script],
            env={**os.environ, "OLLAMA_MODELS": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout == "serve\n"
    assert (library / "chat/latest").read_text() == "layers"


def test_ollama_keeps_its_model_loaded_and_prunes_nothing() -> None:
    environment = engines.ollama(TINY, context=1024, parallel=1, gpu=None).environment
    assert environment["OLLAMA_KEEP_ALIVE"] == "-1"
    assert environment["OLLAMA_NOPRUNE"] == "1"


def test_any_setting_that_changes_answers_changes_the_name() -> None:
    base = engines.vllm(SEVEN, context=8192, parallel=4, gpu=T4)
    assert engines.vllm(SEVEN, context=8192, parallel=4, gpu=T4).name == base.name
    others = {
        engines.vllm(SEVEN, context=4096, parallel=4, gpu=T4).name,
        engines.vllm(SEVEN, context=8192, parallel=2, gpu=T4).name,
        engines.vllm(MODELS["qwen-2.5-coder-3b"], context=8192, parallel=4, gpu=T4).name,
        engines.vllm(SEVEN, context=8192, parallel=4, gpu=None).name,
    }
    assert len(others | {base.name}) == 5


def test_weights_of_different_sources_never_share_a_folder() -> None:
    folders = [
        engines.build(kind, load.with_quantization(kind, source.quantization)).weights.folder
        for load in (Load(model=model, context=1024, parallel=1, gpu=None) for model in MODELS.values())
        for kind in KINDS
        for source in load.model.sources(kind)
    ]
    assert len(set(folders)) == len(folders)


def test_a_flag_does_not_change_where_weights_are() -> None:
    small = engines.vllm(SEVEN, context=4096, parallel=1, gpu=T4)
    large = engines.vllm(SEVEN, context=8192, parallel=4, gpu=T4)
    assert small.weights.folder == large.weights.folder


def test_the_command_line_for_review_has_one_option_a_line() -> None:
    text = engines.vllm(TINY, context=1024, parallel=1, gpu=None).command_line
    assert "\n  --max-model-len 1024\n" in text
    assert text.splitlines()[-1] == "  --enforce-eager"


def test_7b_is_quantized_by_default_as_a_t4_needs_it() -> None:
    defaults = [SEVEN.sources(kind)[0].quantization for kind in ("ollama", "vllm")]
    assert defaults == ["q4_k_m", "awq-int4"]
