"""The switch's daemon on a strict fake of Docker: orders, journal, leases, and what the CLI is told."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from switch import checks, daemon
from switch.daemon import Switch
from switch.docker import Docker, DockerError
from switch.gate import Answer
from switch.journal import KEPT, Journal
from switch.machine import Active, Boot, Container, State, Transaction, World
from switch.plan import load
from switch.proxies import Status
from switch.route import FILE
from tests.unit.test_switch_machine import NEW, NEW_GATEWAY, OLD, OLD_GATEWAY, PROXY, plan, raw_plan


def box(name: str, role: str, running: bool = False) -> Container:
    return Container(name, role, name.split("-")[1], running, False, "run 0", 0, False, 0, 1.0)


FACTS = {"stream": False, "tokens": 8, "seconds": 0.25}


class FakeDocker(Docker):
    """Knows the calls that the switch may make, and refuses any that make no sense in its state."""

    def __init__(self) -> None:
        super().__init__("changeover", "test", "/nowhere")
        boxes = [
            box(OLD, "engine", True),
            box(NEW, "engine"),
            box(OLD_GATEWAY, "gateway", True),
            box(PROXY, "proxy", True),
        ]
        self.boxes = {each.name: each for each in boxes}
        self.orders: list[str] = []
        self.broken: str = ""
        self.exit_code = 0

    def call(self, method: str, url: str, body: Any = None, timeout: float = 15) -> Any:
        raise AssertionError(f"the fake has no {method} {url}")

    def _set(self, name: str, **changes: Any) -> None:
        self.boxes[name] = dataclasses.replace(self.boxes[name], **changes)

    def world(self) -> World:
        if self.broken:
            raise ConnectionRefusedError(self.broken)
        return dict(self.boxes)

    def start(self, name: str) -> None:
        assert not self.boxes[name].running, f"{name} already runs"
        if self.boxes[name].role != "check":
            self.orders.append(f"start {name}")
        self._set(name, running=True, started_at=f"run {len(self.orders)}")

    def stop(self, name: str, seconds: float) -> None:
        assert seconds == (0 if name == NEW else 10), "only what is taken back is ended at once"
        self.orders.append(f"stop {name}")
        self._set(name, running=False)

    def signal(self, name: str) -> None:
        self.orders.append(f"signal {name}")
        self._set(name, running=False)

    def image_of(self, name: str) -> str:
        assert name in self.boxes
        return "sha256:1"

    def has_image(self, image: str) -> bool:
        return image in ("sha256:1", "gateway:1")

    def create(self, name: str, role: str, **spec: Any) -> None:
        assert spec["HostConfig"]["NetworkMode"] == "none"
        assert spec["Cmd"] == ["--check"]
        self.boxes[name] = box(name, role)

    def put(self, name: str, path: str, content: str) -> None:
        assert (path, content) == ("/app/config/tensorzero.toml", "x = 1\n")

    def wait(self, name: str, timeout: float) -> int:
        return self.exit_code

    def remove(self, name: str) -> None:
        self.boxes.pop(name, None)

    def logs(self, name: str, lines: int = 15) -> str:
        return f"{name} said this"


class Rig:
    """A switch whose turns are taken by hand."""

    def __init__(self, folder: Path) -> None:
        self.docker, self.journal = FakeDocker(), Journal(folder / "journal")
        self.now = 1000.0
        self.journal.write(State(active=Active(plan(OLD, gateway=OLD_GATEWAY), "run 0", 1.0)))
        self.weights, self.live, self.shared = folder / "weights", folder / "live", folder / "shared"
        self.shared.mkdir()
        self.requests = dict[str, int]()
        """What the proxy has, by engine; it has always taken note of its route."""
        for kind in ("ollama", "vllm"):
            (self.weights / kind / "tiny-1").mkdir(parents=True)
            (self.weights / kind / "tiny-1" / ".complete").touch()
        self.switch = self.boot()

    def boot(self) -> Switch:
        self.switch = Switch(
            self.docker, self.journal, self.weights, self.live, self.shared, lambda: self.now
        )
        self.switch.events.put(Boot(self.switch.route.held_since))
        self.switch.turn()
        return self.switch

    @property
    def route(self) -> dict[str, Any]:
        """What the proxies read."""
        return dict(json.loads((self.shared / FILE).read_text()))

    def statuses(self, proxies: list[str]) -> dict[str, Status]:
        assert proxies == [PROXY]
        return {PROXY: Status(self.route["number"], self.requests, 2, {}, "", False)}

    def turns(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not until():
            assert time.monotonic() < end, self.switch.state
            self.now += 0.3
            self.switch.turn()
            time.sleep(0.002)

    def phase(self) -> str:
        t = self.switch.state.transaction
        return t.phase if t else ""

    def ask(self, verb: str, raw: dict[str, Any]) -> dict[str, Any]:
        return self.switch.answer({"verb": verb, "plan": raw})

    def follow(self, engine: str = "") -> dict[str, Any]:
        return self.switch.answer({"verb": "follow", "engine": engine})


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(daemon, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(daemon, "probe", lambda *_: Answer(True, facts=FACTS))
    rig = Rig(tmp_path)
    monkeypatch.setattr(daemon, "statuses", rig.statuses)
    yield rig


def test_a_change_that_must_be_no_flip_is_refused_before_anything_is_done(rig: Rig) -> None:
    rig.ask("prepare", {**raw_plan(NEW), "no_flip": "nobody has compared them"})
    rig.turns(lambda: rig.phase() == "failed")
    assert any("nobody has compared them" in line for line in rig.follow()["lines"])
    assert rig.docker.orders == []


def test_the_same_engine_with_other_settings_is_no_flip(rig: Rig) -> None:
    other = OLD + "-other"
    rig.docker.boxes[other] = box(other, "engine")
    rig.ask("prepare", {**raw_plan(other), "no_flip": "nobody has compared them"})
    rig.turns(lambda: rig.phase() == "draining")


def test_a_flip_gives_these_orders_and_no_others(rig: Rig) -> None:
    assert rig.ask("prepare", raw_plan()) == {"lines": [f"prepare: vllm ({NEW})"], "code": 0}
    rig.turns(lambda: rig.phase() == "prepared")
    assert rig.docker.orders == [f"stop {OLD}", f"start {NEW}"]
    assert rig.follow()["code"] == 0
    assert rig.route["number"] == 2 and rig.route["held_since"] and rig.route["container"] == OLD
    rig.docker.boxes[NEW_GATEWAY] = box(NEW_GATEWAY, "gateway")
    assert rig.ask("commit", raw_plan(gateway=NEW_GATEWAY))["code"] == 0
    rig.turns(lambda: rig.phase() == "committed")
    assert rig.docker.orders[2:] == [f"start {NEW_GATEWAY}", f"signal {OLD_GATEWAY}"]
    assert rig.route == {
        "number": 3,
        "held_since": None,
        "engine": "vllm-2",
        "container": NEW,
        "gateway": NEW_GATEWAY,
        "also": [],
        "routing": raw_plan()["routing"],
    }
    told = rig.follow()
    assert told["code"] == 0 and any("released after" in line for line in told["lines"])
    assert Journal(rig.journal.file.parent).read().active == rig.switch.state.active
    (file,) = rig.journal.certificates.glob("*.json")
    kept = json.loads(file.read_text())
    assert kept["result"] == "committed" and [g["rate"] for g in kept["gate"]] == [32, 32, 32]
    assert [s["step"] for s in kept["steps"]][:4] == ["checking", "draining", "stopping", "loading"]
    assert kept["held"]["requests"] == 2
    assert file.with_suffix(".md").read_text().startswith("# ollama → vllm: committed\n")


def test_follow_tells_each_line_once_and_waits_while_nothing_is_new(rig: Rig) -> None:
    rig.docker.boxes[OLD_GATEWAY] = dataclasses.replace(rig.docker.boxes[OLD_GATEWAY])
    rig.ask("prepare", raw_plan())
    assert rig.follow() == {"lines": [], "code": 75}
    rig.turns(lambda: rig.phase() == "prepared")
    first = rig.follow()
    assert first["lines"][0].startswith("checked: disk, image, weights, gateway config")
    assert rig.follow() == {"lines": [], "code": 0}


def test_follow_of_another_engine_does_not_take_this_ones_result(rig: Rig) -> None:
    rig.ask("prepare", raw_plan())
    told = rig.follow("stack-vllm-9")
    assert told["code"] == 1 and "has taken its place" in told["lines"][0]


def test_following_keeps_the_lease_and_its_end_restores(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "probe", lambda *_: Answer(False, "refused", loading=True))
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "loading")
    for _ in range(5):
        rig.now += 10
        assert rig.follow()["code"] == 75
        rig.switch.turn()
    monkeypatch.setattr(daemon, "probe", lambda *_: Answer(True, facts=FACTS))
    rig.now += 16
    rig.turns(lambda: rig.phase() == "failed")
    told = rig.follow()
    assert told["code"] == 1
    assert any("interrupted" in line for line in told["lines"])
    assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running
    assert not rig.docker.boxes[NEW].running


def test_the_failed_engines_last_lines_are_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(plan: Any, through: str, *_: Any) -> Answer:
        return Answer(plan.engine.container == OLD, "HTTP 404", final=True, facts=FACTS)

    monkeypatch.setattr(daemon, "probe", bad)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "failed")
    said = "\n".join(rig.follow()["lines"])
    assert "HTTP 404" in said and f"  {NEW} said this" in said and f"ollama ({OLD}) serves again" in said


def test_a_config_that_the_image_refuses_stops_nothing_and_leaves_no_container(rig: Rig) -> None:
    rig.docker.exit_code = 1
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "failed")
    assert "refuses its config" in "\n".join(rig.follow()["lines"])
    assert rig.docker.orders == [] and set(rig.docker.boxes) == {OLD, NEW, OLD_GATEWAY, PROXY}


def test_missing_weights_stop_nothing(rig: Rig) -> None:
    (rig.weights / "vllm" / "tiny-1" / ".complete").unlink()
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "failed")
    assert "weights vllm/tiny-1 are not on this host" in "\n".join(rig.follow()["lines"])
    assert rig.docker.orders == []


def test_a_restart_in_the_middle_of_a_hold_restores(rig: Rig) -> None:
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "stopping")
    rig.boot()
    rig.turns(lambda: rig.phase() == "failed")
    assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running
    assert "restarted" in "\n".join(rig.follow()["lines"])


def test_a_prepared_change_is_given_up_over_the_socket(rig: Rig) -> None:
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "prepared")
    rig.follow()
    assert rig.switch.answer({"verb": "abandon", "engine": NEW}) == {"lines": [], "code": 0}
    rig.turns(lambda: rig.phase() == "failed")
    said = "\n".join(rig.follow()["lines"])
    assert "given up as asked" in said and f"ollama ({OLD}) serves again" in said
    refused = rig.switch.answer({"verb": "abandon", "engine": NEW})
    assert refused == {"lines": [f"refused: no change to {NEW} is under way"], "code": 1}


def test_a_bad_plan_and_a_second_change_are_refused_in_words(rig: Rig) -> None:
    raw = raw_plan()
    raw["engine"]["colour"] = "red"
    told = rig.ask("prepare", raw)
    assert told["code"] == 1 and "plan.engine has the unknown key 'colour'" in told["lines"][0]
    assert rig.ask("prepare", raw_plan())["code"] == 0
    told = rig.ask("prepare", raw_plan(OLD))
    assert told["code"] == 75 and "is under way" in told["lines"][0]


def fill(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal can't be written any more, until what was patched is undone."""

    def full(state: State) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.journal, "write", full)


