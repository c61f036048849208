"""The TensorZero gateway's command line and manners around its published Python package.

The package serves the real `/openai/v1/*` routes and validates the configuration exactly, but on a loopback
port of its own choice, without `/status` and `/health`, and without a graceful stop. This front adds those,
so that one container definition runs both this and the public image.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import socket
import sys
import tomllib
import zlib
from collections.abc import Awaitable, Sequence
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    web,
)
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

DEFAULT_ADDRESS = "0.0.0.0:3000"
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
ENCODINGS = ("zstd", "gzip", "br")
"""Of a request's body. The gateway takes exactly these, in lower case, and no list of several."""
BODY_BYTES = 100 << 20
"""The gateway's limit for a body, which counts after unpacking."""
NO_LIMIT_S = 10 * 365 * 86400.0
REPORT_EVERY_S = 5.0
SETTLE_S = 0.05
"""For connections that were being accepted when the socket closed: they show up a moment later."""


class Front:
    """Forwards requests to the gateway at `upstream` and runs each to its end, also when its client has gone.

    `upstream` is the root that `/openai/v1/…` is appended to. Nothing has a timeout: those are the gateway's
    to set. A request whose client goes while it still sends the body never began.
    """

    def __init__(self, upstream: str, *, gateway_version: str, config_hash: str) -> None:
        self._upstream = upstream
        self._status = {"status": "ok", "version": gateway_version, "config_hash": config_hash}
        self._client: ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._forwarding: set[asyncio.Task[object]] = set()
        """Also the only thing that keeps a request's task alive once its client has gone."""

    @property
    def in_flight(self) -> int:
        """The number of requests that have not ended, whether their clients wait or not."""
        return len(self._forwarding)

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound already."""
        self._client = ClientSession(
            connector=TCPConnector(limit=0),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=1 << 18,
        )
        app = web.Application(client_max_size=0)
        app.router.add_get("/status", self._answer_status)
        app.router.add_get("/health", self._answer_health)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=NO_LIMIT_S)
        await self._runner.setup()
        await web.SockSite(self._runner, listening, backlog=1024).start()

    async def drain(self) -> None:
        """Stop accepting, close idle connections, and return once the last request ended, however late."""
        assert self._runner is not None and self._client is not None
        for site in list(self._runner.sites):
            await site.stop()
        await asyncio.sleep(SETTLE_S)
        reporter = asyncio.create_task(self._report())
        await self._runner.cleanup()
        while self._forwarding:  # those whose clients have gone
            await asyncio.wait(self._forwarding)
        reporter.cancel()
        await self._client.close()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            print(f"waiting for {self.in_flight} requests in flight", file=sys.stderr, flush=True)

    async def _answer_status(self, _: web.Request) -> web.Response:
        return web.json_response(self._status)

    async def _answer_health(self, _: web.Request) -> web.Response:
        return web.json_response({"gateway": "ok"})

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
        try:
            return await self._forward_to_the_end(request)
        finally:
            self._forwarding.discard(task)

    async def _forward_to_the_end(self, request: web.Request) -> web.StreamResponse:
        assert self._client is not None
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding not in (*ENCODINGS, "identity"):
            return web.Response(status=415, headers={"Accept-Encoding": ",".join(ENCODINGS)})
        body = await request.read() if request.body_exists else None
        headers = _end_to_end(request.headers)
        if body is not None and encoding in ENCODINGS:
            try:
                body = await asyncio.to_thread(unpacked, body, encoding)
            except ValueError as error:
                text = f"Failed to buffer the request body: {error}"
                return web.json_response({"error": {"message": text}}, status=400)
            del headers["Content-Encoding"]
            headers.popall("Content-Length", None)
        answer: web.StreamResponse | None = None
        try:
            async with self._client.request(
                request.method,
                URL(self._upstream + request.raw_path, encoded=True),
                headers=headers,
                data=BytesIO(body) if body is not None else None,
                allow_redirects=False,
            ) as upstream:
                answer = web.StreamResponse(
                    status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream.headers)
                )
                there = await _arrives(answer.prepare(request))
                _acknowledge_at_once(upstream)
                async for chunk in upstream.content.iter_any():
                    there = there and await _arrives(answer.write(chunk))
                    _acknowledge_at_once(upstream)
                if there:
                    await _arrives(answer.write_eof())
                return answer
        except ClientError as error:
            if answer is None:
                return web.json_response({"error": f"the gateway does not answer: {error}"}, status=502)
            # The head is sent: only a cut connection tells the client that the body is not whole.
            if request.transport is not None:
                request.transport.abort()
            return answer


async def _arrives(sending: Awaitable[object]) -> bool:
    """Send to the client; whether it is still there."""
    try:
        await sending
    except ConnectionResetError:
        return False
    return True


def unpacked(packed: bytes, encoding: str) -> bytes:
    """A body as it was before it was packed with one of ENCODINGS.

    Raises ValueError, in the gateway's manner, if it is not whole, not packed so, or larger than BODY_BYTES.
    """
    most = BODY_BYTES + 1
    try:
        # The two packages are in the image and not in the project's environment.
        if encoding == "gzip":
            gzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            body, whole = gzip.decompress(packed, most), gzip.eof
        elif encoding == "br":
            brotli = import_module("brotli").Decompressor()
            body, whole = brotli.process(packed, output_buffer_limit=most), brotli.is_finished()
        else:
            zstd = import_module("backports.zstd").ZstdDecompressor()
            body, whole = zstd.decompress(packed, most), zstd.eof
    except Exception as error:  # each library has one of its own
        raise ValueError(f"{error} (400 Bad Request)") from error
    if len(body) > BODY_BYTES:
        raise ValueError("length limit exceeded (413 Payload Too Large)")
    if not whole:
        raise ValueError("unexpected end of file (400 Bad Request)")
    return body


def _acknowledge_at_once(upstream: ClientResponse) -> None:
    """Do not let the package hold a chunk back for 40 ms: it waits for the acknowledgement of the one before.

    The kernel forgets this setting, so it is made for each chunk.
    """
    connection = upstream.connection
    if sys.platform == "linux" and connection is not None and connection.transport is not None:
        connection.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that are about the message and not about one connection."""
    named = {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in HOP_BY_HOP | named)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The part of the real gateway's command line that does not need a database."""
    parser = argparse.ArgumentParser(prog="gateway", allow_abbrev=False)
    config = parser.add_mutually_exclusive_group(required=True)
    config.add_argument("--config-file", help="a TOML file, or a pattern that matches several")
    config.add_argument("--default-config", action="store_true")
    parser.add_argument("--bind-address")
    parser.add_argument("--validate-and-exit", action="store_true")
    parser.add_argument("--log-format", choices=("pretty", "json"), default="pretty")
    return parser.parse_args(argv)


