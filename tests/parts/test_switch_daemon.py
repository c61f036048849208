"""The switch's daemon on a strict fake of Docker: orders, journal, leases, and what the CLI is told."""

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from switch import __main__ as cli
from switch import answers, asking, checks, daemon, files, owner, verbs
from switch.daemon import Daemon
from switch.docker import Docker, DockerError
from switch.gate import Answer
from switch.gc import Busy, collect
from switch.journal import KEPT, Journal, dumps
from switch.machine import Action, Active, Container, Silence, Started, State, Transaction, Watch, World
from switch.plan import load
from switch.proxies import Status
from switch.report import report
from switch.route import FILE, RouteFile
from tests.support.simulated_host import NEW, NEW_GATEWAY, OLD, OLD_GATEWAY, PROXY, plan, raw_plan


def box(name: str, role: str, running: bool = False) -> Container:
    return Container(name, role, name.split("-")[1], running, False, "run 0", 0, False, 0, 1.0)


STATE = {"verb": "state"}
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
        self.ended = False
        """Whether what reads a config has ended."""

    def call(self, method: str, url: str, body: Any = None, timeout: float = 15) -> Any:
        raise AssertionError(f"the fake has no {method} {url}")

    def _set(self, name: str, **changes: Any) -> None:
        self.boxes[name] = dataclasses.replace(self.boxes[name], **changes)

    def world(self) -> World:
        if self.broken:
            raise ConnectionRefusedError(self.broken)
        return dict(self.boxes)

    def bound(self, world: World) -> None:
        """Nothing has processes here."""

    def left_volumes(self, roles: Iterable[str]) -> list[str]:
        return []

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

    def restart(self, name: str) -> None:
        self.orders.append(f"restart {name}")
        self._set(name, running=True, started_at=f"run {len(self.orders)}")

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

    def exit_status(self, name: str) -> int | None:
        return self.exit_code if self.ended else None

    def remove(self, name: str) -> None:
        self.boxes.pop(name, None)

    def connect(self, name: str, network: str, aliases: Iterable[str]) -> None:
        there = {**self.boxes, **self.beside}[name]
        assert network not in there.networks, "Docker refuses what is there already"
        self.orders.append(f"connect {name} to {network} as {' '.join(aliases)}")
        now = dataclasses.replace(there, networks={**there.networks, network: list(aliases)})
        if name in self.boxes:
            self.boxes[name] = now
        else:
            self.beside = {**self.beside, name: now}

    def logs(self, name: str, lines: int = 15) -> str:
        return f"{name} said this"


class FakePulse:
    """Says of what is watched what a test has told it."""

    def __init__(self, proxies: Any) -> None:
        self.watched = dict[str, Watch]()
        self.hung = dict[str, str]()
        self.forgotten = 0

    def watch(self, watches: list[Watch]) -> None:
        self.watched = {each.container: each for each in watches}

    def forget(self) -> None:
        self.hung.clear()
        self.forgotten += 1

    def hangs(self) -> dict[str, str]:
        return {name: why for name, why in self.hung.items() if name in self.watched}

    def silent(self) -> dict[str, Silence]:
        return {name: Silence(why, 45) for name, why in self.hangs().items()}


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

    def boot(self, clock: Callable[[], float] | None = None) -> Daemon:
        clock = clock or (lambda: self.now)
        self.switch = Daemon(self.docker, self.journal, self.weights, self.live, self.shared, clock)
        self.switch.events.put(Started(self.switch.route.held_since))
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
        change = self.switch.state.transaction
        return change.phase if change else ""

    def error(self) -> str:
        change = self.switch.state.transaction
        return change.error if change else ""

    def ask(self, verb: str, raw: dict[str, Any]) -> dict[str, Any]:
        return self.switch.answer({"verb": verb, "plan": raw})

    def follow(self, engine: str = "", change: str = "") -> dict[str, Any]:
        return self.switch.answer({"verb": "follow", "engine": engine, "change": change})

    @property
    def pulse(self) -> FakePulse:
        assert isinstance(self.switch.pulse, FakePulse)
        return self.switch.pulse


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(daemon, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(daemon, "probe", lambda *_: Answer(True, facts=FACTS))
    monkeypatch.setattr(daemon, "Pulse", FakePulse)
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
        "given_up": [],
        "release": 1,
    }
    told = rig.follow()
    assert told["code"] == 0 and any("released after" in line for line in told["lines"])
    assert Journal(rig.journal.file.parent).read(rig.now).active == rig.switch.state.active
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
    assert told["code"] == 1 and "`pulumi up` has taken the place of this one" in told["lines"][0]


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


