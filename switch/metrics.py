"""What Prometheus scrapes of the switch: what serves, a change, what is wrong, the host and its GPUs.

Names and units follow Prometheus' conventions: base units, and `_total` only for what never falls.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from switch.machine import World
from switch.report import ticks

PORT = 8002
PATH = "/metrics"
TARGETS = "/targets"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Family:
    """One metric; `samples` are its values, each with the labels that tell it from the others."""

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[Mapping[str, str], float]]

    def lines(self) -> Iterable[str]:
        """The metric in Prometheus' text format, line by line."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            number = repr(float(value))  # with all its digits: a counter of days still counts seconds
            yield f"{self.name}{{{told}}} {number}" if told else f"{self.name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def page(report: Mapping[str, Any], commits: int, now: float, on_gpu: float | None = None) -> str:
    """The exposition of what `status` shows at `now`; `commits` is how often what serves was changed, and
    `on_gpu` the share of the model that is on the GPU, None where the engine does not tell it."""
    found = families(report, commits, now, on_gpu)
    return "".join(f"{line}\n" for family in found for line in family.lines())


def targets(world: World, query: str) -> str:
    """Where what runs of the stack can be scraped, as Prometheus' HTTP service discovery has it.

    `query` is an address's: `role` and perhaps `kind` of the containers, and the `port` of each. What is
    stopped is no target, so that it isn't one that is down either.
    """
    asked = dict(parse_qsl(query))
    found = [
        {"targets": [f"{c.name}:{asked.get('port', '')}"], "labels": {"instance": c.name}}
        for c in sorted(world.values(), key=lambda each: each.name)
        if c.running and c.role == asked.get("role") and asked.get("kind") in (None, c.kind)
    ]
    return json.dumps(found)


def families(
    seen: Mapping[str, Any], commits: int, now: float, on_gpu: float | None = None
) -> Iterable[Family]:
    """A family for each thing that can be known; one that is not known has no samples."""

    def gauge(name: str, text: str, *samples: tuple[Mapping[str, str], float]) -> Family:
        return Family(f"changeover_{name}", "gauge", text, samples)

    active, change, last = seen["active"], seen["under_way"], seen["last"]
    engine = {"kind": active["kind"], "engine": active["name"], "model": active["model"]} if active else {}
    yield gauge("engine", "The engine that serves: always 1.", *([(engine, 1)] if active else []))
    yield gauge(
        "engine_gated",
        "Whether the engine that serves has passed the gate since it was last started.",
        ({}, seen["gated"]),
    )
    yield gauge(
        "model_gpu_ratio",
        "The share of the model's memory that is on the GPU, as Ollama says it; vLLM has no other place.",
        *([({}, on_gpu)] if on_gpu is not None else []),
    )
    yield Family("changeover_commits_total", "counter", "How often what serves has changed.", [({}, commits)])
    held = now - seen["held_since"] if seen["held_since"] else 0
    yield gauge(
        "held_duration_seconds", "For how long requests have been held; 0 while they flow.", ({}, held)
    )
    yield gauge("trouble", "Whether the switch can't bring back what serves.", ({}, bool(seen["trouble"])))
    silent = [({"container": name}, 1.0) for name in seen["silent"]]
    yield gauge("silent", "A container that gives no answer: 1.", *silent)
    yield gauge("journal_damaged", "Whether the journal was found damaged.", ({}, bool(seen["journal"])))
    now_changes = {"kind": change["kind"], "phase": change["phase"]} if change else {}
    yield gauge(
        "change_phase", "The phase of a change that is under way: 1.", *([(now_changes, 1)] if change else [])
    )
    yield gauge(
        "change_duration_seconds",
        "For how long a change has been under way; 0 without one.",
        ({}, change["seconds"] if change else 0),
    )
    if last:
        ended = last["began"] + last["seconds"]
        yield gauge("last_change_timestamp_seconds", "When the last change ended.", ({}, ended))
        yield gauge(
            "last_change_failed",
            "Whether the last change failed; one that was given up on purpose did not.",
            ({}, bool(last["error"] and not last["abandoned"])),
        )
        yield gauge(
            "last_change_held_seconds",
            "How long the last change held requests.",
            ({}, last["held_seconds"] or 0),
        )
        steps = {step["phase"]: float(step["seconds"]) for step in last["steps"]}
        yield gauge(
            "last_change_step_seconds",
            "How long each step of the last change took.",
            *(({"phase": phase}, seconds) for phase, seconds in steps.items()),
        )
    yield from _host(seen)


