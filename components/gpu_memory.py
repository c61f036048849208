"""Does it fit? Weights + KV cache + overhead of each engine against the memory of the GPUs and of the host.

Pure arithmetic in bytes, written out so that a reviewer can check it. With several GPUs a sum is that of one
GPU, since each holds its part of weights and KV cache, and its own overhead.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from components.catalogue import GIB, KIB, MIB, Model, Quantization

EngineKind = Literal["ollama", "vllm"]
KINDS: tuple[EngineKind, ...] = ("ollama", "vllm")

BITS_PER_WEIGHT: dict[Quantization, float] = {
    "fp16": 16,
    "awq-int4": 4 + 20 / 128,  # groups of 128: a 16-bit scale and a 4-bit zero point each
    "q4_k_m": 4.92,  # whole-file average of published 7B files, embeddings included
    "q8_0": 8.5,  # blocks of 32: a 16-bit scale each
}

CUDA_CONTEXT = int(0.3 * GIB)
"""vLLM's CUDA context and Triton on each GPU: an estimate. It exists before vLLM looks at what is free."""

BATCHED_TOKENS = 2048
"""Tokens that vLLM computes at once on a GPU; `GPU_OVERHEAD` counts the activations of so many."""

GPU_OVERHEAD: dict[EngineKind, int] = {
    "vllm": int(1.0 * GIB) + CUDA_CONTEXT,  # 1.0: activations of BATCHED_TOKENS, an estimate
    "ollama": int(1.1 * GIB),  # measured, 0.83 to 1.09; more has to be free, see `ollama_overhead`
}
"""What an engine takes of a GPU beside weights and KV cache.

Ollama's was measured with `bench.ollama_memory`: 0.17.4 with CUDA 13 on an H100 (driver 580), random weights
in the shapes and types of Qwen2.5-Coder 0.5B to 14B at Q4_K_M, 256 to 131072 tokens of KV cache.
"""

OLLAMA_BATCH = 512
"""Tokens that Ollama computes at once."""

OLLAMA_MINIMUM = 457 * 2**20
"""Bytes that Ollama 0.17.4 leaves of a GPU for CUDA's context (`MinimumMemory` in ml/device.go)."""

HOST_OVERHEAD: dict[EngineKind, int] = {
    "vllm": int(3.0 * GIB),  # estimate: API server and worker, each with PyTorch and CUDA's libraries
    "ollama": int(1.0 * GIB),  # server, runner and pinned buffers took 0.46 at the most, measured as above
}
"""RAM of an engine whose model is on a GPU. Weights are read through mapped files, which Linux takes back."""

HOST_OVERHEAD_FURTHER_GPU = int(2.0 * GIB)
"""RAM of each further vLLM worker: an estimate. One process serves one GPU."""

CPU_OVERHEAD: dict[EngineKind, int] = {
    "vllm": int(1.4 * GIB),
    "ollama": int(1.0 * GIB),
}
"""RAM beside weights and KV cache of an engine that computes on the CPU.

Measured with `tiny` on 2 cores, as the most that the container ever had: vLLM 1.31 GiB, Ollama 0.04 GiB.
The rest is an estimate of what a larger model's buffers take.
"""

PROXY_RAM = 512 * MIB
"""RAM that a proxy may take: held bodies up to 256 MiB in all, Python, and what is being carried."""

EDGE_RAM = 1024 * MIB
"""RAM that the edge may take. It has every request's body whole until the answer begins, and what goes beyond
its limit ends it, and all that it carries. Measured with Caddy 2.11.9 and bodies of 16 MiB at once: within
512 MiB it had 24 and was ended by 32; 48 took 921 MiB."""

SERVICES_RAM = PROXY_RAM + EDGE_RAM

