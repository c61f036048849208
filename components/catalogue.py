"""The models that can be served: where each engine gets its weights, and the numbers memory is computed from.

Architecture numbers are those of each model's published `config.json`. Revisions and digests could not
be verified when this was written, so none is invented: `main` and tags are what they say, and
`verified=False` marks every source that was not fetched and checked.
"""

from dataclasses import dataclass
from typing import Literal

KIB = 1024
GIB = 1024**3

Quantization = Literal["fp16", "awq-int4", "q4_k_m"]


@dataclass(frozen=True, kw_only=True)
class OllamaTag:
    """A model in Ollama's library. `size` is the download in bytes, as its library page states it."""

    tag: str
    quantization: Quantization
    size: int
    verified: bool = False


@dataclass(frozen=True, kw_only=True)
class HuggingFaceRepository:
    """A repository on the Hugging Face hub at a revision. `size` is the download in bytes."""

    repository: str
    revision: str
    quantization: Quantization
    size: int
    verified: bool = False


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder on the deployer's machine, in Hugging Face format; both engines load it.

    `name` is looked up among the models that the offline builder made; `revision` changes when the
    folder's content does. `size` is in bytes.
    """

    name: str
    revision: str
    size: int
    quantization: Quantization = "fp16"
    verified: bool = True

    @property
    def place(self) -> str:
        """The folder's name among the offline builder's models."""
        return f"{self.name}-{self.revision}"


OllamaSource = OllamaTag | Folder
VllmSource = HuggingFaceRepository | Folder


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the catalogue. Numbers are counts; `max_context` is in tokens."""

    name: str
    parameters: int
    embedding_parameters: int
    """Embedding and output-head parameters, which quantization leaves at 16 bits."""
    layers: int
    kv_heads: int
    head_dim: int
    max_context: int
    ollama: OllamaSource
    vllm: VllmSource
    source: str
    able: bool = True
    """Whether it follows an instruction, so that `make parity` may ask it for meaning."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache for one token at 16 bits: keys and values, every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


def _qwen(
    size: str,
    *,
    parameters: int,
    embedding_parameters: int,
    layers: int,
    kv_heads: int,
    head_dim: int,
    ollama_size: int,
    awq: bool,
    vllm_size: int,
) -> Model:
    repository = f"Qwen/Qwen2.5-Coder-{size.upper()}-Instruct" + ("-AWQ" if awq else "")
    return Model(
        name=f"qwen-2.5-coder-{size}",
        parameters=parameters,
        embedding_parameters=embedding_parameters,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_context=32768,
        ollama=OllamaTag(
            tag=f"qwen2.5-coder:{size}-instruct-q4_K_M", quantization="q4_k_m", size=ollama_size
        ),
        vllm=HuggingFaceRepository(
            repository=repository,
            revision="main",
            quantization="awq-int4" if awq else "fp16",
            size=vllm_size,
        ),
        source=f"config.json of {repository}; download sizes are rounded",
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _qwen(
            "0.5b",
            parameters=494_032_768,
            embedding_parameters=136_134_656,
            layers=24,
            kv_heads=2,
            head_dim=64,
            ollama_size=400_000_000,
            awq=False,
            vllm_size=1_000_000_000,
        ),
        _qwen(
            "1.5b",
            parameters=1_543_714_304,
            embedding_parameters=233_373_696,
            layers=28,
            kv_heads=2,
            head_dim=128,
            ollama_size=1_000_000_000,
            awq=False,
            vllm_size=3_100_000_000,
        ),
        _qwen(
            "3b",
            parameters=3_085_938_688,
            embedding_parameters=311_164_928,
            layers=36,
            kv_heads=2,
            head_dim=128,
            ollama_size=1_950_000_000,
            awq=False,
            vllm_size=6_200_000_000,
        ),
        _qwen(
            "7b",
            parameters=7_615_616_512,
            embedding_parameters=1_089_994_752,
            layers=28,
            kv_heads=4,
            head_dim=128,
            ollama_size=4_700_000_000,
            awq=True,
            vllm_size=5_600_000_000,
        ),
        _qwen(
            "14b",
            parameters=14_770_033_664,
            embedding_parameters=1_557_135_360,
            layers=48,
            kv_heads=8,
            head_dim=128,
            ollama_size=9_000_000_000,
            awq=True,
            vllm_size=10_000_000_000,
        ),
        Model(
            name="tiny",
            parameters=1_000_000,
            embedding_parameters=500_000,
            layers=2,
            kv_heads=2,
            head_dim=32,
            max_context=4096,
            ollama=Folder(name="tiny", revision="2", size=2_000_000),
            vllm=Folder(name="tiny", revision="2", size=2_000_000),
            source="made by the offline builder with random weights: it answers nonsense",
            able=False,
        ),
    )
}
"""Every model by its name at the endpoint."""
