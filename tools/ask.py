"""One question to the person at the keyboard."""

import os
import sys

from common import StepFailed


def yes(question: str, alone: str) -> bool:
    """Whether the person agrees; `YES=1` does. Raises StepFailed with `alone` where nobody can be asked."""
    if os.environ.get("YES") == "1":
        return True
    if not sys.stdin.isatty():
        raise StepFailed(alone)
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def agree(question: str, command: str, stack: str) -> None:
    """Asks once, for `make COMMAND`. Raises StepFailed without a yes: nothing was changed until now."""
    no = (
        f"not done; nothing was changed. To answer the question in advance: YES=1 make {command} "
        f"STACK={stack}"
    )
    if not yes(question, no):
        raise StepFailed(no)
