"""The models that can be served: where each engine gets its weights, and the numbers memory is computed from.

They are data, in `models.toml`; here is what an entry can say, and what makes one wrong. Nothing else knows a
model by its name.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from components import model_names
from switch.plan import EngineKind

KIB = 1024
MIB = 1024**2
GIB = 1024**3

Quantization = Literal["fp16", "awq-int4", "q4_k_m", "q8_0"]

FAMILIES = ("qwen2", "qwen3", "llama", "mistral")
"""What a model's configuration may call its `model_type`: dense models whose every layer attends to the whole
context with keys and values of its own, which is what the sums count. Ollama's overhead was measured for
`qwen2`, and read for `llama` and `mistral`; of `qwen3`, whose attention scores it doesn't count, it is more
than they take."""


@dataclass(frozen=True, kw_only=True)
class OllamaTag:
    """A model in Ollama's library. `size` is the download in bytes, as its library page states it. `sha256`
    is that of the layer with its weights; empty: not known.

    `verified` says whether somebody compared the entry with a download. It decides nothing, but is a part of
    the hash in the name of the folder with the weights.
    """

    tag: str
    quantization: Quantization
    size: int
    verified: bool = False
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceRepository:
    """A repository on the Hugging Face hub at a revision. `size` is the download in bytes. `sha256` is that
    of what `sha256sum *.safetensors` says of its weights; empty: not known. `verified`: see `OllamaTag`."""

    repository: str
    revision: str
    quantization: Quantization
    size: int
    verified: bool = False
    sha256: str = ""


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

    engine: EngineKind
    place: str
    seconds: float
    source: str


@dataclass(frozen=True, kw_only=True)
class ToolCalls:
    """How a model calls tools, and which engines find the calls in what it writes.

    `vllm_parser` is vLLM's `--tool-call-parser`; without one vLLM refuses every request that has `tools`.
    `remark` is what a user should know, without its full stop.
    """

    vllm_parser: str
    found_by: tuple[EngineKind, ...]
    source: str
    remark: str = ""

    @property
    def words(self) -> str:
        """What happens to a tool call of this model, in one line."""
        if not self.found_by:
            said = "neither engine recognises this model's tool calls, which arrive as text"
        elif len(self.found_by) == 1:
            (one,) = self.found_by
            other = "vllm" if one == "ollama" else "ollama"
            said = f"only {one} recognises this model's tool calls; with {other} they arrive as text"
        else:
            said = "both engines recognise this model's tool calls"
        return f"{said}; {self.remark}" if self.remark else said


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the catalogue. Numbers are counts; `max_context` is in tokens, `family` one of `FAMILIES`.

    The first source of an engine is the default; the setting `quantization` picks another.
    """

    name: str
    family: str
    parameters: int
    embedding_parameters: int
    """Embedding and output-head parameters, which quantization leaves at 16 bits."""
    vocabulary: int
    hidden: int
    """The length of a token's hidden state."""
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
    """Whether it follows an instruction, so that gate and `make parity` may ask it for meaning."""
    tools: ToolCalls | None = None
    """None: it was not made to call tools."""
    intermediate: int = 0
    """The length of what is between the two halves of a layer's feed-forward part; 0: not known."""
    embeds: bool = False
    """Whether it turns texts into vectors (`/v1/embeddings`), and so answers no chat."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache for one token at 16 bits: keys and values, every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def sources(self, engine: EngineKind) -> tuple[OllamaSource | VllmSource, ...]:
        """Where an engine can get its weights, the default first."""
        return self.ollama if engine == "ollama" else self.vllm

    def source_of(self, engine: EngineKind, quantization: str | None) -> OllamaSource | VllmSource:
        """The source with this quantization, or the default. Raises StopIteration when there is none."""
        return next(each for each in self.sources(engine) if quantization in (None, each.quantization))


FILE = Path(__file__).with_name("models.toml")


class CatalogueError(Exception):
    """A catalogue that can't be right. The text names the entry, and what is wrong with it."""


