"""What an engine's container is: image, command, environment, health. Pure; one function per engine.

An engine is immutable and named by content: `EngineSpec.digest` covers everything that decides what
it answers, so that a changed flag is another container to switch to and never a change in place.
"""

import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field

from components import model_names, naming, pins, weights
from components.catalogue import GIB, Model
from components.gpu_memory import BATCHED_TOKENS, EngineKind, Load, engine_sum, vllm_share
from components.shell import program
from components.vllm_flags import pairs, words

PORT = 8000
"""TCP port at which both engines listen."""

ALIAS = "engine"
"""Network alias of both engines. Only an edge made by an older version asks by it, until the end of the
update that replaces its configuration."""

WEIGHTS_MOUNT = "/weights"
SHUTDOWN_TIMEOUT = 15
"""Seconds that vLLM gives running answers on SIGTERM. The proxies drain first, so none should be left."""

STORE = "/tmp/models"
"""Where Ollama finds its model where this has another name: the store in its volume is not written."""

CACHE_MOUNT = "/root/.cache"
"""vLLM keeps compiled kernels here; without it every start on a GPU compiles them again."""

TRITON_CACHE = f"{CACHE_MOUNT}/triton"
"""Triton's own kernels, which are elsewhere by default (`~/.triton`). On a T4 attention is one of them."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """An engine's container, as plain data. `shm_mib` is /dev/shm in MiB; `health` is an exec command."""

    kind: EngineKind
    model: Model
    served: str
    """The model's name at the endpoint; both engines know it by this name."""
    image: pins.Image
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str]
    health: tuple[str, ...]
    weights: weights.Weights
    gpus: str | None
    shm_mib: int
    parallel: int
    """Requests that it works on at one time."""
    context: int
    """Tokens of prompt and answer together that one request can have."""
    cache: bool = False
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = [
            self.kind,
            self.image.name,
            self.image.version,
            self.entrypoint,
            self.command,
            sorted(self.environment.items()),
            self.health,
            self.weights.folder,
            self.gpus,
            self.shm_mib,
        ]
        object.__setattr__(self, "digest", hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8])

    @property
    def name(self) -> str:
        """The engine's name by content, also its alias on the stack's network: `vllm-1a2b3c4d`."""
        return naming.engine(self.kind, self.digest)

    @property
    def kv_cache(self) -> str:
        """The type of its KV cache: of 16 bits, but for vLLM where `vllmFlags` says otherwise."""
        chosen = dict(pairs(self.command)).get("--kv-cache-dtype", "auto") if self.kind == "vllm" else "auto"
        return "16 bits" if chosen == "auto" else chosen

    @property
    def at_a_time(self) -> int:
        """Requests that may be at the engine at once; more wait in the proxy.

        What it works on, and a few more, so that the next one is there when one ends. With all of a crowd in
        the engine a drain would take as long as the crowd, and who has hung up would still be computed for.

        vLLM gets more of them: it takes new ones into its batch between two tokens, so that what isn't there
        in this moment is missing in the batch; one that waits in it takes no memory.
        """
        return self.parallel + max(4 if self.kind == "vllm" else 2, self.parallel // 4)

    @property
    def command_line(self) -> str:
        """Environment and command as one reads them, for review."""
        words = [f"{key}={value}" for key, value in sorted(self.environment.items())]
        return "\n".join([*words, *_lines((*self.entrypoint, *self.command))])


def _lines(words: tuple[str, ...]) -> list[str]:
    """A command line with one option a line."""
    lines: list[str] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return [lines[0], *("  " + line for line in lines[1:])]


def ollama(load: Load, name: str = "") -> EngineSpec:
    """Ollama with one model kept loaded.

    `name` is what the model is called at the endpoint, its own name if empty.
    """
    model = load.model
    source = weights.for_ollama(model, load.quantization.get("ollama"))
    parallel = engine_sum("ollama", load).requests
    served = name or model.name
    plain = model_names.manifest(served) == model_names.manifest(model.name)
    # otherwise it packs the model into as few GPUs as hold it, and the sum is that of each
    spread = {"OLLAMA_SCHED_SPREAD": "1"} if load.gpu and load.gpu.count > 1 else {}
    return EngineSpec(
        kind="ollama",
        model=model,
        served=served,
        image=pins.OLLAMA,
        entrypoint=("/bin/ollama",) if plain else ("/bin/sh", "-c"),
        command=("serve",) if plain else (_named(model.name, served),),
        environment={
            "OLLAMA_HOST": f"0.0.0.0:{PORT}",
            "OLLAMA_MODELS": f"{WEIGHTS_MOUNT}/{source.folder}/models",
            "OLLAMA_CONTEXT_LENGTH": str(load.context),
            "OLLAMA_NUM_PARALLEL": str(parallel),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_KEEP_ALIVE": "-1",  # unloading when idle would make the next request pay for loading
            "OLLAMA_NOPRUNE": "1",  # the weights belong to the weights step
            "OLLAMA_NO_CLOUD": "1",
            **spread,
        },
        health=("/bin/ollama", "list"),
        weights=source,
        gpus="all" if load.gpu else None,
        shm_mib=64,
        parallel=parallel,
        context=load.context,
    )


def _named(model: str, served: str) -> str:
    """Starts Ollama with another name for its model: as `ollama cp` does, by a copy of the model's manifest.

    Done at the start and not in the weights step, so that another name fetches nothing, and in a store that
    can't be written either, beside the volume's own. It is the only name there: with two that differ in small
    and capital letters alone, 0.17.4 finds now the one and now none (`getExistingName`).
    """
    own, other = model_names.manifest(model), model_names.manifest(served)
    text = program("ollama_named", STORE=STORE, FOLDER=posixpath.dirname(other), OWN=own, OTHER=other)
    return "; ".join(text.splitlines())  # as it is in the containers that are there


def vllm(load: Load, flags: Sequence[str] = (), name: str = "") -> EngineSpec:
    """vLLM with its KV cache given in bytes: it depends on the settings, never on what is free at start.

    `name` is what the model is called at the endpoint, its own name if empty; `flags` are a person's own,
    after the program's.
    """
    model, context, gpu = load.model, load.context, load.gpu
    source = weights.for_vllm(model, load.quantization.get("vllm"))
    served = name or model.name
    memory = engine_sum("vllm", load)
    options = {
        "--served-model-name": served,
        "--port": str(PORT),
        "--max-model-len": str(context),
        "--max-num-seqs": str(memory.requests),
        # on a GPU a longer prompt is computed in parts, so that its activations stay those of the sum
        "--max-num-batched-tokens": str(BATCHED_TOKENS if gpu else max(BATCHED_TOKENS, context)),
        "--tensor-parallel-size": str(gpu.count if gpu else 1),
        "--shutdown-timeout": str(SHUTDOWN_TIMEOUT),  # unset, SIGTERM cuts every stream at once
    }
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if gpu:
        options["--dtype"] = "half"  # a T4 has no bfloat16
        options["--kv-cache-memory-bytes"] = str(memory.kv_cache)
        options["--gpu-memory-utilization"] = str(vllm_share(load))
        environment["TRITON_CACHE_DIR"] = TRITON_CACHE
        switches = ["--enable-prefix-caching"]
    else:
        options["--dtype"] = "bfloat16"
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # bound, it shares a core with whatever else runs
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(memory.kv_cache // GIB)
        switches = ["--enable-prefix-caching", "--enforce-eager"]  # compiling takes a minute of two cores
    if model.embeds:  # its architecture is that of a model that chats, so vLLM has to be told
        switches += ["--runner", "pooling", "--convert", "embed"]
    if model.tools:  # without them, a request that has `tools` is refused
        switches += ["--enable-auto-tool-choice", "--tool-call-parser", model.tools.vllm_parser]
    return EngineSpec(
        kind="vllm",
        model=model,
        served=served,
        image=pins.VLLM_CUDA if gpu else pins.VLLM_CPU,
        entrypoint=("vllm", "serve"),
        command=(
            f"{WEIGHTS_MOUNT}/{source.folder}/source",
            *(word for option in options.items() for word in option),
            *switches,
            *words(flags),
        ),
        environment=environment,
        health=(
            "python3",
            "-c",
            f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)",
        ),
        weights=source,
        gpus="all" if gpu else None,
        shm_mib=1024,
        parallel=memory.requests,
        context=context,
        cache=True,
    )


def build(kind: EngineKind, load: Load, flags: Sequence[str] = (), name: str = "") -> EngineSpec:
    """The engine of this kind for a load. `flags` are more flags for vLLM, `name` is the model's at the
    endpoint."""
    return ollama(load, name) if kind == "ollama" else vllm(load, flags, name)
