"""A gateway with the command line, path and drain of the real one, and nothing else; a test double.

`--config-file FILE [--validate-and-exit]`; FILE is TOML: `engines = ["http://name:port/path/", …]`, tried in
order. Sends the headers that a request wants sent, and finishes it when its client has gone. SIGTERM: takes
no new connection, ends once every request in flight has its answer, however long that takes.
"""

import argparse
import contextlib
import http.client
import json
import signal
import sys
import threading
import tomllib
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PREFIX = "tensorzero::model_name::"
engines: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/openai/v1/chat/completions" or not asked["model"].startswith(PREFIX):
            return self.send_error(404)
        asked["model"] = asked["model"].removeprefix(PREFIX)
        headers = {each["name"]: each["value"] for each in asked.pop("tensorzero::extra_headers", [])}
        for engine in engines:
            where = urllib.parse.urlsplit(engine)
            upstream = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
            try:
                headers["Content-Type"] = "application/json"
                upstream.request("POST", f"{where.path}chat/completions", json.dumps(asked), headers)
                answer = upstream.getresponse()
                if answer.status == 200:
                    return self.forward(answer)
            except OSError:
                continue
            finally:
                upstream.close()
        return self.send_error(502)

    def forward(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(200)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "")
        self.end_headers()
        while piece := answer.read1(4096):
            with contextlib.suppress(OSError):
                self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for what is in flight


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--validate-and-exit", action="store_true")
    args = parser.parse_args()
    try:
        engines.extend(tomllib.loads(args.config_file.read_text())["engines"])
    except (KeyError, tomllib.TOMLDecodeError) as error:
        sys.exit(f"plain gateway: bad config: {error!r}")
    if args.validate_and_exit:
        return
    server = Server(("", 3000), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"plain gateway: {engines}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
