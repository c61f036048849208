"""Two checkouts and one stack, as people type it: what is refused, taken over while it serves, taken away."""

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stacks.settings import PROJECT
from tests.support import checkout as support
from tests.support.load import LoadGenerator
from tests.support.project import docker, wipe

pytestmark = pytest.mark.engine

STACK = "shared"
FILTERS = ("--filter", f"label=changeover.stack={STACK}")


def shell(checkout: Path, line: str, *, fails: bool = False) -> str:
    return support.shell(checkout, STACK, line, fails=fails)


def containers() -> dict[str, str]:
    """Id → role of each container of the stack that runs."""
    rows = docker("ps", "--no-trunc", *FILTERS, "--format", '{{.ID}} {{.Label "changeover.role"}}')
    return dict(line.split() for line in rows.splitlines())


def port(checkout: Path) -> int:
    return int(yaml.safe_load((checkout / f"Pulumi.{STACK}.yaml").read_text())["config"][f"{PROJECT}:port"])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    wipe(STACK)
    folder = support.checkout(tmp_path_factory.mktemp("first"), STACK, context=1024)
    try:
        shell(folder, "make up")
        yield folder
    finally:
        wipe(STACK)


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.checkout(tmp_path_factory.mktemp("second"), STACK, context=1024, port=port(first))


@pytest.mark.parametrize(
    "line",
    [
        *("make up", "make down", "WEIGHTS=delete make down", "make status", "ONCE=1 make watch"),
        *("make usage", "make advise", "make dashboard"),
        *("YES=1 make gc", "YES=1 make parity", "YES=1 make report"),
    ],
)
def test_a_fresh_clone_is_refused_everything_and_told_whose_it_is(
    first: Path, second: Path, line: str
) -> None:
    before = containers()
    text = shell(second, line, fails=True)
    assert f"last changed from {first} on " in text and "ollama serves tiny, since " in text
    assert f"make down STACK={STACK} OWNER=" in text and f"make adopt STACK={STACK}" in text
    assert containers() == before


def test_a_wrong_name_of_the_owner_takes_nothing_away(first: Path, second: Path) -> None:
    before = containers()
    assert "OWNER=0123: the stack" in shell(second, "make down OWNER=0123", fails=True)
    assert containers() == before


def test_adopting_asks_first_and_fetches_no_weights(second: Path) -> None:
    before = containers()
    assert "so nobody can be asked" in shell(second, "make adopt", fails=True)
    (switch,) = [id for id, role in before.items() if role == "switch"]
    folder = docker("exec", switch, "sh", "-c", "echo /weights/vllm/tiny-*").strip()
    docker("exec", switch, "mv", folder, f"{folder}.away")
    text = shell(second, "YES=1 make adopt", fails=True)
    assert "`make adopt` downloads nothing" in text and "Nothing was changed" in text
    docker("exec", switch, "mv", f"{folder}.away", folder)
    assert containers() == before


def test_what_can_not_be_deployed_is_found_before_anything_is_taken_over(first: Path, second: Path) -> None:
    before, file = containers(), second / f"Pulumi.{STACK}.yaml"
    text = file.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file.write_text(text.replace(str(port(first)), str(taken.getsockname()[1])))
        said = shell(second, "YES=1 make adopt", fails=True)
    file.write_text(text)
    assert "is in use" in said and "Nothing was changed" in said
    assert containers() == before


def test_a_stack_whose_state_is_lost_is_taken_over_while_it_serves(first: Path, second: Path) -> None:
    shutil.rmtree(first / ".changeover")
    before = containers()
    (edge,) = [id for id, role in before.items() if role == "edge"]
    with LoadGenerator(f"http://127.0.0.1:{port(first)}/v1", "tiny", pause=0.5) as load:
        load.wait_for_answers(8)
        text = shell(second, "YES=1 make adopt")
        load.wait_for_answers(8)
    assert not load.bad, load.summary()
    assert "vllm: weights already here" in text and "ollama: weights already here" in text
    assert "weights here" not in text
    after = containers()
    assert set(after) & set(before) == {edge}, "only the edge is taken over"
    assert sorted(after.values()) == sorted(before.values())
    assert "unchanged" in shell(second, "source .venv/bin/activate && pulumi preview --expect-no-changes")
    assert "unchanged" in shell(
        second, "source .venv/bin/activate && pulumi preview --refresh --expect-no-changes"
    )
    assert "engine    ollama" in shell(second, "make status")
    assert f"last changed from {second} on " in shell(first, "make up", fails=True)


def test_make_up_puts_back_what_is_missing(second: Path) -> None:
    docker("rm", "--force", *docker("ps", "--all", "--quiet", *FILTERS).split())
    text = shell(second, "make up")
    said = text[text.index("Missing on the Docker host: ") :]
    assert "It is created again." in said and "It answers: " in said


def test_who_names_the_owner_takes_it_away_and_keeps_the_weights(first: Path, second: Path) -> None:
    owner = re.search(r"OWNER=([0-9a-f]{12})", shell(first, "make down", fails=True))
    assert owner
    text = shell(first, f"make down OWNER={owner[1]}")
    assert f"of the state {owner[1]}" in text
    assert containers() == {} and docker("network", "ls", "--quiet", *FILTERS) == ""
    kept = set(docker("volume", "ls", "--format", "{{.Name}}", *FILTERS).split())
    assert kept == {f"changeover-{STACK}-{part}" for part in ("ollama-weights", "vllm-weights", "vllm-cache")}
    text = shell(second, "make down")
    assert json.dumps(containers()) == "{}"
    shell(second, "WEIGHTS=delete make down")
    assert docker("volume", "ls", "--quiet", *FILTERS) == ""
