"""What a node of a test's cluster has in its containerd: our services' images, and as both engines the test
engine, or the real ones. No Docker is needed for them: they are written as archives, each layer once."""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from bench.stack import FAST_ENGINE, FAST_PROGRAMS, fast_image, fast_program
from components import pins
from offline.images import PATH, RECIPES, parts, put_over
from offline.steps import cached, key_of
from tests.support.cluster.configuration import PAUSE

GOOD, BROKEN = "0.0.0-cluster", "0.0.0-broken"
"""Versions of the test engine: one that serves, and one that fails its gate."""
MODES = {GOOD: "ok", BROKEN: "garbage"}
LOAD_SECONDS = 2
"""That the test engine needs to start."""
SERVICES = (pins.SWITCH, pins.GATEWAY)
DATABASES = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")
"""What containerd writes in place. All other files of its images it only reads."""
WORDS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint", "WORKDIR": "WorkingDir", "USER": "User"}
"""Instructions of a Dockerfile by what an image's configuration calls them; the others are of no use here."""
OCI = "application/vnd.oci.image"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def store(*, real: bool = False) -> Path:
    """A containerd's folder with the images, which no containerd uses; with the `real` engines it has 6 GB.
    Raises StepFailed."""
    services = [RECIPES[pin.name].key() for pin in SERVICES]
    if real:
        key = key_of(
            *services, *(RECIPES[pin.name].key() for pin in FAST_PROGRAMS), Path(__file__).read_bytes()
        )
        return cached("cluster-engines", key, partial(_fill, _real))
    programs = [fast_program(LOAD_SECONDS, mode) for mode in MODES.values()]
    key = key_of(*services, *programs, FAST_ENGINE.read_bytes(), Path(__file__).read_bytes())
    return cached("cluster-images", key, partial(_fill, _test))


def copy(images: Path, folder: Path) -> None:
    """Gives a node what is in `images`: files that are only read are the same on the disk."""
    subprocess.run(["cp", "--archive", "--link", images, folder], check=True)
    for name in DATABASES:
        (folder / name).unlink()
        shutil.copyfile(images / name, folder / name)


def _fill(engines: Callable[["Layout", dict[str, Any]], None], folder: Path, log: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        layout = Layout(Path(temporary, "layout"))
        base = layout.layer(lambda out: _copy(parts(pins.SWITCH.name)[0], out))
        layout.image(f"docker.io/{pins.SWITCH.offline}", [base], _configured(pins.SWITCH))
        layout.image(PAUSE, [base], {"Cmd": ["sleep", "infinity"]})
        gateway = layout.layer(lambda out: put_over(*parts(pins.GATEWAY.name), out))
        layout.image(f"docker.io/{pins.GATEWAY.offline}", [base, gateway], _configured(pins.GATEWAY))
        engines(layout, base)
        layout.close()
        with _containerd(folder / "containerd", Path(temporary), log) as socket:
            words = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", "-"]
            with subprocess.Popen(
                ["tar", "-C", layout.folder, "-cf", "-", "."], stdout=subprocess.PIPE
            ) as tar:
                subprocess.run(words, stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)


def _test(layout: "Layout", base: dict[str, Any]) -> None:
    for version, mode in MODES.items():
        for pin, program in FAST_PROGRAMS.items():
            # in the base /bin is a link to it, which a folder of this name would hide
            place = program if program.startswith("/usr/") else f"/usr{program}"
            files = {
                place: fast_program(LOAD_SECONDS, mode).encode(),
                f"/{FAST_ENGINE.name}": FAST_ENGINE.read_bytes(),
            }
            layout.image(f"docker.io/{fast_image(pin, version)}", [base, layout.layer(_archive(files))], {})


def _real(layout: "Layout", base: dict[str, Any]) -> None:
    for pin in FAST_PROGRAMS:
        engine = layout.layer(partial(put_over, *parts(pin.name)))
        layout.image(f"docker.io/{pin.offline}", [base, engine], _configured(pin))


def _copy(file: Path, out: IO[bytes]) -> None:
    with file.open("rb") as content:
        shutil.copyfileobj(content, out)


def _archive(files: Mapping[str, bytes]) -> Callable[[IO[bytes]], None]:
    """Writes an archive of programs."""

    def write(out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name.removeprefix("/"))
                member.size, member.mode = len(content), 0o755
                tar.addfile(member, io.BytesIO(content))

    return write


def _configured(pin: pins.Image) -> dict[str, Any]:
    """What the image's recipe says in a Dockerfile's words."""
    found = dict[str, Any]()
    for word, _, value in (change.partition(" ") for change in RECIPES[pin.name].changes):
        if word in WORDS:
            found[WORDS[word]] = json.loads(value) if value.startswith("[") else value
        elif word == "ENV":
            found["Env"] = [f"PATH={PATH}", *value.split()]
    return found


@dataclass
class Layout:
    """Images as files (https://github.com/opencontainers/image-spec/blob/main/image-layout.md)."""

    folder: Path
    manifests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "blobs" / "sha256").mkdir(parents=True)

    def layer(self, write: Callable[[IO[bytes]], None]) -> dict[str, Any]:
        """One of what `write` writes, as manifests name it."""
        file = self.folder / "layer"
        with file.open("wb") as out:
            write(out)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        size = file.stat().st_size
        file.replace(self.folder / "blobs" / "sha256" / digest)
        return {"mediaType": f"{OCI}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}

    def image(self, name: str, layers: Sequence[dict[str, Any]], configured: Mapping[str, Any]) -> None:
        told = {
            "architecture": MACHINES[platform.machine()],
            "os": "linux",
            "config": {"Env": [f"PATH={PATH}"], **configured},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        config = self._text(f"{OCI}.config.v1+json", told)
        kind = f"{OCI}.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": list(layers)}
        named = {"annotations": {"io.containerd.image.name": name}}
        self.manifests.append({**self._text(kind, manifest), **named})

    def _text(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        raw = json.dumps(content).encode()
        digest = hashlib.sha256(raw).hexdigest()
        (self.folder / "blobs" / "sha256" / digest).write_bytes(raw)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(raw)}

    def close(self) -> None:
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": self.manifests}
        (self.folder / "index.json").write_text(json.dumps(index))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@contextmanager
def _containerd(root: Path, temporary: Path, log: Path) -> Iterator[Path]:
    """Runs one that serves no cluster, and gives its socket."""
    socket, file = temporary / "socket", temporary / "config.toml"
    file.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    words = ["containerd", "--config", str(file), "--root", str(root), "--state", str(temporary / "state")]
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["unshare", "--mount", *words, "--address", str(socket)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
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
