"""The images that a registry would serve to the host, as one archive: real ones of `offline/` under their
public names, and stand-ins for the engines, which need a GPU."""

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

from common import ROOT
from components import pins
from tests.support.aws.host import gpu_engine
from tests.support.project import docker

HERE = Path(__file__).parent
OFFLINE = (pins.GATEWAY, pins.EDGE, pins.SWITCH, *pins.MONITOR)
ENGINES = {pins.OLLAMA: ("ollama", "/bin/ollama"), pins.VLLM_CUDA: ("vllm", "/usr/local/bin/vllm")}
NAME = "changeover-test/{name}:gpu"


def save(archive: Path) -> None:
    """Write them to `archive`. Public names are only in the archive, never among this machine's images."""
    built = {without_digest(pin.public): pin.offline for pin in OFFLINE}
    for pin, (name, program) in ENGINES.items():
        built[without_digest(pin.public)] = NAME.format(name=name)
        _engine(name, program)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["docker", "save", "--output", f"{folder}/all.tar", *built.values()], check=True)
        subprocess.run(["tar", "-C", folder, "-xf", f"{folder}/all.tar"], check=True)
        (Path(folder) / "all.tar").unlink()
        manifest = Path(folder) / "manifest.json"
        text = manifest.read_text()
        for public, offline in built.items():
            assert f'"{offline}"' in text
            text = text.replace(f'"{offline}"', f'"{public}"')
        manifest.write_text(text)
        (Path(folder) / "repositories").unlink(missing_ok=True)
        subprocess.run(["tar", "-C", folder, "-cf", str(archive), "."], check=True)
    docker("rmi", *(NAME.format(name=name) for name, _ in ENGINES.values()))


def without_digest(text: str) -> str:
    """A reference, or a file of them, by tag: what isn't the public image can't have its digest."""
    return re.sub(r"@sha256:[0-9a-f]{64}", "", text)


def with_their_sums(text: str) -> str:
    """The catalogue's text with the sums of what the stand-ins give, and not of the real weights."""
    of_files = hashlib.sha256(f"{gpu_engine.SUM}  {gpu_engine.FILE}\n".encode()).hexdigest()
    for source, right in (("tag", gpu_engine.SUM), ("repository", of_files)):
        text, changed = re.subn(rf'(\{{ ?{source} = .*sha256 = )"[0-9a-f]{{64}}"', rf'\1"{right}"', text)
        assert changed, source
    return text


def _engine(name: str, program: str) -> None:
    container = docker("create", pins.SWITCH.offline).strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "stand-ins"
            place.mkdir()
            (place / "fast_engine.py").write_text((ROOT / "tests/support/fast_engine.py").read_text())
            text = (HERE / "gpu_engine.py").read_text()
            for each in ("gpu_engine.py", "huggingface_hub.py"):
                (place / each).write_text(text)
            wrapper = Path(folder) / "wrapper"
            wrapper.write_text(f'#!/bin/sh\nexec python3 -u /stand-ins/gpu_engine.py {name} "$@"\n')
            wrapper.chmod(0o755)
            docker("cp", str(place), f"{container}:/stand-ins")
            docker("cp", str(wrapper), f"{container}:{program}")
        docker("commit", "--change", "ENV PYTHONPATH=/stand-ins", container, NAME.format(name=name))
    finally:
        docker("rm", container)
