"""What each engine gets of the memory: weights + KV cache + overhead, against the GPUs and the host.

An engine has the GPU for itself while it serves, so it gets what the GPU has: vLLM all the KV cache that is
left, Ollama as many concurrent requests as fit and it does well. Only where both are asked to run beside each
other do they share it.

Pure arithmetic in bytes, written out so that a reviewer can check it. With several GPUs a sum is that of one
GPU, since each holds its part of weights and KV cache, and its own overhead.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from components.catalogue import GIB, KIB, MIB, Model, Quantization
from switch import plan
from switch.words import gib

EngineKind = plan.EngineKind
KINDS: tuple[EngineKind, ...] = get_args(EngineKind)

BITS_PER_WEIGHT: dict[Quantization, float] = {
    "fp16": 16,
    "awq-int4": 4 + 20 / 128,  # groups of 128: a 16-bit scale and a 4-bit zero point each
    "q4_k_m": 4.92,  # whole-file average of published 7B files, embeddings included
    "q8_0": 8.5,  # blocks of 32: a 16-bit scale each
}

CUDA_CONTEXT = int(0.3 * GIB)
"""vLLM's CUDA context and Triton on each GPU: an estimate. It exists before vLLM looks at what is free."""

BATCHED_TOKENS = 2048
"""Tokens that vLLM computes at once on a GPU; `GPU_OVERHEAD` counts the activations of so many.

vLLM's own default on a T4. A longer prompt is computed in chunks of so many, between which everybody else's
next tokens are; larger chunks let the others wait for longer (vLLM's documentation, "Performance Tuning
with Chunked Prefill") and take more memory from the KV cache.
"""

TYPICAL_TOKENS = 2048
"""Tokens of a request of typical length, prompt and answer together: what the number of concurrent requests
is planned for, where it is `auto`. More of such requests than fit would be computed again and again."""

MARGIN = 1 * GIB
"""What is left free of a GPU beside a sum that has estimates among its terms."""

OLLAMA_REQUESTS = 8
"""The most concurrent requests that `auto` gives Ollama on a GPU: each takes its whole context of the KV
cache, used or not. A choice; nobody has published Ollama on a T4 with more than one."""

VLLM_REQUESTS = 256
"""The most concurrent requests that `auto` gives vLLM on a GPU: its own default for `--max-num-seqs`."""

TURING_REQUESTS = 64
"""The most concurrent requests that `auto` gives vLLM on a GPU before compute capability 8.0: the public
figures for a T4 end at 60 users at once."""

CPU_REQUESTS = 4
"""The most concurrent requests that `auto` gives an engine on a CPU, whose cores a few keep busy."""

CUDA_GRAPH = 28 * MIB
"""What one CUDA graph takes of a GPU: an estimate. vLLM logged 24 to 28 MiB for each (vllm#22897,
vllm#23184), and 0.31 GiB for 11."""

CUDA_GRAPHS_MOST = 512
"""The most tokens of a batch that vLLM captures a graph for; below, twice `--max-num-seqs` (config/vllm.py
of 0.32)."""

SAMPLER_BYTES = 24
"""Bytes that vLLM's sampler takes for each sequence and token of the vocabulary, when it is warmed up: an
estimate. Logits, their sorted copy, probabilities and cumulated ones at 32 bits, and indices at 64."""