def test_a_change_is_refused_while_the_journal_can_not_be_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, monkeypatch)
    told = rig.ask("prepare", raw_plan())
    assert told["code"] == 1 and "No space left" in told["lines"][0] and "make gc" in told["lines"][0]
    assert rig.switch.state.transaction is None


def test_a_change_is_refused_on_a_disk_that_is_almost_full(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ROOM", 2**80)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "failed")
    assert "MiB are free on the Docker host's disk" in "\n".join(rig.follow()["lines"])
    assert rig.docker.orders == []


@pytest.mark.parametrize("phase", ["draining", "stopping", "loading", "prepared", "starting"])
def test_a_disk_that_gets_full_in_a_change_leads_back_and_is_named(rig: Rig, phase: str) -> None:
    rig.ask("prepare", raw_plan())
    if phase == "starting":
        rig.turns(lambda: rig.phase() == "prepared")
        rig.docker.boxes[NEW_GATEWAY] = box(NEW_GATEWAY, "gateway")
        rig.ask("commit", raw_plan(gateway=NEW_GATEWAY))
    rig.turns(lambda: rig.phase() == phase)
    told = json.loads(json.dumps(rig.switch.answer({"verb": "state"})))
    assert load(State, told["state"]) == rig.switch.state and not told["unkept"]
    with pytest.MonkeyPatch.context() as patch:
        fill(rig, patch)
        rig.turns(lambda: rig.phase() == "failed")
        told = rig.follow()
        assert told["code"] == 1
        said = "\n".join(told["lines"])
        assert "failed: the switch can't write its journal (No space left on device)" in said
        assert f"ollama ({OLD}) serves again" in said
        assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running
        assert not rig.docker.boxes[NEW].running
        now = rig.switch.answer({"verb": "state"})
        assert now["state"]["transaction"]["phase"] == "failed" and "make gc" in now["unkept"]
        assert rig.journal.read() != rig.switch.state
        rig.boot()
        rig.turns(lambda: rig.phase() == "failed" and not rig.switch.state.busy)
        assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running
    rig.switch.turn()
    assert not rig.switch.unkept and rig.phase() == "failed"
    assert rig.journal.read() == dataclasses.replace(rig.switch.state, busy=None, gating=None, room=None)
    assert rig.ask("prepare", raw_plan())["code"] == 0
    rig.turns(lambda: rig.phase() == "prepared")


def test_an_engine_that_crashes_while_the_disk_is_full_comes_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, monkeypatch)
    rig.docker._set(OLD, running=False)
    rig.switch.turn()
    rig.turns(lambda: rig.docker.boxes[OLD_GATEWAY].running and rig.switch.state.held is None)
    assert rig.docker.orders == [f"start {OLD}"]
    assert rig.route["held_since"] is None and rig.route["number"] == 3


