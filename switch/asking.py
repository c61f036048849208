"""How the CLI asks the daemon, both in the switch's container.

It imports nothing but the standard library: most of what a change does on the host are short questions, and
the rest of this package takes longer to import than an answer takes.
"""

import json
import socket
import time
from pathlib import Path
from typing import Any

SOCKET = Path("/tmp/switch.sock")
UNAVAILABLE = 69
"""Exit status of the CLI where the switch or Docker gives no answer, which may have heard it or not."""
ANSWER_SECONDS = 20
"""For which the CLI waits for an answer; who has hung up is not answered, and what was asked not done."""


def ask(path: Path, request: dict[str, Any], patience: float = 10) -> dict[str, Any]:
    """What the daemon answers to a request. One that is just starting has `patience` seconds.

    Raises OSError; of that TimeoutError, whose text names the switch, where the daemon gives no answer.
    """
    end = time.monotonic() + patience
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(ANSWER_SECONDS)
            try:
                client.connect(str(path))
            except OSError as error:
                if time.monotonic() > end:
                    if isinstance(error, BlockingIOError):  # too many wait for it to accept them
                        raise TimeoutError("the switch gives no answer (it accepts no connection)") from error
                    raise
            else:
                try:
                    client.sendall(json.dumps({**request, "at": time.monotonic()}).encode() + b"\n")
                    with client.makefile() as answer:
                        return dict(json.loads(answer.readline() or "{}"))
                except TimeoutError as error:
                    raise TimeoutError(f"the switch gives no answer ({error})") from error
        time.sleep(0.1)