def config_files(pattern: str | None) -> list[Path]:
    """The files that a `--config-file` pattern names, in a fixed order."""
    if not pattern:
        return []
    path = Path(pattern)
    return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))


def hash_of(files: Sequence[Path]) -> str:
    """A digest of the configuration's text: it proves which one is live. Not the real gateway's digest."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def bind_address(flag: str | None, files: Sequence[Path]) -> tuple[str, int]:
    """Where to listen, as host and port.

    Raises ValueError if the address is given in more than one place, which the real gateway refuses too.
    """
    tables = [tomllib.loads(file.read_text()).get("gateway", {}) for file in files]
    given = [
        address
        for address in (
            flag,
            os.environ.get("TENSORZERO_GATEWAY_BIND_ADDRESS"),
            *(table.get("bind_address") for table in tables),
        )
        if address
    ]
    if len(given) > 1:
        raise ValueError(f"the bind address is given more than once: {', '.join(given)}")
    host, _, port = (given or [DEFAULT_ADDRESS])[0].rpartition(":")
    return host.strip("[]"), int(port)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


async def serve(front: Front, listening: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await front.start(listening)
    host, port = listening.getsockname()[:2]
    print(f"TensorZero gateway is listening on {host}:{port}", flush=True)
    await stop.wait()
    print(f"stopping: {front.in_flight} requests in flight", flush=True)
    await front.drain()


def main(argv: Sequence[str]) -> int:
    """Run the gateway; the exit status is 1 if its configuration is refused."""
    options = arguments(argv)
    # Here, so that the rest can be used without the package; it is private there, but it is the last release.
    start_http_gateway = import_module("tensorzero")._start_http_gateway
    refused: type[Exception] = import_module("tensorzero.types").TensorZeroInternalError
    try:
        files = config_files(options.config_file)
        gateway = start_http_gateway(
            config_file=options.config_file,
            clickhouse_url=os.environ.get("TENSORZERO_CLICKHOUSE_URL"),
            postgres_url=os.environ.get("TENSORZERO_POSTGRES_URL"),
            valkey_url=os.environ.get("TENSORZERO_VALKEY_URL"),
            async_setup=False,
        )
        host, port = bind_address(options.bind_address, files)
        if options.validate_and_exit:
            print("the configuration is valid", flush=True)
            return 0
        listening = listen(host, port)
    except (refused, ValueError, OSError) as error:
        print(f"gateway: {error}", file=sys.stderr, flush=True)
        return 1
    front = Front(
        gateway.base_url.removesuffix("/openai/v1"),
        gateway_version=version("tensorzero"),
        config_hash=hash_of(files),
    )
    asyncio.run(serve(front, listening))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
