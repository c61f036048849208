"""Files that are whole whenever someone reads them, also after a power cut. All of it raises OSError."""

import os
from pathlib import Path


def write(file: Path, content: str, mode: int = 0o600) -> None:
    """Replaces `file` as a whole, and makes its folder where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with new.open("w") as out:
        os.fchmod(out.fileno(), mode)
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