def read(text: str) -> dict[str, Model]:
    """The models of a catalogue, by name. Raises CatalogueError for the first entry that can't be right."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"it is not TOML: {error}") from error
    tools = {
        name: _entry(ToolCalls, f"tools.{name}", each) for name, each in content.get("tools", {}).items()
    }
    return {
        name: _model(name, each, cast(dict[str, ToolCalls], tools))
        for name, each in content.get("models", {}).items()
    }


def _model(name: str, raw: Mapping[str, Any], tools: Mapping[str, ToolCalls]) -> Model:
    where = f"models.{name}"
    given: dict[str, Any] = {**raw, "name": name}
    for engine in ("ollama", "vllm"):
        given[engine] = tuple(_source(f"{where}.{engine}", each) for each in raw.get(engine, ()))
    given["loading"] = tuple(_entry(Loading, f"{where}.loading", each) for each in raw.get("loading", ()))
    if "tools" in raw:
        if raw["tools"] not in tools:
            raise CatalogueError(f"{where}.tools: there is no [tools.{raw['tools']}]")
        given["tools"] = tools[raw["tools"]]
    model = cast(Model, _entry(Model, where, given))
    for problem in problems(model):
        raise CatalogueError(f"{where}: {problem}")
    return model


def _source(where: str, raw: Mapping[str, Any]) -> OllamaSource | VllmSource:
    if "folder" in raw:
        rest = {key: value for key, value in raw.items() if key != "folder"}
        return cast(Folder, _entry(Folder, where, {"name": raw["folder"], **rest}))
    return cast(
        OllamaTag | HuggingFaceRepository,
        _entry(OllamaTag if "tag" in raw else HuggingFaceRepository, where, raw),
    )


def _entry(kind: type, where: str, raw: Mapping[str, Any]) -> object:
    """An instance of a dataclass from a table that has its keys, with values of their types."""
    known = {each.name: each for each in fields(kind)}
    if unknown := sorted(set(raw) - set(known)):
        raise CatalogueError(f"{where} has the unknown key `{unknown[0]}`; known: {', '.join(known)}")
    needed = {name for name, each in known.items() if each.default is MISSING}
    if missing := sorted(needed - set(raw)):
        raise CatalogueError(f"{where} lacks `{missing[0]}`")
    for name, value in raw.items():
        declared: Any = known[name].type
        wanted = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}.get(declared)
        if wanted and type(value) not in wanted:
            raise CatalogueError(f"{where}.{name} is {value!r}, which is not of type {declared.__name__}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return kind(**given)


def problems(model: Model) -> list[str]:
    """What is wrong with a model, or can't be computed for it, each in words."""
    found = []
    if not model_names.is_name(model.name) or set("/:") & set(model.name):
        found.append("its name must be letters, digits, '.', '_' and '-', a letter or digit first and last")
    if model.family not in FAMILIES:
        found.append(
            f"the sums of memory do not cover the family {model.family}; known: {', '.join(FAMILIES)}"
        )
    counts = ("parameters", "embedding_parameters", "vocabulary", "hidden", "layers", "max_context")
    for name in (*counts, "attention_heads", "kv_heads", "head_dim"):
        if getattr(model, name) < 1:
            found.append(f"{name} is {getattr(model, name)}, and must be at least 1")
    if found:
        return found
    if model.attention_heads % model.kv_heads:
        found.append(f"{model.attention_heads} attention heads can't share {model.kv_heads} KV heads")
    made_here = any(isinstance(source, Folder) for source in model.vllm)  # its numbers are rounded
    once_or_twice = (model.vocabulary * model.hidden * n for n in (1, 2))
    if model.embedding_parameters not in once_or_twice and not made_here:
        found.append(
            f"{model.embedding_parameters} embedding parameters are neither once nor twice "
            f"{model.vocabulary} × {model.hidden}"
        )
    if model.embedding_parameters >= model.parameters:
        found.append(f"{model.parameters} parameters in all are not more than those of the embeddings")
    if model.embeds and model.tools:
        found.append("a model that computes embeddings cannot chat, and so calls no tools")
    for engine, sources in (("ollama", model.ollama), ("vllm", model.vllm)):
        kinds = [source.quantization for source in sources]
        if not sources:
            found.append(f"{engine} has no source")
        found += [
            f"{engine} lists {each} twice" for each in sorted({one for one in kinds if kinds.count(one) > 1})
        ]
        found += [
            f"{engine}: the quantization {each} is unknown"
            for each in kinds
            if each not in get_args(Quantization)
        ]
        found += [
            f"{engine}: the size is {each.size} bytes, and must be at least 1"
            for each in sources
            if each.size < 1
        ]
        found += [
            f"{engine}: {each.sha256!r} is no SHA-256, which is 64 digits from 0 to f"
            for each in sources
            if not isinstance(each, Folder) and not re.fullmatch("([0-9a-f]{64})?", each.sha256)
        ]
    return found


MODELS: dict[str, Model] = read(FILE.read_text())
"""Every model by its name."""
