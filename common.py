"""What every command shares: where checkout and cache are, how it says what goes on, and how it fails.

Only the standard library: some commands run before anything is installed.
"""

import os
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parent
INTERRUPTED = 130
"""The exit status of a command that was ended by Ctrl-C, as shells have it."""


class StepFailed(Exception):
    """A build step failed; the text says which, shows the end of its log and names the log file."""


def cache_root() -> Path:
    """The one folder outside the project that is written to: `CHANGEOVER_CACHE`, or ~/.cache/changeover."""
    return Path(os.environ.get("CHANGEOVER_CACHE") or Path.home() / ".cache" / "changeover")


def say(text: str) -> None:
    """One line for the person who is waiting."""
    print(text, flush=True)


def unpack(archive: tarfile.TarFile, folder: Path, members: Iterable[tarfile.TarInfo] | None = None) -> None:
    """Extract `members` (all, if None) into `folder`.

    Python can refuse what would leave the folder from 3.11.4 on; Debian 12 has 3.11.2.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, members, filter="data")
    else:
        archive.extractall(folder, members)


def main_guard(action: Callable[[], None]) -> None:
    """Run a command-line action; print a failed step's text alone. No stack trace, for Ctrl-C neither."""
    try:
        action()
    except StepFailed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
