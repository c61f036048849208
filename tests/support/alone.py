"""Runs a program where no address can be reached but some ports of 127.0.0.1: what it needs from outside, it
misses, and of what else happens to the machine's network it sees nothing.

It has a network namespace of its own, so that these ports are free there whatever runs on the machine. What
connects to one is carried to a port outside over a Unix socket, which no network namespace has a say in.

As a program: `alone.py FOLDER PORTS COMMAND…`, in the namespace.
"""

import asyncio
import fcntl
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
"""From linux/sockios.h and linux/if.h."""


@dataclass(frozen=True)
class Alone:
    """`ports` is what programs find on 127.0.0.1. For each there is a Unix socket in `folder`."""

    folder: Path
    ports: Sequence[int]

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end. Raises subprocess.TimeoutExpired."""
        apart = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        ports = ",".join(map(str, self.ports))
        return subprocess.run(
            [*apart, sys.executable, __file__, str(self.folder), ports, *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=dict(env),
            timeout=seconds,
            check=False,
        )


@contextmanager
def alone(folder: Path, ports: Mapping[int, int]) -> Iterator[Alone]:
    """For programs that find on 127.0.0.1 what `ports` says, port there → port here, and nothing else. The
    sockets are in `folder`."""
    done, loops = asyncio.Event(), queue.Queue[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        async with AsyncExitStack() as servers:
            for port, to in ports.items():
                carried = carry(partial(asyncio.open_connection, "127.0.0.1", to))
                server = await asyncio.start_unix_server(carried, folder / str(port))
                await servers.enter_async_context(server)
            loops.put(asyncio.get_running_loop())
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop = loops.get(timeout=30)
    try:
        yield Alone(folder, [*ports])
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()


def carry(connect: Connect) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """What a server does with a connection: it carries bytes to and from what it connects to."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await connect()
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, back), pump(there, writer))
        return None

    return both


def main(folder: str, ports: str, *command: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(asked, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
    loop = asyncio.new_event_loop()
    for port in ports.split(","):
        carried = carry(partial(asyncio.open_unix_connection, f"{folder}/{port}"))
        loop.run_until_complete(asyncio.start_server(carried, "127.0.0.1", int(port)))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
