"""The catalogue is data: what it may say, and how `make model` writes an entry from a configuration."""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from common import StepFailed
from components.catalogue import FILE, MODELS, CatalogueError, Model, OllamaTag, read
from components.gpu_memory import GPUS, KINDS, Load, engine_sum
from tests.support.listening import listening
from tools import model as tool

SEVEN = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    "max_position_embeddings": 32768, "sliding_window": 131072, "use_sliding_window": False,
}  # fmt: skip
"""As published for Qwen2.5-Coder-7B-Instruct."""

EIGHT = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False, "max_position_embeddings": 40960, "attention_bias": False,
    "sliding_window": None, "use_sliding_window": False,
    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
}  # fmt: skip
"""As published for Qwen3-8B, and AWQ as Qwen's own repositories have it."""


EMBEDDING = {
    "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151669,
    "tie_word_embeddings": True, "max_position_embeddings": 32768,
}  # fmt: skip
"""As published for Qwen3-Embedding-0.6B."""

FOUR = {
    "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 262144, "attention_bias": False,
    "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
"""As published for Qwen3-4B-Instruct-2507."""


def answers(**given: str) -> tool.AskPerson:
    return lambda variable, question: given[variable]


def test_the_numbers_of_a_configuration_are_those_of_the_catalogue() -> None:
    computed, there = tool.numbers(SEVEN), MODELS["qwen-2.5-coder-7b"]
    assert computed == {key: getattr(there, key) for key in computed}
    assert tool.numbers(EIGHT)["parameters"] == 8_190_735_360, "as its repository says: 8.19 billion"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_experts": 128}, "a mixture of experts (`num_experts`)"),
        ({"num_local_experts": 8}, "a mixture of experts (`num_local_experts`)"),
        ({"kv_lora_rank": 512}, "a compressed KV cache"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "(`layer_types`: sliding_attention)"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "(`layer_types`: linear_attention)"),
        ({"sliding_window": 4096, "use_sliding_window": True}, "a sliding window of 4096 tokens"),
        (
            {"model_type": "gemma3"},
            "nobody has checked the sums of memory for the family `gemma3`; known: qwen2, qwen3",
        ),
        ({"model_type": None}, "the family `None`"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "quant_method gptq, bits 8"),
        ({"hidden_size": None}, "lacks or misstates"),
        (
            {"quantization_config": None, "compression_config": {"quant_method": "compressed-tensors"}},
            "quant_method compressed-tensors",
        ),
        (
            {"model_type": "qwen2", "dual_chunk_attention_config": {"chunk_size": 262144}},
            "it attends in chunks (`dual_chunk_attention_config`), which vLLM no longer has",
        ),
        ({"is_causal": False}, "attends in both directions (`is_causal`)"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"architectures": ["MistralModel"]}, "does not end in `ForCausalLM`"),
    ],
)
def test_what_the_sums_would_be_wrong_for_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    ask = answers(OLLAMA_SIZE="1", HF_SIZE="1", TOOLS="none", QUANTIZATION="q4_k_m")
    with pytest.raises(StepFailed) as failure:
        tool.entry({**EIGHT, **change}, "a:8b", "A/B", {}, ask)
    assert said in str(failure.value)


def test_every_model_of_today_has_both_engines_and_its_published_numbers() -> None:
    eight, small = MODELS["qwen3-8b"], MODELS["qwen3-0.6b"]
    computed = tool.numbers(EIGHT)
    assert computed == {key: getattr(eight, key) for key in computed}
    assert (small.hidden, small.attention_heads * small.head_dim) == (1024, 2048), (
        "a head is not a share of it"
    )
    for model in (eight, small):
        load = Load(model=model, context=8192, gpu=GPUS["t4"])
        for kind in KINDS:
            assert engine_sum(kind, load).total <= GPUS["t4"].usable
        assert model.tools and model.tools.vllm_parser == "hermes"


@pytest.mark.parametrize("model", [each for each in MODELS.values() if each.intermediate])
def test_each_models_parameters_follow_from_its_other_numbers(model: Model) -> None:
    config = {
        "model_type": model.family, "hidden_size": model.hidden, "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers, "num_attention_heads": model.attention_heads,
        "num_key_value_heads": model.kv_heads, "head_dim": model.head_dim, "vocab_size": model.vocabulary,
        "tie_word_embeddings": model.embedding_parameters == model.vocabulary * model.hidden,
        "max_position_embeddings": model.max_context,
    }  # fmt: skip
    computed = tool.numbers(config)
    assert computed == {key: getattr(model, key) for key in computed}


