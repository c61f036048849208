"""Debian's cloud-init takes the user data of the instance: checked by its own schema."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.boot_script import user_data
from tests.unit.test_boot_script import BOOT

pytestmark = pytest.mark.engine

NEEDS = (
    "configobj==5.0.9",
    "jinja2==3.1.6",
    "jsonpatch==1.33",
    "jsonschema==4.25.1",
    "netifaces==0.11.0",
    "oauthlib==3.3.1",
    "pyserial==3.5",
    "pyyaml==6.0.3",
    "requests==2.32.5",
)
"""What cloud-init imports; Debian's package of it would install a service on this machine."""


@pytest.fixture(scope="module")
def cloud_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's cloud-init, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("cloud-init")
    subprocess.run(["apt-get", "download", "cloud-init"], cwd=folder, check=True, capture_output=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    return folder / "root" / "usr" / "lib" / "python3" / "dist-packages"


def schema(cloud_init: Path, file: Path) -> subprocess.CompletedProcess[str]:
    uv = [str(Path(sys.prefix) / "bin" / "uv"), "run", "--no-project", "--python", sys.executable]
    needs = [word for need in NEEDS for word in ("--with", need)]
    return subprocess.run(
        [*uv, *needs, "python", "-m", "cloudinit.cmd.main", "schema", "-c", str(file)],
        env={**os.environ, "PYTHONPATH": str(cloud_init)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_user_data_is_valid(cloud_init: Path, tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    file.write_text(user_data(BOOT))
    done = schema(cloud_init, file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid cloud-config" in done.stdout


def test_the_schema_finds_what_is_wrong(cloud_init: Path, tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    file.write_text(user_data(BOOT).replace('permissions: "0755"', "permissions: 755"))
    assert schema(cloud_init, file).returncode != 0
