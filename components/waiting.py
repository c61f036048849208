"""How long a request waits while the engine changes: expected, and in the worst case. Pure; all in seconds.

Only `hold` lets requests wait. In `overlap` the old engine serves until the new one is ready; its worst case
is that of a hold all the same, since an old engine that dies meanwhile leaves nothing that serves.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from components import facts
from components.gpu_memory import GPUS, KINDS, EngineKind, Load
from components.pins import Image
from components.plan import (
    DRAINED_GRACE,
    GATEWAY_ANSWERS,
    LEASE_PREPARED,
    MEMORY_FREE,
)

EXPECTED_DRAIN = 10
"""Estimate: what is left of the answers that run when a change begins."""

EXPECTED_STOP: dict[EngineKind, float] = {"vllm": DRAINED_GRACE, "ollama": 1}
"""Measured with the model `tiny`: vLLM takes all of its grace, Ollama 0.1 s."""

EXPECTED_GATE = 1
"""Estimate for each completion of the gate, and for the one through the new gateway."""

EXPECTED_PROMPT = {"cpu": 0, "gpu": 5}
"""Estimate for the gate's long prompt: a T4 reads 4,000 tokens of a 7B model in 3 to 4 s. On a CPU the prompt
is short."""

LOAD_START: dict[EngineKind, dict[str, float]] = {
    "vllm": {"cpu": 25, "gpu": 60},  # 22.9 s measured with `tiny`; on a GPU graphs are captured too
    "ollama": {"cpu": 2, "gpu": 5},  # on an H100 1.7 to 3.4 s with weights that Linux had in its cache
}
"""Estimate: what an engine takes to start beside reading its weights."""

DISK_BYTES_PER_SECOND = 125_000_000
"""Estimate: the baseline of a gp3 volume, the slowest disk that weights are expected on."""

FETCH_BYTES_PER_SECOND = {"cpu": 12_500_000, "gpu": 35_000_000}
"""Estimate for images and weights that come from the internet: 100 Mbit/s, and on a GPU host what somebody's
g4dn.xlarge took for vLLM's image, 9.5 GB in 4.5 minutes, unpacked to gp3."""

DOCKER_SLACK = 10
"""Docker's own time to start and stop containers during a restore."""


@dataclass(frozen=True)
class LoadTime:
    """How long an engine loads, and where the figure is from."""

    seconds: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What a request waits in a change to one engine, in seconds and written out."""

    expected: float
    expected_words: str
    worst: float
    worst_words: str


@dataclass(frozen=True, kw_only=True)
class FetchTime:
    """How long the first downloads from the internet take, in seconds and written out."""

    seconds: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The time-outs of the settings, in seconds: of the drain, and of loading with the gate; and its
    completions."""

    drain: int
    load: int
    completions: int

    @property
    def worst(self) -> int:
        """The longest wait that the switch allows: every step takes its time-out, and the old engine comes
        back."""
        return self.fixed + 2 * self.drain + 2 * self.load

    @property
    def fixed(self) -> int:
        """The part of the longest wait that no setting changes, in seconds."""
        return DRAINED_GRACE + 2 * MEMORY_FREE + LEASE_PREPARED + GATEWAY_ANSWERS + DOCKER_SLACK

    @property
    def worst_words(self) -> str:
        """`worst`, written out."""
        return (
            f"{self.worst} s = {self.drain} s drainSeconds + {DRAINED_GRACE} s stopping + {MEMORY_FREE} s "
            f"until its memory is free + {self.load} s loadSeconds, gate included + {LEASE_PREPARED} s for "
            f"the new gateway + {GATEWAY_ANSWERS} s for its first answer + {self.drain} s drainSeconds for "
            f"the requests that it has + {MEMORY_FREE} s until the memory is free + {self.load} s "
            f"loadSeconds to bring the old engine back + {DOCKER_SLACK} s for Docker"
        )


def place(load: Load) -> str:
    """Where a model runs, as the catalogue names it: `cpu` or the key of a GPU."""
    if load.gpu is None:
        return "cpu"
    return next(key for key, each in GPUS.items() if each.name == load.gpu.name)


def loading(kind: EngineKind, load: Load) -> LoadTime:
    """How long the engine loads its model: as measured, else start + weights / disk rate."""
    where = place(load)
    for each in load.model.loading:
        if (each.engine, each.place) == (kind, where):
            return LoadTime(each.seconds, each.source)
    start = LOAD_START[kind]["gpu" if load.gpu else "cpu"]
    size = load.model.source_of(kind, load.quantization.get(kind)).size
    source = f"estimate: {start:g} s + {size / 1e9:.1f} GB at {DISK_BYTES_PER_SECOND / 1e6:g} MB/s"
    return LoadTime(start + size / DISK_BYTES_PER_SECOND, source)


def first_fetch(images: Iterable[Image], weights: Iterable[EngineKind], load: Load) -> FetchTime:
    """How long these images and the weights of these engines take to download."""
    kinds = {"images": sum(each.size for each in images)}
    kinds["weights"] = sum(load.model.source_of(each, load.quantization.get(each)).size for each in weights)
    rate = FETCH_BYTES_PER_SECOND["gpu" if load.gpu else "cpu"]
    seconds = sum(kinds.values()) / rate
    parts = " + ".join(f"{size / 1e9:.1f} GB of {what}" for what, size in kinds.items() if size)
    return FetchTime(
        seconds=seconds,
        words=f"{facts.FIRST_FETCH}{math.ceil(seconds / 60)} min = {parts} at {rate / 1e6:g} MB/s (estimate)",
    )


def other_than(kind: EngineKind) -> EngineKind:
    """The other kind of engine."""
    return next(each for each in KINDS if each != kind)


def wait(to: EngineKind, load: Load, bounds: Bounds, old: EngineKind | None = None) -> Wait:
    """How long a request waits when the engine changes to `to` by hold, from the other kind or from `old`."""
    stopped = other_than(to) if old is None else old
    stop = EXPECTED_STOP[stopped]
    loads = loading(to, load)
    drain = min(bounds.drain, EXPECTED_DRAIN)
    gate = EXPECTED_GATE * (bounds.completions + 1) + EXPECTED_PROMPT["gpu" if load.gpu else "cpu"]
    expected = drain + stop + loads.seconds + gate
    return Wait(
        expected=expected,
        expected_words=(
            f"{expected:.0f} s = {drain} s drain (estimate) + {stop:g} s stopping {stopped} "
            f"+ {loads.seconds:.0f} s loading ({loads.source}) + {gate} s gate (estimate)"
        ),
        worst=bounds.worst,
        worst_words=bounds.worst_words,
    )
