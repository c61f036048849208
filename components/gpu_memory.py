"""Does it fit? Weights + KV cache + overhead of each engine against the usable memory of the GPU.

Pure arithmetic in bytes, written out so that a reviewer can check it.
"""

from dataclasses import dataclass
from typing import Literal

from components.catalogue import GIB, KIB, Model, Quantization

EngineKind = Literal["ollama", "vllm"]

BITS_PER_WEIGHT: dict[Quantization, float] = {
    "fp16": 16,
    "awq-int4": 4 + 20 / 128,  # groups of 128: a 16-bit scale and a 4-bit zero point each
    "q4_k_m": 4.92,  # whole-file average of published 7B files, embeddings included
}

OVERHEAD: dict[EngineKind, int] = {
    "vllm": int(1.3 * GIB),  # activations of 2048 batched tokens 1.0, CUDA context and Triton 0.3
    "ollama": int(1.0 * GIB),  # llama.cpp keeps 1024 MiB free of what it plans with (`--fit`)
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as CUDA sees it. `usable` is in bytes: what is left of the nominal size under the driver."""

    name: str
    usable: int


T4 = Gpu(name="NVIDIA T4", usable=int(14.56 * GIB))


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The memory of one engine, in bytes, by what it is for."""

    kind: EngineKind
    weights: int
    kv_cache: int
    overhead: int
    words: str

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def weights_bytes(model: Model, quantization: Quantization) -> int:
    """Bytes of the weights in memory. AWQ leaves embeddings and output head at 16 bits."""
    bits = BITS_PER_WEIGHT[quantization]
    if quantization == "awq-int4":
        quantized = model.parameters - model.embedding_parameters
        return int(quantized * bits / 8) + model.embedding_parameters * 2
    return int(model.parameters * bits / 8)


def kv_cache_bytes(model: Model, *, context: int, parallel: int) -> int:
    """Bytes of KV cache for `parallel` requests of `context` tokens each."""
    return model.kv_bytes_per_token * context * parallel


def engine_sum(kind: EngineKind, model: Model, *, context: int, parallel: int) -> Sum:
    """The memory that one engine takes with these settings."""
    source = model.ollama if kind == "ollama" else model.vllm
    weights = weights_bytes(model, source.quantization)
    kv_cache = kv_cache_bytes(model, context=context, parallel=parallel)
    overhead = OVERHEAD[kind]
    per_token = model.kv_bytes_per_token / KIB
    words = (
        f"{gib(weights)} weights ({source.quantization}) "
        f"+ {gib(kv_cache)} KV cache ({per_token:g} KiB × {context} tokens × {parallel} requests) "
        f"+ {gib(overhead)} overhead = {gib(weights + kv_cache + overhead)}"
    )
    return Sum(kind=kind, weights=weights, kv_cache=kv_cache, overhead=overhead, words=words)


def gib(size: int) -> str:
    """A size in bytes as GiB with two digits."""
    return f"{size / GIB:.2f} GiB"