BLOCK_TOKENS = 16
"""vLLM hands out its KV cache in blocks of so many tokens, and keeps one block for itself (`null_block`)."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """GPUs of one kind as CUDA sees them. `usable` is in bytes for each: the nominal size less the driver's.

    `compute` is the compute capability times ten, as vLLM writes it. `source` says where `usable` is from.
    """

    name: str
    usable: int
    compute: int
    source: str
    count: int = 1

    @property
    def words(self) -> str:
        return self.name if self.count == 1 else f"each of {self.count} {self.name}"


GPUS: dict[str, Gpu] = {
    "t4": Gpu(
        name="NVIDIA T4",
        usable=int(14.56 * GIB),
        compute=75,
        source="the least of what is reported, 14.56 to 14.75 GiB by driver",
    ),
    "l4": Gpu(
        name="NVIDIA L4",
        usable=int(21.95 * GIB),
        compute=89,
        source="estimate: as the A10G, whose nominal size (23028 MiB) is the same within 6 MiB",
    ),
    "a10g": Gpu(
        name="NVIDIA A10G",
        usable=int(21.95 * GIB),
        compute=86,
        source="Ollama's log, 22.0 GiB (batteries-included#1663), less its rounding",
    ),
    "a100-40": Gpu(
        name="NVIDIA A100 40 GB",
        usable=int(39.39 * GIB),
        compute=80,
        source="estimate: PyTorch says 39.50 GiB (TianheWu/CoSeR#10), less what drivers differ by",
    ),
    "l40s": Gpu(
        name="NVIDIA L40S",
        usable=int(44.35 * GIB),
        compute=89,
        source="estimate: as the A40 (46068 MiB nominal too), which Ollama logs as 44.4 GiB (ollama#9858)",
    ),
    "h100": Gpu(
        name="NVIDIA H100",
        usable=int(79.0 * GIB),
        compute=90,
        source="PyTorch says 79.18 GiB (81559 MiB nominal, driver 580), less what drivers differ by",
    ),
    "a100-80": Gpu(
        name="NVIDIA A100 80 GB",
        usable=int(79.15 * GIB),
        compute=80,
        source="vLLM's start-up message, 79.15 GiB (kvcached#29; 79.25 in kvcached#110)",
    ),
}
"""Every GPU by its key, the smallest first."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the engines are asked to hold, and on what. `context` is in tokens, `host_memory` in bytes.

    `gpu` is None on a CPU, `host_memory` None where it is not known. `quantization` overrides the catalogue's
    first one by engine.
    """

    model: Model
    context: int
    parallel: int
    gpu: Gpu | None
    host_memory: int | None = None
    quantization: Mapping[EngineKind, Quantization] = field(default_factory=dict)

    def quantization_of(self, kind: EngineKind) -> Quantization:
        return self.model.source_of(kind, self.quantization.get(kind)).quantization

    def with_quantization(self, kind: EngineKind, quantization: Quantization) -> "Load":
        return replace(self, quantization={**self.quantization, kind: quantization})


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The memory of one engine, in bytes, by what it is for.

    `total` is that of each GPU, or of the host's RAM where there is none; `host` is the RAM in either case.
    """

    kind: EngineKind
    weights: int
    kv_cache: int
    overhead: int
    host: int
    words: str

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def weights_bytes(model: Model, quantization: Quantization) -> int:
    """Bytes of the weights in memory. AWQ leaves embeddings and output head at 16 bits.

    Q4_K_M is counted as the download where that is more: in 0.5B, whose rows its blocks of 256 don't divide,
    other types take its place, 6.35 bits in all.
    """
    bits = BITS_PER_WEIGHT[quantization]
    if quantization == "q4_k_m":
        return max(int(model.parameters * bits / 8), model.source_of("ollama", quantization).size)
    if quantization == "awq-int4":
        quantized = model.parameters - model.embedding_parameters
        return int(quantized * bits / 8) + model.embedding_parameters * 2
    return int(model.parameters * bits / 8)


def kv_cache_bytes(model: Model, *, context: int, parallel: int) -> int:
    """Bytes of KV cache for `parallel` requests of `context` tokens each."""
    return model.kv_bytes_per_token * context * parallel


def vllm_kv_cache_bytes(model: Model, *, context: int, parallel: int, gpu: Gpu | None) -> int:
    """Bytes of KV cache that vLLM is given: whole blocks on each GPU, whole GiB on a CPU."""
    if gpu is None:
        return math.ceil(kv_cache_bytes(model, context=context, parallel=parallel) / GIB) * GIB
    tokens = (math.ceil(context / BLOCK_TOKENS) * parallel + 1) * BLOCK_TOKENS
    # more GPUs than KV heads hold copies of them
    return model.kv_bytes_per_token * tokens // min(gpu.count, model.kv_heads)


