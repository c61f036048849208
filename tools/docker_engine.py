"""Whether there is a Docker engine: says how to get one, or starts Debian's on request."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import StepFailed, say
from tools import debian
from tools.environment import HOME

PID_FILE = HOME / "dockerd.pid"
LOG = HOME / "dockerd.log"


def answers() -> bool:
    """Whether the Docker engine of the current context answers."""
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "version"], capture_output=True, check=False)
    return done.returncode == 0


def ensure() -> None:
    """Return with a Docker engine that answers, or raise StepFailed with the way to get one."""
    if answers():
        return
    if os.environ.get("START_DOCKER") != "1":
        raise StepFailed(
            "no Docker engine answers. Start yours (Docker Desktop; on Linux: systemctl start docker), "
            "or, as root on Debian: START_DOCKER=1 make up, which installs and starts Debian's"
        )
    if os.geteuid() != 0:
        raise StepFailed("START_DOCKER=1 installs and starts Debian's Docker engine, which needs root")
    HOME.mkdir(exist_ok=True)
    debian.ensure({"dockerd": "docker.io"}, LOG)
    say(f"Docker: starting dockerd (log: {LOG})")
    with LOG.open("ab") as log:
        engine = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    PID_FILE.write_text(str(engine.pid))
    for _ in range(60):
        if answers():
            return
        if engine.poll() is not None:
            break
        time.sleep(1)
    raise StepFailed(f"dockerd did not start; its log: {LOG}")


def stop() -> None:
    """Stop the engine that `ensure` started, and no other."""
    if not PID_FILE.exists():
        return
    pid = int(PID_FILE.read_text())
    PID_FILE.unlink()
    if Path(f"/proc/{pid}/comm").exists() and "dockerd" in Path(f"/proc/{pid}/comm").read_text():
        os.kill(pid, signal.SIGTERM)
        for _ in range(60):
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(1)


if __name__ == "__main__":
    try:
        {"ensure": ensure, "stop": stop}[sys.argv[1]]()
    except StepFailed as error:
        sys.exit(f"error: {error}")
