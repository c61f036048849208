"""The service: two HTTP ports, and the way of a request between them.

The outer port is the clients', who come through the edge. The inner port is what the gateway's configuration
names as its engines. A request of a client waits for its turn, asks the gateway with a question that has
nothing of it but an id, and is found again by that id when the gateway asks an engine. Then the task that
holds the client's connection itself asks the engine, gives its answer on, and ends with either of the two;
the gateway hears a minimal answer of ours.
"""

import asyncio
import contextlib
import io
import os
import re
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    web,
)
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from yarl import URL

from proxy import adaptations, answers, gateway, refusals
from proxy.admission import SWITCH_HEARS_SECONDS, Admission, Dropped
from proxy.answers import Events, Usage
from proxy.reading import Reading, Unreadable, read
from proxy.records import Books, Record
from proxy.refusals import Refusal
from proxy.route import Engine, Keys, Route, parse, parse_keys

OUTER, INNER = 8080, 8001
ENGINE_PORT = 8000
"""Of an engine that no route names, as before a flip."""
NAME = re.compile(r"[A-Za-z0-9-]+")
"""Of what is on the own network: no address, and no name of elsewhere."""
ALIAS = "proxy"
"""Name of all proxies of a stack on their network."""

LOOK_SECONDS = 0.02
UNREAD = (0, 0)
HELD_BYTES = 256 * 2**20
"""What the bodies of all requests together may take."""
THROWN_AWAY_BYTES = 128 * 2**20
"""So much of a body that is too large is still read, so that its client gets to know why it is refused."""
LARGE_BYTES = 64 * 2**10
"""Bodies from this size on are read in another process: the interpreter does one thing at a time."""
GONE_SECONDS, PIECE_BYTES = 60, 2**16
"""A client that takes no such piece of its answer for so long has gone."""
HEAD_BYTES, HEADERS = 2**20, 2**14
"""Of a head: more than the edge takes, and what engines may send. aiohttp by itself would refuse a query or a
header of 8 KiB, and take an engine that sends one for an engine that has ended."""
CONNECT_SECONDS = 5
GATEWAY_SECONDS = 30
"""So long a gateway may take until it asks an engine; one that hangs is given up."""
GATEWAY_AGAIN_SECONDS = 0.2
CHAT, EMBEDDINGS, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
OTHER = "other"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class EngineGone(Exception):
    """The engine ended before it answered. `asked`: it had got the request."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__()
        self.asked = asked


class BrokenOff(ConnectionResetError):
    """We have ended the client's connection in the middle: only that tells that the rest is missing."""


class GatewayGone(Exception):
    """The gateway ended, or gave up, before it asked an engine."""


@dataclass
class Exchange:
    """One request that the gateway was asked about. Each future is set once, and `usage` before `done`."""

    route: Route
    stream: bool
    chosen: asyncio.Future[None]
    first: asyncio.Future[bool]
    """Whether the engine's answer is a good one, at its first byte."""
    done: asyncio.Future[None]
    usage: Usage = field(default_factory=Usage)

    def end(self) -> None:
        """Nothing more comes from an engine: the gateway must not wait for it."""
        if not self.first.done():
            self.first.set_result(False)
        self.done.set_result(None)


