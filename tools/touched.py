"""The stacks that CI has to look at, as a JSON list: `python3 -m tools.touched [BASE]`.

With BASE those whose settings, rendered files or program changed since; without it, or where BASE is not in
this clone, all. CI reaches AWS, and neither someone's own machine (`target: docker`) nor a cluster. It runs
before anything is installed, so it needs the standard library only.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from common import ROOT

FOLDERS = ("components", "monitor", "parity", "proxy", "stacks", "switch", "traffic")
PROGRAM = (
    "__main__.py",
    "common.py",
    "Pulumi.yaml",
    "requirements.lock",
    *(f"{folder}/" for folder in FOLDERS),
)
ORDER = ("dev", "prod")


def stacks(root: Path) -> list[str]:
    """Every stack on AWS; `dev` before `prod`."""
    found = [
        file.stem.removeprefix("Pulumi.")
        for file in root.glob("Pulumi.*.yaml")
        if re.search(r"^\s*changeover:target:\s*[\"']?aws\b", file.read_text(), re.MULTILINE)
    ]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else -1, name))


def touched(names: Iterable[str], changed: Iterable[str]) -> list[str]:
    """Those of `names` that the changed files can change something of."""
    known, files = list(names), list(changed)
    own = re.compile(r"Pulumi\.([^/]+)\.yaml|rendered/([^/]+)/.*")
    found = set()
    for file in files:
        if match := own.fullmatch(file):
            found.add(match[1] or match[2])
        elif file.startswith(PROGRAM):
            found |= set(known)
    return [name for name in known if name in found]


def main(base: str | None) -> None:
    names = stacks(ROOT)
    if base:
        # -z, since without it git quotes a name with a letter that is not ASCII
        command = ["git", "diff", "--name-only", "--no-renames", "-z", f"{base}...HEAD"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="surrogateescape", check=False
        )
        if done.returncode == 0:
            names = touched(names, done.stdout.split("\0"))
    print(json.dumps(names))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
