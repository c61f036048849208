"""The file that the switch writes for the proxies, on a disk that has room and on one that has none."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from switch.machine import Active, State
from switch.machine.views import route
from switch.route import FILE, ROOM, RouteFile
from tests.support.simulated_host import NEW, NEW_GATEWAY, OLD, OLD_GATEWAY, before_proxies, plan

ACTIVE = Active(plan(OLD, gateway=OLD_GATEWAY), "run 0", 1.0)
SERVES = State(active=ACTIVE)
HELD = State(active=ACTIVE, held=77.0)
NEXT = State(active=Active(plan(NEW, gateway=NEW_GATEWAY), "run 1", 2.0), also={"old": None, "more": 9.0})


def write(file: RouteFile, state: State) -> None:
    file.lay_out(state)
    file.publish()


def there(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / FILE).read_text()))


@pytest.fixture
def file(tmp_path: Path) -> RouteFile:
    return RouteFile(tmp_path, lambda: 50.0)


def test_a_route_leads_to_what_is_active_and_says_since_when_requests_wait() -> None:
    assert dataclasses.asdict(route(HELD, 4, 1.0)) == {
        "number": 4,
        "held_since": 77.0,
        "engine": "ollama-1",
        "container": OLD,
        "gateway": OLD_GATEWAY,
        "also": [],
        "routing": '[models.tiny]\nengines = ["ollama-1"]\n',
        "given_up": [],
        "release": 0,
    }
    assert route(NEXT, 4, 1.0).also == ["more", "old"]
    alone = State(active=Active(plan(OLD, gateway=None), "run 0", 1.0))
    assert route(alone, 4, 1.0).gateway is None and route(alone, 4, 1.0).held_since is None


@pytest.mark.parametrize(
    "active", [None, Active(before_proxies(plan(OLD, gateway=OLD_GATEWAY)), "run 0", 1.0)]
)
def test_nothing_that_proxies_could_ask_is_a_hold_since_the_files_first_time(
    tmp_path: Path, active: Active | None
) -> None:
    file, state = RouteFile(tmp_path, iter([50.0, 60.0, 70.0]).__next__), State(active=active)
    write(file, state)
    said = there(tmp_path)
    nothing = {"also": [], "routing": "", "given_up": [], "release": 0}
    assert said == {**dict.fromkeys(said), "number": 1, "held_since": 50.0, **nothing}
    state.held = 65.0
    write(file, state)
    write(RouteFile(tmp_path, lambda: 80.0), state)
    assert there(tmp_path) == said


def test_the_number_grows_by_one_with_each_change_and_goes_on_after_a_start(
    tmp_path: Path, file: RouteFile
) -> None:
    for state in (SERVES, SERVES, HELD, HELD, SERVES):
        write(file, state)
        assert file.number(state) == there(tmp_path)["number"]
    assert there(tmp_path)["number"] == 3 and file.number(HELD) is None
    again = RouteFile(tmp_path, lambda: 50.0)
    assert again.number(SERVES) == 3
    write(again, NEXT)
    assert there(tmp_path)["number"] == 4


def test_nothing_is_seen_of_a_route_before_it_is_published(tmp_path: Path, file: RouteFile) -> None:
    write(file, SERVES)
    file.lay_out(NEXT)
    assert there(tmp_path)["engine"] == "ollama-1" and file.number(NEXT) is None
    file.lay_out(HELD)  # it goes another way
    file.publish()
    assert there(tmp_path)["held_since"] == 77.0 and there(tmp_path)["number"] == 2
    file.lay_out(NEXT)
    file.lay_out(HELD)  # and back to what is there
    file.publish()
    assert there(tmp_path)["number"] == 2


def test_everybody_may_read_it_and_it_is_another_file_each_time(tmp_path: Path, file: RouteFile) -> None:
    before = os.umask(0o077)
    try:
        write(file, SERVES)
        first = (tmp_path / FILE).open()
        write(file, HELD)
    finally:
        os.umask(before)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644
    assert json.loads(first.read())["number"] == 1, "who has opened the old one reads the old one"
    first.close()


def test_a_file_that_is_not_readable_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_text("{")
    file = RouteFile(tmp_path, lambda: 50.0)
    assert "is not readable" in capsys.readouterr().out and file.held_since is None
    write(file, SERVES)
    assert there(tmp_path)["engine"] == "ollama-1"


def test_a_disk_that_fills_up_later_has_room_for_the_next_route(
    tmp_path: Path, file: RouteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(size: int) -> None:
        raise OSError(28, "No space left on device")

    write(file, HELD)
    assert (tmp_path / "route.next").stat().st_size == ROOM
    monkeypatch.setattr(file, "_take_room", full)
    write(file, SERVES)
    assert there(tmp_path)["held_since"] is None and there(tmp_path)["number"] == 2
    with pytest.raises(OSError, match="No space left"):
        file.lay_out(HELD)  # nobody gave back the room for another
    assert file.number(SERVES) == 2
    monkeypatch.undo()
    write(file, HELD)
    assert there(tmp_path)["number"] == 3


def test_a_large_route_takes_more_room(tmp_path: Path, file: RouteFile) -> None:
    wanted = dataclasses.replace(plan(OLD, gateway=OLD_GATEWAY), routing="# large\n" * 10_000)
    write(file, SERVES)
    write(file, State(active=Active(wanted, "run 0", 1.0)))
    assert there(tmp_path)["routing"] == wanted.routing
    assert len(wanted.routing) > ROOM
