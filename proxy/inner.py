"""The inner port: what the gateway's configuration names as its engines.

A request asks the gateway with a question that has nothing of it but an id, and is found again by that id
when the gateway asks an engine here. Then the request's own task asks the engine; the gateway hears a minimal
answer of ours, in step with the engine's.
"""

import asyncio
import contextlib
import re
import secrets
import socket
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from yarl import URL

from proxy import adaptations, gateway, http, protocols, refusals
from proxy.admission import Admission
from proxy.answers import Usage
from proxy.route import ALIAS, ProxyRoute

PORT = 8001
ENGINE_PORT = 8000
"""Of an engine that no route names, as before a flip."""
NAME = re.compile(r"[A-Za-z0-9-]+")
"""Of what is on the own network: no address, and no name of elsewhere."""
GATEWAY_SECONDS = 30
"""So long a gateway may take until it asks an engine; one that hangs is given up."""
GATEWAY_AGAIN_SECONDS = 2
"""After so long it is asked a second time, and each further time after twice as long: a gateway that answers
may have sent a question to a proxy that hangs, or to the address of one that has just gone."""


class GatewayGone(Exception):
    """The gateway ended, or gave up, before it asked an engine."""


@dataclass
class Exchange:
    """One request that the gateway was asked about. Each future is set once, and `usage` before `done`."""

    route: ProxyRoute
    stream: bool
    chosen: asyncio.Future[str]
    """The id of the question that found it."""
    first: asyncio.Future[bool]
    """Whether the engine's answer is a good one, at its first byte."""
    done: asyncio.Future[None]
    usage: Usage = field(default_factory=Usage)

    def end(self) -> None:
        """Nothing more comes from an engine: the gateway must not wait for it."""
        if not self.first.done():
            self.first.set_result(False)
        self.done.set_result(None)


