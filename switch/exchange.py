"""HTTP requests to containers on the stack's network, for someone who can't reach it from outside."""

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switch.client import BROKEN, JSON, asked
from switch.plan import PlanError, load, name

LIMIT = 8 * 1024**2
HEADERS = ("content-type", "retry-after", "location")


@dataclass(frozen=True)
class Request:
    """One request. `body` is sent as it is, right or wrong; `timeout` is in seconds, for all of it."""

    container: str
    port: int
    path: str
    body: str = ""
    method: str = "POST"
    timeout: float = 60


def exchange(raw: Any) -> dict[str, Any]:
    """What `answer` gives for one request (parsed JSON). Raises PlanError for what is no request."""
    request: Request = load(Request, raw, "request")
    name(request.container, "request.container")
    if not request.path.startswith("/"):
        raise PlanError(f"request.path must begin with a slash, not be {request.path!r}")
    connection = http.client.HTTPConnection(request.container, request.port, timeout=request.timeout)
    return answer(connection, request, {})


def answer(
    connection: http.client.HTTPConnection, request: Request, more: Mapping[str, str]
) -> dict[str, Any]:
    """What comes over this connection: status, headers, seconds, and `body` or a stream's `events`.

    `events` are what its `data:` lines held, in their order. Where no whole answer came there is an `error`,
    with whatever did come. `more` are headers of the request. The connection is closed.
    """
    began = time.monotonic()
    deadline = began + request.timeout
    answered: dict[str, Any] = {}
    headers = {**(JSON if request.body else {}), **more}
    body = request.body.encode() or None
    try:
        with asked(connection, request.method, request.path, body, headers) as response:
            answered["status"] = response.status
            answered["headers"] = {key: value for key in HEADERS if (value := response.getheader(key))}
            if "text/event-stream" in answered["headers"].get("content-type", ""):
                _events(response, answered, deadline)
            else:
                _body(response, answered, deadline)
    except TimeoutError:
        answered["error"] = f"no whole answer within {request.timeout:g} s"
    except BROKEN as error:
        answered["error"] = str(error) or type(error).__name__
    return {**answered, "seconds": round(time.monotonic() - began, 3)}


def _events(answer: http.client.HTTPResponse, answered: dict[str, Any], deadline: float) -> None:
    events: list[str] = answered.setdefault("events", [])
    size = 0
    while line := answer.readline():
        size += len(line)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > LIMIT:
            raise OSError(f"more than {LIMIT} bytes")
        if line.startswith(b"data:"):
            events.append(line.removeprefix(b"data:").strip().decode(errors="replace"))


def _body(answer: http.client.HTTPResponse, answered: dict[str, Any], deadline: float) -> None:
    raw = b""
    try:
        while part := answer.read1(65536):
            raw += part
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(raw) > LIMIT:
                raise OSError(f"more than {LIMIT} bytes")
    finally:
        answered["body"] = raw.decode(errors="replace")
