"""What is kept of a request: a line of JSON in the access log, and counters. No prompt, answer or key."""

import asyncio
import datetime
import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

from proxy.answers import Usage
from proxy.route import NOBODY
from proxy.usage import KEPT_FILES, LOG_FILES

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 4000)
"""Upper bounds of the histograms' buckets. A request can be held for an hour (`holdBudgetSeconds`)."""
LOG_BYTES = 10 * 2**20


@dataclass(eq=False)
class RequestRecord:
    """One request. Times are of the event loop's clock, in seconds; `none` where there was none."""

    began: float
    endpoint: str
    tenant: str = NOBODY
    known: bool = False
    """Whether the tenant is one that a key names, and not what anybody says."""
    model: str = NOBODY
    engine: str = NOBODY
    stream: bool = False
    status: int = 0
    """0: the client had gone before there was one."""
    usage: Usage = field(default_factory=Usage)
    events: int = 0
    held: float = 0
    first: float | None = None
    hung_up: bool = False
    cut: bool = False

    def line(self, now: float) -> str:
        """The access log's. Tokens are those that the engine reported; of an answer that was broken off, the
        events seen."""
        tokens, counted = self.usage.completion, "reported"
        if tokens is None and self.events:
            tokens, counted = self.events, "events"
        said = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "tenant": self.tenant,
            "endpoint": self.endpoint,
            "model": self.model,
            "engine": self.engine,
            "stream": self.stream,
            "status": self.status or None,
            "prompt_tokens": self.usage.prompt,
            "completion_tokens": tokens,
            "tokens": counted if tokens is not None else None,
            "first_ms": None if self.first is None else _ms(self.first - self.began),
            "total_ms": _ms(now - self.began),
            "held_ms": _ms(self.held),
            "hung_up": self.hung_up,
            "cut": self.cut,
        }
        return json.dumps(said)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


class Books:
    """Where records go. `registry` is what Prometheus scrapes."""

    def __init__(self, folder: Path | None, host: str) -> None:
        self._log = logging.getLogger("access")
        self._log.propagate = False
        self._log.setLevel(logging.INFO)
        # To Docker's log, which goes with the container, and into a volume, which stays.
        handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
        if folder is not None:
            written = sorted(folder.glob("access-*"), key=lambda each: each.stat().st_mtime)
            for old in written[:-KEPT_FILES]:
                old.unlink(missing_ok=True)
            file = folder / f"access-{host}.log"
            handlers.append(
                logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
            )
        self._log.handlers = handlers
        self.registry = registry = CollectorRegistry()
        by = ("endpoint", "engine", "tenant")
        self._requests = Counter(
            "changeover_requests", "Requests that have ended.", (*by, "status"), registry=registry
        )
        self._hung_up = Counter("changeover_hung_up", "Requests whose client hung up.", by, registry=registry)
        self._cut = Counter(
            "changeover_cut", "Answers that had begun and were cut off.", by, registry=registry
        )
        self._tokens = Counter(
            "changeover_tokens", "Tokens that engines reported.", (*by, "kind"), registry=registry
        )
        self._first, self._total, self._held = (
            Histogram(f"changeover_{name}_seconds", text, by, buckets=SECONDS, registry=registry)
            for name, text in (
                ("first_byte", "Time from a request's arrival to the first byte of its answer."),
                ("request", "Time from a request's arrival to its end."),
                ("held", "How long a request waited before an engine was asked."),
            )
        )
        self._running = Gauge("changeover_running", "Requests at an engine.", ("engine",), registry=registry)
        self.waiting = Gauge("changeover_waiting", "Requests that are waiting.", registry=registry)
        self.silent = Gauge(
            "changeover_engine_silent_seconds",
            "For how long an engine that had sent bytes of an answer has sent none.",
            ("engine",),
            registry=registry,
        )
        self.given_up = Counter(
            "changeover_given_up",
            "Engines by name, and gateways by container, that hung or crashed and were brought back.",
            ("what",),
            registry=registry,
        )
        self._engines: set[str] = set()
        self._scraped: set[tuple[str, ...]] = set()
        """The series that a scrape of all has had."""

    def enter(self, record: RequestRecord, now: float) -> None:
        """Counts a request that has ended at `now`, and writes its line in the access log."""
        self._log.info(record.line(now))
        by = (record.endpoint, record.engine, record.tenant if record.known else NOBODY)
        self._requests.labels(*by, record.status).inc()
        self._total.labels(*by).observe(now - record.began)
        self._held.labels(*by).observe(record.held)
        if record.first is not None:
            self._first.labels(*by).observe(record.first - record.began)
        if record.hung_up:
            self._hung_up.labels(*by).inc()
        if record.cut:
            self._cut.labels(*by).inc()
        for kind, count in (("prompt", record.usage.prompt), ("completion", record.usage.completion)):
            if count is not None:
                self._tokens.labels(*by, kind).inc(count)

    def at_engines(self, running: Mapping[str, int]) -> None:
        """So many requests are at each engine. One that was ever asked stays, with 0: a store that was killed
        would believe its last number for minutes if it vanished."""
        self._engines.update(running)
        for engine in self._engines:
            self._running.labels(engine).set(running.get(engine, 0))

    async def exposed(self, names: Sequence[str] = ()) -> bytes:
        """What a scrape is answered: all series, or those of these names. Thousands of them take 50 ms and
        more, in which answers go on.

        In the first scrape of all that has it a counter is 0, whatever it is: a store counts how much it has
        grown since, and of a large one that is new it can't tell that it grew at all.
        """
        # the library's own type for a part of a registry is not one of a whole
        asked: Any = self.registry.restricted_registry(names) if names else self
        return await asyncio.to_thread(generate_latest, asked)

    def collect(self) -> Iterator[Metric]:
        """The metrics of a scrape of all, as the library asks a registry for them."""
        for metric in self.registry.collect():
            if metric.type in ("counter", "histogram"):
                metric.samples = [
                    sample if self._was_scraped(sample.name, sample.labels) else sample._replace(value=0)
                    for sample in metric.samples
                    if not sample.name.endswith("_created")  # when it began, which nobody asks for
                ]
            yield metric

    def _was_scraped(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a scrape has had this series; from now on one has."""
        series = (name, *labels.values())
        if series in self._scraped:
            return True
        self._scraped.add(series)
        return False

    def close(self) -> None:
        """Closes the files of the access log."""
        for handler in self._log.handlers:
            handler.close()
