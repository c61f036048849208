"""What a node of a test's cluster has in its containerd: our services' images, and the test engine as both
engines."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import offline.images
from bench.stack import FAST_PROGRAM, make_fast_engine, remove_fast_engine
from components import pins
from offline.images import RECIPES
from offline.steps import cached, key_of
from tests.support.cluster.configuration import PAUSE
from tests.support.project import docker
from tools.environment import ROOT

GOOD, BROKEN = "0.0.0-cluster", "0.0.0-broken"
"""Versions of the test engine: one that serves, and one that fails its gate."""
MODES = {GOOD: "ok", BROKEN: "garbage"}
LOAD_SECONDS = 2
"""That the test engine needs to start."""
SERVICES = (pins.SWITCH, pins.GATEWAY)
DATABASES = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")
"""What containerd writes in place. All other files of its images it only reads."""


def store() -> Path:
    """A containerd's folder with the images, which no containerd uses. Raises StepFailed."""
    engine = [FAST_PROGRAM.read_bytes(), (ROOT / "tests/support/fast_engine.py").read_bytes()]
    key = key_of(*(RECIPES[pin.name].key() for pin in SERVICES), *engine, repr(MODES), str(LOAD_SECONDS))
    return cached("cluster-images", key, _fill)


def copy(images: Path, folder: Path) -> None:
    """Gives a node what is in `images`: files that are only read are the same on the disk."""
    subprocess.run(["cp", "--archive", "--link", images, folder], check=True)
    for name in DATABASES:
        (folder / name).unlink()
        shutil.copyfile(images / name, folder / name)


def _fill(folder: Path, log: Path) -> None:
    offline.images.build([pin.name for pin in SERVICES])
    names = [*(pin.offline for pin in SERVICES), PAUSE.removeprefix("docker.io/")]
    with _pause(), tempfile.TemporaryDirectory() as temporary:
        try:
            for version, mode in MODES.items():
                names += make_fast_engine(Path(temporary), version, delay=LOAD_SECONDS, mode=mode)
            with _containerd(folder / "containerd", Path(temporary), log) as socket:
                words = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", "-"]
                with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE) as saved:
                    subprocess.run(words, stdin=saved.stdout, stdout=subprocess.DEVNULL, check=True)
        finally:
            for version in MODES:
                remove_fast_engine(version)


@contextmanager
def _pause() -> Iterator[None]:
    """The image that does nothing, for a moment among Docker's."""
    container = docker("create", pins.SWITCH.offline).strip()
    name = PAUSE.removeprefix("docker.io/")
    try:
        docker("commit", "--change", 'CMD ["sleep", "infinity"]', container, name)
    finally:
        docker("rm", container)
    try:
        yield
    finally:
        docker("rmi", name)


@contextmanager
def _containerd(root: Path, temporary: Path, log: Path) -> Iterator[Path]:
    """Runs one that serves no cluster, and gives its socket."""
    socket, file = temporary / "socket", temporary / "config.toml"
    file.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    words = ["containerd", "--config", file, "--root", root, "--state", temporary / "state"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["unshare", "--mount", *words, "--address", socket], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + 30
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"containerd does not start: {log}")
            time.sleep(0.1)
        yield socket
    finally:
        process.terminate()
        process.wait(30)


