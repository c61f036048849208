"""What the step that brings the proxy's files to the host asks of uv and of Docker."""

import os
import subprocess
from pathlib import Path

import pytest

from common import ROOT

SCRIPTS = ("proxy_files.sh", "proxy_ready.sh")

DOCKER = """#!/bin/sh
# a test double: the Docker CLI of a host whose volume has its packages once they came
cd {folder}
case "$*" in
  version*) cat arch ;;
  *"test -e"*) test -e complete ;;
  *python3*) cat >packages; touch complete ;;
  *"cat >"*) echo "$*" | grep -o '/wheels/proxy-.*' >code; cat >archive ;;
esac
"""

UV = """#!/bin/sh
# a test double: uv
cd {folder}
echo "$*" >>asked
while [ "$1" != --target ]; do shift; done
mkdir -p "$2" && touch "$2/module.py"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("docker", DOCKER), ("uv", UV)):
        (folder / name).write_text(text.format(folder=tmp_path))
        (folder / name).chmod(0o755)
    (tmp_path / "components").symlink_to(ROOT / "components")
    (tmp_path / "arch").write_text("amd64\n")
    (tmp_path / "proxy.zip").write_text("the code")
    return tmp_path


def run(project: Path) -> subprocess.CompletedProcess[str]:
    variables = {
        "LOCK": "0a1b2c3d",
        "CODE": "proxy-4e5f6a7b.zip",
        "ARCHIVE": "proxy.zip",
        "OWNER": "65534:65534",
        "VOLUME": "wheels",
        "LOGS": "log",
        "IMAGE": "python",
        "PYTHON": "3.11",
    }
    return subprocess.run(
        ["sh", "components/proxy_files.sh"],
        cwd=project,
        env={**os.environ, **variables, "PATH": f"{project / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("arch", "platform"), [("amd64", "x86_64"), ("arm64", "aarch64")])
def test_packages_are_fetched_by_hash_for_the_platform_of_the_docker_host(
    project: Path, arch: str, platform: str
) -> None:
    (project / "arch").write_text(f"{arch}\n")
    done = run(project)
    assert done.returncode == 0, done.stderr
    (asked,) = (project / "asked").read_text().splitlines()
    assert f"--python-platform {platform}-unknown-linux-gnu --only-binary :all: --require-hashes" in asked
    assert "--python-version 3.11" in asked
    assert (project / ".changeover" / "wheels" / f"0a1b2c3d-{arch}" / "module.py").exists()
    assert [each.name for each in (project / ".changeover" / "wheels").iterdir()] == [f"0a1b2c3d-{arch}"]
    assert (project / "archive").read_text() == "the code"
    assert (project / "code").read_text() == "/wheels/proxy-4e5f6a7b.zip\n"


def test_packages_that_are_there_are_neither_fetched_nor_sent_again(project: Path) -> None:
    assert run(project).returncode == 0
    (project / "packages").unlink()
    assert run(project).returncode == 0
    assert len((project / "asked").read_text().splitlines()) == 1
    assert not (project / "packages").exists()
    (project / "complete").unlink()
    assert run(project).returncode == 0
    assert len((project / "asked").read_text().splitlines()) == 1, "they are in the project's folder"
    assert (project / "packages").exists()


def test_a_host_for_which_there_are_no_packages_is_named(project: Path) -> None:
    (project / "arch").write_text("riscv64\n")
    done = run(project)
    assert done.returncode == 1
    assert "this Docker host is riscv64" in done.stderr
