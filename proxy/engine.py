"""Asking an engine."""

import asyncio
from collections.abc import Mapping

from aiohttp import ClientConnectorError, ClientError, ClientResponse, ClientSession, ConnectionTimeoutError
from yarl import URL

from proxy import http
from proxy.route import RoutedEngine


class EngineGone(Exception):
    """The engine ended before it answered. `asked`: it had got the request."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__()
        self.asked = asked


async def ask(
    client: ClientSession,
    engine: RoutedEngine,
    target: str,
    body: bytes,
    headers: Mapping[str, str],
    until: float,
) -> tuple[ClientResponse, bytes]:
    """The engine's answer with its first bytes: until these nothing has been given to the client.

    `until` is a time of the event loop's clock. Raises EngineGone and TimeoutError.
    """
    answer = None
    try:
        async with asyncio.timeout_at(until):
            url = URL(f"http://{engine.host}:{engine.port}{target}", encoded=True)
            headers = {"content-length": str(len(body)), **headers}
            answer = await client.post(url, data=http.pieces(body), headers=headers, allow_redirects=False)
            chunk = await answer.content.readany()
            if not chunk and http.is_stream(answer):
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
