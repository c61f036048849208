"""What a client of a stream hears while its request is held, so that nobody takes silence for a dead line.

Load balancers and proxies give up after 60 to 100 s, Node after 300 s. From the first word on the status is
200: what fails after that ends the stream in the protocol's own error event.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from aiohttp import web

from proxy import http
from proxy.protocols import ClientProtocol
from proxy.refusals import Refusal

WORD_SECONDS = 15
"""So long nothing is said at first, and between two words."""
WORD = b": the request waits for its engine\n\n"
"""A comment of a server-sent stream: readers skip it."""
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Waiting:
    """A context manager around the serving of a stream; without it nothing is ever said."""

    def __init__(self, request: web.BaseRequest, protocol: ClientProtocol) -> None:
        self._request, self._protocol = request, protocol
        self._response: web.StreamResponse | None = None
        self._held = False
        self._words: asyncio.Task[None] | None = None
        self._speaking = asyncio.Lock()

    @property
    def begun(self) -> bool:
        """Whether the client has heard something: then nobody else can answer it."""
        return self._response is not None

    async def __aenter__(self) -> Self:
        self._words = asyncio.create_task(self._speak())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._silence()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the request is held."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    async def _speak(self) -> None:
        while True:
            await asyncio.sleep(WORD_SECONDS)
            async with self._speaking:
                if not self._held:
                    continue
                if self._response is None:
                    self._response = web.StreamResponse(headers=HEADERS)
                    await http.begin(self._request, self._response)
                await http.write(self._request, self._response, WORD)

    async def _silence(self) -> None:
        """Ends the words, and not in the middle of one."""
        if self._words is None:
            return
        words, self._words = self._words, None
        async with self._speaking:
            words.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await words

    async def taken(self) -> web.StreamResponse | None:
        """The answer that was begun, to go on with; None where there is none. Nothing more is said here."""
        await self._silence()
        return self._response

    async def end(self, response: web.StreamResponse, body: bytes) -> web.StreamResponse:
        """Ends a stream that was begun with an error, of which `body` is what would have been the answer."""
        await http.write(self._request, response, self._protocol.event(body))
        return await http.end(self._request, response)

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """Answers with an error of the endpoint, in whatever way there still is."""
        if (response := await self.taken()) is None:
            return http.refused(refusal, self._protocol)
        return await self.end(response, self._protocol.error(refusal))