class Proxy:
    """`live` is the folder with the switch's files, `log` the one for the access log."""

    def __init__(self, live: Path, log: Path | None, *, inner: int = INNER) -> None:
        self._live, self._inner = live, inner
        self._seen: dict[str, tuple[int, int]] = {}
        self.keys, self.admission = Keys(), Admission()
        self.tenants: Counter[str] = Counter()
        self._exchanges: dict[str, Exchange] = {}
        self._behind: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self.draining = False
        self.address = socket.gethostbyname(socket.gethostname())
        self.books = Books(log, socket.gethostname())
        self._readers = self._new_readers()
        self._client = ClientSession(
            # A new connection for each request: vLLM closes idle ones after 5 s, and a request can be on its
            # way just then.
            connector=TCPConnector(limit=0, force_close=True, use_dns_cache=True, ttl_dns_cache=1),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=2**18,
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
            max_headers=HEADERS,
        )

    # what the switch says

    def look(self) -> None:
        """Takes what has changed in the switch's folder. What can't be used changes nothing."""
        for name, take in (("route.json", self._take_route), ("keys.json", self._take_keys)):
            file = self._live / name
            try:
                at = file.stat()
                mark = (at.st_ino, at.st_mtime_ns)
                if self._seen.get(name) == mark:
                    continue
                raw = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:  # too many files are open, say: it is tried again, and said once
                if self._seen.get(name) != UNREAD:
                    print(f"{name} can't be read: {error!r}", file=sys.stderr, flush=True)
                self._seen[name] = UNREAD
                continue
            self._seen[name] = mark
            try:
                take(raw)
            except Exception as error:  # whatever it is: who stops looking never ends a hold
                print(f"{name} can't be used: {error!r}", file=sys.stderr, flush=True)

    def _take_route(self, raw: bytes) -> None:
        self.admission.change(parse(raw))

    def _take_keys(self, raw: bytes) -> None:
        self.keys = parse_keys(raw)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    # the outer port

    async def outer(self, request: web.BaseRequest) -> web.StreamResponse:
        """A client's request."""
        path = request.path.rstrip("/")
        endpoint = MODELS if path.startswith(f"{MODELS}/") else path
        record = Record(self._now(), endpoint if endpoint in (CHAT, EMBEDDINGS, MODELS) else OTHER)
        try:
            return await self._answer(request, path, record)
        except Refusal as refusal:
            record.status = refusal.status
            return _refused(refusal)
        except Dropped:
            # No byte has gone: the edge asks again, and another proxy answers.
            raise _break_off(request) from None
        except BrokenOff:
            record.cut = True
            raise
        except (asyncio.CancelledError, ConnectionError):
            record.hung_up = True
            raise
        finally:
            self.books.enter(record, self._now())

    async def _answer(self, request: web.BaseRequest, path: str, record: Record) -> web.StreamResponse:
        tenant = self.keys.tenant(request.headers)
        if tenant is None:
            raise refusals.no_key()
        record.tenant, record.known = tenant, not self.keys.open
        if record.endpoint == MODELS:
            return self._models(request, path, record)
        if record.endpoint == OTHER:
            raise refusals.no_path()
        if request.method != "POST":
            raise refusals.no_method("POST")
        async with self._body(request) as raw:
            try:
                reading = await self._read(raw)
            except Unreadable as error:
                raise Refusal(400, str(error), "invalid_request", error.param) from None
            if reading.model in self.admission.route.names:
                record.model = reading.model
            elif self.admission.route.model is not None:
                raise refusals.no_model(reading.model)
            record.stream = reading.stream
            return await self._serve(request, path, raw, reading, record)

    def _models(self, request: web.BaseRequest, path: str, record: Record) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            raise refusals.no_method("GET", "HEAD")
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "changeover"}
            for name in self.admission.route.names
        ]
        record.status = 200
        if path == MODELS:
            return web.json_response({"object": "list", "data": listed})
        name = path.removeprefix(f"{MODELS}/")
        for model in listed:
            if model["id"] == name:
                return web.json_response(model)
        raise refusals.no_model(name)

    @contextlib.asynccontextmanager
    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The body of a request, which counts as held until it is let go."""
        if (encoding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise refusals.encoded(encoding)
        limit, size, parts = self.admission.route.limits.request_bytes, 0, list[bytes]()
        held = 0
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async for part in request.content.iter_any():
                size += len(part)
                if size <= limit:
                    held += len(part)
                    self._bytes += len(part)
                    parts.append(part)
                    if self._bytes > HELD_BYTES:
                        raise refusals.not_now("Too many large requests wait here. Try again.")
                elif size > limit + THROWN_AWAY_BYTES:
                    break
                else:  # most clients read no answer before they have sent everything
                    parts.clear()
            if size > limit:
                raise refusals.too_large(limit)
            raw = b"".join(parts)
            parts.clear()
            yield raw
        finally:
            self._bytes -= held

    async def _read(self, raw: bytes) -> Reading:
        if len(raw) < LARGE_BYTES:
            return read(raw)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read, raw)
        except BrokenProcessPool:  # somebody has killed it
            self._readers = self._new_readers()
            return await asyncio.get_running_loop().run_in_executor(self._readers, read, raw)

    @staticmethod
    def _new_readers() -> ProcessPoolExecutor:
        readers = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=os.nice, initargs=(19,))
        readers.submit(read, b'{"model":""}')  # it starts now, and not with the first large body
        return readers

    async def _serve(
        self, request: web.BaseRequest, path: str, raw: bytes, reading: Reading, record: Record
    ) -> web.StreamResponse:
        """Asks for as long as no byte of an answer has come and there is time."""
        ends, since, first = 0, self._now(), False
        while True:
            route = await self._enter(since + self.admission.route.limits.hold_seconds, record, first=first)
            engine = route.engine
            assert engine is not None
            try:
                self.tenants[record.tenant] += 1
                if reading.model not in route.names:  # it may have been another one when this came in
                    raise refusals.no_model(reading.model)
                record.model, record.engine = reading.model, engine.name
                return await self._carry(request, path, raw, reading, route, engine, record)
            except EngineGone as gone:
                ends, since = ends + gone.asked, self._now() if gone.asked else since
                if ends > 1:
                    raise refusals.no_answer("The engine ended under this request, twice.") from None
                # It can't be reached, which holds for everybody, unless something else is to be asked now.
                if not gone.asked and route is self.admission.route:
                    self.admission.pause()
                again = SWITCH_HEARS_SECONDS
            except GatewayGone:
                again = GATEWAY_AGAIN_SECONDS
            finally:
                self.tenants[record.tenant] -= 1
                if not self.tenants[record.tenant]:
                    del self.tenants[record.tenant]
                self.admission.leave(route)
            await self.admission.another(route, again)
            first = True

    async def _enter(self, until: float, record: Record, *, first: bool) -> Route:
        began = self._now()
        try:
            if began >= until:
                raise TimeoutError
            async with asyncio.timeout_at(until):
                return await self.admission.enter(first=first)
        except TimeoutError:
            raise refusals.not_now("No engine answered in time. It may be starting: try again.") from None
        finally:
            record.held += self._now() - began

    async def _carry(
        self,
        request: web.BaseRequest,
        path: str,
        raw: bytes,
        reading: Reading,
        route: Route,
        engine: Engine,
        record: Record,
    ) -> web.StreamResponse:
        """One way of a request to an engine and back. Raises EngineGone and GatewayGone, and Refusal."""
        events = Events(path == CHAT and adaptations.adds_usage(raw, reading), engine.model, reading.model)
        exchange = None
        if route.gateway is not None and path == CHAT:
            exchange = await self._ask_gateway(route, reading.stream)
        try:
            async with asyncio.timeout(route.limits.answer_seconds):
                answer, chunk = await self._ask_engine(
                    engine,
                    f"{path}{_query(request)}",
                    adaptations.body(raw, reading, path, engine.kind, engine.model),
                    adaptations.headers_in(request.headers),
                    self._now() + route.limits.first_token_seconds,
                )
                async with answer:
                    record.first = self._now()
                    if exchange:
                        exchange.first.set_result(answer.status == 200)
                    if _is_stream(answer):
                        record.status = answer.status
                        return await self._give_stream(request, answer, chunk, events)
                    return await self._give_whole(request, answer, chunk, events, record)
        except TimeoutError:
            if record.status:
                raise _break_off(request) from None
            raise refusals.no_answer("The engine did not answer in time.", 504, "timeout") from None
        finally:
            record.usage, record.events = events.usage, events.seen
            if exchange:
                exchange.usage = events.usage
                exchange.end()

    async def _ask_engine(
        self, engine: Engine, target: str, body: bytes, headers: dict[str, str], until: float
    ) -> tuple[ClientResponse, bytes]:
        """The engine's answer with its first bytes: until these nothing has been given to the client."""
        answer = None
        try:
            async with asyncio.timeout_at(until):
                url = URL(f"http://{engine.host}:{engine.port}{target}", encoded=True)
                # a stream of bytes is written in parts, between which others have their turn
                answer = await self._client.post(
                    url, data=io.BytesIO(body), headers=headers, allow_redirects=False
                )
                chunk = await answer.content.readany()
                if not chunk and _is_stream(answer):
                    raise EngineGone(asked=True)
                return answer, chunk
        except BaseException as error:
            if answer is not None:
                answer.close()
            if isinstance(error, ClientConnectorError | ConnectionTimeoutError):
                raise EngineGone(asked=False) from None
            if isinstance(error, ClientError | OSError) and not isinstance(error, TimeoutError):
                raise EngineGone(asked=True) from None
            raise

    async def _give_whole(
        self, request: web.BaseRequest, answer: ClientResponse, chunk: bytes, events: Events, record: Record
    ) -> web.StreamResponse:
        """Gives an answer on once all of it is there: until then it can be asked for again."""
        try:
            raw = chunk + await answer.content.read()
        except ClientError:
            raise EngineGone(asked=True) from None
        events.usage, record.status = answers.whole(raw), answer.status
        raw = adaptations.renamed(raw, events.model, events.asked)
        response = _response(answer)
        response.content_length = len(raw)
        await self._begin(request, response)
        await self._write(request, response, raw)
        return await self._end(request, response)

    async def _give_stream(
        self, request: web.BaseRequest, answer: ClientResponse, chunk: bytes, events: Events
    ) -> web.StreamResponse:
        """Gives a stream on as it comes."""
        response = _response(answer)
        await self._begin(request, response)
        try:
            while chunk:
                if out := events.feed(chunk):
                    await self._write(request, response, out)
                chunk = await answer.content.readany()
        except ClientError:
            raise _break_off(request) from None
        if out := events.end():
            await self._write(request, response, out)
        return await self._end(request, response)

    async def _begin(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        if request.transport is not None:
            # Linux says that there is room again when a third of it is: with the megabytes that it takes by
            # itself, who is slow would look like who takes nothing.
            line = request.transport.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIECE_BYTES)
            # What is written is waited for until it has left: so a request has not ended before, and a proxy
            # that is to end does not take the rest of an answer with it.
            request.transport.set_write_buffer_limits(0)
        await response.prepare(request)

    async def _write(self, request: web.BaseRequest, response: web.StreamResponse, out: bytes) -> None:
        for at in range(0, len(out), PIECE_BYTES):
            await self._taken(request, response.write(out[at : at + PIECE_BYTES]))

    async def _end(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        await self._taken(request, response.write_eof())
        return response

    @staticmethod
    async def _taken(request: web.BaseRequest, writing: Awaitable[None]) -> None:
        """Raises ConnectionResetError where the client takes nothing."""
        try:
            async with asyncio.timeout(GONE_SECONDS):
                await writing
        except TimeoutError:
            _break_off(request)
            raise ConnectionResetError("the client reads nothing") from None

    # the gateway's side

    async def _ask_gateway(self, route: Route, stream: bool) -> Exchange:
        """Asks the gateway, until it has asked for the engine of `route`. Raises GatewayGone."""
        assert route.gateway is not None and route.model is not None
        loop, number = asyncio.get_running_loop(), f"{self.address}.{secrets.token_hex(12)}"
        exchange = Exchange(route, stream, loop.create_future(), loop.create_future(), loop.create_future())
        self._exchanges[number] = exchange
        url = f"http://{route.gateway.host}:{route.gateway.port}{gateway.PATH}"
        seconds = route.limits.answer_seconds + 2 * GATEWAY_SECONDS
        asking = asyncio.create_task(
            self._hear_out(url, gateway.question(route.model, number, stream), seconds)
        )
        self._behind.add(asking)
        asking.add_done_callback(self._behind.discard)
        try:
            await asyncio.wait(
                (asking, exchange.chosen), timeout=GATEWAY_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not exchange.chosen.done():
                raise GatewayGone
            return exchange
        except BaseException:  # the client may have gone just when the gateway had asked
            exchange.end()
            asking.cancel()
            raise
        finally:
            del self._exchanges[number]

    async def _hear_out(self, url: str, question: bytes, seconds: float) -> None:
        """The gateway finishes whatever it has begun; nobody needs what it says."""
        with contextlib.suppress(ClientError, OSError):
            headers = {"content-type": "application/json"}
            limit = ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
            async with self._client.post(
                url, data=question, headers=headers, allow_redirects=False, timeout=limit
            ) as answer:
                async for _ in answer.content.iter_any():
                    pass

    async def inner(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the gateway asks of an engine, and what the switch and Prometheus want to know."""
        if request.method == "GET":
            if request.path == "/status":
                return web.json_response(self.status())
            if request.path == "/metrics":
                return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        _, engine, path = [*request.raw_path.partition("?")[0].split("/", 2), "", ""][:3]
        if not path or not NAME.fullmatch(engine) or request.method not in ("GET", "POST"):
            return _refused(refusals.no_path())
        number = request.headers.get(gateway.ID)
        if number is None:
            return await self._pass(request, engine, f"http://{engine}:{ENGINE_PORT}/{path}")
        address = number.rpartition(".")[0]
        if address != self.address:
            if address not in await self._others():
                return _refused(refusals.no_path())
            return await self._pass(request, "", f"http://{address}:{self._inner}/{engine}/{path}")
        exchange = self._exchanges.get(number)
        if exchange is None or exchange.chosen.done() or exchange.route.engine is None:
            return _refused(refusals.not_now("This request has its answer, or has gone."))
        if exchange.route.engine.name != engine:
            return _refused(refusals.not_now("This engine is not gated."))
        exchange.chosen.set_result(None)
        await request.read()
        return await self._tell(request, exchange)

    async def _tell(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """The minimal answer to the gateway, in step with the engine's."""
        if not await asyncio.shield(exchange.first):
            return _refused(refusals.not_now("The engine's answer is given on as it is."))
        if not exchange.stream:
            await asyncio.shield(exchange.done)
            return web.Response(body=gateway.answer(exchange.usage), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(gateway.first())
        await asyncio.shield(exchange.done)
        await response.write(gateway.last(exchange.usage))
        await response.write_eof()
        return response

    async def _others(self) -> set[str]:
        """The addresses of the stack's proxies."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(ALIAS, self._inner, type=socket.SOCK_STREAM)
        except OSError:
            return set()
        return {str(address[0]) for *_, address in found}

    async def _pass(self, request: web.BaseRequest, engine: str, url: str) -> web.StreamResponse:
        """Carries an ask as it stands. With `engine` it counts as a request that is there."""
        if engine:
            self.admission.count(engine, 1)
        try:
            raw = b"".join([part async for part in request.content.iter_any()])  # `read` takes 1 MiB at most
            number = {gateway.ID: request.headers[gateway.ID]} if gateway.ID in request.headers else {}
            async with self._client.request(
                request.method,
                URL(f"{url}{_query(request)}", encoded=True),
                data=io.BytesIO(raw) if raw else None,
                headers={**adaptations.headers_in(request.headers), **number},
                allow_redirects=False,
            ) as answer:
                response = _response(answer)
                await response.prepare(request)
                try:
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
                except ClientError:
                    raise _break_off(request) from None
                return response
        except ConnectionResetError:
            raise
        except (ClientError, OSError) as error:
            return _refused(refusals.not_now(f"{url.split('/')[2]} does not answer: {type(error).__name__}"))
        finally:
            if engine:
                self.admission.count(engine, -1)

    def status(self) -> dict[str, object]:
        """What the switch asks."""
        return {
            "applied": self.admission.route.number,
            "running": dict(self.admission.running),
            "held": self.admission.waiting,
            "tenants": dict(self.tenants),
            "keys": self.keys.digest,
            "draining": self.draining,
        }

    def _metrics(self) -> bytes:
        self.books.running.clear()
        for engine, count in self.admission.running.items():
            self.books.running.labels(engine).set(count)
        self.books.waiting.set(self.admission.waiting)
        return generate_latest(self.books.registry)

    # its own end

    async def drain(self) -> None:
        """Ends when all that is at an engine is answered. What waits is left to another proxy."""
        self.draining = True
        self.admission.end()
        while self.admission.running or self._behind:
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        await self._client.close()
        self.books.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _is_stream(answer: ClientResponse) -> bool:
    return answer.content_type == "text/event-stream"


def _query(request: web.BaseRequest) -> str:
    _, mark, query = request.raw_path.partition("?")
    return mark + query


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(
        status=refusal.status,
        body=refusal.body,
        headers={"Content-Type": "application/json", **refusal.headers},
    )


def _response(answer: ClientResponse) -> web.StreamResponse:
    """The head of the client's answer: the engine's."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    response.headers.extend(adaptations.headers_back(answer.headers.items()))
    return response


def _break_off(request: web.BaseRequest) -> BrokenOff:
    """Ends the client's connection now; what is returned is to be raised."""
    if request.transport is not None:
        request.transport.abort()
    return BrokenOff("broken off")


async def listen(handler: Handler, port: int) -> web.ServerRunner:
    # Who hangs up cancels the handler, and so the engine's work.
    server = web.Server(
        handler,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
        max_headers=HEADERS,
    )
    runner = web.ServerRunner(server, shutdown_timeout=GONE_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, port=port, backlog=4096).start()
    return runner


async def serve(live: Path, log: Path | None, *, outer: int = OUTER, inner: int = INNER) -> None:
    """Serves until SIGTERM, then ends what is under way."""
    proxy = Proxy(live, log, inner=inner)
    proxy.look()
    watching = asyncio.create_task(proxy.watch())
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    behind = await listen(proxy.inner, inner)
    front = await listen(proxy.outer, outer)
    print(f"the proxy listens, with route {proxy.admission.route.number}", flush=True)
    await stop.wait()
    for site in list(front.sites):
        await site.stop()
    print(f"stopping: {sum(proxy.admission.running.values())} requests at an engine", flush=True)
    await proxy.drain()
    await front.cleanup()
    await behind.cleanup()
    watching.cancel()
    await proxy.close()
