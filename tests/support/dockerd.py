"""A Docker engine of a test's own, so that what is done to it touches no other."""

import signal
import subprocess
import time
from pathlib import Path

from tests.support.switch_stack import wait


class Dockerd:
    """A second Docker engine, with its own images, sockets and state in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/docker.sock"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    # a network namespace of its own: two engines would share docker0 and its firewall rules
                    *("unshare", "--net", "sh", "-c", 'ip link set lo up && exec dockerd "$@"', "dockerd"),
                    *("--host", self.address, "--data-root", f"{self.folder}/data"),
                    *("--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ask = ["docker", "--host", self.address, "version"]
        wait(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, 60)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(60)

    def load(self, *images: str) -> None:
        """Takes images over from the Docker engine that this process uses."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "--host", self.address, "load"], stdin=saved.stdout, check=True)

    def stand_still(self, seconds: float) -> None:
        """Stops its process, and lets it go on after so many seconds."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.process.send_signal(signal.SIGCONT)
