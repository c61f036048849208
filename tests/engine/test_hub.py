"""What vLLM's weights step makes of a download, by the library in its image, of a stand-in for the hub."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components import pins, weights
from components.catalogue import MODELS, HuggingFaceRepository
from tests.support.hub import Hub, serving

pytestmark = pytest.mark.engine

FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "model.safetensors": b"weights" * 200_000,
    "of/another folder/vocab.txt": b"a\nb\n",
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving(Hub("Some/Model", "0123456789abcdef" * 2 + "01234567", FILES)) as served:
        yield served


def fetched(hub: Hub, volume: Path, revision: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs the step in the engine's image, as the switch does; also returns where the files are then."""
    source = HuggingFaceRepository(repository="Some/Model", revision=revision, quantization="fp16", size=1)
    wanted = weights.for_vllm(replace(MODELS["qwen3-8b"], vllm=(source,)))
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--network=host", "--entrypoint=/bin/sh"),
            *(f"--env=HF_ENDPOINT={hub.url}", "--env=HF_HOME=/tmp/hub", f"--volume={volume}:/weights"),
            *(pins.VLLM_CPU.offline, "-c", wanted.script),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done, volume / wanted.folder / "source"


@pytest.mark.parametrize("revision", ["main", "0123456789abcdef" * 2 + "01234567"])
def test_a_repository_comes_as_the_hub_has_it(hub: Hub, tmp_path: Path, revision: str) -> None:
    done, place = fetched(hub, tmp_path, revision)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: (place / name).read_bytes() for name in FILES} == FILES
    shutil.rmtree(place / ".cache")
    done, place = fetched(hub, tmp_path, revision)
    assert done.returncode == 0, "what is there is called by its hash again: " + done.stdout + done.stderr


@pytest.mark.parametrize("name", [*FILES])
def test_what_is_another_on_the_way_is_refused_and_does_not_stay(
    hub: Hub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        hub.kept, name, FILES[name].replace(b"e", b"E").replace(b"a", b"A")
    )  # of the same size
    done, place = fetched(hub, tmp_path, "main")
    assert done.returncode == 65 and not (place / name).exists(), done.stdout + done.stderr
    assert f"files of Some/Model do not match the hub's hashes and were removed: {name}.\n" in done.stdout
    hub.kept.clear()
    assert fetched(hub, tmp_path, "main")[0].returncode == 0, "it is fetched again"


def test_what_has_come_in_part_is_not_taken_for_all_of_it_where_the_hub_goes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(hub, "gone", {"model.safetensors"})
        done, place = fetched(hub, tmp_path, "main")
        assert done.returncode == 1 and (place / "config.json").exists(), done.stdout + done.stderr
    with monkeypatch.context() as patched:
        patched.setattr(hub, "gone", {""})
        done, _ = fetched(hub, tmp_path, "main")
        assert done.returncode == 1, done.stdout + done.stderr
    assert fetched(hub, tmp_path, "main")[0].returncode == 0


def test_a_revision_that_is_not_there_is_no_download(hub: Hub, tmp_path: Path) -> None:
    done, place = fetched(hub, tmp_path, "f" * 40)
    assert done.returncode == 1 and "Revision Not Found" in done.stderr
    assert not place.exists() or [*place.glob("*")] == []
