"""What Prometheus scrapes of the switch: what serves, a change, what is wrong, the host and its GPUs.

Names and units follow Prometheus' conventions: base units, and `_total` only for what never falls.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from switch.report import ticks

PORT = 8002
PATH = "/metrics"
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
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{self.name}{{{told}}} {value:g}" if told else f"{self.name} {value:g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def page(report: Mapping[str, Any], commits: int, now: float) -> str:
    """The exposition of what `status` shows at `now`; `commits` is how often what serves was changed."""
    return "".join(f"{line}\n" for family in families(report, commits, now) for line in family.lines())


def families(r: Mapping[str, Any], commits: int, now: float) -> Iterable[Family]:
    """A family for each thing that can be known, without samples where it is not."""

    def gauge(name: str, text: str, *samples: tuple[Mapping[str, str], float]) -> Family:
        return Family(f"changeover_{name}", "gauge", text, samples)

    active, change, last = r["active"], r["under_way"], r["last"]
    engine = {"kind": active["kind"], "engine": active["name"], "model": active["model"]} if active else {}
    yield gauge("engine", "What serves: always 1.", *([(engine, 1)] if active else []))
    yield gauge(
        "engine_gated", "Whether what serves has passed the gate in its present run.", ({}, r["gated"])
    )
    yield Family("changeover_commits_total", "counter", "Changes of what serves.", [({}, commits)])
    held = now - r["held_since"] if r["held_since"] else 0
    yield gauge(
        "held_duration_seconds", "For how long requests have been held; 0 while they flow.", ({}, held)
    )
    yield gauge("trouble", "Whether the switch can't bring back what serves.", ({}, bool(r["trouble"])))
    silent = [({"container": name}, 1.0) for name in r["silent"]]
    yield gauge("silent", "A container that gives no answer: 1.", *silent)
    yield gauge("journal_damaged", "Whether the journal was found damaged.", ({}, bool(r["journal"])))
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
        yield gauge("last_change_held_seconds", "How long it held requests.", ({}, last["held_seconds"] or 0))
        steps = {step["phase"]: float(step["seconds"]) for step in last["steps"]}
        yield gauge(
            "last_change_step_seconds",
            "How long each step of the last change took.",
            *(({"phase": phase}, seconds) for phase, seconds in steps.items()),
        )
    yield from _host(r)


def _host(r: Mapping[str, Any]) -> Iterable[Family]:
    memory, gpus = r["memory"], r["gpus"]
    busy, every = ticks()
    cpu = [({"mode": "busy"}, busy / TICKS), ({"mode": "idle"}, (every - busy) / TICKS)]
    yield Family("changeover_host_cpu_seconds_total", "counter", "Of all CPUs of the host.", cpu)
    yield Family("changeover_host_memory_bytes", "gauge", "RAM of the host.", [({}, memory["size"])])
    room: list[tuple[Mapping[str, str], float]] = [({}, memory["free"])]
    yield Family("changeover_host_memory_available_bytes", "gauge", "What of it programs may have.", room)
    disks = r["disks"].items()
    sizes, left = ([({"volume": name}, disk[key]) for name, disk in disks] for key in ("size", "free"))
    yield Family("changeover_disk_bytes", "gauge", "The disk of a volume of weights.", sizes)
    yield Family("changeover_disk_free_bytes", "gauge", "What is free of it.", left)
    if not gpus or isinstance(gpus, str):
        if gpus:
            yield Family("changeover_gpu_lost", "gauge", "The driver gives no answer.", [({}, 1)])
        return
    for key, name, text in (
        ("busy", "gpu_utilization_ratio", "The share of time in which a kernel ran."),
        ("used", "gpu_memory_used_bytes", "Memory in use."),
        ("size", "gpu_memory_bytes", "All memory."),
        ("watts", "gpu_power_watts", "What it draws."),
        ("celsius", "gpu_temperature_celsius", "How hot it is."),
    ):
        values = [({"gpu": str(number)}, each[key]) for number, each in enumerate(gpus)]
        known = [
            (labels, value / 100 if key == "busy" else value) for labels, value in values if value is not None
        ]
        yield Family(f"changeover_{name}", "gauge", text, known)


def listen(text: Callable[[], str], port: int = PORT) -> ThreadingHTTPServer:
    """Answers scrapes, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path != PATH:
                self.send_error(404)
                return
            raw = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            """No line for a scrape."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return server