def _host(seen: Mapping[str, Any]) -> Iterable[Family]:
    memory, gpus = seen["memory"], seen["gpus"]
    busy, every = ticks()
    cpu = [({"mode": "busy"}, busy / TICKS), ({"mode": "idle"}, (every - busy) / TICKS)]
    yield Family(
        "changeover_host_cpu_seconds_total",
        "counter",
        "Time that all CPUs of the host together were busy or idle.",
        cpu,
    )
    yield Family("changeover_host_memory_bytes", "gauge", "RAM of the host.", [({}, memory["size"])])
    room: list[tuple[Mapping[str, str], float]] = [({}, memory["free"])]
    yield Family(
        "changeover_host_memory_available_bytes",
        "gauge",
        "RAM of the host that programs can still have.",
        room,
    )
    yield from _kernel(Path("/proc"))
    disks = seen["disks"].items()
    sizes, left = ([({"volume": name}, disk[key]) for name, disk in disks] for key in ("size", "free"))
    yield Family("changeover_disk_bytes", "gauge", "Size of the disk that holds a volume of weights.", sizes)
    yield Family(
        "changeover_disk_free_bytes", "gauge", "Free space on the disk that holds a volume of weights.", left
    )
    if not gpus or isinstance(gpus, str):
        if gpus:
            yield Family("changeover_gpu_lost", "gauge", "The GPU's driver gives no answer: 1.", [({}, 1)])
        return
    for key, name, text in (
        ("busy", "gpu_utilization_ratio", "The share of time in which the GPU ran a kernel."),
        ("used", "gpu_memory_used_bytes", "Memory of the GPU in use."),
        ("size", "gpu_memory_bytes", "All memory of the GPU."),
        ("watts", "gpu_power_watts", "The power that the GPU draws."),
        ("celsius", "gpu_temperature_celsius", "The temperature of the GPU."),
    ):
        values = [({"gpu": str(number)}, each[key]) for number, each in enumerate(gpus)]
        known = [
            (labels, value / 100 if key == "busy" else value) for labels, value in values if value is not None
        ]
        yield Family(f"changeover_{name}", "gauge", text, known)


WHOLE_DISK = re.compile(r"(sd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n\d+|mmcblk\d+)$")
"""A disk in `/proc/diskstats`, and not one of its partitions, whose bytes it counts too."""
SECTOR = 512
"""Bytes of a sector there, whatever the disk's own is (Linux' Documentation/admin-guide/iostats.rst)."""


def _kernel(proc: Path) -> Iterable[Family]:
    """What the host's kernel counts: a container sees the host's. What it does not tell is left out."""
    said = {name: _read(proc / name) for name in ("loadavg", "meminfo", "vmstat", "diskstats", "stat")}
    pairs = {
        key.rstrip(":"): int(value)
        for name in ("meminfo", "vmstat", "stat")
        for key, value, *_ in (line.split() for line in said[name].splitlines() if len(line.split()) > 1)
        if value.isdecimal()
    }
    load = [float(each) for each in said["loadavg"].split()[:1]]
    yield Family(
        "changeover_host_load1",
        "gauge",
        "Processes that ran or waited to run, on average over the last minute.",
        _known(load[0] if load else None),
    )
    yield Family(
        "changeover_host_boot_time_seconds", "gauge", "When the host was started.", _known(pairs.get("btime"))
    )
    swap = (pairs.get("SwapTotal", 0) - pairs.get("SwapFree", 0)) * 1024
    yield Family("changeover_host_swap_used_bytes", "gauge", "Memory that is swapped out.", [({}, swap)])
    yield Family(
        "changeover_host_oom_kills_total",
        "counter",
        "Processes that the kernel killed because the host or a container had no memory left.",
        _known(pairs.get("oom_kill")),
    )
    rows = [line.split() for line in said["diskstats"].splitlines()]
    disks = [row for row in rows if WHOLE_DISK.match(row[2])]
    for column, name, text in (
        (5, "read", "Bytes read from a disk."),
        (9, "written", "Bytes written to a disk."),
    ):
        done = [({"disk": row[2]}, float(row[column]) * SECTOR) for row in disks]
        yield Family(f"changeover_host_disk_{name}_bytes_total", "counter", text, done)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _known(value: float | None) -> list[tuple[Mapping[str, str], float]]:
    return [] if value is None else [({}, value)]


def listen(
    text: Callable[[], str], port: int = PORT, found: Callable[[str], str] = lambda query: "[]"
) -> ThreadingHTTPServer:
    """Answers scrapes with `text`, and requests for targets with what is `found` for their query. In a
    thread."""

    class MetricsHandler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == PATH:
                kind, raw = CONTENT_TYPE, text().encode()
            elif url.path == TARGETS:
                kind, raw = "application/json", found(url.query).encode()
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            """No line for a scrape."""

    server = ThreadingHTTPServer(("", port), MetricsHandler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return server