def test_a_known_trap_in_the_failed_engines_output_is_named_with_what_to_type(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(plan: Any, *_: Any) -> Answer:
        return Answer(plan.engine.container == OLD, "HTTP 500", final=True, facts=FACTS)

    def logs(name: str, lines: int = 15) -> str:
        said = ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.02 GiB.", *["more"] * 50]
        return "\n".join(said[-lines:])

    monkeypatch.setattr(daemon, "probe", bad)
    monkeypatch.setattr(rig.docker, "logs", logs)
    raw = raw_plan()
    traps = [
        {
            "words": ["no such words", "CUDA out of memory"],
            "hint": "take {less}, {less} MiB",
            "memory": 13000,
        },
        {"words": ["something else"], "hint": "not this"},
    ]
    rig.ask("prepare", {**raw, "gate": {**raw["gate"], "traps": traps}})
    rig.turns(lambda: rig.phase() == "failed")
    said = rig.follow()["lines"]
    assert "a known trap: take 11955, 11955 MiB" in said
    assert said.count("  more") == 15 and not any("not this" in line for line in said)


def test_after_the_last_completion_of_a_strict_gate_comes_what_is_asked_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[bool, bool]]()

    def probe(plan: Any, through: str, stream: bool, strict: bool, patience: float, last: bool) -> Answer:
        if through == "engine" and plan.engine.container == NEW:
            asked.append((strict, last))
        return Answer(True, facts=FACTS)

    monkeypatch.setattr(daemon, "probe", probe)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "prepared")
    assert asked == [(True, False), (True, False), (True, True)]


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
    assert rig.switch.answer({"verb": "held"}) == {"lines": ["requests wait"], "code": 0}
    assert rig.switch.answer({"verb": "abandon", "engine": NEW}) == {"lines": ["requests wait"], "code": 0}
    rig.turns(lambda: rig.phase() == "failed")
    said = "\n".join(rig.follow()["lines"])
    assert "given up as asked" in said and f"ollama ({OLD}) serves again" in said
    refused = rig.switch.answer({"verb": "abandon", "engine": NEW})
    assert refused == {"lines": [f"refused: no change to {NEW} is under way"], "code": 1}
    rig.turns(lambda: rig.switch.state.held is None)
    assert rig.switch.answer({"verb": "held"}) == {"lines": ["no request waits"], "code": 0}
    rig.ask("prepare", raw_plan(cutover="overlap"))
    rig.turns(lambda: rig.phase() == "prepared")
    beside = {"lines": ["no request waits"], "code": 0}
    assert rig.switch.answer({"verb": "abandon", "engine": NEW}) == beside


def test_only_the_change_that_is_named_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "ask", lambda _, request: rig.switch.answer(request))
    rig.switch.answer({"verb": "prepare", "plan": raw_plan(), "change": "first"})
    rig.turns(lambda: rig.phase() == "loading")
    rig.switch.answer({"verb": "prepare", "plan": raw_plan(), "change": "second"})
    capsys.readouterr()
    assert cli.main(["abandon", "--engine", NEW, "--change", "first"]) == 1
    assert capsys.readouterr().out == f"refused: the change to {NEW} is another `pulumi up`'s\n"
    assert rig.phase() == "loading"
    assert cli.main(["abandon", "--engine", NEW, "--change", "second"]) == 0
    assert capsys.readouterr().out.endswith("requests wait\n") and rig.phase() == "restoring"
    rig.switch.answer({"verb": "prepare", "plan": raw_plan(), "change": "third"})
    waiting = rig.switch.state.waiting
    assert waiting and waiting.coordinator == "third"
    assert cli.main(["abandon", "--engine", NEW, "--change", "third"]) == 0
    assert rig.switch.state.waiting is None and rig.phase() == "restoring"


def test_a_bad_plan_and_a_second_change_are_refused_in_words(rig: Rig) -> None:
    raw = raw_plan()
    raw["engine"]["colour"] = "red"
    told = rig.ask("prepare", raw)
    assert told["code"] == 1 and "plan.engine must not have the key 'colour'" in told["lines"][0]
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
    assert load(State, told["state"]) == rig.switch.state and not told["write_error"]
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
        assert now["state"]["transaction"]["phase"] == "failed" and "make gc" in now["write_error"]
        assert rig.journal.read(rig.now) != rig.switch.state
        rig.boot()
        rig.turns(lambda: rig.phase() == "failed" and not rig.switch.state.busy)
        assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running
    rig.switch.turn()
    assert not rig.switch.write_error and rig.phase() == "failed"
    assert rig.journal.read(rig.now) == dataclasses.replace(
        rig.switch.state, busy=None, gating=None, memory_wait=None
    )
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
    assert held["held_since"] == rig.now and rig.journal.read(rig.now).held is None
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
    assert not rig.switch.write_error and rig.route["held_since"] is None


def test_requests_are_led_back_once_the_proxies_can_be_told_again(rig: Rig) -> None:
    def full(state: State) -> None:
        raise OSError(28, "No space left on device")

    rig.docker._set(OLD, running=False)
    rig.switch.turn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.switch.route, "lay_out", full)
        rig.turns(lambda: rig.switch.state.held is None)
        assert rig.route["held_since"] and "the proxies' file" in rig.switch.write_error
    rig.switch.turn()
    assert rig.route["held_since"] is None and not rig.switch.write_error


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
        assert asking.ask(path, {"verb": "follow", "engine": ""})["code"] == 1
        assert asking.ask(path, {"verb": "release"})["code"] == 0
        assert rig.switch.state.active is None
    finally:
        server.shutdown()
        server.server_close()


