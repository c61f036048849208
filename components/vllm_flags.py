"""The setting `vllmFlags`: which flags of vLLM a person may add, and why not the others. Pure.

Checked against the arguments of vLLM 0.32 and 0.33.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.gpu_memory import Gpu

SETTING: dict[str, str] = {
    "--model": "model",
    "--served-model-name": "model",
    "--max-model-len": "context",
    "--max-num-seqs": "parallel",
    "--quantization": "quantization",
    "-q": "quantization",
    "--tensor-parallel-size": "gpuCount",
    "-tp": "gpuCount",
    "--runner": "model",
    "--convert": "model",
    "--pipeline-parallel-size": "gpuCount",
    "-pp": "gpuCount",
    "--data-parallel-size": "gpuCount",
    "-dp": "gpuCount",
    "--data-parallel-size-local": "gpuCount",
    "-dpl": "gpuCount",
    "--prefill-context-parallel-size": "gpuCount",
    "-pcp": "gpuCount",
    "--decode-context-parallel-size": "gpuCount",
    "-dcp": "gpuCount",
    "--nnodes": "gpuCount",
    "-n": "gpuCount",
}
"""Flags that the program sets from a setting."""

_SECOND_MODEL = "the sum of memory doesn't include the second model"
_NO_HTTP = "the proxy asks engines over HTTP"

OWN: dict[str, str] = {
    "--port": "engines are reached only inside the stack; the endpoint's port is the setting `port`",
    "--host": "engines are reached only inside the stack",
    "--uds": "engines are reached only inside the stack",
    "--api-key": "the proxy checks keys; they are the setting `apiKeys`",
    "--root-path": "engines are reached only inside the stack",
    "--headless": _NO_HTTP,
    "--grpc": _NO_HTTP,
    "--hf-token": "it would be readable in the container's command, and an engine fetches nothing",
    "--config": "a file could set any flag, and the sum of memory would not see it",
    "--shutdown-timeout": "the program relies on how long an engine takes to stop",
    "--max-num-batched-tokens": "the sum of memory depends on it",
    "--kv-cache-memory-bytes": "it is computed from `context` and `parallel`",
    "--block-size": "the sum of memory counts the KV cache in vLLM's own blocks",
    "--no-enable-chunked-prefill": "vLLM would not start with a context that it can't compute at once",
    "--num-gpu-blocks-override": "it would change the size that the sum of memory gives the KV cache",
    "--gpu-memory-utilization": "it is computed from the sum of memory",
    "--device-memory-utilization": "it is computed from the sum of memory",
    "--cpu-offload-gb": "the sum of memory doesn't include it",
    "--kv-offloading-size": "the sum of memory doesn't include it",
    "--offload-group-size": "the sum of memory doesn't include it",
    "--speculative-config": _SECOND_MODEL,
    "-sc": _SECOND_MODEL,
    "--spec-method": _SECOND_MODEL,
    "--spec-model": _SECOND_MODEL,
    "--spec-tokens": _SECOND_MODEL,
    "--enable-lora": "the sum of memory doesn't include adapters",
    "--enable-log-requests": "it would write prompts into the log, and no log of a stack has any",
    "--enable-log-outputs": "it would write answers into the log, and no log of a stack has any",
    "--max-log-len": "it says how much of a prompt is logged, and no log of a stack has any",
}
"""Flags that the program sets, whose memory its sum would not count, or that break what it promises, with the
reason."""

BY_VALUE = ("--dtype", "--kv-cache-dtype", "--load-format")
"""Flags of which some values are refused."""

REMOVED = (
    "--swap-space", "--task", "--device", "--disable-log-requests", "--use-v2-block-manager",
    "--num-lookahead-slots", "--enable-reasoning", "--guided-decoding-backend", "--speculative-model",
    "--max-seq-len-to-capture", "--rope-scaling", "--rope-theta", "--preemption-mode",
    "--num-scheduler-steps", "--worker-use-ray", "--enable-prompt-adapter", "--scheduler-delay-factor",
)  # fmt: skip
"""Flags of older versions that vLLM no longer has: it would not start."""

PLUGIN_ONLY = ("bitsandbytes", "gguf")
"""Formats that left vLLM's core after 0.27 and need a plugin that the image doesn't have."""

FP8_COMPUTE = 89
BFLOAT16_COMPUTE = 80


@dataclass(frozen=True)
class RefusedFlag:
    """A flag that is refused: `item` as it was given, `why`, and the `setting` to use instead, if there is
    one."""

    item: str
    why: str
    setting: str | None = None


def words(flags: Sequence[str]) -> tuple[str, ...]:
    """The flags as words of a command line. One entry may be a flag, a flag and its value, or a value."""
    return tuple(word for entry in flags for word in shlex.split(entry))


def pairs(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag with its value (or the empty string), `_` in its name as `-`, as vLLM reads it."""
    name, values = "", list[str]()
    for word in words(flags):
        if word.startswith("-") and not word[1:2].isdigit():
            if name:
                yield name, " ".join(values)
            name, _, value = word.partition("=")
            name, values = name.replace("_", "-"), [value] if value else []
        else:
            values.append(word)
            if not name:
                yield "", word
                values = []
    if name:
        yield name, " ".join(values)


