"""The way of a request: in at the outer port, to an engine when it is its turn, and back.

The outer port is the clients', who come through the edge. The task that holds a client's connection asks the
gateway, then itself the engine, gives its answer on, and ends with either of the two.
"""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import ClientError, ClientResponse, web
from prometheus_client import CONTENT_TYPE_LATEST

from proxy import adaptations, answers, browsers, engine, http, inner, protocols, refusals
from proxy.admission import Admission, Dropped
from proxy.answers import Events
from proxy.bodies import Bodies
from proxy.conversation import conversation
from proxy.elsewhere import Elsewhere
from proxy.engine import EngineGone
from proxy.finding import Finder
from proxy.http import BrokenOff
from proxy.inner import Exchanges, GatewayGone
from proxy.live import LOOK_SECONDS, LiveFiles
from proxy.pods import Pods
from proxy.protocols import CHAT, COMPLETIONS, ENGINES, MODELS, STREAMED
from proxy.reading import Reading
from proxy.records import Books, RequestRecord
from proxy.refusals import Refusal
from proxy.route import (
    COPY_BYTES,
    FLEET_FILE,
    KEYS_FILE,
    LEAVES_SECONDS,
    NOBODY,
    PORT,
    ROUTE_FILE,
    ROUTING_FILE,
    ProxyRoute,
    RoutedEngine,
    TenantKeys,
    parse,
    parse_keys,
    parse_routing,
)
from proxy.traffic import OPEN_PATH
from proxy.waiting import Waiting

STATUS = "/status"
"""Path of the inner port at which the proxy says what it does."""
GATEWAY_AGAIN_SECONDS = 0.2
OTHER = "other"
"""The endpoint of a request that asks for none of ours, in the books."""


@dataclass
class ClientRequest:
    """What a client asks an engine, and what is kept of it."""

    request: web.BaseRequest
    path: str
    raw: bytes
    reading: Reading
    record: RequestRecord
    waiting: Waiting
    conversation: bytes
    """Empty where nothing is decided by it."""
    ends: int = 0
    """How often an engine has ended while it worked on it."""

    @property
    def stays(self) -> bool:
        """Whether no other proxy may answer it: the client has heard something, the edge has no copy, or
        another would ask once more than twice."""
        return self.waiting.begun or len(self.raw) >= COPY_BYTES or self.ends > 0


