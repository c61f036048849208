"""A stack of its own for a measurement, taken away again afterwards; and how tables are printed."""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.project import Project


@contextmanager
def deployed(stack: str, **settings: object) -> Iterator[Project]:
    """A deployed stack with offline images and the tiny model."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        base = {
            "engine": "ollama",
            "target": "docker",
            "model": "tiny",
            "images": "offline",
            "context": 1024,
            "parallel": 4,
            "port": probe.getsockname()[1],
        }
        probe.close()
        project = Project(Path(folder), stack, **{**base, **settings})
        project.wipe()
        try:
            project.up()
            yield project
        finally:
            project.wipe()


def machine() -> str:
    """The size of this machine in words: figures mean little without it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {memory:.0f} GiB"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with one digit after the point."""
    cells = [
        header,
        ["---"] * len(header),
        *([f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