GPU_OVERHEAD: dict[EngineKind, int] = {
    "vllm": int(1.0 * GIB)
    + CUDA_CONTEXT,  # 1.0: activations of BATCHED_TOKENS, an estimate; see `vllm_overhead`
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
"""RAM that a proxy may take: held bodies up to 256 MiB in all, Python, and what is being carried. With 17
bodies of 15 MiB held it had 311 MiB, and 60 MiB more in the process that reads them."""

EDGE_RAM = 1024 * MIB
"""RAM that the edge may take: what goes beyond ends it, and all that it carries. It has up to 256 KiB of each
body (`COPY_BYTES`) until the answer begins. Measured with Caddy 2.11.9: 80 bodies of 15 MiB on their way took
85 MiB, 2,000 of 240 KiB took 799 MiB, and 3,400 of them 967 MiB, where Go's own limit holds it."""

EDGE_FILES = 3_000
"""Files that the edge may open. A connection of a client takes one, and a request another one for its way to
a proxy, once the edge has its body or `COPY_BYTES` of it. So the edge stays within `EDGE_RAM` if each client
sends so much and stops, unless many do so over one connection of HTTP/2. What comes beyond waits until a
connection ends, and is refused for now if it has got one, but none to a proxy, for half a minute. Without a
limit 8,000 held requests of a few bytes took 587 MiB of the edge and 173 MiB of the proxy."""

GATEWAY_RAM = 512 * MIB
"""RAM that the gateway may take. It had 33 MiB here. Others measured 49 MiB at rest and up to 766 MiB at
4,000 requests a second with their bodies; here it is asked in some hundred bytes, and no engine takes so
many. A gateway that is ended cuts nobody."""

SWITCH_RAM = 256 * MIB
"""RAM that the switch may take: 17 MiB at rest, and as much again for each command that is told to it."""

SERVICES_RAM = PROXY_RAM + EDGE_RAM + GATEWAY_RAM + SWITCH_RAM
"""What engines have to leave of the host's RAM. Counted without a gateway too, so that taking it out and back
changes no sum."""

STORE_RAM, ALERTS_RAM = 512 * MIB, 128 * MIB
"""RAM that the monitor's store and its alerts may take. They had 56 and 25 MiB with 204 time series, read
every 5 s, and used 1 % of a core; the store gets more for pages of weeks, whose samples it has to read."""

MONITOR_RAM = STORE_RAM + ALERTS_RAM
"""What engines have to leave for the two where a stack has a monitor."""

BLOCK_TOKENS = 16
"""vLLM hands out its KV cache in blocks of so many tokens, and keeps one block for itself (`null_block`)."""

CPU_BLOCK_TOKENS = 128
"""Tokens of a block of vLLM's KV cache on a CPU (platforms/cpu.py of 0.32)."""


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
        """The GPUs' name for a sentence, after `on`."""
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
    """What the engines are asked to hold, and on what. `context` is in tokens, memory in bytes.

    `gpu` is None on a CPU, `host_memory` None where it is not known. `quantization` overrides the catalogue's
    first one by engine. `parallel` says by engine how many concurrent requests it works on; for an engine
    that is missing there it follows from the memory.

    `gpu_memory` is what an engine may take of each GPU, None: all but a margin. With `together` both engines
    have to fit beside each other. `services` is the host RAM reserved for everything but the engines.
    """

    model: Model
    context: int
    gpu: Gpu | None
    parallel: Mapping[EngineKind, int] = field(default_factory=dict)
    host_memory: int | None = None
    quantization: Mapping[EngineKind, Quantization] = field(default_factory=dict)
    gpu_memory: int | None = None
    together: bool = False
    services: int = SERVICES_RAM

    def quantization_of(self, kind: EngineKind) -> Quantization:
        """The quantization of an engine's weights."""
        return self.model.source_of(kind, self.quantization.get(kind)).quantization

    def with_quantization(self, kind: EngineKind, quantization: Quantization) -> "Load":
        """The same load, with another quantization of one engine's weights."""
        return replace(self, quantization={**self.quantization, kind: quantization})

    def with_parallel(self, kind: EngineKind, requests: int) -> "Load":
        """The same load, with another number of concurrent requests in one engine."""
        return replace(self, parallel={**self.parallel, kind: requests})

    @property
    def gpu_there(self) -> int:
        """How much of each GPU's memory engines may use, in bytes."""
        assert self.gpu is not None
        return self.gpu.usable if self.gpu_memory is None else min(self.gpu_memory, self.gpu.usable)

    @property
    def typical(self) -> int:
        """Tokens of a request of typical length."""
        return min(TYPICAL_TOKENS, self.context)


def both(requests: int) -> dict[EngineKind, int]:
    """The same number of parallel requests for both engines."""
    return dict.fromkeys(KINDS, requests)


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The memory of one engine, in bytes, by what it is for, and what it can do with it.

    `total` is that of each GPU, or of the host's RAM where there is none; `host` is the RAM in either case.
    It works on `requests` concurrent requests, whose KV cache holds so many `tokens` in all.
    """

    kind: EngineKind
    weights: int
    kv_cache: int
    overhead: int
    host: int
    words: str
    requests: int
    tokens: int

    @property
    def total(self) -> int:
        """Bytes of each GPU, or of the host's RAM where there is none."""
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


def _block_bytes(model: Model, gpu: Gpu) -> int:
    """Bytes of one block of vLLM's KV cache on each GPU: more GPUs than KV heads hold copies of them."""
    return model.kv_bytes_per_token * BLOCK_TOKENS // min(gpu.count, model.kv_heads)


def _blocks(tokens: int, requests: int, block: int = BLOCK_TOKENS) -> int:
    """Blocks of `block` tokens that vLLM needs for so many requests of so many tokens each."""
    return math.ceil(tokens / block) * requests + 1


def cuda_graphs(requests: int) -> int:
    """How many sizes of a batch vLLM captures a CUDA graph for: 1, 2, 4, every 8, from 256 on every 16."""
    most = min(2 * requests, CUDA_GRAPHS_MOST)
    sizes = [*range(8, min(most + 1, 256), 8), *range(256, most + 1, 16)]
    return len(sizes) + sum(size <= most for size in (1, 2, 4))


def vllm_overhead(model: Model, requests: int) -> int:
    """Bytes beside weights and KV cache of vLLM on each GPU with so many concurrent requests."""
    sampler = SAMPLER_BYTES * model.vocabulary * requests
    return GPU_OVERHEAD["vllm"] + CUDA_GRAPH * cuda_graphs(requests) + sampler


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
        batch * (1 + 2 * model.hidden + tokens * (1 + model.attention_heads)) + model.hidden * (1 + tokens)
    )
    output = 4 * batch * (model.hidden + model.vocabulary) + model.hidden * model.vocabulary * 105 // 128
    whole = weights + kv_cache_bytes(model, context=context, parallel=parallel)
    layers = math.ceil(whole / model.layers) * (1 if count == 1 else 2)
    graph = max(attention, output)
    if model.family in ("llama", "mistral"):  # the most by which it counts more of these, `llama` in a GGUF
        graph += 8 * batch * model.hidden + model.hidden**2 * 9 // 16
    return max(GPU_OVERHEAD["ollama"], OLLAMA_MINIMUM + graph + layers)


