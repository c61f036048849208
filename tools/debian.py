"""Debian's packages: those that are missing are named, and installed only on request."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from common import StepFailed, say
from offline.steps import run

BUILD_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "gcc": "gcc",
    "g++": "g++",
    "strip": "binutils",
    **({} if os.geteuid() == 0 else {"newuidmap": "uidmap"}),
}
"""Program → package: what the offline builds need beside Go, which Debian has too old."""


def allowed() -> bool:
    """Whether `START_DOCKER=1` lets this process, as root, install and start Debian's packages."""
    return os.environ.get("START_DOCKER") == "1" and os.geteuid() == 0


def ensure(programs: Mapping[str, str], log: Path) -> None:
    """Return with every program on PATH, or raise StepFailed with the line that installs what is missing."""
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not missing:
        return
    if not allowed():
        raise StepFailed(f"missing: {', '.join(missing)}. Run as root: apt-get install {' '.join(missing)}")
    say(f"Debian: installing {', '.join(missing)}")
    log.parent.mkdir(exist_ok=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update"], log=log, env=quiet)
    run(["apt-get", "install", "-y", "--no-install-recommends", *missing], log=log, env=quiet)
