"""Which mode a change of engine takes, and why, in words for the reviewer. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from components.catalogue import Model
from components.gpu_memory import EngineKind, Gpu, engine_sum, gib

Mode = Literal["hold", "overlap"]


@dataclass(frozen=True, kw_only=True)
class Cutover:
    """The chosen mode, the reason in one sentence, and each engine's sum in words."""

    mode: Mode
    reason: str
    sums: Mapping[EngineKind, str]


def choose(
    asked: Literal["auto", "overlap", "hold"], model: Model, *, context: int, parallel: int, gpu: Gpu | None
) -> Cutover:
    """The mode for these settings: `overlap` only where both engines fit beside each other.

    Without a GPU the host's free memory is not known from the settings, so `auto` holds there.
    """
    kinds: tuple[EngineKind, ...] = ("ollama", "vllm")
    both = [engine_sum(kind, model, context=context, parallel=parallel) for kind in kinds]
    sums = {each.kind: each.words for each in both}
    if asked != "auto":
        return Cutover(mode=asked, reason=f"the setting `cutover` says {asked}", sums=sums)
    if gpu is None:
        reason = (
            "on a CPU the memory that is free is not known from the settings, and one engine at a time fits"
        )
        return Cutover(mode="hold", reason=reason, sums=sums)
    total = sum(each.total for each in both)
    fits = total <= gpu.usable
    compare = f"{gib(total)} for both engines, {gib(gpu.usable)} usable on {gpu.name}"
    return Cutover(
        mode="overlap" if fits else "hold",
        reason=f"{compare}: {'both fit' if fits else 'one at a time'}",
        sums=sums,
    )
