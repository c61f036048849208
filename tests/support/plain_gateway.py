"""A gateway with the command line, configuration, routes and drain of the real one; a test double.

`--config-file FILE [--validate-and-exit]`; FILE is what the project renders for TensorZero 2026.6.0. The
engines of a model are tried in the order of its `routing`. Sends the headers that a request wants sent, and
finishes it when its client has gone. SIGTERM: takes no new connection, ends once every request in flight has
its answer, however long that takes.

It refuses what the real one refuses: of a configuration a key that it does not know (or that the project does
not use), a provider without its routing and the other way round, and a timeout beyond the bound of all; of a
request a path (404), a method (405), a body that is no chat (400), another `n` than 1 (400), and a model that
has no prefix or is not in the configuration (400). Any API key is taken, since the project sets none here.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import signal
import sys
import threading
import tomllib
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "2026.6.0"
CHAT, STATUS, HEALTH = "/openai/v1/chat/completions", "/status", "/health"
METHODS = {CHAT: "POST", STATUS: "GET", HEALTH: "GET"}
PREFIX = "tensorzero::model_name::"
ROLES = ("system", "developer", "user", "assistant", "tool")
BOUND_MS = 900_000
"""Of every timeout, where the configuration has no other."""


class BadConfig(Exception):
    """With such a configuration the gateway does not start."""


class BadRequest(Exception):
    """What the gateway refuses before it asks an engine."""


@dataclass(frozen=True)
class Upstream:
    """An engine: the base of its paths, and what it calls the model."""

    api_base: str
    model_name: str


@dataclass
class Config:
    """The engines of each model, in the order in which they are tried; `digest` is of the whole text."""

    models: dict[str, list[Upstream]]
    digest: str


config = Config({}, "")


def read(text: str) -> Config:
    """The configuration. Raises BadConfig."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(str(error)) from None
    _known("", found, {"gateway", "models"})
    gateway = found.get("gateway", {})
    bound = "global_outbound_http_timeout_ms"
    _known("gateway", gateway, {"observability", "disable_pseudonymous_usage_analytics", bound})
    models = {
        name: _model(f"models.{name}", model, gateway.get(bound, BOUND_MS))
        for name, model in found.get("models", {}).items()
    }
    return Config(models, hashlib.sha256(text.encode()).hexdigest())


def _model(place: str, model: Mapping[str, Any], bound: int) -> list[Upstream]:
    _known(place, model, {"routing", "providers", "timeouts"}, {"routing", "providers"})
    routing, providers = model["routing"], model["providers"]
    if not routing or sorted(routing) != sorted(providers):
        raise BadConfig(f"{place}: routing is {routing}, and the providers are {sorted(providers)}")
    for way, limits in model.get("timeouts", {}).items():
        for name, value in limits.items():
            if value > bound:
                raise BadConfig(f"{place}: {way}.{name} is {value}, beyond the bound of {bound}")
    fields = {"type", "api_base", "model_name", "api_key_location"}
    for name, provider in providers.items():
        _known(f"{place}.providers.{name}", provider, fields, fields)
        if provider["type"] != "vllm" or provider["api_key_location"] != "none":
            raise BadConfig(f"{place}.providers.{name}: a test double for vllm without a key only")
    return [Upstream(providers[name]["api_base"], providers[name]["model_name"]) for name in routing]


def _known(place: str, table: Mapping[str, Any], keys: Collection[str], needed: Collection[str] = ()) -> None:
    for key in sorted({*table} - {*keys}):
        raise BadConfig(f"{place}: unknown field `{key}`")
    for key in sorted({*needed} - {*table}):
        raise BadConfig(f"{place}: missing field `{key}`")


def chat(raw: bytes) -> tuple[dict[str, Any], list[Upstream]]:
    """What is asked, and who may answer it. Raises BadRequest."""
    try:
        asked = json.loads(raw)
    except ValueError as error:
        raise BadRequest(f"Failed to parse the request body as JSON: {error}") from None
    if not isinstance(asked, dict):
        raise BadRequest("Failed to deserialize the JSON body into the target type")
    messages, model = asked.get("messages"), asked.get("model")
    if not isinstance(messages, list) or not isinstance(model, str):
        raise BadRequest("missing or wrong field `messages` or `model`")
    if not all(isinstance(each, dict) and each.get("role") in ROLES for each in messages):
        raise BadRequest("messages: a role that is none")
    if asked.get("n") not in (None, 1):
        raise BadRequest("TensorZero does not support `n` other than 1.")
    if not model.startswith(PREFIX):
        raise BadRequest(f"`model` field must start with `{PREFIX}`")
    name = model.removeprefix(PREFIX)
    if name not in config.models:
        raise BadRequest(f"'{name}' not found in model table")
    return asked, config.models[name]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.lost():
            return None
        try:
            asked, providers = chat(raw)
        except BadRequest as error:
            return self.refuse(400, {"message": str(error)})
        headers = {each["name"]: each["value"] for each in asked.pop("tensorzero::extra_headers", [])}
        headers["Content-Type"] = "application/json"
        for provider in providers:
            where = urllib.parse.urlsplit(provider.api_base)
            upstream = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
            body = json.dumps({**asked, "model": provider.model_name})
            try:
                upstream.request("POST", f"{where.path}chat/completions", body, headers)
                answer = upstream.getresponse()
                if answer.status == 200:
                    return self.forward(answer)
            except OSError:
                continue
            finally:
                upstream.close()
        return self.refuse(502, {"message": "All variants failed with errors"})

    def do_GET(self) -> None:
        if self.lost():
            return None
        if self.path == HEALTH:
            return self.whole(200, {"gateway": "ok"})
        return self.whole(200, {"status": "ok", "version": VERSION, "config_hash": config.digest})

    def do_other(self) -> None:
        """Any method that it takes nowhere."""
        self.lost()

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_other

    def lost(self) -> bool:
        """Whether it has refused, since it has no such path, or not for this method."""
        path = urllib.parse.urlsplit(self.path).path
        method = METHODS.get(path)
        if method == self.command:
            return False
        if method is None:
            self.refuse(404, f"Route not found: {self.command} {path}")
        else:
            self.send_response(405)
            self.send_header("Allow", method)
            self.end_headers()
        return True

    def forward(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(200)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "")
        self.end_headers()
        while piece := answer.read1(4096):
            with contextlib.suppress(OSError):
                self.wfile.write(piece)

    def refuse(self, status: int, error: object) -> None:
        self.whole(status, {"error": error})

    def whole(self, status: int, said: object) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for what is in flight


def main() -> None:
    global config
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--validate-and-exit", action="store_true")
    args = parser.parse_args()
    try:
        config = read(args.config_file.read_text())
    except BadConfig as error:
        sys.exit(f"plain gateway: bad config: {error}")
    if args.validate_and_exit:
        return
    server = Server(("", 3000), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"plain gateway: {config.models}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
