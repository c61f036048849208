"""Checks the workflows with actionlint, built from the Go module registry in the pinned version."""

import os
import shutil
import subprocess

from common import ROOT, StepFailed, main_guard, say
from offline.tools import ACTIONLINT, build_one, go_version


def main() -> None:
    if shutil.which("go") is None and not os.environ.get("CI"):
        say(
            "workflows: not checked here, since actionlint is built with Go, which is not installed; CI "
            "checks them"
        )
        return
    program = build_one(ACTIONLINT, go_version()) / ACTIONLINT.program
    done = subprocess.run([program], cwd=ROOT, check=False)
    if done.returncode != 0:
        raise StepFailed("actionlint refuses the workflows; its findings are above")


if __name__ == "__main__":
    main_guard(main)
