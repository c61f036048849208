"""What a test does to containers of its own that are no stack's."""

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping

from tests.support.project import CommandFailed, docker


def put_files(container: str, files: Mapping[str, str]) -> None:
    """Writes texts by their paths into a container that need not run; folders on the way are made."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:  # `docker cp` makes no folder for a file
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    unpack(container, "/", packed)


def unpack(container: str, folder: str, packed: io.BytesIO) -> None:
    """Puts what is in a tar into a folder of a container."""
    copy = ["docker", "cp", "-", f"{container}:{folder}"]
    subprocess.run(copy, input=packed.getvalue(), capture_output=True, check=True)


def remove_labelled(label: str) -> None:
    """Removes the containers, networks and volumes that have this label."""
    chosen = f"label={label}"
    if containers := docker("ps", "-aq", "--filter", chosen).split():
        docker("rm", "-fv", *containers)
    for network in docker("network", "ls", "-q", "--filter", chosen).split():
        _remove_network(network)
    if volumes := docker("volume", "ls", "-q", "--filter", chosen).split():
        docker("volume", "rm", *volumes)


def _remove_network(network: str) -> None:
    """Docker removes a container before it takes that off its networks, and at times never does the latter.

    An endpoint whose container is gone is taken off by force. At times Docker names none, and still counts
    one: only its restart ends that, so it is said, and the network stays.
    """
    end = time.monotonic() + 30
    while True:
        try:
            docker("network", "rm", network)
        except CommandFailed as error:
            if "active endpoints" not in str(error):
                raise
            time.sleep(0.5)
            endpoints = json.loads(docker("network", "inspect", network))[0]["Containers"].values()
            if time.monotonic() > end:
                if endpoints:
                    raise
                print(f"Docker has miscounted: {error}Restart it to remove that network.", file=sys.stderr)
                return
            for endpoint in endpoints:
                docker("network", "disconnect", "--force", network, endpoint["Name"])
        else:
            return
