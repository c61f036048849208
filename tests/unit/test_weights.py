"""What is fetched is compared with what it is called by and with the catalogue, and else it does not stay."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from components import weights
from components.catalogue import MODELS, HuggingFaceRepository, Model, OllamaTag

HUB = """
import hashlib, os
from pathlib import Path
from types import SimpleNamespace as Said

NAMES = ("b.safetensors", "a.safetensors", "config.json", "on/a file")
FILES = {name: f"A/B c {name}".encode() for name in NAMES}

def sibling(name, raw):
    of_git = hashlib.sha1(b"blob %d\\0" % len(raw) + raw).hexdigest()
    large = Said(sha256=hashlib.sha256(raw).hexdigest()) if "safe" in name else None
    return Said(rfilename=name, blob_id=of_git if large is None else "of a pointer", lfs=large)

class HfApi:
    def model_info(self, repository, *, revision, files_metadata):
        assert (repository, revision, files_metadata) == ("A/B", "c", True)
        return Said(sha="d" * 40, siblings=[sibling(name, raw) for name, raw in FILES.items()])

def snapshot_download(repository, *, revision, local_dir):
    assert (repository, revision) == ("A/B", "d" * 40)
    for name, raw in FILES.items():
        if os.environ.get("NONE") != name:
            place = Path(local_dir, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(raw.upper() if os.environ.get("OTHER") == name else raw)
"""
"""As much of the hub's library as is asked."""
OLLAMA = """#!/bin/sh
echo "$@" >>{folder}/asked
[ "$1" = pull ] || exit 0
manifest=$OLLAMA_MODELS/manifests/registry.ollama.ai/library/tag blob=$OLLAMA_MODELS/blobs/sha256-{digest}
mkdir -p $manifest $OLLAMA_MODELS/blobs
[ -e $blob ] || printf weights >$blob  # it looks at none that is there
echo '{{"layers":[{{"digest":"sha256:{digest}"}}]}}' >$manifest/1
"""
RIGHT = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the volume of weights is for these tests."""
    monkeypatch.setattr(weights, "WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def model(ollama: str = "", vllm: str = "") -> Model:
    return replace(
        MODELS["qwen3-8b"],
        ollama=(OllamaTag(tag="tag:1", quantization="q4_k_m", size=1, sha256=ollama),),
        vllm=(
            HuggingFaceRepository(repository="A/B", revision="c", quantization="fp16", size=1, sha256=vllm),
        ),
    )


def ran(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)


def sum_of_both() -> str:
    lines = ""
    for name in ("a.safetensors", "b.safetensors"):
        lines += f"{hashlib.sha256(f'A/B c {name}'.encode()).hexdigest()}  {name}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("right", [True, False])
def test_what_the_hub_gives_is_compared(tmp_path: Path, right: bool) -> None:
    (tmp_path / "huggingface_hub.py").write_text(HUB)
    wanted = weights.for_vllm(model(vllm=sum_of_both() if right else RIGHT))
    done = ran(wanted.script, PYTHONPATH=str(tmp_path))
    place = tmp_path / "weights" / wanted.folder / "source"
    assert (done.returncode == 0) is right, done.stderr
    assert place.exists() is right
    if not right:
        assert f"have the SHA-256 {sum_of_both()} and not {RIGHT}" in done.stdout


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("name", ["a.safetensors", "config.json", "on/a file"])
def test_no_file_stays_that_is_another_than_the_hub_says_and_none_may_be_missing(
    tmp_path: Path, name: str, summed: bool
) -> None:
    (tmp_path / "huggingface_hub.py").write_text(HUB)
    wanted = weights.for_vllm(model(vllm=sum_of_both() if summed else ""))
    place = tmp_path / "weights" / wanted.folder / "source"
    done = ran(wanted.script, PYTHONPATH=str(tmp_path), NONE=name)
    assert done.returncode == 1 and f"A/B has not come whole: it lacks {name}. Run" in done.stderr
    done = ran(wanted.script, PYTHONPATH=str(tmp_path), OTHER=name)
    assert done.returncode == 65 and not (place / name).exists(), done.stderr
    assert f"files of A/B do not match the hub's hashes and were removed: {name}.\n" in done.stdout
    assert ran(wanted.script, PYTHONPATH=str(tmp_path)).returncode == 0 and (place / name).exists()


@pytest.mark.parametrize("comes", ["right", "another", "what an interrupted pull has left"])
def test_what_ollamas_library_gives_is_compared(tmp_path: Path, comes: str) -> None:
    right, of_weights = comes == "right", hashlib.sha256(b"weights").hexdigest()
    program = tmp_path / "ollama"
    program.write_text(OLLAMA.format(folder=tmp_path, digest="f" * 64 if comes == "another" else of_weights))
    program.chmod(0o755)
    wanted = weights.for_ollama(model(ollama=of_weights))
    models = tmp_path / "weights" / wanted.folder / "models"
    if comes.startswith("what"):
        (models / "blobs").mkdir(parents=True)
        (models / f"blobs/sha256-{of_weights}").write_text("weig")
    done = ran(script := wanted.script.replace("/bin/ollama", str(program)))
    assert (done.returncode == 0) is right and models.exists() is right, done.stderr
    assert "pull tag:1" in (tmp_path / "asked").read_text()
    if not right:
        assert done.returncode == 65
    if comes == "another":
        assert "what came is not what it is called by, and was removed: sha256-fff" in done.stdout
    if comes.startswith("what"):
        assert f"was removed: sha256-{of_weights}\n" in done.stdout
        assert ran(script).returncode == 0, "they are pulled anew"


@pytest.mark.parametrize("sum_", [RIGHT, ""])
def test_the_weights_of_a_tag_are_those_of_the_catalogue_where_it_names_them(
    tmp_path: Path, sum_: str
) -> None:
    of_weights = hashlib.sha256(b"weights").hexdigest()
    program = tmp_path / "ollama"
    program.write_text(OLLAMA.format(folder=tmp_path, digest=of_weights))
    program.chmod(0o755)
    wanted = weights.for_ollama(model(ollama=sum_))
    models = tmp_path / "weights" / wanted.folder / "models"
    (models / "blobs").mkdir(parents=True)
    (models / "blobs" / f"sha256-{RIGHT}-partial-0").write_text("of another pull, which was interrupted")
    done = ran(wanted.script.replace("/bin/ollama", str(program)))
    assert (done.returncode, models.exists()) == ((65, False) if sum_ else (0, True)), done.stderr
    assert (f"are not those with the SHA-256 {RIGHT} of the catalogue" in done.stdout) is bool(sum_)


def test_what_may_be_another_content_tomorrow_is_said_and_nothing_else_is() -> None:
    said = weights.for_ollama(model()).moving, weights.for_vllm(model()).moving
    assert said == ("tag:1", "A/B at c")
    summed = model(ollama=RIGHT, vllm=RIGHT)
    assert not weights.for_ollama(summed).moving and not weights.for_vllm(summed).moving
    (source,) = model().vllm
    assert isinstance(source, HuggingFaceRepository)
    commit = replace(model(), vllm=(replace(source, revision="0" * 40),))
    assert not weights.for_vllm(commit).moving
    for kind in (weights.for_ollama(MODELS["tiny"]), weights.for_vllm(MODELS["tiny"])):
        assert not kind.moving, "a folder is named by its content"


def test_without_a_sum_the_folder_is_what_it_was() -> None:
    without, other = model(), model(ollama=RIGHT, vllm=RIGHT)
    for of in (weights.for_ollama, weights.for_vllm):
        assert "of the catalogue" not in of(without).script
        assert of(without).folder != of(other).folder, "other weights have a folder of their own"
    small, tiny = MODELS["qwen-2.5-coder-0.5b"], MODELS["tiny"]
    assert weights.for_ollama(small, "q8_0").folder == "qwen-2.5-coder-0.5b-c5854e39"
    assert weights.for_vllm(small, "awq-int4").folder == "qwen-2.5-coder-0.5b-8c281590"
    assert weights.for_vllm(tiny).folder == "tiny-037574cd"
