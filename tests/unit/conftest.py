"""Small HTTP servers that answer a few paths with fixed texts."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Serve = Callable[[dict[str, Any]], int]


@pytest.fixture
def serve_text() -> Iterator[Serve]:
    """Serves texts by path on the returned port of the loopback address; other paths are 404."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answers: dict[str, Any]) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path in answers else 404)
                self.end_headers()
                self.wfile.write(str(answers.get(self.path, "")).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return int(servers[-1].server_address[1])

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve_json(serve_text: Serve) -> Serve:
    """The same for JSON."""
    return lambda answers: serve_text({path: json.dumps(answer) for path, answer in answers.items()})