def engine_sum(kind: EngineKind, load: Load) -> Sum:
    """The memory that one engine takes for this load."""
    if kind == "ollama":
        return _ollama_sum(load, _ollama_requests(load))
    if load.gpu is None:
        return _vllm_on_cpu(load)
    return _vllm_on_gpu(load, load.gpu, _ollama_beside(load))


def _ollama_requests(load: Load) -> int:
    """Concurrent requests in Ollama: as asked, or the most that fit. Where a model embeds it is one, whatever
    Ollama is told (`load` in server/sched.go of 0.17.4)."""
    if load.model.embeds:
        return 1
    if asked := load.parallel.get("ollama"):
        return asked
    if load.gpu is None:
        return _most(CPU_REQUESTS, lambda requests: _fits_host(load, _ollama_sum(load, requests)))
    if not load.together:
        return _most(OLLAMA_REQUESTS, lambda requests: _ollama_sum(load, requests).total <= load.gpu_there)
    gpu = load.gpu
    return _most(OLLAMA_REQUESTS, lambda requests: _both_do(load, gpu, _ollama_sum(load, requests)))


def _both_do(load: Load, gpu: Gpu, ollama: Sum) -> bool:
    """Whether vLLM, beside this Ollama, has room for as many requests of typical length."""
    vllm = _vllm_on_gpu(load, gpu, ollama.total)
    fits = ollama.total + vllm.total + _margin(load) <= load.gpu_there
    return fits and vllm.requests >= ollama.requests


def _most(most: int, fits: Callable[[int], bool]) -> int:
    return next((n for n in range(most, 1, -1) if fits(n)), 1)


def _fits_host(load: Load, engine: Sum) -> bool:
    return load.host_memory is None or engine.host + load.services <= load.host_memory


def _ollama_beside(load: Load) -> int:
    """What Ollama takes of each GPU while vLLM has to fit beside it; 0 where they do not run together."""
    return engine_sum("ollama", load).total if load.together else 0


def _margin(load: Load) -> int:
    """What is left free of each GPU. None where a person has said how much there is, or has set how many
    requests vLLM is to have beside Ollama."""
    sized = load.gpu_memory is not None or (load.together and "vllm" in load.parallel)
    return 0 if sized else MARGIN


