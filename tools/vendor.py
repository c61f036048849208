"""Pulumi's CLI and plugins as their vendor publishes them: each checked by its hash."""

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
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
BROKE = (OSError, http.client.HTTPException)


class Unreachable(StepFailed):
    """The vendor gives no answer, or not the file."""


def machine() -> str:
    """What the vendor calls a machine like this one, as in "linux-amd64"."""
    processor = platform.machine().lower()
    return f"{platform.system().lower()}-{MACHINES.get(processor, processor)}"


def archive_name() -> str:
    """What the vendor calls the archive of the CLI for this machine; there may be none of that name."""
    return f"pulumi-v{pins.PULUMI}-{machine().replace('amd64', 'x64')}.tar.gz"


def download() -> Path | None:
    """The folder with the vendor's CLI and language hosts; None where no archive is pinned for this machine,
    or the vendor can't be reached.

    Raises StepFailed where the download breaks off or is not what is pinned; then nothing of it is left.
    """
    name = archive_name()
    pinned = pins.PULUMI_ARCHIVES.get(name)
    if pinned is None:
        return None
    try:
        return _unpacked(f"{URL}/{name}", pinned) / "pulumi"
    except Unreachable:
        return None


def plugin(wanted: pins.PulumiPlugin) -> Path | None:
    """The folder with the vendor's plugin; None where no archive is pinned for this machine.

    Pulumi's own `plugin install --checksum` (3.259.0) does not do: where the last bytes and the end come at
    once, as they do with HTTP/1.1, it forgets them, and refuses what is right.

    Raises Unreachable, and StepFailed where it breaks off or is another one.
    """
    pinned = wanted.archives.get(machine())
    if pinned is None:
        return None
    return _unpacked(wanted.url.format(version=wanted.version, machine=machine()), pinned)


def _unpacked(url: str, pinned: str) -> Path:
    """The folder of the cache with what is in the archive at `url`. Raises Unreachable, and StepFailed where
    it breaks off or is another one."""
    place = cache_root() / "pulumi-vendor" / pinned[:12]
    if place.is_dir():
        return place
    try:
        answer = urllib.request.urlopen(url, timeout=SILENCE_SECONDS)
    except BROKE as error:
        raise Unreachable(f"{url} can't be reached: {error}") from None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with answer, tempfile.TemporaryDirectory(dir=place.parent) as work:
            archive, content = Path(work, "archive"), Path(work, "content")
            found = _fetch(answer, url, archive)
            if found != pinned:
                raise StepFailed(
                    f"{url} is not the archive that components/pins.py names, and was thrown away: "
                    f"its SHA-256 is {found}, not {pinned}. Something on the way changes downloads, or the "
                    "vendor has replaced it. Run the command again; if it fails again, find out why"
                )
            with tarfile.open(archive) as packed:
                unpack(packed, content)
            try:
                content.rename(place)
            except OSError:
                if not place.is_dir():  # or another process was quicker
                    raise
    except OSError as error:
        raise StepFailed(f"{url} can't be kept in {place.parent}: {error}") from None
    return place


def _fetch(answer: http.client.HTTPResponse, url: str, archive: Path) -> str:
    """Write the answer's body to `archive` and return its SHA-256. Raises StepFailed where it breaks off."""
    whole = int(answer.headers.get("Content-Length") or 0)
    say(f"Pulumi: downloading {url.rpartition('/')[2]} from its vendor ({whole / 1e6:.0f} MB)")
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
                f"the download of {url} broke off after {got / 1e6:.0f} MB ({error}), and was "
                "thrown away. Run the command again"
            ) from None
    return digest.hexdigest()