def damage_file(file: Path) -> None:
    """Cuts a file short in place, as a disk does that lost its end."""
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])


def flip(rig: Rig) -> None:
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "prepared")
    rig.docker.boxes[NEW_GATEWAY] = box(NEW_GATEWAY, "gateway")
    rig.ask("commit", raw_plan(gateway=NEW_GATEWAY))
    rig.turns(lambda: rig.phase() == "committed" and not rig.switch.state.busy)
    rig.docker.orders.clear()


def commit_what_serves(rig: Rig) -> None:
    """As the next `pulumi up` does, whose preview has seen that `live` says something new."""
    said = rig.live.read_text().strip()
    assert said.startswith("the journal was damaged at ")
    asked = {"verb": "commit", "plan": raw_plan(gateway=NEW_GATEWAY), "seen": said}
    assert rig.switch.answer(asked)["code"] == 0
    rig.turns(lambda: rig.phase() in ("committed", "unchanged") and rig.switch.state.damage is None)
    rig.switch.turn()
    assert rig.live.read_text().strip() == said, "the repair must leave no difference behind"


def refused_by_gc(rig: Rig) -> str:
    with pytest.raises(Busy) as refused:
        collect(rig.switch.state, rig.docker, rig.weights, rig.weights, print, free=True)
    return str(refused.value)


def status(rig: Rig) -> str:
    seen = report(rig.switch.state, rig.docker.world(), {}, rig.weights, rig.now)
    json.dumps(seen)
    return verbs.screen(seen, rig.now)


def test_a_damaged_journal_is_replaced_by_the_previous_state_and_what_is_killed_then_is_revived(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(rig)
    before = rig.switch.state
    damage_file(rig.journal.file)
    rig.boot()
    assert "the journal was damaged: state.json is not readable" in capsys.readouterr().out
    assert rig.journal.file.with_suffix(".aside").exists()
    state = rig.switch.state
    assert (state.active, state.back, state.commits) == (before.active, before.back, before.commits)
    assert rig.route["container"] == NEW and rig.route["held_since"] is None
    said = status(rig)
    assert f"vllm ({NEW}) serves" in said and "journal   was damaged" in said and "previous state" in said
    assert "nothing is freed before `pulumi up`" in refused_by_gc(rig)
    found = rig.switch.state.damage
    rig.now += 100
    rig.boot()  # it is not forgotten by a restart
    assert rig.switch.state.damage == found

    rig.docker._set(NEW, running=False)
    rig.switch.turn()
    rig.turns(lambda: rig.switch.state.held is None and rig.docker.boxes[NEW].running)
    assert rig.docker.orders == [f"start {NEW}"]
    commit_what_serves(rig)
    assert "journal" not in status(rig)
    assert rig.switch.state.back == before.back


def test_with_both_selves_damaged_what_runs_goes_on_and_is_said_as_what_it_is(rig: Rig) -> None:
    flip(rig)
    rig.journal.folder.joinpath(owner.FILE).write_text(
        json.dumps(dataclasses.asdict(owner.OwnerRecord("a", "f", "m", 1, 1, 7)))
    )
    told = rig.route
    for file in (rig.journal.file, rig.journal.older):
        damage_file(file)
    rig.boot()
    rig.switch.turn()
    assert rig.route == told and rig.docker.orders == []
    said = status(rig)
    assert f"engine    {NEW} runs" in said and f"the proxies ask vllm-2 ({NEW})" in said
    assert "what leads back" in said and "serves    nothing" not in said
    assert "nothing is freed" in refused_by_gc(rig)
    commit_what_serves(rig)
    assert rig.switch.state.active and rig.switch.state.active.plan.engine.container == NEW
    assert rig.switch.state.commits == 8, "the owner's record counts on"
    assert rig.docker.boxes[NEW].running and rig.route["container"] == NEW


def test_a_journal_that_is_damaged_again_within_a_minute_asks_for_a_commit_again(rig: Rig) -> None:
    flip(rig)
    said = set()
    for _ in range(2):
        damage_file(rig.journal.file)
        rig.boot()
        rig.switch.turn()
        said.add(rig.live.read_text())
        commit_what_serves(rig)
        rig.now += 2
    assert len(said) == 2


def test_a_change_that_fails_while_nothing_is_known_starts_again_what_the_proxies_were_told(rig: Rig) -> None:
    for file in (rig.journal.file, rig.journal.older):
        file.write_text("{")
    rig.boot()
    told = rig.route
    rig.docker.exit_code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "probe", lambda *_: Answer(False, "it answers garbage", final=True))
        rig.ask("prepare", raw_plan())
        rig.turns(lambda: rig.phase() == "loading")
        assert rig.route["held_since"] is not None, "nobody asks what is being stopped"
        rig.turns(lambda: rig.phase() == "failed")
    said = "\n".join(rig.follow()["lines"])
    assert "it answers garbage" in said and "the journal was damaged" in said
    assert rig.docker.boxes[OLD].running and not rig.docker.boxes[NEW].running
    rig.turns(lambda: rig.route["held_since"] is None)
    assert {**rig.route, "number": 0} == {**told, "number": 0}


