"""One line of `make advise`, for commands that look at something else and must neither wait for it nor fail.

What was advised last is kept. Where that is older than an hour, another process looks anew: a command waits
for it for a moment, and where it needs longer, the next command has it.
"""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from tools.environment import HOME, ROOT

KEPT = HOME / "advice"
"""What was advised last, a file for each stack."""
FRESH_SECONDS, OLD_SECONDS = 3600, 7 * 24 * 3600
"""So long it is as good as new, and from then on it is shown no more."""
WAIT_SECONDS = 3.0
"""So long a command waits for a new one, from its own beginning on."""
GIVEN_UP_SECONDS = 120
"""By then whoever looks anew has ended."""


def keep(stack: str, line: str, now: float) -> None:
    """Keeps a line that is of `now`, in seconds since the epoch; an empty one where nothing can be advised.
    Raises OSError."""
    KEPT.mkdir(parents=True, exist_ok=True)
    new = KEPT / f"{stack}.new"
    new.write_text(json.dumps({"at": now, "line": line}) + "\n")
    new.replace(_file(stack))


def kept(stack: str) -> tuple[str, float]:
    """What was kept last, and for how many seconds; nothing, and for ever, where there is none."""
    try:
        content = json.loads(_file(stack).read_text())
        return str(content["line"]), time.time() - float(content["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", float("inf")


def _file(stack: str) -> Path:
    return KEPT / f"{stack}.json"


class Line:
    """A line of advice, looked for from now on where the kept one isn't new."""

    def __init__(self, stack: str) -> None:
        self._stack, self._until = stack, time.monotonic() + WAIT_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        if kept(stack)[1] < FRESH_SECONDS:
            return
        words = [sys.executable, "-m", "tools.advise", stack, "--line"]
        nothing = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                words, cwd=ROOT, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
            )
        except OSError:
            return

    def text(self) -> str:
        """The line, empty where there is none. It waits until WAIT_SECONDS after it was begun, at most, and
        raises nothing."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on, for the next command
                self._process.wait(max(0.0, self._until - time.monotonic()))
        line, age = kept(self._stack)
        return line if age < OLD_SECONDS else ""
