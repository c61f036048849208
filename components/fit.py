"""What can never start, with the sum and the nearest settings that would fit, computed. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from components.catalogue import GIB
from components.cutover_mode import HOST_RAM, memory_needs, sums_of, too_small
from components.gpu_memory import GPUS, EngineKind, Gpu, Load, engine_sum
from components.waiting import Bounds
from switch.words import gib

CONTEXT_MINIMUM = 256
CONTEXT_STEP = 256
HOLD_BUDGET_MAXIMUM = 3600
COUNTS = (1, 2, 4, 8)
"""How many GPUs one machine has."""
AWQ_GROUP = 128
"""Weights of a row that share a scale; vLLM puts no part of a group on another GPU (`create_weights` in
quantization/auto_awq.py of 0.32)."""


@dataclass(frozen=True)
class Choice:
    """A setting that would work: its key (or path), its value, and what the engine needs with it, in
    words."""

    key: str
    value: str
    words: str = ""

    @property
    def command(self) -> str:
        """What to type to choose it."""
        path = "--path " if "." in self.key else ""
        return f"pulumi config set {path}{self.key} {self.value}"


@dataclass(frozen=True, kw_only=True)
class UnworkableSetting:
    """A setting that cannot work: `key` and `value` as given, `why`, and `choices` that would, nearest
    first."""

    key: str
    value: object
    why: str
    choices: Sequence[Choice]

    @property
    def words(self) -> str:
        """Why the setting cannot work and what would, in words."""
        if not self.choices:
            return f"{self.why}; no single setting would make it fit"
        each = [f"{one.key} {one.value}{f' ({one.words})' if one.words else ''}" for one in self.choices]
        return f"{self.why}; it would work with {', or '.join(each)}"


def counts(load: Load) -> list[int]:
    """How many GPUs can share the model: attention heads are divided, and KV heads or their copies; of AWQ
    whole groups of weights."""
    heads, kv, rows = load.model.attention_heads, load.model.kv_heads, _grouped_rows(load)
    return [
        count
        for count in COUNTS
        if heads % count == 0
        and (kv % count == 0 or count % kv == 0)
        and all(row % (AWQ_GROUP * count) == 0 for row in rows)
    ]


def _grouped_rows(load: Load) -> tuple[int, ...]:
    """The lengths of vLLM's rows of weights that are divided among GPUs in whole groups."""
    model = load.model
    if load.quantization_of("vllm") != "awq-int4":
        return ()
    return model.attention_heads * model.head_dim, model.intermediate


def refused_count(load: Load) -> UnworkableSetting | None:
    """A number of GPUs among which vLLM cannot divide the model."""
    if load.gpu is None or load.gpu.count in counts(load):
        return None
    model, rows = load.model, _grouped_rows(load)
    groups = f", and rows of {' and '.join(map(str, rows))} weights in groups of {AWQ_GROUP} (awq-int4)"
    return UnworkableSetting(
        key="gpuCount",
        value=load.gpu.count,
        why=(
            f"vLLM has to divide {model.attention_heads} attention heads and {model.kv_heads} KV heads of "
            f"{model.name} evenly among the GPUs{groups if rows else ''}"
        ),
        choices=[Choice("gpuCount", str(count)) for count in counts(load)],
    )


def refused_engine(kind: EngineKind, load: Load) -> UnworkableSetting | None:
    """An engine that can never start with this load, for want of GPU memory or of host RAM."""
    sums = sums_of(load)
    for memory in memory_needs(load, sums):
        need = memory.alone(kind)
        if memory.there is None or need <= memory.there:
            continue
        on_host = memory.what == HOST_RAM
        if on_host and load.gpu:
            return UnworkableSetting(
                key="hostMemoryGiB",
                value=memory.there // GIB,
                why=f"besides its GPU, {kind} needs host RAM, {gib(need)} together with the services",
                choices=[Choice("hostMemoryGiB", str(math.ceil(need / GIB)), "if the host has that much")],
            )
        beside = f", and the services {gib(memory.services)}" if memory.services else ""
        choices = _choices(kind, load)
        quantization = load.quantization_of(kind)
        values: dict[str, object] = {
            "context": load.context,
            f"parallel.{kind}": load.parallel.get(kind),
            f"quantization.{kind}": quantization,
            "model": load.model.name,
        }
        key = next((each.key for each in choices if each.key in values), "model")
        return UnworkableSetting(
            key=key,
            value=values[key],
            why=f"{kind} needs {sums[kind].words}{beside}, and there are {gib(memory.there)} {memory.what}",
            choices=choices,
        )
    return None


def _fits(kind: EngineKind, load: Load) -> bool:
    each = {kind: engine_sum(kind, load)}
    return all(
        memory.there is None or memory.alone(kind) <= memory.there for memory in memory_needs(load, each)
    )


