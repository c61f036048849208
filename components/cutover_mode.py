"""Which mode a change of the engine takes and why, and how much the engines can do, in words. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from components import facts
from components.gpu_memory import (
    KINDS,
    MARGIN,
    EngineKind,
    Load,
    Sum,
    engine_sum,
    preempts_from,
)
from components.waiting import Bounds, Wait, wait
from switch.plan import Mode
from switch.words import gib

HOST_RAM = "of host RAM"


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """What the engines need of one memory, in bytes, alone and together. `there` is None if not known.

    `what` says after a size which memory it is, as in `of host RAM`. `services` is what edge, proxy, gateway,
    switch and a monitor may take of it, which run beside any engine.
    """

    what: str
    each: Mapping[EngineKind, int]
    there: int | None
    services: int = 0

    @property
    def both(self) -> int:
        """Bytes that both engines and the services need together."""
        return sum(self.each.values()) + self.services

    def alone(self, kind: EngineKind) -> int:
        """Bytes that one engine and the services need together."""
        return self.each[kind] + self.services

    @property
    def words(self) -> str:
        """Who shares it where both engines run."""
        return "both engines and the services" if self.services else "both engines"

    def fits_both(self, margin: int = 0) -> bool:
        """Whether both engines fit, with `margin` bytes to spare; False if it is not known how much there
        is."""
        return self.there is not None and self.both + margin <= self.there


@dataclass(frozen=True, kw_only=True)
class Cutover:
    """The chosen mode and the reason in one sentence; sums in words and waits by engine.

    `capacity` says for each engine how many requests it works on at the same time, and what happens to a
    further one. `cost` is what the engines have less of because both must fit at once; empty: nothing.

    `same` says for each engine how a change of its own settings goes, if the mode doesn't say it, and
    `same_waits` what a request waits then, in seconds, where that is by hold.

    `expected` and `worst` are what a request waits in a change to `engine`, in seconds. In overlap nobody
    waits, so `expected` is 0, and `worst` is the wait if the old engine dies meanwhile.
    """

    engine: EngineKind
    mode: Mode
    reason: str
    sums: Mapping[EngineKind, str]
    host_ram: str
    waits: Mapping[EngineKind, Wait]
    same: Mapping[EngineKind, str]
    same_waits: Mapping[str, float]
    capacity: Mapping[EngineKind, str]
    cost: str = ""

    @property
    def expected(self) -> float:
        """Seconds that a request waits in a change to `engine`, as estimated; 0 in overlap."""
        return 0 if self.mode == "overlap" else self.waits[self.engine].expected

    @property
    def worst(self) -> float:
        """Seconds that a request waits in a change to `engine` if every step takes its full time-out."""
        return self.waits[self.engine].worst

    @property
    def lines(self) -> list[str]:
        """Mode, sums and waits for a reader, a line each; the same whichever engine is active."""
        return [
            f"{facts.MODE}{self.mode}, since {self.reason}",
            *([f"what overlap costs: {self.cost}"] if self.cost else []),
            *(f"  {kind}: {words}" for kind, words in self.sums.items()),
            f"  host RAM: {self.host_ram}",
            *(f"at the same time, {kind}: {words}" for kind, words in self.capacity.items()),
            *self.wait_lines(KINDS),
            *(f"other settings of {kind}: {words}" for kind, words in self.same.items()),
        ]

    def wait_lines(self, kinds: tuple[EngineKind, ...]) -> list[str]:
        """What a request waits in a change to each of `kinds`, expected, and at the worst."""
        if self.mode == "overlap":
            expected = ["wait: none, the old engine answers until the new one is ready"]
            when = "if the old engine dies meanwhile"
        else:
            expected = [f"wait in a change to {kind}: {self.waits[kind].expected_words}" for kind in kinds]
            when = "if every step takes its full time-out and the old engine has to be brought back"
        return [*expected, f"worst wait, {when}: {self.waits[self.engine].worst_words}"]


def memory_needs(load: Load, sums: Mapping[EngineKind, Sum]) -> list[MemoryNeed]:
    """The memories that have to hold the engines: that of the GPU, if there is one, and the host's RAM."""
    host = MemoryNeed(
        what=HOST_RAM,
        each={kind: each.host for kind, each in sums.items()},
        there=load.host_memory,
        services=load.services,
    )
    if load.gpu is None:
        return [host]
    gpu = MemoryNeed(
        what=f"usable on {load.gpu.words}",
        each={kind: each.total for kind, each in sums.items()},
        there=load.gpu_there,
    )
    return [gpu, host]


def sums_of(load: Load) -> dict[EngineKind, Sum]:
    """Each engine's sum."""
    return {kind: engine_sum(kind, load) for kind in KINDS}


def too_small(load: Load, margin: int = 0) -> MemoryNeed | None:
    """The memory that is known and cannot hold both engines at once with so much to spare, if any."""
    known = [memory for memory in memory_needs(load, sums_of(load)) if memory.there is not None]
    return next((memory for memory in known if not memory.fits_both(margin)), None)