def test_an_older_journal_that_was_restored_stops_nothing_that_serves(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(rig)
    # the fake allows a grace for this one and none for the other; here it is the other way round
    monkeypatch.setattr(rig.docker, "stop", lambda name, seconds: rig.docker._set(name, running=False))
    restored = rig.journal.file.read_bytes()
    plan_back = raw_plan(OLD, gateway=OLD_GATEWAY)
    rig.ask("commit", plan_back)
    rig.turns(lambda: rig.phase() == "committed" and not rig.switch.state.busy)
    rig.docker.orders.clear()
    rig.journal.file.write_bytes(restored)
    rig.boot()
    rig.switch.turn()
    assert rig.docker.orders == [] and rig.docker.boxes[OLD].running
    assert rig.route["container"] == OLD and rig.route["held_since"] is None
    said = status(rig)
    assert f"engine    {OLD} runs" in said and "older than what the proxies were told last" in said
    assert "nothing is freed" in refused_by_gc(rig)


def test_a_damage_in_the_moment_of_a_release_takes_the_change_back(rig: Rig) -> None:
    rig.switch.state.releases = 3
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "prepared")
    rig.docker.boxes[NEW_GATEWAY] = box(NEW_GATEWAY, "gateway")
    rig.ask("commit", raw_plan(gateway=NEW_GATEWAY))
    write = rig.journal.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.docker, "signal", lambda name: None)

        def stop_after_the_release(state: State) -> None:
            write(state)
            if state.active and state.active.plan.engine.container == NEW:
                raise KeyboardInterrupt

        patch.setattr(rig.journal, "write", stop_after_the_release)
        with pytest.raises(KeyboardInterrupt):
            rig.turns(lambda: rig.phase() == "committed")
    rig.switch.route.publish()  # the power goes right after it
    assert rig.route["container"] == NEW
    damage_file(rig.journal.file)
    rig.boot()
    rig.turns(lambda: rig.phase() == "failed")
    assert rig.docker.boxes[OLD].running and rig.route["container"] == OLD


def test_a_read_only_journal_is_said_and_takes_nothing_away_even_when_it_is_damaged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(rig)
    damage_file(rig.journal.file)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", read_only)
        patch.setattr(
            Path, "replace", lambda *paths: read_only() if "journal" in str(paths[0]) else real(*paths)
        )
        rig.boot()
        rig.docker._set(NEW, running=False)
        rig.switch.turn()
        rig.turns(lambda: rig.docker.boxes[NEW].running and rig.switch.state.held is None)
        told = rig.switch.answer({"verb": "state"})
        assert "can't write its journal (Read-only file system)" in told["write_error"]
        assert rig.ask("prepare", raw_plan(OLD))["code"] == 1
        assert "nothing is freed" in refused_by_gc(rig)
    rig.switch.turn()
    assert not rig.switch.write_error and rig.switch.state.damage
    assert rig.journal.read(rig.now).damage == rig.switch.state.damage


real = Path.replace


def test_a_journal_that_is_gone_is_replaced_by_the_previous_state(rig: Rig) -> None:
    flip(rig)
    before = rig.switch.state
    rig.journal.file.unlink()
    rig.boot()
    state = rig.switch.state
    assert (state.active, state.back, state.commits) == (before.active, before.back, before.commits)
    assert rig.route["container"] == NEW and rig.route["held_since"] is None
    said = status(rig)
    assert f"vllm ({NEW}) serves" in said and "state.json is gone; the previous state was taken" in said
    assert "nothing is freed before `pulumi up`" in refused_by_gc(rig)
    found = state.damage
    rig.now += 100
    rig.boot()
    assert rig.switch.state.damage == found, "it was written down"
    commit_what_serves(rig)
    assert "journal" not in status(rig) and rig.switch.state.back == before.back


def test_with_both_selves_gone_the_proxies_go_on_with_what_they_were_told(rig: Rig) -> None:
    flip(rig)
    told = rig.route
    for file in (rig.journal.file, rig.journal.older):
        file.unlink()
    rig.boot()
    rig.switch.turn()
    assert rig.route == told and rig.docker.orders == []
    said = status(rig)
    assert f"engine    {NEW} runs" in said and "there is no previous state" in said
    assert "nothing is freed" in refused_by_gc(rig)
    commit_what_serves(rig)
    assert rig.switch.state.active and rig.switch.state.active.plan.engine.container == NEW


