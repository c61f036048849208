"""The switch's HTTP client: one connection for each request, to a container by its name, or to Docker by its
socket.

A time-out is in seconds, and holds for each wait on the connection: to be accepted, and for each part of an
answer.
"""

import contextlib
import http.client
import socket
from collections.abc import Iterator, Mapping

BROKEN = (OSError, http.client.HTTPException)
"""What comes of a request without a whole answer. Of OSError, TimeoutError says that it took too long."""
JSON = {"Content-Type": "application/json"}


class SocketConnection(http.client.HTTPConnection):
    """A connection to the service that listens on a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connects to the socket. Raises OSError where nothing listens."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connected(host: str, port: int, timeout: float) -> http.client.HTTPConnection:
    """A connection that was accepted. Raises OSError where nothing listens, or the name is not known."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def asked(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """The answer once its head has come; its body is still to be read. The connection is closed at the end.

    Raises BROKEN. A bad status is an answer like any other.
    """
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        yield connection.getresponse()


def get(host: str, port: int, path: str, timeout: float) -> bytes:
    """The whole body of the answer to a GET, whatever its status. Raises BROKEN."""
    with asked(http.client.HTTPConnection(host, port, timeout=timeout), "GET", path) as answer:
        return answer.read()