def refusals(flags: Sequence[str], gpu: Gpu | None) -> list[RefusedFlag]:
    """The flags of `vllmFlags` that are refused, in the order given."""
    try:
        found = list(pairs(flags))
    except ValueError as error:  # an open quote
        return [RefusedFlag(" ".join(flags), f"it cannot be read as a command line ({error})")]
    return [each for name, value in found if (each := _refusal(name, value, gpu))]


def _whole(name: str, value: str) -> tuple[str, str]:
    """A flag that is reserved here as it is written above, with its value, however it was abbreviated.

    vLLM's parser is argparse's: it takes the beginning of a flag for the flag, and `-qfp8` for `-q fp8`.
    """
    reserved = (*SETTING, *OWN, *BY_VALUE)
    if name in reserved or name in REMOVED:
        return name, value
    if name.startswith("--"):
        return next((each for each in reserved if each.startswith(name) and name != "--"), name), value
    return (name[:2], name[2:]) if name[:2] in reserved else (name, value)


def _refusal(name: str, value: str, gpu: Gpu | None) -> RefusedFlag | None:
    item = f"{name} {value}".strip()
    base, value = _whole(name.partition(".")[0], value)
    compute = f"{gpu.name} has compute capability {gpu.compute / 10}" if gpu else ""
    if not name:
        return RefusedFlag(item, "a flag must begin with --")
    if base in REMOVED:
        return RefusedFlag(item, "vLLM no longer has this flag and would not start")
    if base in ("--quantization", "-q", "--load-format") and value.lower() in PLUGIN_ONLY:
        return RefusedFlag(item, f"vLLM's core no longer has {value}; use the setting `quantization`")
    fp8 = "fp8" in value.lower() and base in ("--quantization", "-q", "--kv-cache-dtype")
    if gpu and fp8 and gpu.compute < FP8_COMPUTE:
        return RefusedFlag(item, f"{compute}, and FP8 needs {FP8_COMPUTE / 10}")
    if base in SETTING:
        return RefusedFlag(item, f"the program sets it from the setting `{SETTING[base]}`", SETTING[base])
    if base in OWN or base.startswith("--ssl-"):
        return RefusedFlag(item, OWN.get(base, "engines are reached only inside the stack, without TLS"))
    bfloat16 = value == "bfloat16" and base in ("--dtype", "--kv-cache-dtype")
    if gpu and bfloat16 and gpu.compute < BFLOAT16_COMPUTE:
        return RefusedFlag(item, f"{compute}, and bfloat16 needs {BFLOAT16_COMPUTE / 10}")
    if base == "--dtype" and value in ("float32", "float"):
        return RefusedFlag(
            item, "the sum of memory assumes 16 bits; it must be one of auto, half, float16, bfloat16"
        )
    return None
