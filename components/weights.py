"""How an engine's weights get into its volume: the folder, the script, and the disk that it needs. Pure.

Every source has a folder of its own, named by content: a changed source never touches the weights
that the other side of a switch still needs.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote

from components import naming
from components.catalogue import (
    Folder,
    HuggingFaceRepository,
    Model,
    OllamaSource,
    OllamaTag,
    Quantization,
    VllmSource,
)
from components.gpu_memory import EngineKind
from components.shell import program
from switch.shared import WEIGHTS

COMMIT = re.compile("[0-9a-f]{40}")
"""A revision of the hub that names its content by its hash."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What to fetch for one engine. `need_bytes` is the free disk it takes while it is fetched.

    `script` runs under /bin/sh in the engine's own image with the volume at /weights, without a GPU.
    `upload` names a folder on the deployer's machine that goes to `<folder>/source` first. `moving` is the
    tag or branch that may name other weights tomorrow, which nothing would notice; empty where none does.
    """

    kind: EngineKind
    folder: str
    script: str
    need_bytes: int
    source: str
    upload: str | None = None
    moving: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", naming.of_folder(self.folder)[1])


def _folder(kind: EngineKind, model: Model, source: OllamaSource | VllmSource) -> str:
    said = {key: each for key, each in asdict(source).items() if (key, each) != ("sha256", "")}
    content = json.dumps([kind, model.name, type(source).__name__, said], sort_keys=True)
    return naming.folder(model.name, hashlib.sha256(content.encode()).hexdigest()[:8])


def _sum_of(source: OllamaTag | HuggingFaceRepository) -> str:
    return f", SHA-256 {source.sha256}" if source.sha256 else ""


def for_ollama(model: Model, quantization: Quantization | None = None) -> Weights:
    """Ollama's weights: pulled by tag, or converted from a folder, and named as in the catalogue."""
    source = model.source_of("ollama", quantization)
    assert not isinstance(source, HuggingFaceRepository)
    folder = _folder("ollama", model, source)
    place = f"{WEIGHTS}/{folder}"
    if isinstance(source, Folder):
        create = program("ollama_create", PLACE=place, MODEL=quote(model.name))
        upload, need, words, moving = source.place, source.size * 4, f"folder {source.place}", ""
    else:
        create = "\n".join(
            [
                program("ollama_pull", TAG=quote(source.tag), MODEL=quote(model.name)),
                program("ollama_compare", PLACE=place),
                *([program("ollama_known", PLACE=place, SUM=source.sha256)] if source.sha256 else []),
            ]
        )
        upload, need, words = None, source.size, f"ollama pull {source.tag}{_sum_of(source)}"
        moving = "" if source.sha256 else source.tag
    return Weights(
        kind="ollama",
        folder=folder,
        script="\n".join([program("ollama_serve", PLACE=place), create, ""]),
        need_bytes=need,
        source=words,
        upload=upload,
        moving=moving,
    )


def for_vllm(model: Model, quantization: Quantization | None = None) -> Weights:
    """vLLM's weights: a Hugging Face repository at a revision, or a folder."""
    source = model.source_of("vllm", quantization)
    assert not isinstance(source, OllamaTag)
    folder = _folder("vllm", model, source)
    place = f"{WEIGHTS}/{folder}/source"
    if isinstance(source, Folder):
        return Weights(
            kind="vllm",
            folder=folder,
            script=f"set -eu\ntest -f {place}/config.json\n",
            need_bytes=source.size * 2,
            source=f"folder {source.place}",
            upload=source.place,
        )
    download = (Path(__file__).parent / "hub_download.py").read_text()
    words = ("python3", "-c", download, source.repository, source.revision, place)
    known = [program("vllm_known", PLACE=place, SUM=source.sha256)] if source.sha256 else []
    return Weights(
        kind="vllm",
        folder=folder,
        script="\n".join(["set -eu", " ".join(map(quote, words)), *known, ""]),
        need_bytes=source.size,
        source=f"{source.repository} at {source.revision}{_sum_of(source)}",
        moving=""
        if source.sha256 or COMMIT.fullmatch(source.revision)
        else f"{source.repository} at {source.revision}",
    )
