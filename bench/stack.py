"""A stack of its own for a measurement, which is removed afterwards; and how tables are printed.

Nothing to run by itself: the other modules of `bench` use it.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, StepFailed
from components import pins
from stacks.owner import UNKNOWN
from tests.support.project import Project, docker, offline_settings
from tools.owner import found

FAST_PROGRAM = ROOT / "bench" / "fast_program.sh"
"""The program that stands in for those of both engines, and starts the test engine."""

FAST_PROGRAMS = {pins.OLLAMA: "/bin/ollama", pins.VLLM_CPU: "/usr/local/bin/vllm"}
"""Where it stands in each engine's image."""

FAST_ENGINE = ROOT / "tests" / "support" / "fast_engine.py"


@contextmanager
def deployed(stack: str, *, fast: bool = False, delay: float = 0, **settings: object) -> Iterator[Project]:
    """A deployed stack with offline images and the model `tiny`, until the block ends.

    With `fast`, the test engine stands for both engines, and needs `delay` seconds to start. `settings` are
    further settings of the stack. Raises StepFailed if another run has a stack of this name.
    """
    with tempfile.TemporaryDirectory() as folder:
        refuse_another_run(stack)
        if fast:
            with fast_project(Path(folder), stack, delay=delay, **settings) as project:
                yield project
            return
        project = Project(Path(folder), stack, **offline_settings(**settings))
        project.wipe()
        try:
            project.up()
            yield project
        finally:
            project.wipe()


@contextmanager
def fast_project(folder: Path, stack: str, *, delay: float = 0, **settings: object) -> Iterator[Project]:
    """A deployed stack in which the test engine stands for both engines, until the block ends.

    The test engine has images of its own, and needs `delay` seconds to start. `folder` is where the project
    is copied to.
    """
    version = f"0.0.0-{stack}"
    project = Project(folder, stack, **offline_settings(**settings))
    project.wipe()
    try:
        use_fast_engine(project.folder, version, delay)
        project.up()
        yield project
    finally:
        project.wipe()
        remove_fast_engine(version)


def refuse_another_run(stack: str) -> None:
    """Raises StepFailed if the Docker host has a stack of this name already: another run's, or one that a run
    has left that was killed."""
    there = found(stack)
    if there.of():
        whose = there.owner.id if there.owner else UNKNOWN
        raise StepFailed(
            f"the stack `{stack}` is on this Docker host already. Nothing was changed. Wait for the run that "
            f"made it; or, if that was killed: make down STACK={stack} OWNER={whose} WEIGHTS=delete"
        )


def use_fast_engine(folder: Path, version: str, delay: float = 0) -> None:
    """Pins both engines of the copied project in `folder` to images of the test engine, which it makes from
    the switch's image. The test engine needs `delay` seconds to start.

    Two runs at the same time need two versions: making the images anew changes what their tags mean.
    """
    for pin, program in FAST_PROGRAMS.items():
        container = docker("create", pins.SWITCH.offline).strip()
        try:
            engine = folder / "fast-engine"
            engine.write_text(fast_program(delay))
            engine.chmod(0o755)
            docker("cp", str(engine), f"{container}:{program}")
            docker("cp", str(FAST_ENGINE), f"{container}:/{FAST_ENGINE.name}")
            docker("commit", container, fast_image(pin, version))
        finally:
            docker("rm", container)
        engine.unlink()
    pin_fast_engine(folder, version)


def fast_program(delay: float, mode: str = "ok") -> str:
    """The program of both engines' images; `mode` is what the test engine calls so."""
    return FAST_PROGRAM.read_text().replace("FAST_DELAY=0", f"FAST_DELAY={delay:g} FAST_MODE={mode}")


def fast_image(pin: pins.Image, version: str) -> str:
    """Its name, in place of that of `pin`."""
    return pin.offline.replace(pin.version, version)


def pin_fast_engine(folder: Path, version: str, *, vllm: str = "") -> None:
    """Pin both engines of a copied project to those images; `vllm` is another version for vLLM alone."""
    file = folder / "components/pins.py"
    text = file.read_text()
    for pin, its in ((pins.OLLAMA, version), (pins.VLLM_CPU, vllm or version)):
        text = text.replace(f'version="{pin.version}"', f'version="{its}"')
    file.write_text(text)


def remove_fast_engine(version: str) -> None:
    """Removes the images of this version that `use_fast_engine` made. No container may use them any more."""
    names = [fast_image(pin, version) for pin in FAST_PROGRAMS]
    if here := [name for name in names if docker("images", "--quiet", name).strip()]:
        docker("rmi", *here)


def kept(file: Path) -> list[dict[str, Any]]:
    """The results that this run and earlier ones have left in `file`, a line of JSON each."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def machine() -> str:
    """How many cores and GiB of memory this machine has, in words: figures mean little without it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {memory:.0f} GiB"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; a float has one digit after the point."""
    cells = [
        header,
        ["---"] * len(header),
        *([f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
