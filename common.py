"""What every command shares: where checkout and cache are, how it says what goes on, and how it fails.

Only the standard library: some commands run before anything is installed.
"""

import errno
import os
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parent
INTERRUPTED = 130
"""The exit status of a command that was ended by Ctrl-C, as shells have it."""
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a person can do something about where a file can't be written: the disk, or rights."""


class StepFailed(Exception):
    """A build step failed; the text says which, shows the end of its log and names the log file."""


def cache_root() -> Path:
    """The one folder outside the project that is written to: `CHANGEOVER_CACHE`, or ~/.cache/changeover."""
    return Path(os.environ.get("CHANGEOVER_CACHE") or Path.home() / ".cache" / "changeover")


def say(text: str) -> None:
    """One line for the person who is waiting."""
    print(text, flush=True)


def write_whole(file: Path, text: str) -> None:
    """Writes a file that is whole at any time: what was there before, or all of `text`. A full disk takes
    nothing. Raises OSError."""
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(text)
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def unpack(archive: tarfile.TarFile, folder: Path, members: Iterable[tarfile.TarInfo] | None = None) -> None:
    """Extract `members` (all, if None) into `folder`.

    Python can refuse what would leave the folder from 3.11.4 on; Debian 12 has 3.11.2.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, members, filter="data")
    else:
        archive.extractall(folder, members)


def main_guard(action: Callable[[], None]) -> None:
    """Run a command-line action; print a failed step's text alone. No stack trace, for a full disk and Ctrl-C
    neither."""
    try:
        action()
    except StepFailed as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        sys.exit(f"error: {error.strerror}: {error.filename or 'what is written'}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
