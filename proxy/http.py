"""What both of the proxy's ports do on a client's connection."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from aiohttp.http import HttpProcessingError

from proxy import adaptations
from proxy.protocols import OPENAI, ClientProtocol
from proxy.refusals import Refusal

GONE_SECONDS, PIECE_BYTES = 60, 2**16
"""A client that takes no such piece of its answer for so long has gone."""
HEAD_BYTES, HEADERS = 2**20, 2**14
"""Of a head: more than the edge lets through, and what engines may send. aiohttp by itself would refuse a
query or a header of 8 KiB, and take an engine that sends one for an engine that has ended."""
CONNECT_SECONDS = 5
MORE_HEADERS = web.RequestKey("MORE_HEADERS", dict[str, str])
"""Key of a request under which stands what every answer to it has beside its own headers."""

RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class BrokenOff(Exception):
    """The rest of an answer is missing. Only the end of the client's connection tells it so."""


def _has_no_bytes(record: logging.LogRecord) -> bool:
    """False for a request that is no HTTP: aiohttp says the line, which may be a key's or of a prompt."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


logging.getLogger("aiohttp.server").addFilter(_has_no_bytes)


def session() -> ClientSession:
    """Asks and gives back what was said, and no more than that."""
    return ClientSession(
        # A new connection for each request: vLLM closes idle ones after 5 s, and a request can be on its way
        # just then.
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


async def listen(handler: RequestHandler, port: int) -> web.ServerRunner:
    """Serves requests at a TCP port until the runner is cleaned up."""
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


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body with which something is asked, between whose pieces others have their turn. Of an `io.BytesIO`,
    which would do, aiohttp makes a second copy."""
    for at in range(0, len(body), PIECE_BYTES):
        yield body[at : at + PIECE_BYTES]
        await asyncio.sleep(0)


def query(request: web.BaseRequest) -> str:
    """The query of a request's address as it came, with its question mark; empty where there is none."""
    _, mark, text = request.raw_path.partition("?")
    return mark + text


def is_stream(answer: ClientResponse) -> bool:
    """Whether an answer is a stream of server-sent events."""
    return answer.content_type == "text/event-stream"


def refused(refusal: Refusal, protocol: ClientProtocol = OPENAI) -> web.Response:
    """A refusal as a whole answer, in the client's protocol."""
    return web.Response(
        status=refusal.status,
        body=protocol.error(refusal),
        headers={"Content-Type": "application/json", **refusal.headers},
    )


def answered(answer: ClientResponse) -> web.StreamResponse:
    """The head of a client's answer, made of the head of the engine's."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    response.headers.extend(adaptations.headers_back(answer.headers.items()))
    return response


async def begin(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Sends the head of an answer to the client."""
    response.headers.update(request.get(MORE_HEADERS, {}))
    if request.transport is not None:
        # Linux says that there is room again when a third of it is: with the megabytes that it takes by
        # itself, who is slow would look like who takes nothing.
        line = request.transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIECE_BYTES)
        # What is written is waited for until it has left: so a request has not ended before, and a proxy
        # that is to end does not take the rest of an answer with it.
        request.transport.set_write_buffer_limits(0)
    await response.prepare(request)


async def write(request: web.BaseRequest, response: web.StreamResponse, out: bytes) -> None:
    """Sends a part of an answer's body. Raises ConnectionResetError where the client takes nothing."""
    for at in range(0, len(out), PIECE_BYTES):
        await _taken(request, response.write(out[at : at + PIECE_BYTES]))


async def end(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Ends an answer. Raises ConnectionResetError where the client takes nothing."""
    await _taken(request, response.write_eof())
    return response


async def _taken(request: web.BaseRequest, writing: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(GONE_SECONDS):
            await writing
    except TimeoutError:
        raise ConnectionResetError("the client reads nothing") from None


def ended(request: web.BaseRequest) -> asyncio.CancelledError:
    """Ends the client's connection now; what is returned is to be raised.

    It is what aiohttp itself raises in a handler whose client has gone. Anything else it would log with the
    whole traceback, for which everybody waits: seconds on a machine that is busy.
    """
    if request.transport is not None:
        request.transport.abort()
    return asyncio.CancelledError()
