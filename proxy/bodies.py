"""The bodies of requests: taken in whole, within limits, and read."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from aiohttp import web

from proxy import refusals
from proxy.reading import Reading, Unreadable, read
from proxy.refusals import Refusal

HELD_BYTES = 256 * 2**20
"""What the bodies of all requests together may take."""
THROWN_AWAY_BYTES = 128 * 2**20
"""So much of a body that is too large is still read, so that its client gets to know why it is refused."""
LARGE_BYTES = 64 * 2**10
"""Bodies from this size on are read in another process: the interpreter does one thing at a time."""


class Bodies:
    """The bodies of all requests: how many bytes they have together, and the process that reads large
    ones."""

    def __init__(self) -> None:
        self._held = 0
        self._readers = _new_readers()

    @contextlib.asynccontextmanager
    async def take(self, request: web.BaseRequest, limit: int) -> AsyncIterator[bytes]:
        """The body of a request, of `limit` bytes at most, which counts as held until it is let go.

        Raises Refusal.
        """
        if (encoding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise refusals.encoded(encoding)
        size, held, parts = 0, 0, list[bytes]()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async for part in request.content.iter_any():
                size += len(part)
                if size <= limit:
                    held += len(part)
                    self._held += len(part)
                    parts.append(part)
                    if self._held > HELD_BYTES:
                        raise refusals.not_now("Too many large requests are waiting. Try again.")
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
            self._held -= held

    async def read(self, raw: bytes) -> Reading:
        """What a body says, as far as the proxy looks at it. Raises Refusal."""
        try:
            if len(raw) < LARGE_BYTES:
                return read(raw)
            try:
                return await self._read_elsewhere(raw)
            except BrokenProcessPool:  # somebody has killed it
                self._readers = _new_readers()
                return await self._read_elsewhere(raw)
        except Unreadable as error:
            raise Refusal(400, str(error), "invalid_request", error.param) from None

    async def _read_elsewhere(self, raw: bytes) -> Reading:
        return await asyncio.get_running_loop().run_in_executor(self._readers, read, raw)

    def close(self) -> None:
        """Ends the process that reads large bodies."""
        self._readers.shutdown(wait=False, cancel_futures=True)


def _new_readers() -> ProcessPoolExecutor:
    readers = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=os.nice, initargs=(19,))
    readers.submit(read, b'{"model":""}')  # it starts now, and not with the first large body
    return readers
