"""How long `make up` takes in a fresh clone, and how long when it is typed again.

Run: `python -m bench.make_up`. It clones what is committed in this checkout into a temporary folder.

With `--cold` the clone has an empty cache, so that everything is built. It refuses that while Docker has the
offline images, since they would not be built then. The table is in seconds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from bench.stack import machine, table
from common import ROOT, cache_root, main_guard
from offline.images import RECIPES
from tests.support.project import docker, free_port

STACK = "bench-make-up"


def clone(folder: Path) -> None:
    """Clones what is committed in this checkout into `folder`, with a stack whose settings are those of
    `local` but for its port."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    settings = yaml.safe_load((folder / "Pulumi.local.yaml").read_text())
    settings["config"]["changeover:port"] = free_port()
    (folder / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(settings))


def seconds(folder: Path, target: str, environment: Mapping[str, str]) -> float:
    """How many seconds a make target takes in `folder`. Its output goes to stderr. Raises CalledProcessError
    if it fails."""
    began = time.monotonic()
    subprocess.run(["make", target], cwd=folder, env=environment, stdout=sys.stderr, check=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cold", action="store_true", help="with an empty cache: everything is built")
    cold = parser.parse_args().cold
    here = [each.pin.offline for each in RECIPES.values() if docker("images", "--quiet", each.pin.offline)]
    if cold and here:
        raise SystemExit(
            "these images are in Docker already, so this would not be a cold start. Run: docker rmi "
            f"{' '.join(here)}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary) / "clone", Path(temporary) / "cache"
        clone(folder)
        keep = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PULUMI_HOME")}
        environment = {**keep, "STACK": STACK, "CHANGEOVER_CACHE": str(cache if cold else cache_root())}
        try:
            rows = [[words, seconds(folder, "up", environment)] for words in ("in a fresh clone", "again")]
        finally:
            subprocess.run(
                ["make", "down"],
                cwd=folder,
                env={**environment, "WEIGHTS": "delete"},
                stdout=sys.stderr,
                check=False,
            )
    built = "nothing" if cold else f"{len(here)} of {len(RECIPES)} images"
    print(f"`make up`, N = 1, {built} built before, {machine()}\n")
    print(table(["make up", "seconds"], rows))


if __name__ == "__main__":
    main_guard(main)
