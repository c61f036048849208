"""A copy of this checkout in which a test types what a newcomer would."""

import os
import subprocess
from pathlib import Path

import yaml

from common import ROOT
from tests.support.project import free_port


def checkout(folder: Path, stack: str, **settings: object) -> Path:
    """All that git knows of this checkout in `folder`, and the settings of a stack on a free port."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        f"git ls-files -co --exclude-standard -z | tar --null -T - -cf - | tar -C {folder} -xf -",
        shell=True,
        cwd=ROOT,
        check=True,
    )
    config = yaml.safe_load((folder / "Pulumi.local.yaml").read_text())["config"]
    more = {f"changeover:{key}": value for key, value in {"port": free_port(), **settings}.items()}
    (folder / f"Pulumi.{stack}.yaml").write_text(yaml.safe_dump({"config": {**config, **more}}))
    return folder


def shell(checkout: Path, stack: str, line: str, *, fails: bool = False) -> str:
    """What a line prints in a shell that knows nothing of this test's own environment, on `stack`."""
    with start(checkout, stack, line) as process:
        said, _ = process.communicate()
    assert (process.returncode != 0) is fails, said
    return said


def start(checkout: Path, stack: str, line: str) -> subprocess.Popen[str]:
    """The same line, which has just begun."""
    keep = ("PATH", "HOME", "LANG", "DOCKER_HOST", "CHANGEOVER_CACHE", "IMAGES", "SSL_CERT_FILE")
    clean = {key: os.environ[key] for key in keep if key in os.environ}
    clean |= {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "UV_"))}
    clean["PATH"] = os.pathsep.join(
        folder for folder in clean["PATH"].split(os.pathsep) if not folder.startswith(str(ROOT))
    )
    return subprocess.Popen(
        ["bash", "-c", line],
        cwd=checkout,
        env={**clean, "STACK": stack},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