def _largest(values: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest value that fits, where all below one that fits do too."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(values[middle]) else (low, middle)
    return values[low - 1] if low else None


def _choices(kind: EngineKind, load: Load) -> list[Choice]:
    """Each single setting that would make `kind` fit, with what it needs then."""

    def words(changed: Load) -> str:
        return gib(engine_sum(kind, changed).total)

    found: list[Choice] = []
    contexts = range(CONTEXT_MINIMUM, load.context, CONTEXT_STEP)
    if context := _largest(contexts, lambda tokens: _fits(kind, replace(load, context=tokens))):
        found.append(Choice("context", str(context), words(replace(load, context=context))))
    fewer = range(1, load.parallel.get(kind, 1))
    if parallel := _largest(fewer, lambda requests: _fits(kind, load.with_parallel(kind, requests))):
        found.append(Choice(f"parallel.{kind}", str(parallel), words(load.with_parallel(kind, parallel))))
    for source in load.model.sources(kind):
        other = load.with_quantization(kind, source.quantization)
        if source.quantization != load.quantization_of(kind) and _fits(kind, other):
            found.append(Choice(f"quantization.{kind}", source.quantization, words(other)))
    if load.gpu_memory is not None and _fits(kind, replace(load, gpu_memory=None)):
        found.append(Choice("gpuMemoryMiB", "0", words(replace(load, gpu_memory=None))))
    if load.gpu is None:
        need = engine_sum(kind, load).host + load.services
        found.append(Choice("hostMemoryGiB", str(math.ceil(need / GIB)), "if the host has that much"))
    else:
        found += _other_gpus(kind, load, load.gpu)
    return found


def _other_gpus(kind: EngineKind, load: Load, gpu: Gpu) -> list[Choice]:
    """The smallest GPU that would do, as many as now, and the fewest of the same kind."""
    found = []
    for key, each in GPUS.items():
        other = replace(load, gpu=replace(each, count=gpu.count))
        if each.usable > gpu.usable and _fits(kind, other):
            found.append(Choice("gpu", key, f"{gib(engine_sum(kind, other).total)} of {gib(each.usable)}"))
            break
    for count in counts(load):
        other = replace(load, gpu=replace(gpu, count=count))
        if count > gpu.count and _fits(kind, other):
            found.append(Choice("gpuCount", str(count), f"{gib(engine_sum(kind, other).total)} on each"))
            break
    return found


def refused_overlap(load: Load) -> UnworkableSetting | None:
    """`cutover: overlap` where both engines are known not to fit beside each other."""
    load = replace(load, together=True)
    memory = too_small(load)
    if memory is None or memory.there is None:
        return None
    sums = sums_of(load)
    both = "; ".join(f"{kind} {gib(memory.each[kind])}" for kind in sums)
    return UnworkableSetting(
        key="cutover",
        value="overlap",
        why=(
            f"{memory.words} need {gib(memory.both)} ({both}), "
            f"and there are {gib(memory.there)} {memory.what}"
        ),
        choices=[Choice("cutover", "hold"), Choice("cutover", "auto"), *_overlap_choices(load)],
    )


def _overlap_choices(load: Load) -> list[Choice]:
    """A context or numbers of requests with which both engines would fit at once."""
    found = []
    contexts = range(CONTEXT_MINIMUM, load.context, CONTEXT_STEP)
    if context := _largest(contexts, lambda tokens: too_small(replace(load, context=tokens)) is None):
        found.append(Choice("context", str(context)))
    if load.parallel and too_small(replace(load, parallel={})) is None:
        found.append(Choice("parallel", "auto"))
    return found


def refused_budget(budget: int, bounds: Bounds) -> UnworkableSetting | None:
    """A hold budget that is smaller than the worst wait: requests would get 503 in a change that succeeds."""
    if budget >= bounds.worst:
        return None
    choices = []
    if bounds.worst <= HOLD_BUDGET_MAXIMUM:
        choices.append(Choice("holdBudgetSeconds", str(bounds.worst)))
    load = (budget - bounds.fixed) // 2 - bounds.drain
    drain = (budget - bounds.fixed) // 2 - bounds.load
    for key, seconds in (("loadSeconds", load), ("drainSeconds", drain)):
        if seconds >= 1:
            choices.append(Choice(key, str(seconds)))
    words = (
        f"2 × {bounds.drain} s drainSeconds + 2 × {bounds.load} s loadSeconds + {bounds.fixed} s for "
        "stopping, freeing memory, the new gateway and Docker"
    )
    return UnworkableSetting(
        key="holdBudgetSeconds",
        value=budget,
        why=f"a request can wait {bounds.worst} s in the worst case ({words})",
        choices=choices,
    )
