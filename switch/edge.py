"""How many requests are at the edge, from Caddy's own counters."""

import http.client
import json
import re

HOST, PORT = "edge", 2020
METRICS, UPSTREAMS = "/metrics", "/upstreams"
ENGINE = "engine:8000"
"""At which the edge asks an engine itself, where a gateway failed."""
SERVERS = ("edge", "relay", "wait")
IN_FLIGHT = re.compile(rb'^caddy_http_requests_in_flight\{[^}]*server="(\w+)"[^}]*\} (\d+)', re.MULTILINE)


def counted(metrics: bytes) -> int:
    """Requests that have come in and are not answered yet, by Caddy's metrics.

    Caddy counts a request once in each handler that it is in; the outermost has them all. One that has gone
    on to another of the edge's servers is no longer counted in the first.
    """
    counts = [(server.decode(), int(count)) for server, count in IN_FLIGHT.findall(metrics)]
    return sum(max((count for at, count in counts if at == name), default=0) for name in SERVERS)


def in_flight() -> int | None:
    """What is `counted` now, or None where there is no edge to ask."""
    page = _page(METRICS)
    return None if page is None else counted(page)


def at_engine(upstreams: bytes) -> int:
    """Requests that the edge has at an engine itself, by Caddy's list. Raises what a wrong list raises."""
    return sum(row["num_requests"] for row in json.loads(upstreams) if row["address"] == ENGINE)


def asked() -> int | None:
    """What is `at_engine` now, or None where the edge doesn't say."""
    try:
        return at_engine(_page(UPSTREAMS) or b"")
    except (ValueError, KeyError, TypeError):
        return None


def _page(path: str) -> bytes | None:
    connection = http.client.HTTPConnection(HOST, PORT, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