def ollama_overhead(model: Model, *, weights: int, context: int, parallel: int, count: int) -> int:
    """Bytes beside weights and KV cache that have to be free on each of `count` GPUs.

    More than Ollama takes: 0.17.4 estimates what a model needs before it loads it, and puts what is too much
    by that on the CPU, in silence. For Qwen2 (`GraphSize` in fs/ggml/ggml.go) it counts the scores of all
    attention heads over all requests' tokens, although with flash attention none are kept, and it keeps one
    layer to spare. On the H100 of `GPU_OVERHEAD`, where this is more than that, it fell back just below the
    sum, to 32 MiB (0.5B to 3B), or 0.3 and 0.5 GiB below it (7B and 14B, whose input embeddings stay in the
    host's RAM); else up to 0.26 GiB below it.

    With several GPUs each can lose one more layer, since layers are not divided: read, not measured, as for
    `q8_0` and `fp16`.
    """
    tokens, batch = context * parallel, min(OLLAMA_BATCH, context)
    attention = 4 * (
        batch * (1 + 2 * model.width + tokens * (1 + model.attention_heads)) + model.width * (1 + tokens)
    )
    output = 4 * batch * (model.width + model.vocabulary) + model.width * model.vocabulary * 105 // 128
    whole = weights + kv_cache_bytes(model, context=context, parallel=parallel)
    layers = math.ceil(whole / model.layers) * (1 if count == 1 else 2)
    return max(GPU_OVERHEAD["ollama"], OLLAMA_MINIMUM + max(attention, output) + layers)


def engine_sum(kind: EngineKind, load: Load) -> Sum:
    """The memory that one engine takes for this load."""
    model, gpu, context, parallel = load.model, load.gpu, load.context, load.parallel
    quantization = load.quantization_of(kind)
    count = gpu.count if gpu else 1
    whole = weights_bytes(model, quantization)
    weights = math.ceil(whole / count)
    if kind == "vllm":
        kv_cache = vllm_kv_cache_bytes(model, context=context, parallel=parallel, gpu=gpu)
    else:
        kv_cache = math.ceil(kv_cache_bytes(model, context=context, parallel=parallel) / count)
    if gpu is None:
        overhead = CPU_OVERHEAD[kind]
    elif kind == "vllm":
        overhead = GPU_OVERHEAD[kind]
    else:
        overhead = ollama_overhead(model, weights=whole, context=context, parallel=parallel, count=count)
    total = weights + kv_cache + overhead
    if gpu:
        further = count - 1 if kind == "vllm" else 0
        host = HOST_OVERHEAD[kind] + further * HOST_OVERHEAD_FURTHER_GPU
    else:
        host = total
    cache = f"{model.kv_bytes_per_token / KIB:g} KiB × {context} tokens × {parallel} requests"
    if kind == "vllm" and gpu is None:
        cache += ", in whole GiB"
    words = (
        f"{gib(weights)} weights ({quantization}) + {gib(kv_cache)} KV cache ({cache}) "
        f"+ {gib(overhead)} overhead = {gib(total)}"
    )
    if count > 1:
        words += f" on each of {count} GPUs"
    return Sum(kind=kind, weights=weights, kv_cache=kv_cache, overhead=overhead, host=host, words=words)


def vllm_share(load: Load) -> float:
    """The share of each GPU that vLLM looks for at its start, rounded down to four digits.

    vLLM refuses to start where less than this share is free, even when its KV cache is given in bytes (read
    in `request_memory` of 0.32). The sum without the CUDA context, which is taken before vLLM looks: so in
    overlap the check passes wherever both engines fit.
    """
    assert load.gpu is not None
    return math.floor((engine_sum("vllm", load).total - CUDA_CONTEXT) / load.gpu.usable * 10_000) / 10_000


def gib(size: int) -> str:
    """A size in bytes as GiB with two digits."""
    return f"{size / GIB:.2f} GiB"