class Exchanges:
    """What the gateway was asked, and has not yet asked here for."""

    def __init__(self, client: ClientSession, admission: Admission, port: int) -> None:
        self._client, self._admission, self._port = client, admission, port
        self.open: dict[str, Exchange] = {}
        self._address = socket.gethostbyname(socket.gethostname())
        self.asking: set[asyncio.Task[None]] = set()
        """The gateway's answers that are not yet heard out."""

    async def ask(self, route: ProxyRoute, stream: bool) -> Exchange:
        """Asks the gateway, until it has asked for the engine of `route`. Raises GatewayGone."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(route, stream, loop.create_future(), loop.create_future(), loop.create_future())
        asked, found_by = dict[str, asyncio.Task[None]](), ""
        try:
            until, pause = loop.time() + GATEWAY_SECONDS, GATEWAY_AGAIN_SECONDS
            while loop.time() < until:
                self._question(exchange, asked)
                either: list[asyncio.Future[Any]] = [*asked.values(), exchange.chosen]
                seconds = min(pause, until - loop.time())
                await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if exchange.chosen.done() or any(task.done() for task in asked.values()):
                    break
                pause *= 2
            if not exchange.chosen.done() or exchange.chosen.cancelled():
                raise GatewayGone
            found_by = exchange.chosen.result()
            return exchange
        except BaseException:  # the client may have gone just when the gateway had asked
            exchange.end()
            raise
        finally:
            for number, task in asked.items():
                del self.open[number]
                if number != found_by:
                    task.cancel()

    def _question(self, exchange: Exchange, asked: dict[str, asyncio.Task[None]]) -> None:
        """Asks the gateway once more, by a new id."""
        route, number = exchange.route, f"{self._address}.{secrets.token_hex(12)}"
        assert route.gateway is not None and route.model is not None
        url = f"http://{route.gateway.host}:{route.gateway.port}{gateway.PATH}"
        seconds = route.limits.answer_seconds + 2 * GATEWAY_SECONDS
        question = gateway.question(route.model, number, exchange.stream)
        task = asyncio.create_task(self._hear_out(url, question, seconds))
        self.open[number], asked[number] = exchange, task
        self.asking.add(task)
        task.add_done_callback(self.asking.discard)

    def give_up(self, gateways: frozenset[str]) -> None:
        """Ends what these were asked and have not decided yet: they hang."""
        for exchange in self.open.values():
            gone = exchange.route.gateway
            if gone and gone.host in gateways and not exchange.chosen.done():
                exchange.chosen.cancel()

    async def _hear_out(self, url: str, question: bytes, seconds: float) -> None:
        """The gateway finishes whatever it has begun; nobody needs what it says."""
        with contextlib.suppress(ClientError, OSError):
            headers = {"content-type": "application/json"}
            limit = ClientTimeout(total=seconds, sock_connect=http.CONNECT_SECONDS)
            async with self._client.post(
                url, data=question, headers=headers, allow_redirects=False, timeout=limit
            ) as answer:
                async for _ in answer.content.iter_any():
                    pass

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the gateway asks of an engine."""
        _, engine, path = [*request.raw_path.partition("?")[0].split("/", 2), "", ""][:3]
        if not path or not NAME.fullmatch(engine) or request.method not in ("GET", "POST"):
            return http.refused(refusals.no_path())
        number = request.headers.get(gateway.ID)
        if number is None:
            self._admission.count(engine, 1)
            try:
                return await self._pass(request, f"http://{engine}:{ENGINE_PORT}", f"/{path}", engine)
            finally:
                self._admission.count(engine, -1)
        address = number.rpartition(".")[0]
        if address != self._address:
            if address not in await self._others():
                return http.refused(refusals.no_path())
            return await self._pass(request, f"http://{address}:{self._port}", f"/{engine}/{path}")
        exchange = self.open.get(number)
        if exchange is None or exchange.chosen.done() or exchange.route.engine is None:
            return http.refused(refusals.not_now("This request has its answer already, or was given up."))
        # By its content, or on a cluster by its kind, where both kinds and two of one kind may serve at once.
        if engine not in (exchange.route.engine.name, exchange.route.engine.kind):
            return http.refused(refusals.not_now("This engine is not gated."))
        exchange.chosen.set_result(number)
        await request.read()
        return await self._tell(request, exchange)

    async def _tell(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """The minimal answer to the gateway."""
        if not await asyncio.shield(exchange.first):
            return http.refused(refusals.not_now("The engine's answer is passed on as it is."))
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
            found = await asyncio.get_running_loop().getaddrinfo(ALIAS, self._port, type=socket.SOCK_STREAM)
        except OSError:
            return set()
        return {str(address[0]) for *_, address in found}

    async def _pass(
        self, request: web.BaseRequest, place: str, path: str, engine: str = ""
    ) -> web.StreamResponse:
        """Carries an ask as it stands to this path of another proxy or of an engine at `http://host:port`."""
        try:
            raw = b"".join([part async for part in request.content.iter_any()])  # `read` takes 1 MiB at most
            more = {gateway.ID: request.headers[gateway.ID]} if gateway.ID in request.headers else {}
            if raw:
                more["content-length"] = str(len(raw))
            async with self._client.request(
                request.method,
                URL(f"{place}{path}{http.query(request)}", encoded=True),
                data=http.pieces(raw) if raw else None,
                headers={**adaptations.headers_in(request.headers.items()), **more},
                allow_redirects=False,
            ) as answer:
                response = http.answered(answer)
                await response.prepare(request)
                try:
                    async for chunk in answer.content.iter_any():
                        if engine and protocols.is_computed(path, answer.status):
                            self._admission.heard(engine)
                        await response.write(chunk)
                    await response.write_eof()
                except (ClientError, ConnectionError):  # of either side
                    raise http.ended(request) from None
                return response
        except (ClientError, OSError) as error:
            return http.refused(
                refusals.not_now(f"{place.split('/')[2]} does not answer: {type(error).__name__}")
            )
