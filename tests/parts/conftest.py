"""Small HTTP servers that answer a few paths with fixed texts."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.support.listening import listening

Serve = Callable[[dict[str, Any]], int]


@pytest.fixture
def serve_text() -> Iterator[Serve]:
    """Serves texts by path on the returned port of the loopback address; other paths are 404."""

    def serve(answers: dict[str, Any]) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path in answers else 404)
                self.end_headers()
                self.wfile.write(str(answers.get(self.path, "")).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return servers.enter_context(listening(Handler)).server_port

    with ExitStack() as servers:
        yield serve


@pytest.fixture
def serve_json(serve_text: Serve) -> Serve:
    """The same for JSON."""
    return lambda answers: serve_text({path: json.dumps(answer) for path, answer in answers.items()})
