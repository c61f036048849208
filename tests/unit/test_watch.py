"""The screen that follows a stack: its rates, and what it shows."""

import asyncio
import io
import os
import queue
import sys
from typing import Any

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from proxy.answers import Usage
from proxy.records import Books, RequestRecord
from switch import observe
from tools import rates, watch

GIB = 2**30


class Stack:
    """Proxies with the real books, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.proxies = {"proxy-1": Books(None, "host")}
        self.busy = self.ticks = 0

    def answer(
        self, *, proxy: str = "proxy-1", status: int = 200, first: float = 0.1, tokens: int = 5
    ) -> None:
        record = RequestRecord(
            0.0, "/v1/chat/completions", status=status, first=first, tenant="alice", known=True
        )
        record.usage = Usage(prompt=3, completion=tokens)
        self.proxies[proxy].enter(record, first)

    def line(self, **status: Any) -> dict[str, Any]:
        active = {"kind": "ollama", "model": "tiny", "since": 400.0}
        said = {"running": {"ollama-1": 3}, "held": 2, "tenants": {"alice": 4}, "waiting": {"bob": 2}}
        shown: dict[str, Any] = {
            "active": active,
            "gated": True,
            "gateway": "gateway-1",
            "containers": {"gateway-1": "running"},
            "under_way": None,
            "last": None,
            "held_since": None,
            "trouble": "",
            "silent": {},
            "journal": None,
            "proxies": dict.fromkeys(self.proxies, said),
            "memory": {"free": 4 * GIB, "size": 16 * GIB},
            "gpus": [],
            "disks": {"vllm": {"free": 10 * GIB, "size": 100 * GIB}},
        }
        return {
            "now": self.now,
            "status": {**shown, **status},
            "metrics": {name: generate_latest(each.registry).decode() for name, each in self.proxies.items()},
            "cpu": {"busy": self.busy, "all": self.ticks, "count": 4},
            "logs": {"switch": ["it was asked"], "engine": ["it loads"]},
        }

    def look(self) -> rates.Look:
        return rates.look(self.line())


def test_what_happened_is_counted_from_the_first_look_on() -> None:
    stack = Stack()
    stack.answer(tokens=1000)  # before anybody looked
    looks = [stack.look()]
    for number in range(20):
        stack.answer(first=0.2 if number < 18 else 3)
    stack.answer(status=503)
    stack.now, stack.busy, stack.ticks = stack.now + 10, 300, 1000
    looks.append(stack.look())
    minute = rates.minute(looks)
    assert (minute.seconds, minute.requests, minute.errors, minute.tokens) == (10, 21, 1, 105)
    assert minute.cpu == 0.3 and minute.tenants == {"alice": 21}
    p50, p95 = minute.first
    assert p50 is not None and p95 is not None and p50 < 0.3 and p95 > 1


def test_a_proxy_that_is_started_anew_or_another_one_takes_nothing_away_and_adds_nothing() -> None:
    stack = Stack()
    for _ in range(5):
        stack.answer()
    looks = [stack.look()]
    stack.proxies["proxy-1"] = Books(None, "host")
    for _ in range(2):
        stack.answer()
    looks.append(stack.look())
    stack.proxies["proxy-2"] = Books(None, "host")
    for _ in range(7):
        stack.answer(proxy="proxy-2")
    looks.append(stack.look())
    del stack.proxies["proxy-1"]
    stack.answer(proxy="proxy-2")
    looks.append(stack.look())
    assert rates.minute(looks).requests == 3


def test_what_a_proxy_counts_while_it_has_no_answer_ready_is_there_in_the_next_look() -> None:
    """One that says nothing within a second is left out of a line."""
    stack = Stack()
    looks = [stack.look()]
    for _ in range(4):
        stack.answer()
    proxies, stack.proxies = stack.proxies, {}
    looks.append(stack.look())
    stack.proxies = proxies
    stack.answer()
    looks.append(stack.look())
    assert rates.minute(looks).requests == 5


def test_a_clock_that_is_set_back_begins_another_minute() -> None:
    stack = Stack()
    looks: list[rates.Look] = []
    for now in (*range(5000, 5030), *range(1000, 1005)):
        stack.now = float(now)
        stack.answer()
        looks = rates.trimmed([*looks, stack.look()])
    minute = rates.minute(looks)
    assert (len(looks), minute.seconds, minute.requests) == (5, 4, 4)


def test_the_part_of_the_metrics_that_the_switch_asks_for_says_as_much_as_all_of_them() -> None:
    stack = Stack()
    books = stack.proxies["proxy-1"]
    for tenant, status, cut in (("alice", 200, False), ('b" ,le="2\\', 502, True)):
        record = RequestRecord(
            0.0, "/v1/chat/completions", status=status, first=0.2, tenant=tenant, known=True
        )
        record.usage, record.cut = Usage(prompt=3, completion=5), cut
        books.enter(record, 0.3)
    line = stack.line()
    part = asyncio.run(books.exposed(observe.NAMES)).decode()
    said = rates.look(line).counts["proxy-1"]
    assert rates.look({**line, "metrics": {"proxy-1": part}}).counts["proxy-1"] == said
    assert said["requests", "alice"] == said["requests", 'b" ,le="2\\'] == said["errors", ""] == 1
    assert (said["cut", ""], said["tokens", ""], said["first", "+Inf"]) == (1, 10, 2)
    assert said["first", "0.1"] == 0 and said["first", "0.3"] == 2
    assert len(part.splitlines()) < len(line["metrics"]["proxy-1"].splitlines()) / 2


def test_only_the_last_minute_counts() -> None:
    stack = Stack()
    looks: list[rates.Look] = []
    for _ in range(200):
        stack.now += 1
        stack.answer()
        looks = rates.trimmed([*looks, stack.look()])
    assert len(looks) == 61 and rates.minute(looks).requests == 60


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ({}, 0.5, None),
        ({1.0: 0, float("inf"): 0}, 0.5, None),
        ({1.0: 10, 2.0: 20, float("inf"): 20}, 0.5, 1.0),
        ({1.0: 10, 2.0: 20, float("inf"): 20}, 0.75, 1.5),
        ({1.0: 0, 2.0: 0, float("inf"): 4}, 0.95, 2.0),
    ],
)
def test_quantiles_are_those_of_prometheus(buckets: dict[float, float], share: float, value: float) -> None:
    assert rates.quantile(buckets, share) == value


def shown(line: dict[str, Any] | None, minute: rates.Minute, wrong: str = "", width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(watch.frame("local", line, minute, wrong, 40))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_frame_says_what_serves_what_comes_and_what_the_machine_does() -> None:
    said = shown(Stack().line(), rates.Minute(10, requests=20, tokens=50, first=(0.1, 0.5), cpu=0.25))
    for words in (
        "stack local",
        "serves   ollama  tiny",
        "since    10.0 min",
        "at the engine  3",
        "waiting        2",
        "alice          4 now, 0 ended",
        "bob            0 now, 2 waiting, 0 ended",
        "2.0 a second, 20 in all",
        "p50 0.10 s, p95 0.50 s",
        "5.0 a second",
        "25 %",
        "12.0 of 16.0 GiB",
        "log of the engine",
        "it loads",
    ):
        assert words in said, (words, said)


def test_panels_stand_in_pairs_and_a_bar_can_be_read_without_colours() -> None:
    said = shown(Stack().line(), rates.Minute(10, cpu=0.5))
    titles = [row for row in said.splitlines() if row.startswith("╭")]
    assert any("engine ─" in row and "requests ─" in row for row in titles)
    assert any("last 10 s ─" in row and "machine ─" in row for row in titles)
    assert f"{'━' * 7}{'─' * 7} 50 %" in said
    assert watch._bar(None, 0, "GiB").plain == "not known yet"
    assert watch._bar(1.0, 0, "GiB").plain == f"{'─' * 14} 1.0 of 0.0 GiB"
    assert watch._bar(120.0, 100, "%").plain == f"{'━' * 14} 120 %"


def test_who_waits_in_a_hold_is_held() -> None:
    said = shown(Stack().line(held_since=990.0), rates.Minute(10))
    assert "held           2" in said and "waiting        2" not in said


def test_each_look_is_a_frame_in_a_change_and_every_other_one_else() -> None:
    stack, moments = Stack(), dict[str, set[float]]()
    for stack.now in range(1000, 1010):
        for what, status in (
            ("quiet", {}),
            ("change", {"under_way": {"kind": "vllm"}}),
            ("hold", {"held_since": 1.0}),
        ):
            moments.setdefault(what, set()).add(watch.moment(stack.line(**status)))
    assert {what: len(found) for what, found in moments.items()} == {"quiet": 5, "change": 10, "hold": 10}


def test_a_change_its_clock_and_what_is_wrong_are_in_the_frame() -> None:
    steps = [{"phase": "draining", "seconds": 1.5}]
    change = {"kind": "vllm", "phase": "loading", "phase_seconds": 12.3, "seconds": 15.0, "steps": steps}
    stack = Stack()
    line = stack.line(
        under_way=change,
        held_since=990.0,
        trouble="vllm exited",
        silent={"gateway-1": "has not answered for 9 s"},
        proxies={"proxy-1": None},
        gated=False,
        gpus=[
            {"busy": 97.0, "free": GIB, "used": 14 * GIB, "size": 15 * GIB, "watts": 69.0, "celsius": None}
        ],
    )
    line["alerts"] = [{"name": "X", "severity": "warning", "summary": "The disk is nearly full", "since": ""}]
    said = shown(line, rates.Minute(1), "no answer for 11 s")
    for words in (
        "warning: The disk is nearly full",
        "to vllm: loading 12 s, 15 s in all",
        "draining 1.5 s",
        "vllm exited",
        "gateway-1 has not answered for 9 s",
        "proxy-1 does not answer",
        "no answer for 11 s",
        "not ready",
        "97 %",
        "14.0 of 15.0 GiB",
        "69 W, unknown °C",
    ):
        assert words in said, (words, said)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_of_a_frame_is_wider_than_the_terminal(width: int) -> None:
    line = Stack().line(trouble="x" * 300)
    line["logs"]["engine"] = ["y" * 500]
    assert max(map(len, shown(line, rates.Minute(3), width=width).splitlines())) <= width


def test_without_a_line_a_frame_says_why() -> None:
    assert "no switch of stack" in shown(None, rates.Minute(0), "no switch of stack `local` runs here")


def test_what_another_version_says_is_no_crash() -> None:
    assert "If it is of another version, run: pulumi up" in str(watch._read("usage: switch\n"))
    assert watch._read('{"error": "no answer"}') == "no answer"


def test_the_first_request_of_a_proxy_counts() -> None:
    stack = Stack()
    before = stack.look()
    stack.answer()
    stack.now += 1
    minute = rates.minute([before, stack.look()])
    assert minute.requests and minute.tokens and minute.first[0]


def test_a_terminal_that_has_gone_ends_it() -> None:
    reads, writes = os.pipe()
    assert watch.typed(reads, 0.01) == b""
    os.write(writes, b"x")
    assert watch.typed(reads, 1) == b"x"
    os.close(writes)
    assert watch.typed(reads, 1) == b"q"
    os.close(reads)


class Said:
    """The switch's lines of two looks, 4 s apart, in the place of a `Feed`."""

    def __init__(self, stack: str) -> None:
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        made = Stack()
        for made.now in (1000.0, 1004.0):
            self.lines.put(made.line())

    def __enter__(self) -> "Said":
        return self

    def __exit__(self, *raised: object) -> None:
        pass


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("output", "once", "frames"),
    [(Terminal, "1", 1), (io.StringIO, "", 1), (Terminal, "", 0), (Terminal, "0", 0)],
)
def test_once_prints_one_frame_in_a_terminal_too_and_nothing_else_stops_it_from_following(
    output: type[io.StringIO], once: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = list[str]()
    monkeypatch.setattr(watch, "Feed", Said)
    monkeypatch.setattr(watch, "follow", lambda stack, *_: followed.append(stack))
    monkeypatch.setattr(sys, "stdout", out := output())
    monkeypatch.setenv("ONCE", once)
    watch.watch("local")
    assert out.getvalue().count("stack local") == frames
    assert followed == ([] if frames else ["local"])
    assert "\x1b[?1049h" not in out.getvalue(), "a frame is printed, and no screen of its own is opened"
