"""How many requests are at the edge, from Caddy's own metrics."""

import http.client
import re

HOST, PORT, PATH = "edge", 2020, "/metrics"
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
    connection = http.client.HTTPConnection(HOST, PORT, timeout=2)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        metrics = answer.read() if answer.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return counted(metrics)
