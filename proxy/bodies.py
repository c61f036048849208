"""The bodies of requests: taken in whole, within limits, and read."""

import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web

from proxy import refusals
from proxy.elsewhere import Elsewhere
from proxy.reading import Reading, Unreadable, read
from proxy.refusals import Refusal

HELD_BYTES = 256 * 2**20
"""What the bodies of all requests together may take."""
THROWN_AWAY_BYTES = 128 * 2**20
"""So much of a body that is too large is still read, so that its client gets to know why it is refused."""


@dataclass(eq=False)
class _Body:
    """One that is wanted, as far as it has come: `whole` once that is all."""

    content: io.BytesIO = field(default_factory=io.BytesIO)
    size: int = 0
    whole: bool = False


class Bodies:
    """The bodies of all requests: how many bytes they have together, and the process that reads large ones.

    A client may take as long as it likes to send one, and a large one comes as it is sent: the edge keeps
    none. So who has begun first to send, and has not ended, gives way where there is no more room.
    """

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._held = 0
        self._bodies: dict[_Body, None] = {}
        self._elsewhere = elsewhere

    @property
    def wanted(self) -> int:
        """How many requests there are whose bodies are here or on their way, and not refused."""
        return len(self._bodies)

    @contextlib.asynccontextmanager
    async def take(self, request: web.BaseRequest, limit: int) -> AsyncIterator[bytes]:
        """The body of a request, of `limit` bytes at most, which counts as held until it is let go.

        Raises Refusal.
        """
        if (encoding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise refusals.encoded(encoding)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        size, body = 0, _Body()
        self._bodies[body] = None
        try:
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit + THROWN_AWAY_BYTES:
                    break
                if size > limit:
                    self._let_go(body)
                elif body in self._bodies:
                    body.content.write(part)
                    body.size += len(part)
                    self._held += len(part)
                    while self._held > HELD_BYTES:
                        self._let_go(next(each for each in self._bodies if each.size and not each.whole))
            if size > limit:
                raise refusals.too_large(limit)
            if body not in self._bodies:
                raise refusals.not_now("Too many large requests are waiting. Try again.")
            body.whole, raw = True, body.content.getvalue()
            body.content = io.BytesIO()
            yield raw
        finally:
            self._let_go(body)

    def _let_go(self, body: _Body) -> None:
        if body in self._bodies:
            del self._bodies[body]
            self._held -= body.size
            body.content = io.BytesIO()

    def end(self) -> None:
        """Nothing more is wanted of the bodies that are not whole yet."""
        for body in [each for each in self._bodies if not each.whole]:
            self._let_go(body)

    @staticmethod
    async def throw_away(request: web.BaseRequest, limit: int) -> None:
        """Reads what is left of the body of a request that is refused, up to `limit` bytes: most clients read
        no answer before they have sent everything."""
        if "Expect" in request.headers:  # this one does
            return
        async for part in request.content.iter_any():
            if (limit := limit - len(part)) < 0:
                break

    async def read(self, raw: bytes) -> Reading:
        """What a body says, as far as the proxy looks at it. Raises Refusal."""
        try:
            return await self._elsewhere.read(read, raw)
        except Unreadable as error:
            raise Refusal(400, str(error), "invalid_request", error.param) from None