def test_what_is_held_stays_so_over_a_kill_that_nobody_could_note_and_is_not_released_unseen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, monkeypatch)
    rig.docker._set(OLD, running=False)
    rig.switch.turn()
    held = rig.route
    assert held["held_since"] == rig.now and rig.journal.read().held is None
    rig.docker.broken = "Docker is away as well"
    with pytest.raises(ConnectionRefusedError):
        rig.boot()
    assert rig.route == held
    rig.docker.broken = ""
    rig.turns(lambda: rig.route["held_since"] is None)


def test_nothing_goes_forward_while_the_proxies_can_not_be_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: State) -> None:
        raise OSError(28, "No space left on device")

    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "checking")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.switch.route, "lay_out", full)
        rig.turns(lambda: rig.phase() == "failed")
    said = "\n".join(rig.follow()["lines"])
    assert "can't write the proxies' file (No space left on device)" in said and rig.docker.orders == []
    rig.switch.turn()
    assert not rig.switch.unkept and rig.route["held_since"] is None


def test_requests_are_led_back_once_the_proxies_can_be_told_again(rig: Rig) -> None:
    def full(state: State) -> None:
        raise OSError(28, "No space left on device")

    rig.docker._set(OLD, running=False)
    rig.switch.turn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.switch.route, "lay_out", full)
        rig.turns(lambda: rig.switch.state.held is None)
        assert rig.route["held_since"] and "the proxies' file" in rig.switch.unkept
    rig.switch.turn()
    assert rig.route["held_since"] is None and not rig.switch.unkept


