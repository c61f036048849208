"""One line of `make advise`, for commands that look at something else and must neither wait for it nor fail.

What was advised last is kept. Where that is older than an hour, another process looks anew: a command waits
for it for a moment, and where it needs longer, the next command has it. An advice that is another than before
is said to be, for a week.
"""

import contextlib
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advise.rule import Verdict
from common import ROOT, write_whole
from tools.environment import HOME

KEPT = HOME / "advice"
"""What was advised last, a file for each stack."""
FRESH_SECONDS, OLD_SECONDS = 3600, 7 * 24 * 3600
"""So long it is as good as new, and from then on it is shown no more."""
WAIT_SECONDS = 3.0
"""So long a command waits for a new one, from its own beginning on."""
GIVEN_UP_SECONDS = 120
"""By then whoever looks anew has ended."""


BEFORE: Mapping[str, str] = {"upgrade": "vLLM", "stay": "Ollama", "undecided": "undecided"}
"""What was advised before, in words. Too little to advise anything is no advice, and no change of one."""


def keep(stack: str, line: str, verdict: Verdict, now: float) -> None:
    """Keeps a line that is of `now`, in seconds since the epoch; an empty one where nothing can be advised.
    Raises OSError."""
    KEPT.mkdir(parents=True, exist_ok=True)
    was = _content(stack)
    known = {key: was.get(key) for key in ("verdict", "before", "since")}
    if verdict in BEFORE and verdict != known["verdict"]:
        known = {"verdict": verdict, "before": known["verdict"], "since": now}
    write_whole(_file(stack), json.dumps({"at": now, "line": line, **known}) + "\n")


def kept(stack: str) -> tuple[str, float]:
    """What was kept last, and for how many seconds; nothing, and for ever, where there is none."""
    content = _content(stack)
    try:
        line, now = str(content["line"]), time.time()
        since, before = float(content.get("since") or 0), BEFORE.get(str(content.get("before")))
        if line and before and 0 <= now - since < OLD_SECONDS:
            day = datetime.datetime.fromtimestamp(since, datetime.UTC)
            line += f" (since {day:%Y-%m-%d}; before: {before})"
        age = now - float(content["at"])
        return line, age if age >= 0 else float("inf")  # the clock was wrong when it was kept
    except (ValueError, KeyError, TypeError):
        return "", float("inf")


def _content(stack: str) -> dict[str, Any]:
    """Of the file; empty where there is none that can be read."""
    try:
        return dict(json.loads(_file(stack).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


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