def _ollama_sum(load: Load, requests: int) -> Sum:
    model, gpu, context = load.model, load.gpu, load.context
    count = gpu.count if gpu else 1
    whole = weights_bytes(model, load.quantization_of("ollama"))
    cache = f"{model.kv_bytes_per_token / KIB:g} KiB × {context} tokens × {requests} requests"
    return _sum(
        "ollama",
        load,
        kv_cache=math.ceil(kv_cache_bytes(model, context=context, parallel=requests) / count),
        overhead=ollama_overhead(model, weights=whole, context=context, parallel=requests, count=count)
        if gpu
        else CPU_OVERHEAD["ollama"],
        cache=cache,
        requests=requests,
        tokens=context * requests,
    )


def _vllm_on_cpu(load: Load) -> Sum:
    model, context = load.model, load.context

    def at(requests: int) -> Sum:
        needed = _blocks(context, requests, CPU_BLOCK_TOKENS) * CPU_BLOCK_TOKENS
        kv_cache = math.ceil(needed * model.kv_bytes_per_token / GIB) * GIB
        cache = f"{model.kv_bytes_per_token / KIB:g} KiB × {context} tokens × {requests} requests"
        return _sum(
            "vllm",
            load,
            kv_cache=kv_cache,
            overhead=CPU_OVERHEAD["vllm"],
            cache=f"{cache}, in whole GiB",
            requests=requests,
            tokens=kv_cache // model.kv_bytes_per_token,
        )

    asked = load.parallel.get("vllm")
    return at(asked or _most(CPU_REQUESTS, lambda requests: _fits_host(load, at(requests))))


def _vllm_on_gpu(load: Load, gpu: Gpu, beside: int) -> Sum:
    """vLLM with the KV cache that is left, but no more than `parallel` requests can fill; `beside` is what
    another engine takes. Where less than one whole context is left, it has that all the same: too much then.
    """
    model, block = load.model, _block_bytes(load.model, gpu)
    weights = math.ceil(weights_bytes(model, load.quantization_of("vllm")) / gpu.count)
    asked = load.parallel.get("vllm")

    def blocks(requests: int) -> int:
        room = load.gpu_there - _margin(load) - beside - weights - vllm_overhead(model, requests)
        return max(room // block, _blocks(load.context, 1))

    def holds(requests: int) -> bool:
        return _blocks(load.typical, requests) <= blocks(requests)

    requests = asked or _most(TURING_REQUESTS if gpu.compute < 80 else VLLM_REQUESTS, holds)
    given = min(blocks(requests), _blocks(load.context, asked)) if asked else blocks(requests)
    tokens = (given - 1) * BLOCK_TOKENS
    return _sum(
        "vllm",
        load,
        kv_cache=given * block,
        overhead=vllm_overhead(model, requests),
        cache=f"{model.kv_bytes_per_token / KIB:g} KiB × {tokens} tokens",
        requests=requests,
        tokens=tokens,
    )


def _sum(
    kind: EngineKind, load: Load, *, kv_cache: int, overhead: int, cache: str, requests: int, tokens: int
) -> Sum:
    gpu, quantization = load.gpu, load.quantization_of(kind)
    count = gpu.count if gpu else 1
    weights = math.ceil(weights_bytes(load.model, quantization) / count)
    total = weights + kv_cache + overhead
    further = count - 1 if kind == "vllm" else 0
    words = (
        f"{gib(weights)} weights ({quantization}) + {gib(kv_cache)} KV cache ({cache}) "
        f"+ {gib(overhead)} overhead = {gib(total)}"
    )
    return Sum(
        kind=kind,
        weights=weights,
        kv_cache=kv_cache,
        overhead=overhead,
        host=HOST_OVERHEAD[kind] + further * HOST_OVERHEAD_FURTHER_GPU if gpu else total,
        words=f"{words} on each of {count} GPUs" if count > 1 else words,
        requests=requests,
        tokens=tokens,
    )


def preempts_from(vllm: Sum, load: Load) -> int | None:
    """The average length in tokens beyond which vLLM, with all its requests at work, has to preempt some and
    compute them again later; None where no length is too long."""
    average = vllm.tokens // vllm.requests
    return average if average < load.context else None


def vllm_share(load: Load) -> float:
    """The share of each GPU that vLLM looks for at its start, rounded down to four digits.

    vLLM refuses to start where less than this share is free, even when its KV cache is given in bytes (read
    in `request_memory` of 0.32). The sum without the CUDA context, which is taken before vLLM looks: so in
    overlap the check passes wherever both engines fit.
    """
    assert load.gpu is not None
    return math.floor((engine_sum("vllm", load).total - CUDA_CONTEXT) / load.gpu.usable * 10_000) / 10_000