def test_a_journal_from_before_the_first_commit_that_was_restored_stops_nothing_that_serves(rig: Rig) -> None:
    flip(rig)
    rig.journal.file.write_text(dumps(State(images=["some:1"])))
    rig.boot()
    rig.switch.turn()
    assert rig.docker.orders == [] and rig.docker.boxes[NEW].running
    assert rig.route["container"] == NEW and rig.route["held_since"] is None
    said = status(rig)
    assert f"engine    {NEW} runs" in said and "older than what the proxies were told last" in said
    assert "nothing is freed" in refused_by_gc(rig)
    commit_what_serves(rig)


def test_a_state_of_a_version_that_did_not_count_releases_is_no_older_one(rig: Rig) -> None:
    """Its checkout may have had the stack for a while, and have left the proxies' file as it was."""
    flip(rig)
    rig.journal.write(dataclasses.replace(rig.switch.state, releases=0))
    rig.boot()
    assert rig.switch.state.active and not rig.switch.state.damage


def test_a_first_start_and_what_is_to_be_forgotten_are_no_damage(tmp_path: Path) -> None:
    journal, shared = Journal(tmp_path / "journal"), tmp_path / "live"
    shared.mkdir()
    assert journal.read(9.0) == State()
    for state in (State(), State(active=Active(plan(OLD, gateway=OLD_GATEWAY), "run 0", 1.0))):
        route = RouteFile(shared, lambda: 1.0)
        route.lay_out(state)
        journal.write(state)
        route.publish()
        assert journal.read(9.0, RouteFile(shared, lambda: 1.0).there) == state
    assert route.there and route.there.engine
    for file in (journal.file, journal.older, route.file):  # as `boot.sh` does
        file.unlink()
    assert journal.read(9.0, RouteFile(shared, lambda: 1.0).there) == State()


def test_where_nothing_was_committed_a_journal_that_is_gone_is_a_first_start(tmp_path: Path) -> None:
    """So it is where a version wrote it that kept no previous state, and had no proxies to tell."""
    route = RouteFile(tmp_path, lambda: 1.0)
    route.lay_out(State(releases=3))  # of a stack that was released before it was taken down
    route.publish()
    for there in (None, route.there):
        assert Journal(tmp_path / "journal").read(9.0, there) == State()


def test_a_journal_is_whole_at_any_moment_of_a_write(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.write(State(commits=number))
        assert journal.read(9.0) == State(commits=number)
    assert json.loads(journal.older.read_text())["commits"] == 1


def test_the_newest_certificates_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(KEPT + 3):
        journal.archive(Transaction(str(number), plan(), "prepare", float(number), 0))
    names = sorted(each.name for each in journal.certificates.iterdir())
    assert len(names) == 2 * KEPT and names[0] == "19700101T000003Z-none-to-vllm.json"
    journal.archive(Transaction("after a clock was set back", plan(), "prepare", 1.0, 0))
    names = sorted(each.name for each in journal.certificates.iterdir())
    assert len(names) == 2 * KEPT and names[0] == "19700101T000001Z-none-to-vllm.json"
    assert names[2] == "19700101T000004Z-none-to-vllm.json"


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


def test_what_hangs_is_restarted_and_said_to_whoever_asks(rig: Rig) -> None:
    rig.switch.turn()
    assert set(rig.pulse.watched) == {OLD, OLD_GATEWAY, PROXY}
    rig.pulse.hung[OLD] = "no answer for 45 s"
    told = rig.switch.answer({"verb": "state"})
    assert told["silent"] == {OLD: "no answer for 45 s"} and told["now"] == rig.now
    rig.turns(lambda: rig.switch.state.held is not None)
    assert rig.route["held_since"] and rig.route["given_up"] == ["ollama-1"]
    rig.turns(lambda: rig.docker.orders == [f"stop {OLD}"])
    rig.pulse.hung.clear()
    rig.turns(lambda: rig.switch.state.held is None)
    assert rig.docker.orders == [f"stop {OLD}", f"start {OLD}"] and rig.route["given_up"] == []


def test_a_container_off_the_network_is_put_back_and_nothing_hangs_for_a_switch_that_is_off_it(
    rig: Rig,
) -> None:
    rig.docker.boxes["stack-switch-1"] = box("stack-switch-1", "switch", True)
    for name in rig.docker.boxes:
        rig.docker._set(name, networks={"stack": [name]})
    rig.switch.turn()
    rig.docker._set("stack-switch-1", networks={})
    rig.pulse.hung[OLD] = "no answer for 45 s"
    rig.switch.turn()
    assert rig.docker.orders == ["connect stack-switch-1 to stack as stack-switch-1"]
    assert rig.pulse.forgotten == 1 and rig.switch.state.held is None
    kept = rig.journal.read(0)
    assert kept.network == "stack" and set(kept.endpoints) == set(rig.docker.boxes)


def test_a_monitor_off_the_network_is_put_back_and_said(rig: Rig) -> None:
    name = "stack-alerts"
    rig.docker.boxes["stack-switch-1"] = box("stack-switch-1", "switch", True)
    for each in rig.docker.boxes:
        rig.docker._set(each, networks={"stack": [each]})
    there = box(name, "alerts", True)
    rig.docker.beside = {name: dataclasses.replace(there, networks={"stack": ["alerts"]})}
    rig.switch.turn()
    rig.docker.beside = {name: there}
    rig.switch.turn()
    assert rig.docker.orders == [f"connect {name} to stack as alerts"]
    assert f"put right {name} was taken off the network stack, and was put back" in status(rig)
    assert rig.switch.state.held is None and rig.journal.read(0).endpoints[name].aliases == ["alerts"]


def test_an_old_journal_is_read(rig: Rig) -> None:
    """As it was written before anything was asked whether it answers."""
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "prepared")
    raw = json.loads(rig.journal.file.read_text())
    for key in ("network", "endpoints", "healed", "healed_at"):
        del raw[key]
    for key in ("coordinator", "stalled", "unheard"):
        del raw["transaction"][key]
    for made in (raw["active"]["plan"], raw["transaction"]["plan"], raw["transaction"]["old_plan"]):
        del made["seconds"]["answers"], made["seconds"]["tokens"]
    raw["doomed"] = {OLD: {"started_at": "run 9", "at": 1.0, "sent": True}}
    rig.journal.file.write_text(json.dumps(raw))
    rig.boot()
    assert rig.phase() == "prepared" and rig.switch.state.active


