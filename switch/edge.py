"""How many requests are at the edge, from Caddy's own metrics."""

import http.client
import re

HOST, PORT, PATH = "edge", 2020, "/metrics"
IN_FLIGHT = re.compile(rb'^caddy_http_requests_in_flight\{[^}]*server="edge"[^}]*\} (\d+)', re.MULTILINE)


def in_flight() -> int | None:
    """Requests that have come in and are not answered yet, or None where there is no edge to ask.

    Caddy counts a request once in each handler that it is in; the outermost has them all.
    """
    connection = http.client.HTTPConnection(HOST, PORT, timeout=2)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        found = IN_FLIGHT.findall(answer.read()) if answer.status == 200 else []
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return max(map(int, found), default=0)
