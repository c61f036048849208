"""All that a watcher of the stack wants to know, as one line of JSON for each time it asks.

Nothing is kept here: rates are the watcher's own, from the counters of two lines.
"""

import concurrent.futures
import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from switch.answers import NONE
from switch.client import BROKEN, get
from switch.daemon import proxies
from switch.docker import Docker, DockerError
from switch.machine import World
from switch.report import ticks
from switch.shared import ALERTS_ALIAS, ALERTS_PORT, PROXY_PORT

NAMES = (
    *("changeover_requests_total", "changeover_cut_total", "changeover_tokens_total"),
    "changeover_first_byte_seconds_bucket",
)
"""What a watcher makes rates of. The rest of a proxy's metrics is some megabytes a minute, over SSH."""
METRICS = "/metrics?" + "&".join(f"name[]={name}" for name in NAMES)
"""As Prometheus' clients take it; a proxy of an older version says all that it has."""
ALERTS = "/api/v1/alerts"
"""Where the stack's monitor says which alerts there are, if it has one."""
SECONDS = 1.0
"""For a proxy's answer."""
LOG_LINES = 6


def metrics(containers: Iterable[str]) -> dict[str, str]:
    """What Prometheus would scrape of each proxy. One that gives nothing within a second is left out."""
    found: dict[str, str] = {}
    names = list(containers)
    if not names:
        return found
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        for name, text in zip(names, pool.map(_metrics, names), strict=True):
            if text:
                found[name] = text
    return found


def _metrics(proxy: str) -> str:
    try:
        return get(proxy, PROXY_PORT, METRICS, SECONDS).decode()
    except BROKEN:
        return ""


def logs(docker: Docker, containers: Mapping[str, str]) -> dict[str, list[str]]:
    """The last lines of each container's output, by the key that it has in `containers`."""
    found = {}
    for name, container in containers.items():
        with contextlib.suppress(OSError, DockerError):
            found[name] = docker.logs(container, LOG_LINES).splitlines()[-LOG_LINES:]
    return found


def alerts(docker: Docker) -> list[dict[str, str]]:
    """The monitor's alerts that fire: `name`, `severity`, `summary`, and `since` as RFC 3339.

    Empty where the stack has no monitor, and where that gives no answer within a second.
    """
    if not any(each.role == "alerts" and each.running for each in docker.beside.values()):
        return []
    try:
        said = json.loads(get(ALERTS_ALIAS, ALERTS_PORT, ALERTS, SECONDS))["data"]["alerts"]
        return [
            {
                "name": str(each["name"]),
                "severity": str(each["labels"].get("severity", "")),
                "summary": str(each["annotations"].get("summary", each["name"])),
                "since": str(each["activeAt"]),
            }
            for each in said
            if each["state"] == "firing"
        ]
    except (*BROKEN, ValueError, KeyError, TypeError, AttributeError):
        return []


def observe(status: dict[str, Any], now: float, world: World, docker: Docker) -> dict[str, Any]:
    """One line for a watcher: what `status` shows at `now`, and metrics, CPU, logs and alerts."""
    of = {c.role: c.name for c in world.values() if c.role == "switch"}
    if status["live"] != NONE:
        of["engine"] = status["live"]
    busy, every = ticks()
    return {
        "now": now,
        "status": status,
        "metrics": metrics(proxies(world)),
        "cpu": {"busy": busy, "all": every, "count": os.cpu_count()},
        "logs": logs(docker, of),
        "alerts": alerts(docker),
    }