class ProxyServer:
    """`live` is the folder with the files that say what may be asked, `log` the one for the access log.

    `on_cluster` there are many engines, and the files are those of a cluster; else there is the one that the
    switch's route names.
    """

    def __init__(
        self, live: Path, log: Path | None, *, inner_port: int = inner.PORT, on_cluster: bool = False
    ) -> None:
        self.keys, self.admission = TenantKeys(), Admission(Pods() if on_cluster else None)
        self.finder = Finder(self.admission, socket.gethostname(), self._lose) if on_cluster else None
        takers = {KEYS_FILE: self._take_keys}
        if self.finder is not None:
            takers |= {ROUTING_FILE: self._take_routing, FLEET_FILE: self.finder.take}
        else:
            takers[ROUTE_FILE] = self._take_route
        self.live = LiveFiles(live, takers)
        self.tenants: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        """How many requests of each tenant wait; `tenants` counts those at an engine."""
        self.leaving = False
        """Whether clients are asked to come by another connection the next time."""
        self.draining = False
        self.books = Books(log, socket.gethostname())
        self._elsewhere = Elsewhere()
        self._bodies = Bodies(self._elsewhere)
        self._client = http.session()
        self.exchanges = Exchanges(self._client, self.admission, inner_port)
        self._at_engines: dict[asyncio.Timeout, tuple[ProxyRoute, RequestRecord]] = {}
        """Of each request that is at an engine: its time-out, the route it is there by, and its record."""
        self._open: set[RequestRecord] = set()
        """Of the requests that wait or are at an engine."""
        self._lost: set[asyncio.Timeout] = set()
        """Those of requests whose pod is lost."""

    def _take_route(self, raw: bytes) -> None:
        route = parse(raw)
        for each in route.given_up - self.admission.route.given_up:
            self.books.given_up.labels(each).inc()
        self.admission.change(route)
        if not route.given_up:
            return
        # nothing comes of these any more: one without a byte is asked again, once there is an engine
        for limit, (its, _) in self._at_engines.items():
            lost = its.engine and its.engine.name in route.given_up
            if lost and its.number < route.number and not limit.expired():
                limit.reschedule(_now())
        self.exchanges.give_up(route.given_up)

    def _lose(self, host: str) -> None:
        """Nothing is heard of a pod any more. What had no byte from it is asked elsewhere; a stream that has
        begun may go on, where only who speaks for the pod is gone."""
        for limit, (its, record) in self._at_engines.items():
            if its.engine and its.engine.host == host and record.first is None and not limit.expired():
                self._lost.add(limit)
                limit.reschedule(_now())

    def _take_routing(self, raw: bytes) -> None:
        self.admission.change(parse_routing(raw))

    def _take_keys(self, raw: bytes) -> None:
        self.keys = parse_keys(raw)

    # the outer port

    async def outer(self, request: web.BaseRequest) -> web.StreamResponse:
        """A client's request."""
        path = request.path.rstrip("/")
        endpoint = MODELS if path.startswith(f"{MODELS}/") else path
        record = RequestRecord(_now(), endpoint if endpoint in ENGINES or endpoint == MODELS else OTHER)
        waiting = Waiting(request, protocols.of(path))
        try:
            try:
                response = await self._answer(request, path, record, waiting)
            except Refusal as refusal:
                record.status = refusal.status
                await self._bodies.throw_away(request, self.admission.route.limits.request_bytes)
                response = await waiting.refuse(refusal)
        except Dropped:
            # No byte has gone: the edge asks again, and another proxy answers, and enters it into its books.
            raise http.ended(request) from None
        except BrokenOff:
            record.cut = True
        except (asyncio.CancelledError, ConnectionError):
            record.hung_up = True
        except BaseException:  # our own mistake, which aiohttp says with this status
            record.status = record.status or 500
            self.books.enter(record, _now())
            raise
        self.books.enter(record, _now())
        if record.cut or record.hung_up:
            raise http.ended(request)
        if not response.prepared:
            response.headers.update(request.get(http.MORE_HEADERS, {}))
        return response

    async def _answer(
        self, request: web.BaseRequest, path: str, record: RequestRecord, waiting: Waiting
    ) -> web.StreamResponse:
        origins = self.admission.route.origins
        allowed = browsers.allowed(request.headers, origins)
        request[http.MORE_HEADERS] = {**allowed, **({"Connection": "close"} if self.leaving else {})}
        if allowed and browsers.is_preflight(request.method, request.headers):
            record.status = 204
            return web.Response(status=204, headers=browsers.PREFLIGHT)
        if self.keys.open and (foreign := browsers.refused(request.headers, origins)):
            raise foreign
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
        async with self._bodies.take(request, self.admission.route.limits.request_bytes) as raw:
            record.began = _now()  # how long a client takes to send is its own matter
            reading = await self._bodies.read(raw)
            if reading.model in self.admission.route.names:
                record.model = reading.model
            elif self.admission.route.model is not None:
                raise refusals.no_model(reading.model)
            record.stream = reading.stream and path in STREAMED
            known = conversation(raw, reading) if self.admission.pods is not None else b""
            ask = ClientRequest(request, path, raw, reading, record, waiting, known)
            self._open.add(record)
            try:
                if not record.stream:
                    return await self._serve(ask)
                async with waiting:
                    return await self._serve(ask)
            finally:
                self._open.remove(record)

    def _models(self, request: web.BaseRequest, path: str, record: RequestRecord) -> web.Response:
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

    async def _serve(self, ask: ClientRequest) -> web.StreamResponse:
        """Asks for as long as no byte of an answer has come and there is time."""
        since, first, model, record = _now(), False, ask.reading.model, ask.record
        while True:
            route = await self._enter(since + self.admission.route.limits.hold_seconds, ask, first=first)
            assert route.engine is not None
            try:
                self.tenants[record.tenant] += 1
                if model not in route.names:  # it may have been another one when this came in
                    raise refusals.no_model(model)
                record.model, record.engine = model, route.engine.name
                return await self._carry(ask, route)
            except EngineGone as gone:
                ask.ends, since = ask.ends + gone.asked, _now() if gone.asked else since
                again = self.admission.gone(route, asked=gone.asked)
                if ask.ends > 1:
                    raise refusals.no_answer(
                        "The engine ended twice while it worked on this request."
                    ) from None
            except GatewayGone:
                again = GATEWAY_AGAIN_SECONDS
            finally:
                _less(self.tenants, record.tenant)
                self.admission.leave(route)
            await self.admission.another(route, again)
            first = True

    async def _enter(self, until: float, ask: ClientRequest, *, first: bool) -> ProxyRoute:
        began, tenant = _now(), ask.record.tenant
        self.waiting[tenant] += 1
        try:
            if began >= until:
                raise TimeoutError
            async with asyncio.timeout_at(until):
                with ask.waiting.held():
                    while True:
                        try:
                            return await self.admission.enter(
                                first=first, stays=ask.stays, conversation=ask.conversation
                            )
                        except Dropped:
                            if not ask.stays:
                                raise
        except TimeoutError:
            raise refusals.not_now("No engine answered in time. It may be starting; try again.") from None
        finally:
            _less(self.waiting, tenant)
            ask.record.held += _now() - began

    async def _carry(self, ask: ClientRequest, route: ProxyRoute) -> web.StreamResponse:
        """One way of a request to an engine and back. Raises EngineGone and GatewayGone, and Refusal."""
        to, record = route.engine, ask.record
        assert to is not None
        if refusal := adaptations.refused(ask.raw, ask.reading, ask.path, to.kind):
            raise refusal
        adds_usage = ask.path in (CHAT, COMPLETIONS) and adaptations.adds_usage(ask.raw, ask.reading)
        events = Events(adds_usage, to.model, ask.reading.model)
        exchange = None
        if route.gateway is not None and ask.path == CHAT:
            exchange = await self.exchanges.ask(route, ask.reading.stream)
        try:
            async with asyncio.timeout(route.limits.answer_seconds) as limit:
                self._at_engines[limit] = route, record
                answer, chunk = await engine.ask(
                    self._client,
                    to,
                    f"{ask.path}{http.query(ask.request)}",
                    adaptations.body(ask.raw, ask.reading, ask.path, to.kind, to.model, to.context),
                    adaptations.headers_in(ask.request.headers.items()),
                    _now() + route.limits.first_token_seconds,
                )
                if protocols.is_computed(ask.path, answer.status):
                    self.admission.heard(to.name, to.host)
                async with answer:
                    record.first = _now()
                    # `1` or `STREAM` asks for it, too
                    record.stream = record.stream or http.is_stream(answer)
                    if exchange:
                        exchange.first.set_result(answer.status == 200)
                    if http.is_stream(answer):
                        return await self._give_stream(ask, to, answer, chunk, events)
                    return await self._give_whole(ask, answer, chunk, events)
        except TimeoutError:
            if record.status:
                raise BrokenOff from None
            if to.name in self.admission.route.given_up or limit in self._lost:
                raise EngineGone(asked=True) from None
            raise refusals.no_answer("The engine did not answer in time.", 504, "timeout") from None
        finally:
            del self._at_engines[limit]
            self._lost.discard(limit)
            record.usage, record.events = events.usage, events.seen
            if exchange:
                exchange.usage = events.usage
                exchange.end()

    async def _give_whole(
        self, ask: ClientRequest, answer: ClientResponse, chunk: bytes, events: Events
    ) -> web.StreamResponse:
        """Gives an answer on once all of it is there: until then it can be asked for again."""
        try:
            raw = chunk + await answer.content.read()
        except ClientError:
            raise EngineGone(asked=True) from None
        events.usage, raw = await self._elsewhere.read(answers.given_on, raw, events.model, events.asked)
        ask.record.status = answer.status
        if begun := await ask.waiting.taken():
            return await ask.waiting.end(begun, raw)
        response = http.answered(answer)
        response.content_length = len(raw)
        await http.begin(ask.request, response)
        await http.write(ask.request, response, raw)
        return await http.end(ask.request, response)

    async def _give_stream(
        self, ask: ClientRequest, its: RoutedEngine, answer: ClientResponse, chunk: bytes, events: Events
    ) -> web.StreamResponse:
        """Gives a stream on as it comes."""
        computed = protocols.is_computed(ask.path, answer.status)
        ask.record.status, response = answer.status, await ask.waiting.taken()
        if response is None:
            response = http.answered(answer)
            await http.begin(ask.request, response)
        while chunk:
            if out := events.feed(chunk):
                await http.write(ask.request, response, out)
            try:
                chunk = await answer.content.readany()
            except ClientError:
                raise BrokenOff from None
            if computed:
                self.admission.heard(its.name, its.host)
        if out := events.end():
            await http.write(ask.request, response, out)
        return await http.end(ask.request, response)

    # the inner port

    async def inner(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the gateway asks of an engine, and what the switch, Prometheus and `proxy.traffic` want to
        know."""
        if request.method == "GET" and request.path == STATUS:
            return web.json_response(self.status())
        if request.method == "GET" and request.path == OPEN_PATH:
            return web.Response(text="".join(f"{line}\n" for line in self.open()))
        if request.method == "GET" and request.path == "/metrics":
            page = await self._metrics(request.query.getall("name[]", []))
            return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})
        return await self.exchanges.serve(request)

    def status(self) -> dict[str, object]:
        """What the switch asks."""
        return {
            "applied": self.admission.route.number,
            "running": dict(self.admission.running),
            "held": self.admission.waiting,
            "tenants": dict(self.tenants),
            "waiting": dict(self.waiting),
            "keys": self.keys.digest,
            "draining": self.draining,
            "silent": self.admission.silent(),
        }

    def open(self) -> list[str]:
        """What the access log would say of the requests that wait or are at an engine if they ended now."""
        now = _now()
        return [
            (replace(each, held=now - each.began) if each.engine == NOBODY else each).line(now)
            for each in self._open
        ]

    async def _metrics(self, names: Sequence[str] = ()) -> bytes:
        self.books.at_engines(self.admission.running)
        self.books.waiting.set(self.admission.waiting)
        self.books.silent.clear()
        for name, seconds in self.admission.silent().items():
            self.books.silent.labels(name).set(seconds)
        return await self.books.exposed(names)

    # its own end

    async def drain(self) -> None:
        """Ends when all is answered that is at an engine or that no other proxy can answer. What else waits
        is left to another one, but on a cluster, where no edge is there to ask that."""
        self.draining = True
        if self.finder is None:
            self.admission.end()
        asyncio.get_running_loop().call_later(http.GONE_SECONDS, self._bodies.end)
        while self.admission.running or self.exchanges.asking or self._bodies.wanted:
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        if self.finder is not None:
            await self.finder.close()
        await self._client.close()
        self.books.close()
        self._elsewhere.close()


def _less(counts: Counter[str], name: str) -> None:
    """One less of these; of 0 nothing is kept."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def _now() -> float:
    return asyncio.get_running_loop().time()


async def serve(live: Path, log: Path | None) -> None:
    """Serves until SIGTERM, then ends what is under way."""
    proxy = ProxyServer(live, log, on_cluster=(live / FLEET_FILE).exists())
    proxy.live.look()
    watching = [asyncio.create_task(proxy.live.watch())]
    if proxy.finder is not None:
        watching.append(asyncio.create_task(proxy.finder.watch()))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    behind = await http.listen(proxy.inner, inner.PORT)
    front = await http.listen(proxy.outer, PORT)
    print(f"the proxy listens, with route {proxy.admission.route.number}", flush=True)
    await stop.wait()
    if proxy.finder is not None:
        proxy.leaving = True
        await asyncio.sleep(LEAVES_SECONDS)
    for site in list(front.sites):
        await site.stop()
    print(f"stopping: {sum(proxy.admission.running.values())} requests at an engine", flush=True)
    await proxy.drain()
    await front.cleanup()
    await behind.cleanup()
    for task in watching:
        task.cancel()
    await proxy.close()
