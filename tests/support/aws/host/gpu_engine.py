"""Stand-ins for both engines on a GPU, in one program: `ollama COMMAND` and `vllm serve PATH FLAGS`.

They answer as `fast_engine.py` does, take only the flags and settings that the real ones have, want a GPU
and their weights, and Ollama says that its model is wholly on the GPU.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = 4_700_000_000
WEIGHTS = b"weights\n" * 100
"""What Ollama's library and the hub give of any model."""
SUM = hashlib.sha256(WEIGHTS).hexdigest()
FILE = "model.safetensors"


def models() -> Path:
    """Ollama's folder of models: their weights, and a file for each name that says which they are."""
    return Path(os.environ["OLLAMA_MODELS"])


def ollama(words: list[str]) -> None:
    if words == ["serve"]:
        serve(int(os.environ["OLLAMA_HOST"].rsplit(":", 1)[1]), None)
    elif words == ["list"]:
        urllib.request.urlopen(f"http://127.0.0.1:{os.environ['OLLAMA_HOST'].rsplit(':', 1)[1]}/", timeout=5)
    elif len(words) == 2 and words[0] == "pull":
        blobs, manifests = models() / "blobs", models() / "manifests"
        for folder in (blobs, manifests):
            folder.mkdir(exist_ok=True)
        (blobs / f"sha256-{SUM}").write_bytes(WEIGHTS)
        (manifests / words[1]).write_text(json.dumps({"layers": [{"digest": f"sha256:{SUM}"}]}))
    elif len(words) == 3 and words[0] == "cp":
        (models() / "manifests" / words[2]).write_text((models() / "manifests" / words[1]).read_text())
    else:
        sys.exit(f"ollama (a stand-in) does not know: {words}")


def vllm(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model", type=Path)
    for flag in ("--served-model-name", "--dtype"):
        parser.add_argument(flag, required=True)
    for flag in ("--port", "--max-model-len", "--max-num-seqs", "--max-num-batched-tokens"):
        parser.add_argument(flag, type=int, required=True)
    for flag in ("--tensor-parallel-size", "--shutdown-timeout", "--kv-cache-memory-bytes"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--gpu-memory-utilization", type=float, required=True)
    parser.add_argument("--enable-prefix-caching", action="store_true")
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    parser.add_argument("--tool-call-parser", choices=["hermes"])
    told = parser.parse_args(words)
    if os.environ.get("NVIDIA_VISIBLE_DEVICES") != "all":
        sys.exit("RuntimeError: no GPU")
    if not (told.model / "config.json").exists():
        sys.exit(f"OSError: {told.model} has no config.json")
    serve(told.port, told.served_model_name)


def serve(port: int, model: str | None) -> None:
    """Serve one model, or with None every one that Ollama has."""
    # the weights step has a name for the model that is also at the endpoint; its tag has a colon
    if model is None:
        names = [each.name for each in (models() / "manifests").glob("*") if ":" not in each.name]
    else:
        names = [model]
    names = names or ["none-yet"]
    os.environ |= {"FAST_PORT": str(port), "FAST_NAMES": " ".join(names), "FAST_TOKENS": "0.005"}
    fast: Any = importlib.import_module("fast_engine")  # it reads its environment when it is imported

    class Handler(fast.Handler):  # type: ignore[misc]
        def do_GET(self) -> None:
            if self.path == "/api/ps" and model is None:
                on_gpu = SIZE if os.environ.get("NVIDIA_VISIBLE_DEVICES") == "all" else 0
                self.whole(200, {"models": [{"name": names[0], "size": SIZE, "size_vram": on_gpu}]})
            else:
                super().do_GET()

    fast.Handler = Handler
    fast.main()


@dataclass
class BlobLfsInfo:
    sha256: str


@dataclass
class RepoSibling:
    rfilename: str
    blob_id: str = ""
    lfs: BlobLfsInfo | None = None


@dataclass
class ModelInfo:
    sha: str
    siblings: list[RepoSibling]


def config_of(repository: str) -> bytes:
    return json.dumps({"_name_or_path": repository}).encode()


class HfApi:
    """In place of huggingface_hub's, as `snapshot_download` is: an import of both finds them here."""

    def model_info(self, repository: str, *, revision: str, files_metadata: bool) -> ModelInfo:
        assert files_metadata, "it names no hash otherwise"
        config = config_of(repository)
        of_git = hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()
        return ModelInfo(
            hashlib.sha1(revision.encode()).hexdigest(),
            [RepoSibling("config.json", of_git), RepoSibling(FILE, lfs=BlobLfsInfo(SUM))],
        )


def snapshot_download(repository: str, *, revision: str, local_dir: str) -> None:
    folder = Path(local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(config_of(repository))
    (folder / FILE).write_bytes(WEIGHTS)


if __name__ == "__main__":
    {"ollama": ollama, "vllm": vllm}[sys.argv[1]](sys.argv[2:])