def test_a_switch_that_could_not_look_for_long_takes_back_no_change_and_waits_for_its_coordinator(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.requests["ollama-1"] = 1
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "draining")
    rig.now += 90
    rig.switch.turn()
    assert rig.phase() == "draining" and "counts for no deadline" in capsys.readouterr().out
    rig.requests.clear()
    for _ in range(5):
        rig.now += 0.3
        rig.switch.turn()
    assert rig.phase() == "draining", "nobody has followed since"
    rig.turns(lambda: rig.follow()["code"] == 0)
    assert rig.phase() == "prepared"


def test_what_a_client_that_has_gone_had_asked_for_is_not_done(rig: Rig) -> None:
    def gone() -> bool:
        return True

    told = rig.switch.answer({"verb": "prepare", "plan": raw_plan()}, gone)
    assert told["code"] == asking.UNAVAILABLE and rig.switch.state.transaction is None
    rig.ask("prepare", raw_plan())
    before = rig.switch.state
    rig.now += 2
    assert rig.switch.answer({"verb": "follow", "engine": ""}, gone)["code"] == asking.UNAVAILABLE
    assert rig.switch.state == before
    rig.turns(lambda: rig.phase() == "draining")
    came = iter([False, True])  # it was there, and had hung up when there was something to say
    told = rig.switch.answer({"verb": "follow", "engine": ""}, lambda: next(came))
    assert told == {"lines": [daemon.STALLED], "code": asking.UNAVAILABLE}
    assert rig.follow()["lines"][0].startswith("checked"), "what it did not hear is told to the next"


def test_what_a_coordinator_asked_before_a_stall_is_not_done_since_it_may_have_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection stays open: `docker exec` leaves the CLI in the container when its client is killed."""

    def asked(verb: str, ago: float, **more: Any) -> int:
        return int(rig.switch.answer({"verb": verb, "at": time.monotonic() - ago, **more})["code"])

    late = daemon.LATE_SECONDS + 1
    assert asked("prepare", late, plan=raw_plan()) == asking.UNAVAILABLE
    assert rig.switch.state.transaction is None
    assert asked("prepare", 0, plan=raw_plan()) == 0
    rig.requests["ollama-1"] = 1
    rig.turns(lambda: rig.phase() == "draining")
    assert asked("follow", 0, engine="") == 75
    rig.now += 2
    before = rig.switch.state
    assert asked("follow", late, engine="") == asking.UNAVAILABLE
    assert rig.switch.state == before, "its lease is as it was"
    monkeypatch.setattr(daemon, "POLL_SECONDS", 1.5)
    assert asked("follow", daemon.LATE_SECONDS - 1, engine="") == asking.UNAVAILABLE, "late by the end of it"
    assert asked("abandon", late, engine=NEW) == 0, "what leads back is done whenever it comes"


@pytest.mark.parametrize("verb", ["prepare", "follow"])
def test_what_a_coordinator_asked_while_the_disk_stalled_is_not_done_after_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The switch was not stopped: it waited for a state to be written before it could take in another one."""
    stalls, goes_on, write = threading.Event(), threading.Event(), rig.journal.write

    def stalled(state: State) -> None:
        stalls.set()
        assert goes_on.wait(60)
        write(state)

    if verb == "follow":
        rig.requests["ollama-1"] = 1
        rig.ask("prepare", raw_plan())
        rig.turns(lambda: rig.phase() == "draining")
    monkeypatch.setattr(daemon, "LATE_SECONDS", 0.3)
    with ThreadPoolExecutor() as beside:
        monkeypatch.setattr(rig.journal, "write", stalled)
        rig.docker.boxes[OLD_GATEWAY] = box(OLD_GATEWAY, "gateway")  # something to write down
        rig.now += 2
        writes = beside.submit(rig.switch.turn)
        assert stalls.wait(60)
        asked = {"verb": verb, "plan": raw_plan(), "engine": "", "at": time.monotonic()}
        told = beside.submit(rig.switch.answer, asked)
        time.sleep(0.6)
        goes_on.set()
        writes.result()
        assert told.result() == {"lines": [daemon.STALLED], "code": asking.UNAVAILABLE}
    change = rig.switch.state.transaction
    assert change is None if verb == "prepare" else change and change.lease < rig.now + 15


