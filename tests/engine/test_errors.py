"""What cannot work is refused before anything is changed, with what is allowed and what to type."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import pins
from tests.support.project import CommandFailed, Project, docker, free_port, patched

pytestmark = pytest.mark.engine


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Project]:
    """A stack that was never deployed, and never is."""
    project = Project(
        tmp_path, "never", engine="ollama", target="docker", model="tiny", images="offline", port=free_port()
    )
    project.wipe()
    yield project
    try:
        filters = ("--filter", f"label=changeover.stack={project.stack}")
        assert docker("ps", "--all", "--quiet", *filters) == "", "something was changed"
        assert docker("network", "ls", "--quiet", *filters) == "", "something was changed"
    finally:
        project.wipe()


def refusal(project: Project) -> str:
    with pytest.raises(CommandFailed) as failure:
        project.up()
    text = str(failure.value)
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"engine": "vlm"}, "changeover:engine: 'vlm' cannot work; it must be one of ollama, vllm"),
        ({"model": "tiny-2"}, "changeover:model: 'tiny-2' cannot work; it must be one of "),
        ({"target": "moon"}, "changeover:target: 'moon' cannot work; it must be one of docker"),
        (
            {"cutover": "swap"},
            "changeover:cutover: 'swap' cannot work; it must be one of auto, overlap, hold",
        ),
        ({"contxt": 1024}, "changeover:contxt: there is no such setting; did you mean `context`?"),
        ({"context": 8192}, "it must be 256 to 4096 tokens, the longest context that tiny supports"),
        (
            {"holdBudgetSeconds": 60},
            "holdBudgetSeconds: 60 cannot work; a request can wait 1012 s in the worst case",
        ),
        ({"drainSeconds": 601}, "drainSeconds: 601 cannot work; it must be 1 to 600 seconds"),
        ({"hostMemoryGiB": 1}, "GiB of host RAM; it would work with "),
        ({"cutover": "overlap", "hostMemoryGiB": 5}, "cutover: 'overlap' cannot work; both engines and"),
        ({"hostMemoryGiB": 4000}, "hostMemoryGiB: 4000 cannot work; it must be "),
        ({"vllmFlags": ["--swap-space 4"]}, "vLLM no longer has this flag and would not start"),
        ({"gpu": "t4", "vllmFlags": ["--dtype bfloat16"]}, "bfloat16 needs 8.0"),
    ],
)
def test_settings_that_cannot_work(fresh: Project, settings: dict[str, object], expected: str) -> None:
    fresh.configure(**settings)
    text = refusal(fresh)
    assert expected in text
    assert "Run: pulumi config" in text


def test_a_missing_setting_and_a_wrong_type_are_pulumis_own_errors(fresh: Project) -> None:
    fresh.configure(engine=None)
    assert "engine" in refusal(fresh)
    fresh.configure(engine="ollama", context="many")
    assert "context" in refusal(fresh)


def test_no_docker_engine(fresh: Project) -> None:
    fresh.environment["DOCKER_HOST"] = f"unix://{fresh.folder}/no.sock"
    text = refusal(fresh)
    assert f"no Docker engine answers at unix://{fresh.folder}/no.sock" in text
    assert "Start it" in text


def test_a_port_in_use(fresh: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fresh.configure(port=port)
        text = refusal(fresh)
    assert f"changeover:port: {port} is in use on 127.0.0.1" in text
    assert "pulumi config set port" in text


def test_a_gpu_that_no_container_would_get(fresh: Project) -> None:
    fresh.configure(images="public", model="qwen-2.5-coder-7b", gpu="t4")
    text = refusal(fresh)
    assert "no NVIDIA runtime" in text and "pulumi config rm gpu" in text


def test_an_offline_image_that_was_not_built(fresh: Project) -> None:
    with patched(fresh, "components/pins.py", f'version="{pins.EDGE.version}"', 'version="0.0.1"'):
        text = refusal(fresh)
    assert "changeover-offline/caddy:0.0.1" in text
    assert "python3 -m offline.images" in text


def test_a_public_image_that_can_not_be_had(fresh: Project) -> None:
    fresh.configure(images="public", model="qwen-2.5-coder-0.5b")
    with patched(fresh, "components/pins.py", 'public="caddy:', 'public="127.0.0.1:1/caddy:'):
        text = refusal(fresh)
    assert "is not on the Docker host and can't be pulled" in text
    assert "IMAGES=offline make up" in text
