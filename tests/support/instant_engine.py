"""An engine that costs next to nothing; a test double for measurements of what stands before it.

A completion is answered once its body is there, which is counted and not looked through: 16 MiB take it
some milliseconds. A stream has `ENGINE_EVENTS` (0) events, `ENGINE_PER_SECOND` (50) of them a second, each
with its number `n` and the time at which it was `sent`, in seconds since the epoch.
"""

import asyncio
import json
import os
import re
import time

EVENTS = int(os.environ.get("ENGINE_EVENTS", "0"))
SECONDS = 1 / float(os.environ.get("ENGINE_PER_SECOND", "50"))
USAGE = {"prompt_tokens": 1, "completion_tokens": EVENTS, "total_tokens": EVENTS + 1}

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream" *: *true')
_USAGE = re.compile(rb'"include_usage" *: *true')


class Connection(asyncio.Protocol):
    """One connection, on which one request after another may come. Bodies need a Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.began = b""
        self.missing: int | None = None
        """Bytes of the body that have not come; None: of the head neither."""
        self.answering: asyncio.Task[None] | None = None

    def connection_lost(self, _: Exception | None) -> None:
        if self.answering:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        if self.missing is None:
            self.began += data
            head, end, body = self.began.partition(b"\r\n\r\n")
            if not end:
                return
            length = _LENGTH.search(head)
            self.missing = (int(length.group(1)) if length else 0) - len(body)
        else:
            if len(self.began) < 4096:
                self.began += data
            self.missing -= len(data)
        if self.missing <= 0:
            stream = _STREAM.search(self.began) is not None
            usage = _USAGE.search(self.began) is not None
            self.began, self.missing = b"", None
            self.answering = asyncio.create_task(self.answer(stream, usage))

    async def answer(self, stream: bool, usage: bool) -> None:
        if stream:
            await self.events(usage)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": "w0"}, "finish_reason": "length"}
        said = json.dumps(about("chat.completion", [choice]) | {"usage": USAGE}).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(said), said)
        )

    async def events(self, usage: bool) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        began = time.monotonic()
        for number in range(EVENTS):
            await asyncio.sleep(began + number * SECONDS - time.monotonic())
            choice = {"index": 0, "delta": {"content": f"w{number} "}, "finish_reason": None}
            said = about("chat.completion.chunk", [choice]) | {"n": number, "sent": time.time()}
            self.chunk(b"data: %s\n\n" % json.dumps(said).encode())
        end = {"index": 0, "delta": {}, "finish_reason": "length"}
        self.chunk(b"data: %s\n\n" % json.dumps(about("chat.completion.chunk", [end])).encode())
        if usage:
            said = about("chat.completion.chunk", []) | {"usage": USAGE}
            self.chunk(b"data: %s\n\n" % json.dumps(said).encode())
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def chunk(self, raw: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(raw), raw))


def about(kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
    return {"id": "instant", "object": kind, "created": 0, "model": "tiny", "choices": choices}


async def main() -> None:
    # asyncio sets TCP_NODELAY on each connection: nothing waits for an acknowledgement.
    server = await asyncio.get_running_loop().create_server(Connection, "0.0.0.0", 8000, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
