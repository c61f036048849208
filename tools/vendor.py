"""Pulumi's CLI as its vendor publishes it: downloaded once into the cache folder, and checked by its hash."""

import hashlib
import http.client
import platform
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

from common import StepFailed, cache_root, say, unpack
from components import pins

URL = "https://get.pulumi.com/releases/sdk"
SILENCE_SECONDS = 20
"""How long nothing may come, at first and in the middle."""
SAY_SECONDS = 15
MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
BROKE = (OSError, http.client.HTTPException)


def archive_name() -> str:
    """What the vendor calls the archive for this machine; there may be none of that name."""
    system, machine = platform.system().lower(), platform.machine().lower()
    return f"pulumi-v{pins.PULUMI}-{system}-{MACHINES.get(machine, machine)}.tar.gz"


def download() -> Path | None:
    """The folder with the vendor's CLI and language hosts; None where no archive is pinned for this machine,
    or the vendor can't be reached.

    Raises StepFailed where the download breaks off or is not what is pinned; then nothing of it is left.
    """
    name = archive_name()
    pinned = pins.PULUMI_ARCHIVES.get(name)
    if pinned is None:
        return None
    place = cache_root() / "pulumi-vendor" / pinned[:12]
    if not place.is_dir():
        try:
            answer = urllib.request.urlopen(f"{URL}/{name}", timeout=SILENCE_SECONDS)
        except BROKE:
            return None
        place.parent.mkdir(parents=True, exist_ok=True)
        with answer, tempfile.TemporaryDirectory(dir=place.parent) as work:
            archive, content = Path(work, name), Path(work, "content")
            found = _fetch(answer, archive)
            if found != pinned:
                raise StepFailed(
                    f"{URL}/{name} is not the archive that components/pins.py names, and was thrown away: "
                    f"its SHA-256 is {found}, not {pinned}. Something on the way changes downloads, or the "
                    "vendor has replaced it. Run the command again; if it fails again, find out why"
                )
            with tarfile.open(archive) as packed:
                unpack(packed, content)
            if not place.is_dir():  # another process may have been quicker
                content.rename(place)
    return place / "pulumi"


def _fetch(answer: http.client.HTTPResponse, archive: Path) -> str:
    """Write the answer's body to `archive` and return its SHA-256. Raises StepFailed where it breaks off."""
    whole = int(answer.headers.get("Content-Length") or 0)
    say(f"Pulumi: downloading {archive.name} from its vendor ({whole / 1e6:.0f} MB)")
    digest, got, said = hashlib.sha256(), 0, time.monotonic()
    with archive.open("wb") as out:
        try:
            while part := answer.read(1 << 16):
                out.write(part)
                digest.update(part)
                got += len(part)
                if time.monotonic() - said > SAY_SECONDS:
                    say(f"  {got / 1e6:.0f} MB …")
                    said = time.monotonic()
            if got < whole:
                raise http.client.IncompleteRead(b"", whole - got)
        except BROKE as error:
            raise StepFailed(
                f"the download of {URL}/{archive.name} broke off after {got / 1e6:.0f} MB ({error}), and was "
                "thrown away. Run the command again"
            ) from None
    return digest.hexdigest()
