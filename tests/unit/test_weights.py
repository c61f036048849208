"""Weights whose SHA-256 the catalogue names are compared when they have come, and wrong ones do not stay."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from components import weights
from components.catalogue import MODELS, HuggingFaceRepository, Model, OllamaTag

HUB = """
from pathlib import Path

def snapshot_download(repository, revision, local_dir):
    place = Path(local_dir)
    place.mkdir(parents=True)
    for name in ("b.safetensors", "a.safetensors", "config.json"):
        (place / name).write_text(f"{repository} {revision} {name}")
"""
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
        assert f"not those with the SHA-256 {of_weights}" in done.stdout
        assert done.returncode == 65
    if comes.startswith("what"):
        assert ran(script).returncode == 0, "they are pulled anew"


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


def test_without_a_sum_script_and_folder_are_what_they_were() -> None:
    without, other = model(), model(ollama=RIGHT, vllm=RIGHT)
    for of in (weights.for_ollama, weights.for_vllm):
        assert "SHA-256" not in of(without).script
        assert of(without).folder != of(other).folder, "other weights have a folder of their own"
    small, tiny = MODELS["qwen-2.5-coder-0.5b"], MODELS["tiny"]
    assert weights.for_ollama(small, "q8_0").folder == "qwen-2.5-coder-0.5b-c5854e39"
    assert weights.for_vllm(small, "awq-int4").folder == "qwen-2.5-coder-0.5b-8c281590"
    assert weights.for_vllm(tiny).folder == "tiny-037574cd"