def test_no_engine_is_stopped_while_a_proxy_has_requests(rig: Rig) -> None:
    rig.requests["ollama-1"] = 1
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "draining")
    for _ in range(5):
        rig.switch.turn()
    assert rig.docker.orders == []
    rig.requests.clear()
    rig.turns(lambda: rig.docker.orders == [f"stop {OLD}"])


def test_nothing_that_was_heard_is_lost_while_docker_fails(rig: Rig) -> None:
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "loading")
    rig.docker.broken = "down"
    with pytest.raises(ConnectionRefusedError):
        rig.turns(lambda: False)
    rig.docker.broken = ""
    rig.turns(lambda: rig.phase() == "prepared")


def test_an_order_that_docker_refuses_is_a_failed_change(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    start = rig.docker.start

    def no_gpu(name: str) -> None:
        if name == NEW:
            raise DockerError(500, "could not select device driver")
        start(name)

    monkeypatch.setattr(rig.docker, "start", no_gpu)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "failed")
    assert "could not select device driver" in "\n".join(rig.follow()["lines"])
    assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running


def test_the_cli_asks_over_a_socket(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = daemon.listen(rig.switch, path)
    try:
        assert daemon.ask(path, {"verb": "follow", "engine": ""})["code"] == 1
        assert daemon.ask(path, {"verb": "release"})["code"] == 0
        assert rig.switch.state.active is None
    finally:
        server.shutdown()
        server.server_close()


def test_an_unreadable_journal_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("{")
    assert Journal(tmp_path).read() == State()
    assert (tmp_path / "state.unreadable").exists() and "set aside" in capsys.readouterr().out


def test_the_newest_certificates_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for n in range(KEPT + 3):
        journal.archive(Transaction(str(n), plan(), "prepare", float(n), 0))
    names = sorted(each.name for each in journal.certificates.iterdir())
    assert len(names) == 2 * KEPT and names[0] == "19700101T000003Z-none-to-vllm.json"


def test_what_serves_is_in_a_file_before_whoever_follows_hears_of_it(rig: Rig) -> None:
    assert rig.live.read_text() == f"{OLD}\n"
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.follow()["code"] != 75)
    assert rig.phase() == "prepared" and rig.live.read_text() == f"{NEW}\n"


def test_what_serves_is_unknown_until_a_switch_that_is_back_has_looked(rig: Rig) -> None:
    rig.docker.broken = "Docker is away"
    with pytest.raises(ConnectionRefusedError):
        rig.boot()
    assert not rig.live.exists()
    rig.docker.broken = ""
    rig.turns(rig.live.exists)
    assert rig.live.read_text() == f"{OLD}\n"
    rig.docker._set(OLD, running=False)
    rig.switch._world = rig.docker.world()
    rig.switch._say_live()
    assert rig.live.read_text() == "none since change 0\n"
