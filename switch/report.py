"""All that can be said of a stack at one time, as data."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switch import gpu
from switch.gpu import GpuError
from switch.live import serving
from switch.machine import UNDER_WAY, State, Transaction, World, gated
from switch.proxies import Status


def report(
    state: State,
    world: World,
    told: dict[str, Status | None],
    weights: Path,
    now: float,
    write_error: str = "",
    silent: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that `status` shows; times in seconds since the epoch, sizes in bytes. `told` is what each running
    proxy says, None where it says nothing, and `silent` which engine or gateway gives no answer."""
    active, change = state.active, state.transaction
    change = change if change and change.phase in UNDER_WAY else None
    told_before = state.damage.route if state.damage else None
    disks = {}
    for folder in sorted(weights.glob("*")):
        disk = os.statvfs(folder)
        disks[folder.name] = {"free": disk.f_bavail * disk.f_frsize, "size": disk.f_blocks * disk.f_frsize}
    return {
        "live": serving(state, world),
        "active": active and {**dataclasses.asdict(active.plan.engine), "since": active.since},
        "gated": gated(state, world),
        "gateway": active and active.plan.gateway_container,
        "held_since": state.held or (told_before and told_before.held_since),
        "trouble": state.trouble or write_error,
        "silent": dict(silent or {}),
        "healed": {"what": state.healed, "at": state.healed_at} if state.healed else None,
        "journal": _damage(state),
        "under_way": change and _short(change, now),
        "last": state.last and _short(state.last, now),
        "engines_running": sorted(c.name for c in world.values() if c.role == "engine" and c.running),
        "containers": {c.name: "running" if c.running else "stopped" for c in world.values()},
        "disks": disks,
        "proxies": {name: said and dataclasses.asdict(said) for name, said in told.items()},
        "memory": _memory(),
        "gpus": _gpus(active.plan.engine.gpu_bytes if active else 0),
    }


def _damage(state: State) -> dict[str, Any] | None:
    """What is known, and what is not, since the journal was damaged; None where it was not."""
    damage = state.damage
    if damage is None:
        return None
    told = damage.route
    if state.active:
        known = "what serves and what leads back, as they were one write before; what serves is looked after"
        unknown = "what was written last"
    else:
        known = f"the proxies ask {told.engine} ({told.container})" if told else "nothing but what runs"
        unknown = "what leads back, what the last change was, and how to gate what serves: if it ends, the "
        unknown += "switch does not start it again"
    return {"damaged_at": damage.since, "why": damage.why, "known": known, "unknown": unknown}


def _memory() -> dict[str, int]:
    """Free and all RAM of the host, in bytes."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
    return {"free": kib["MemAvailable"] * 1024, "size": kib["MemTotal"] * 1024}


def ticks() -> tuple[int, int]:
    """The time of the host's CPUs since it was started, in ticks: with work, and all of it."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _gpus(wanted: int) -> list[dict[str, float | None]] | str:
    """What each GPU does, what the driver's tool said instead, or nothing on a CPU."""
    if not wanted:
        return []
    try:
        return gpu.use()
    except GpuError as error:
        return str(error)


def _short(change: Transaction, now: float) -> dict[str, Any]:
    return {
        "kind": change.plan.engine.kind,
        "container": change.plan.engine.container,
        "from": change.old_engine,
        "asked": change.asked,
        "way": change.way,
        "phase": change.phase,
        "phase_seconds": round(now - change.since, 1),
        "began": change.began,
        "seconds": round((change.ended or now) - change.began, 1),
        "held_seconds": change.held_seconds,
        "error": change.error,
        "abandoned": change.abandoned,
        "steps": change.steps,
        "gates": change.gates,
    }