def test_newer_models_have_the_numbers_that_are_published_of_them() -> None:
    computed = tool.numbers(EMBEDDING)
    assert computed["parameters"] == 595_776_512, "as keras-hub says"
    there = MODELS["qwen3-embedding-0.6b"]
    assert computed == {key: getattr(there, key) for key in computed} and there.embeds
    computed, there = tool.numbers(FOUR), MODELS["qwen3-4b-instruct-2507"]
    assert computed == {key: getattr(there, key) for key in computed}
    coder, base = MODELS["deepcoder-14b"], MODELS["qwen-2.5-coder-14b"]
    assert coder.parameters == base.parameters and coder.max_context == 4 * base.max_context
    for model in (there, coder, MODELS["qwen3-embedding-0.6b"]):
        load = Load(model=model, context=8192, gpu=GPUS["t4"])
        assert all(engine_sum(kind, load).total <= GPUS["t4"].usable for kind in KINDS)


def test_ollama_embeds_for_one_request_at_a_time_and_vllm_for_many() -> None:
    load = Load(model=MODELS["qwen3-embedding-0.6b"], context=8192, gpu=GPUS["t4"])
    assert engine_sum("ollama", load).requests == 1 and engine_sum("vllm", load).requests > 16


def test_mistrals_own_window_counts_although_nothing_says_that_it_is_used() -> None:
    assert "window of 4096" in tool.refused({"model_type": "mistral", "sliding_window": 4096})
    assert not tool.refused({"model_type": "mistral", "sliding_window": None})


def test_an_entry_is_a_few_lines_and_serves(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(FILE.read_text())
    ask = answers(OLLAMA_SIZE="5_200_000_000", HF_SIZE="6100000000", TOOLS="qwen3", QUANTIZATION="q4_k_m")
    table = tool.entry(EIGHT, "qwen3:8b", "Qwen/Qwen3-8B-AWQ", {}, ask)
    text = tool.write(file, "eight", table)
    assert text.startswith('[models.eight]\nfamily = "qwen3"\n') and len(text.splitlines()) < 24
    before, after = FILE.read_text().splitlines(), file.read_text().splitlines()
    assert [line for line in before if line not in after] == [], "nothing else is touched"
    assert tool.named("Qwen/Qwen3-8B-AWQ") == "qwen3-8b"
    model = read(file.read_text())["eight"]
    assert model.ollama == (OllamaTag(tag="qwen3:8b", quantization="q4_k_m", size=5_200_000_000),)
    assert model.tools and model.tools.found_by == ("ollama", "vllm")
    vllm = engine_sum("vllm", Load(model=model, context=8192, gpu=GPUS["t4"]))
    assert vllm.requests > 16 and vllm.total < GPUS["t4"].usable
    with pytest.raises(StepFailed, match=r"has a model eight already\. .* NAME="):
        tool.write(file, "eight", table)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'family = "qwen2"',
            'family = "gemma3"',
            "models.qwen-2.5-coder-0.5b: the sums of memory do not cover the",
        ),
        (
            "layers = 24",
            'layers = "24"',
            "models.qwen-2.5-coder-0.5b.layers is '24', which is not of type int",
        ),
        ("layers = 24", "layers = 0", "layers is 0"),
        ("layers = 24", "layer = 24", "has the unknown key `layer`"),
        ("layers = 24\n", "", "lacks `layers`"),
        ("kv_heads = 2", "kv_heads = 3", "14 attention heads can't share 3 KV heads"),
        ("136_134_656", "136_134_657", "are neither once nor twice 151936 × 896"),
        ("parameters = 494_032_768", "parameters = 94_032_768", "not more than those of the embeddings"),
        ('tools = "qwen2.5-coder"', 'tools = "qwen9"', "there is no [tools.qwen9]"),
        ('quantization = "q8_0"', 'quantization = "q4_k_m"', "ollama lists q4_k_m twice"),
        ('quantization = "q8_0"', 'quantization = "q9"', "ollama: the quantization q9 is unknown"),
        ('revision = "main", ', "", "models.qwen-2.5-coder-0.5b.vllm lacks `revision`"),
        (
            "layers = 24\n",
            "layers = 24\nembeds = true\n",
            "computes embeddings cannot chat, and so calls no tools",
        ),
        ('quantization = "q8_0"', 'sha256 = "ab", quantization = "q8_0"', "ollama: 'ab' is no SHA-256"),
        ("[models", "[[models", "it is not TOML"),
    ],
)
def test_an_entry_that_cannot_be_right_is_refused_by_its_name(old: str, new: str, said: str) -> None:
    text = FILE.read_text()
    assert old in text
    with pytest.raises(CatalogueError) as failure:
        read(text.replace(old, new, 1))
    assert said in str(failure.value)


