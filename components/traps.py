"""What to type if an engine fails its gate with words by which a known problem is recognised. Pure.

Most are those of a T4, from public reports. The flags are of vLLM 0.32, and may be added by `vllmFlags`.
"""

from collections.abc import Sequence

from components.catalogue import GIB, MIB
from components.gpu_memory import MARGIN, EngineKind, Load, Sum, engine_sum
from switch.plan import Trap
from switch.words import gib

AMPERE = 80


def traps(kind: EngineKind, load: Load, flags: Sequence[str] = ()) -> list[Trap]:
    """The traps of an engine with this load. `flags` are the setting `vllmFlags`."""
    engine = engine_sum(kind, load)
    if load.gpu is None:
        return [
            Trap(words=("exited (out of memory)",), hint=f"{kind} needs more RAM: {_fewer(load, engine)}")
        ]
    if kind == "ollama":
        words = ("and the rest on the CPU", "cudaMalloc failed: out of memory", "CUDA error: out of memory")
        return [Trap(words=words, hint=f"the GPU has too little for ollama: {_fewer(load, engine)}")]
    memory = (load.gpu_there - (0 if load.gpu_memory else MARGIN)) // MIB
    found = [
        Trap(
            words=(
                "CUDA out of memory",
                "OutOfMemoryError",
                "CUDA error: out of memory",
                "less than desired GPU memory utilization",
            ),
            hint=(
                f"the GPU has too little for vllm: lower `gpuMemoryMiB` from {memory} to {{less}}, which "
                "makes its KV cache smaller: pulumi config set gpuMemoryMiB {less}"
            ),
            memory=memory,
        ),
        Trap(
            words=("OutOfResources", "out of resource: shared memory", "illegal memory access"),
            hint=f"another kernel for attention: {_flag(flags, '--attention-backend FLEX_ATTENTION')}",
        ),
    ]
    if load.gpu.compute < AMPERE and load.quantization_of("vllm") == "awq-int4":
        found.append(
            Trap(
                words=("over and over", "asked to say only", "EngineDeadError"),
                hint=(
                    f"on {load.gpu.name} the kernels for AWQ (Marlin) add up in 16 bits, and can overflow "
                    f"(vllm#14126); others: {_flag(flags, '--linear-backend triton')}"
                ),
            )
        )
    return found


def _flag(flags: Sequence[str], flag: str) -> str:
    return f"pulumi config set --path 'vllmFlags[{len(flags)}]' -- '{flag}'"


def _fewer(load: Load, engine: Sum) -> str:
    """A smaller number of requests, or of tokens where it is one request already, and what that saves."""
    requests = engine.requests
    if requests == 1:
        context = load.context * 3 // 4
        return f"lower `context` from {load.context} to {context}: pulumi config set context {context}"
    fewer = max(1, requests * 3 // 4)
    less = engine.total - engine_sum(engine.kind, load.with_parallel(engine.kind, fewer)).total
    saves = f", which takes {gib(less)} less" if less >= GIB // 100 else ""
    key = f"parallel.{engine.kind}"
    return f"lower `{key}` from {requests} to {fewer}{saves}: pulumi config set --path {key} {fewer}"
