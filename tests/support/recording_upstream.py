"""A test double of the proxy as the edge sees it: keeps what reached it and answers as the query says.

`?wait=2` answers after so many seconds, `?events=20&pace=0.1` with a stream. `GET /record` tells of every
request so far its method, path, headers, the length and SHA-256 of its body, and once that is known how it
ended, `answered` or `hung up`. It needs the standard library only: `python3 recording_upstream.py PORT`.
"""

import hashlib
import json
import select
import socket
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ASKED: list[dict[str, Any]] = []


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together, as the proxy's do: who is killed between them cuts an answer.
    wbufsize = 2**16
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/record":
            self._answer(json.dumps(ASKED).encode())
        else:
            self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        asked = {key: float(value) for key, value in urllib.parse.parse_qsl(url.query)}
        if (body := self._body()) is None:
            self.close_connection = True
            return
        one = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "ended": "",
        }
        ASKED.append(one)
        gone = self._hung_up(asked.get("wait", 0))
        if not gone and "events" in asked:
            gone = self._stream(int(asked["events"]), asked["pace"])
        elif not gone:
            self._answer(json.dumps(one).encode())
        one["ended"] = "hung up" if gone else "answered"
        self.close_connection = True

    def _body(self) -> bytes | None:
        """None: not all of it has come."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            return body if len(body) == length else None
        parts = []
        while size := int(self.rfile.readline() or b"-1", 16):
            if size < 0:
                return None
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _hung_up(self, seconds: float) -> bool:
        """Whether the other side closes within `seconds`."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _stream(self, events: int, pace: float) -> bool:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")  # so that an end that is none can be told from one
        self.end_headers()
        for number in range(events):
            event = f"data: {number}\n\n".encode()
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
            except OSError:
                return True
            if self._hung_up(pace):
                return True
        self.wfile.write(b"0\r\n\r\n")
        return False

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", int(sys.argv[1])), Upstream).serve_forever()