class Hub(BaseHTTPRequestHandler):
    """What hub and library answer, as their documentation has it."""

    def do_GET(self) -> None:
        said = {
            "/api/models/Qwen/Qwen3-8B-AWQ?blobs=true": {
                "sha": "abc123",
                "siblings": [
                    {"rfilename": "config.json", "size": 1000},
                    {"rfilename": "b.safetensors", "size": 100_000_000, "lfs": {"sha256": "b" * 64}},
                    {"rfilename": "a.safetensors", "size": 6_000_000_000, "lfs": {"sha256": "a" * 64}},
                    {"rfilename": "original/a.safetensors", "size": 0, "lfs": {"sha256": "c" * 64}},
                ],
            },
            "/Qwen/Qwen3-8B-AWQ/resolve/abc123/config.json": EIGHT,
            "/v2/library/qwen3/manifests/8b": {
                "layers": [
                    {"size": 5_200_000_000, "mediaType": tool.LAYER, "digest": "sha256:" + "d" * 64},
                    {"size": 500, "mediaType": "application/vnd.ollama.image.template", "digest": "e"},
                ]
            },
        }.get(self.path)
        self.send_response(404 if said is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with listening(Hub) as server:
        for name in ("HUB", "LIBRARY"):
            monkeypatch.setattr(tool, name, f"http://127.0.0.1:{server.server_port}")
        yield


@pytest.mark.parametrize("name", ["my model", "Qwen/Qwen3-8B", "qwen3:8b", "-a", "a::b", "ü", "x" * 81])
def test_a_name_that_is_no_part_of_a_path_or_of_a_models_name_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(FILE.read_text())
    ask = answers(OLLAMA_SIZE="1", HF_SIZE="1", TOOLS="none", QUANTIZATION="q4_k_m")
    table = tool.entry(EIGHT, "a:8b", "A/B", {}, ask)
    with pytest.raises(StepFailed, match="nothing was written"):
        tool.write(file, name, table)
    assert file.read_text() == FILE.read_text()


@pytest.mark.parametrize(
    "files", [[], [{"rfilename": "pytorch_model.bin"}], [{"rfilename": "a.safetensors"}]]
)
def test_where_the_hub_names_no_sums_an_entry_has_none(files: list[dict[str, Any]]) -> None:
    assert tool.sum_of(files) is None
    ask = answers(OLLAMA_SIZE="1", HF_SIZE="1", TOOLS="none", QUANTIZATION="q4_k_m")
    table = tool.entry(EIGHT, "a:8b", "A/B", {"sha256": None}, ask)
    assert "sha256" not in table["vllm"][0] and "sha256" not in table["ollama"][0]


def test_weights_whose_quantization_stands_in_another_file_are_refused() -> None:
    ask = answers(OLLAMA_SIZE="1", HF_SIZE="1", TOOLS="none", QUANTIZATION="q4_k_m")
    plain = {key: each for key, each in EIGHT.items() if key != "quantization_config"}
    with pytest.raises(StepFailed, match=r"hf_quant_config\.json"):
        tool.entry(plain, "a:8b", "nvidia/B-FP8", {"files": ["config.json", "hf_quant_config.json"]}, ask)


def test_hub_and_library_are_asked_for_what_they_know_and_pinned(hub: None) -> None:
    config, known = tool.on_the_hub("Qwen/Qwen3-8B-AWQ", "qwen3:8b")
    table = tool.entry(
        config, "qwen3:8b", "Qwen/Qwen3-8B-AWQ", known, answers(TOOLS="none", QUANTIZATION="q4_k_m")
    )
    assert table["vllm"][0]["revision"] == "abc123" and table["vllm"][0]["size"] == 6_100_001_000
    assert table["ollama"][0]["size"] == 5_200_000_500 and "tools" not in table
    assert table["ollama"][0]["sha256"] == "d" * 64
    sums = f"{'a' * 64}  a.safetensors\n{'b' * 64}  b.safetensors\n"
    assert table["vllm"][0]["sha256"] == hashlib.sha256(sums.encode()).hexdigest()
    with pytest.raises(StepFailed, match=r"config\.json here: make model CONFIG="):
        tool.on_the_hub("Qwen/Qwen3-8B-AWQ", "qwen3:9b")
