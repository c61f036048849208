"""Files that are whole whenever someone reads them, also after a power cut. All of it raises OSError."""

import os
from pathlib import Path


def write(file: Path, content: str, mode: int = 0o600, *, older: Path | None = None) -> None:
    """Replaces `file` as a whole, and makes its folder where there is none. What it was before is then
    `older`, which takes no room: it is the same file under another name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with new.open("w") as out:
        os.fchmod(out.fileno(), mode)
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    if older and file.exists():
        new_older = older.with_suffix(".older")
        new_older.unlink(missing_ok=True)
        os.link(file, new_older)
        new_older.replace(older)
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