def capacity(engine: Sum, load: Load) -> str:
    """How many requests an engine works on at the same time, and what happens to a further one, in words."""
    if engine.kind == "ollama" or load.gpu is None:
        words = f"{engine.requests} requests, each with all of its {load.context} tokens"
        return f"{words}; any further one waits until one of these ends"
    typical, full = (min(engine.requests, engine.tokens // tokens) for tokens in (load.typical, load.context))
    words = f"up to {engine.requests} requests: {full} if each uses all of its {load.context} tokens"
    if typical > full:
        words += f", {typical} if each uses {load.typical}"
    if average := preempts_from(engine, load):
        words += (
            f"; if they average more than {average} tokens, it preempts some and computes them again later"
        )
    return f"{words}; any further one waits until one of these ends"


def _cost(load: Load) -> str:
    """What the engines have less of because both must fit at once; empty: nothing."""
    parts = []
    for kind in KINDS:
        beside, alone = (engine_sum(kind, replace(load, together=each)) for each in (True, False))
        if beside.requests < alone.requests:
            some = f"{beside.requests} parallel request{'s' if beside.requests > 1 else ''}"
            parts.append(f"{kind} has {some} instead of {alone.requests}")
        elif beside.tokens < alone.tokens:
            parts.append(f"{kind} has a KV cache of {beside.tokens} tokens instead of {alone.tokens}")
    return ", ".join(parts)


def choose(
    asked: Literal["auto", "overlap", "hold"], engine: EngineKind, load: Load, bounds: Bounds
) -> Cutover:
    """The mode for these settings. `auto` is `overlap` only where both engines fit beside each other as they
    are set to serve, with a margin; a person who says `overlap` gets engines that are made to fit.

    Without a GPU it takes the host's RAM to know that; where that is not known, `auto` holds.
    """
    load = replace(load, together=asked == "overlap")
    sums = sums_of(load)
    mode, reason = _mode(asked, load)
    parts = [
        *(f"{gib(each.host)} {kind}" for kind, each in sums.items()),
        f"{gib(load.services)} services",
    ]
    same = {kind: _same(kind, asked, load, bounds) for kind in KINDS if mode == "overlap"}
    there = "hostMemoryGiB is not set" if load.host_memory is None else f"of {gib(load.host_memory)}"
    return Cutover(
        engine=engine,
        mode=mode,
        reason=reason,
        sums={kind: each.words for kind, each in sums.items()},
        host_ram=f"{' + '.join(parts)}, {there}",
        waits={kind: wait(kind, load, bounds) for kind in KINDS},
        same={kind: words for kind, (words, _) in same.items()},
        same_waits={kind: waits.expected for kind, (_, waits) in same.items() if waits},
        capacity={kind: capacity(each, load) for kind, each in sums.items()},
        cost=_cost(load) if asked == "overlap" else "",
    )


def _same(
    kind: EngineKind, asked: Literal["auto", "overlap", "hold"], load: Load, bounds: Bounds
) -> tuple[str, Wait | None]:
    """How a change of settings goes that keeps the engine, in words, where a change of engine overlaps; and
    the wait, where that is by hold.

    What serves then has other settings than these, which nobody knows here; the switch knows both.
    """
    for memory in memory_needs(load, sums_of(load)):
        need = 2 * memory.each[kind] + memory.services
        if memory.there is not None and need > memory.there:
            two = "the old one and the new one" + (" and the services" if memory.services else "")
            compare = f"{two} need {gib(need)}, and there are {gib(memory.there)} {memory.what}"
            if asked == "overlap":
                return f"refused while `cutover` is overlap, since {compare}", None
            held = wait(kind, load, bounds, old=kind)
            return f"by hold, since {compare}; wait: {held.expected_words}", held
    return "by overlap if the old one and the new one fit", None


def _mode(asked: Literal["auto", "overlap", "hold"], load: Load) -> tuple[Mode, str]:
    margin = MARGIN if asked == "auto" else 0
    spare = f", plus {gib(margin)} to spare" if margin else ""
    small = too_small(load, margin)
    if asked == "hold":
        return "hold", "the setting `cutover` is hold"
    if small is not None and small.there is not None:
        compare = (
            f"{small.words} need {gib(small.both)}{spare}, and there are {gib(small.there)} {small.what}"
        )
        return "hold", f"{compare}: one at a time"
    known = [memory for memory in memory_needs(load, sums_of(load)) if memory.there is not None]
    if asked == "auto" and not known:
        return (
            "hold",
            "on a CPU it takes `hostMemoryGiB` to know whether both fit, and it is not set: one at a time",
        )
    fits = " and ".join(
        f"{memory.words} need {gib(memory.both)}{spare}, and there are {gib(memory.there or 0)} {memory.what}"
        for memory in known
    )
    if asked == "overlap":
        said = "the setting `cutover` is overlap"
        return (
            "overlap",
            f"{said}; {fits}: both fit"
            if fits
            else f"{said}, and without hostMemoryGiB nothing says whether both fit",
        )
    return "overlap", f"{fits}: both fit"


def mode_changed(cutover: Cutover, asked: str, before: str | None) -> str:
    """What a stack's first preview says where the mode is another than at its last update.

    `auto`, which meant overlap, is hold now; or `overlap` is asked for, and what serves has the memory that
    `hold` gives it.
    """
    wait = cutover.waits[cutover.engine]
    if asked == "overlap" and before == "hold":
        return (
            "`cutover` was hold at the last update. If the engine that serves leaves too little memory for "
            f"another one beside it, requests wait in this update: an expected {wait.expected:.0f} s, and in "
            f"the worst case {wait.worst:.0f} s. From then on, changes of the engine overlap"
        )
    if not (asked == "auto" and before == "overlap" and cutover.mode == "hold"):
        return ""
    return (
        "`cutover: auto` meant overlap at the last update and means hold now, since each engine gets the "
        "memory to serve more requests at once. In a change of the engine requests wait: an expected "
        f"{wait.expected:.0f} s, and in the worst case {wait.worst:.0f} s. For overlap, with fewer requests "
        "at once: pulumi config set cutover overlap"
    )