def test_what_follows_at_once_is_told_in_one_answer_and_an_end_is_waited_for_no_longer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "POLL_SECONDS", 60)
    monkeypatch.setattr(daemon, "GATHER_SECONDS", 60)
    rig.requests["ollama-1"] = 1
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "draining")
    with ThreadPoolExecutor() as beside:
        reply = beside.submit(rig.follow)
        time.sleep(0.1)
        rig.requests.clear()
        rig.turns(reply.done)
    told = reply.result()
    assert told["code"] == 0 and told["lines"][0].startswith("checked") and "gate 3/3" in told["lines"][-2]


def test_the_cli_says_when_it_asked(rig: Rig, tmp_path: Path) -> None:
    heard, path = list[dict[str, Any]](), tmp_path / "s.sock"

    def answer(request: dict[str, Any], gone: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        heard.append(request)
        return {}

    rig.switch.answer = answer  # type: ignore[method-assign]
    server = daemon.listen(rig.switch, path)
    try:
        asking.ask(path, {"verb": "follow"})
    finally:
        server.shutdown()
        server.server_close()
    assert 0 <= time.monotonic() - heard[0]["at"] < 60


def test_a_client_that_hangs_up_on_the_socket_is_known_to_have_gone(rig: Rig, tmp_path: Path) -> None:
    path, answered = tmp_path / "s.sock", list[bool]()

    def answer(request: dict[str, Any], gone: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        answered.append(gone())
        end = time.monotonic() + 20
        while not gone() and time.monotonic() < end:
            time.sleep(0.01)
        answered.append(gone())
        return {}

    rig.switch.answer = answer  # type: ignore[method-assign]
    server = daemon.listen(rig.switch, path)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asking, "ANSWER_SECONDS", 0.5)
            with pytest.raises(TimeoutError, match="the switch gives no answer"):
                asking.ask(path, {"verb": "follow"})
        end = time.monotonic() + 20
        while len(answered) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert answered == [False, True]
    finally:
        server.shutdown()
        server.server_close()


def test_a_switch_that_accepts_no_connection_any_more_gives_no_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stopped, contextlib.ExitStack() as waiting:
        stopped.bind(str(tmp_path / "s.sock"))
        stopped.listen(1)
        for _ in range(2):
            waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "s.sock"))
        with pytest.raises(TimeoutError, match="the switch gives no answer"):
            asking.ask(tmp_path / "s.sock", {"verb": "follow"}, patience=0)


def test_a_coordinator_follows_its_own_change_only(rig: Rig) -> None:
    rig.switch.answer({"verb": "prepare", "plan": raw_plan(), "change": "mine"})
    assert rig.follow(change="mine")["code"] == 75
    told = rig.follow(change="another's")
    assert told["code"] == 1 and "has taken the place" in told["lines"][0]


def test_a_certificate_is_printed_for_its_own_change_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def proof(change: str) -> tuple[int, str]:
        monkeypatch.setattr(verbs, "ask", lambda *_: json.loads(json.dumps(rig.switch.answer(STATE))))
        capsys.readouterr()
        return cli.main(["certificate", "--change", change]), capsys.readouterr().out

    rig.switch.answer({"verb": "prepare", "plan": raw_plan(), "change": "first"})
    rig.turns(lambda: rig.phase() == "prepared")
    rig.switch.answer({"verb": "abandon", "engine": NEW})
    rig.turns(lambda: rig.phase() == "failed")
    assert proof("first")[0] == 0 and "certificate: " in proof("first")[1]
    rig.switch.answer({"verb": "prepare", "plan": raw_plan(), "change": "second"})
    assert proof("second") == (1, "certificate: this change has not ended yet\n")
    rig.turns(lambda: rig.phase() == "prepared")
    rig.switch.answer({"verb": "abandon", "engine": NEW})
    rig.turns(lambda: rig.phase() == "failed")
    assert proof("second")[0] == 0 and proof("first")[0] == 1
    of_second = proof("second")[1]
    assert "unchanged" not in of_second
    unchanged = {"verb": "commit", "plan": raw_plan(OLD, gateway=OLD_GATEWAY), "change": "third"}
    rig.switch.answer(unchanged)
    code, said = proof("third")
    assert code == 0 and said == f"unchanged since the last change, which was:\n{of_second}"
    assert answers.certificate_in(said) == answers.certificate_in(of_second), "the stack's output stays"


