"""The coding agents that the tests run as they are, from the package registries and by the hashes of the lock
files in `offline/agent/`: packages with a program for Linux, one for Node, and one of Python.

They are no part of what is deployed. Another version of one: as `offline.clients` says, in `offline/agent/`.
"""

import platform
import sys
from pathlib import Path

from common import StepFailed, main_guard, say
from offline import clients
from offline.clients import FILES, of_node, of_python
from offline.steps import cached, key_of

SOURCES = Path(__file__).parent / "agent"
AIDER_BELOW = (3, 13)
"""Aider takes Python up to 3.12: where this is a newer one, it is left out."""
PACKAGES = {
    "claude": "@anthropic-ai/claude-code-linux-*/claude",
    "codex": "@openai/codex-linux-*/vendor/*/bin/codex",
    "opencode": "opencode-linux-*/bin/opencode",
}
"""The program in each package that is one for this machine."""


def install() -> Path:
    """A folder with the agents' programs by the names that people type; installs what is missing.

    Opencode has no package of this version for arm64, and is left out there. Raises StepFailed.
    """
    files = [(SOURCES / name).read_bytes() for name in FILES]
    key = key_of(sys.version, platform.machine(), str(clients.install().node), *files)
    return cached("agents", key, _install) / "bin"


def _install(folder: Path, log: Path) -> None:
    node = clients.install().node
    of_node(SOURCES, folder, log, node)
    programs = folder / "bin"
    programs.mkdir()
    for name, pattern in PACKAGES.items():
        found = list((folder / "node_modules").glob(pattern))
        if not found and platform.machine() == "x86_64":  # npm says nothing of what is optional
            raise StepFailed(f"the package of {name} was not downloaded. Run the same command again")
        for program in found:
            (programs / name).symlink_to(Path("..") / program.relative_to(folder))
    (programs / "cn").write_text(
        f'#!/bin/sh\nexec "{node}" "${{0%/*}}/../node_modules/@continuedev/cli/dist/cn.js" "$@"\n'
    )
    (programs / "cn").chmod(0o755)
    if sys.version_info < AIDER_BELOW:
        of_python(SOURCES, folder, log)
        (programs / "aider").symlink_to("../venv/bin/aider")


def main() -> None:
    say(f"agents: {install()}")


if __name__ == "__main__":
    main_guard(main)
