"""The models that can be served: where each engine gets its weights, and the numbers memory is computed from.

Architecture numbers are those of each model's published `config.json`. Revisions and digests could not
be verified when this was written, so none is invented: `main` and tags are what they say, and
`verified=False` marks every source that was not fetched and checked.
"""

from dataclasses import dataclass
from typing import Literal

KIB = 1024
MIB = 1024**2
GIB = 1024**3

Quantization = Literal["fp16", "awq-int4", "q4_k_m", "q8_0"]


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
class Loading:
    """How long an engine took from start to first answer, measured. `place` is `cpu` or a GPU's key."""

    engine: Literal["ollama", "vllm"]
    place: str
    seconds: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the catalogue. Numbers are counts; `max_context` is in tokens.

    The first source of an engine is the default; the setting `quantization` picks another.
    """

    name: str
    parameters: int
    embedding_parameters: int
    """Embedding and output-head parameters, which quantization leaves at 16 bits."""
    vocabulary: int
    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    ollama: tuple[OllamaSource, ...]
    vllm: tuple[VllmSource, ...]
    source: str
    loading: tuple[Loading, ...] = ()
    able: bool = True
    """Whether it follows an instruction, so that `make parity` may ask it for meaning."""

    @property
    def width(self) -> int:
        """The length of a token's hidden state: in every model here, that of all its attention heads."""
        return self.attention_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache for one token at 16 bits: keys and values, every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def sources(self, engine: Literal["ollama", "vllm"]) -> tuple[OllamaSource | VllmSource, ...]:
        """Where an engine can get its weights, the default first."""
        return self.ollama if engine == "ollama" else self.vllm

    def source_of(
        self, engine: Literal["ollama", "vllm"], quantization: str | None
    ) -> OllamaSource | VllmSource:
        """The source with this quantization, or the default. Raises StopIteration when there is none."""
        return next(each for each in self.sources(engine) if quantization in (None, each.quantization))


def _qwen(
    size: str,
    *,
    parameters: int,
    embedding_parameters: int,
    vocabulary: int,
    layers: int,
    attention_heads: int,
    kv_heads: int,
    head_dim: int,
    q4_size: int,
    fp16_size: int,
    awq_size: int,
    awq_first: bool,
) -> Model:
    repository = f"Qwen/Qwen2.5-Coder-{size.upper()}-Instruct"
    fp16 = HuggingFaceRepository(repository=repository, revision="main", quantization="fp16", size=fp16_size)
    awq = HuggingFaceRepository(
        repository=f"{repository}-AWQ", revision="main", quantization="awq-int4", size=awq_size
    )
    tag = f"qwen2.5-coder:{size}-instruct"
    return Model(
        name=f"qwen-2.5-coder-{size}",
        parameters=parameters,
        embedding_parameters=embedding_parameters,
        vocabulary=vocabulary,
        layers=layers,
        attention_heads=attention_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_context=32768,
        ollama=(
            OllamaTag(tag=f"{tag}-q4_K_M", quantization="q4_k_m", size=q4_size),
            OllamaTag(tag=f"{tag}-q8_0", quantization="q8_0", size=int(parameters * 8.5 / 8)),
            OllamaTag(tag=f"{tag}-fp16", quantization="fp16", size=fp16_size),
        ),
        vllm=(awq, fp16) if awq_first else (fp16, awq),
        source=f"config.json of {repository}; download sizes are rounded",
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _qwen(
            "0.5b",
            parameters=494_032_768,
            embedding_parameters=136_134_656,
            vocabulary=151_936,
            layers=24,
            attention_heads=14,
            kv_heads=2,
            head_dim=64,
            q4_size=400_000_000,
            fp16_size=1_000_000_000,
            awq_size=500_000_000,
            awq_first=False,
        ),
        _qwen(
            "1.5b",
            parameters=1_543_714_304,
            embedding_parameters=233_373_696,
            vocabulary=151_936,
            layers=28,
            attention_heads=12,
            kv_heads=2,
            head_dim=128,
            q4_size=1_000_000_000,
            fp16_size=3_100_000_000,
            awq_size=1_200_000_000,
            awq_first=False,
        ),
        _qwen(
            "3b",
            parameters=3_085_938_688,
            embedding_parameters=311_164_928,
            vocabulary=151_936,
            layers=36,
            attention_heads=16,
            kv_heads=2,
            head_dim=128,
            q4_size=1_950_000_000,
            fp16_size=6_200_000_000,
            awq_size=2_100_000_000,
            awq_first=False,
        ),
        _qwen(
            "7b",
            parameters=7_615_616_512,
            embedding_parameters=1_089_994_752,
            vocabulary=152_064,
            layers=28,
            attention_heads=28,
            kv_heads=4,
            head_dim=128,
            q4_size=4_700_000_000,
            fp16_size=15_300_000_000,
            awq_size=5_600_000_000,
            awq_first=True,
        ),
        _qwen(
            "14b",
            parameters=14_770_033_664,
            embedding_parameters=1_557_135_360,
            vocabulary=152_064,
            layers=48,
            attention_heads=40,
            kv_heads=8,
            head_dim=128,
            q4_size=9_000_000_000,
            fp16_size=29_600_000_000,
            awq_size=10_000_000_000,
            awq_first=True,
        ),
        Model(
            name="tiny",
            parameters=1_000_000,
            embedding_parameters=500_000,
            vocabulary=385,
            layers=2,
            attention_heads=4,
            kv_heads=2,
            head_dim=32,
            max_context=4096,
            ollama=(Folder(name="tiny", revision="2", size=2_000_000),),
            vllm=(Folder(name="tiny", revision="2", size=2_000_000),),
            source="made by the offline builder with random weights: it answers nonsense",
            loading=(
                Loading(engine="vllm", place="cpu", seconds=22.9, source="measured on 2 cores"),
                Loading(engine="ollama", place="cpu", seconds=1.0, source="measured on 2 cores"),
            ),
            able=False,
        ),
    )
}
"""Every model by its name."""