def test_a_proxy_that_hangs_is_started_anew(rig: Rig) -> None:
    rig.pulse.hung[PROXY] = "it has not answered for 45 s (no answer)"
    rig.turns(lambda: bool(rig.docker.orders))
    rig.pulse.hung.clear()
    rig.turns(lambda: not rig.switch.state.terminating)
    assert rig.docker.orders == [f"restart {PROXY}"] and rig.route["held_since"] is None


def test_a_docker_that_gives_no_answer_is_nobodys_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    start, image_of, stalls = rig.docker.start, rig.docker.image_of, [0, 0]

    def stalled_start(name: str) -> None:
        if name == NEW and stalls[0] < 2:
            stalls[0] += 1
            raise TimeoutError("timed out")
        start(name)

    def stalled_check(name: str) -> str:
        if stalls[1] < 2:
            stalls[1] += 1
            raise TimeoutError("timed out")
        return image_of(name)

    monkeypatch.setattr(rig.docker, "start", stalled_start)
    monkeypatch.setattr(rig.docker, "image_of", stalled_check)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() in ("prepared", "failed"))
    assert rig.phase() == "prepared" and stalls == [2, 2]


@pytest.mark.parametrize("call", ["has_image", "create", "put", "start", "wait", "logs", "remove"])
def test_a_docker_that_gives_no_answer_while_a_config_is_checked_is_nobodys_fault(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    asked, stalls = getattr(rig.docker, call), list[str]()

    def stalled(name: str, *words: Any, **more: Any) -> Any:
        if name != NEW and len(stalls) < 2:
            stalls.append(name)
            raise TimeoutError("timed out")
        return asked(name, *words, **more)

    rig.docker.ended = True
    rig.docker.exit_code = 1 if call == "logs" else 0  # what it said is asked of one that refuses its config
    monkeypatch.setattr(rig.docker, call, stalled)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() in ("prepared", "failed"))
    assert len(stalls) == (1 if call == "wait" else 2), "one that has ended need not be waited for again"
    if call == "logs":
        assert "the gateway refuses its config" in rig.error()
    else:
        assert rig.phase() == "prepared"


def test_a_gateway_that_reads_its_config_for_ever_fails_the_check(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(name: str, timeout: float) -> int:
        raise TimeoutError("timed out")

    monkeypatch.setattr(rig.docker, "wait", silent)
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() in ("prepared", "failed"))
    assert "gateway:1 did not finish reading its config in 60 s" in rig.error()


def test_the_switchs_clock_goes_on_steadily_when_somebody_sets_the_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, began = daemon.steady(), time.time()
    for jump in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda jump=jump: began + jump)
        assert abs(clock() - began) < 600


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_jumps_over_a_restart_of_the_switch_ends_no_hold_late(rig: Rig, jump: float) -> None:
    rig.now = 1e9
    rig.boot()
    rig.ask("prepare", raw_plan())
    rig.turns(lambda: rig.phase() == "stopping")
    rig.now += jump
    began = rig.now
    rig.boot()
    rig.turns(lambda: rig.phase() == "failed")
    assert rig.now - began < 100 and rig.docker.boxes[OLD].running and rig.route["held_since"] is None


@pytest.mark.parametrize("phase", ["serving", "draining", "loading", "prepared"])
def test_after_a_reboot_what_served_is_started_and_gated_before_requests_flow(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Every container has ended, Docker starts no engine, and the monotonic clock begins at 0."""
    rig.now, booted = 1e9, [1e9 - 5e5]
    host = SimpleNamespace(time=lambda: rig.now, monotonic=lambda: rig.now - booted[0], sleep=time.sleep)
    monkeypatch.setattr(daemon, "time", host)
    rig.boot(daemon.steady())
    if phase != "serving":
        rig.requests["ollama-1"] = int(phase == "draining")
        rig.ask("prepare", raw_plan())
        rig.turns(lambda: rig.phase() == phase)
    for name in rig.docker.boxes:
        rig.docker._set(name, running=name == PROXY, started_at="the second boot")
    rig.requests.clear()
    rig.docker.orders.clear()
    rig.now += 60
    booted[0] = began = rig.now
    rig.boot(daemon.steady())
    assert rig.route["held_since"], "nothing is asked that does not run"
    ended = "" if phase == "serving" else "failed"
    rig.turns(lambda: rig.route["held_since"] is None and rig.phase() == ended)
    assert rig.now - began < 120, "it waits for no time of the clock before"
    assert rig.docker.boxes[OLD].running and rig.docker.boxes[OLD_GATEWAY].running
    assert f"start {NEW}" not in rig.docker.orders and not rig.docker.boxes[NEW].running
    active = rig.switch.state.active
    assert active and active.gated_at == rig.docker.boxes[OLD].started_at


def test_an_engine_that_has_lost_the_gpu_is_said_to_have(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.switch.result(Action("logs", NEW)).text == f"{NEW} said this"
    lost = "RuntimeError: Failed to initialize NVML: Unknown Error"
    monkeypatch.setattr(rig.docker, "logs", lambda name, lines: lost)
    first, second = rig.switch.result(Action("logs", NEW)).text.splitlines()
    assert first == lost
    assert "Containers on this host have lost the GPU" in second
