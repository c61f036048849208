"""What a sweep counts, and that it says what an engine does."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT
from measure.levels import cells, judged, percentile, row
from measure.meter import summary
from measure.picture import WIDTH, over_time, picture
from tests.support.project import free_port
from tests.support.way import eventually


def event(text: str = "", finish: str | None = None, **more: object) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}], **more})


def used(tokens: int, prompt: int = 5) -> str:
    usage = {"completion_tokens": tokens, "prompt_tokens": prompt}
    return json.dumps({"choices": [], "usage": usage})


def stream(*said: str) -> list[tuple[float, str]]:
    """Events half a second apart, the first after one."""
    return [(1 + n / 2, each) for n, each in enumerate(said)]


def test_tokens_are_those_of_the_usage_and_not_the_events() -> None:
    whole = stream(event(), event("a b c"), event("d"), event("", "length"), used(4), "[DONE]")
    found = judged(whole, 4)
    assert found == {"first": 1.5, "last": 2.0, "tokens": 4, "prompt": 5, "problem": ""}


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ((event("a"), event("b"), used(4), "[DONE]"), "cut: no finish_reason"),
        ((event("a"), event("", "length"), used(4)), "cut: no [DONE]"),
        ((event("a"), event("", "length"), used(3), "[DONE]"), "3 tokens of 4, and finish_reason is length"),
        ((event("a"), event("", "length"), "[DONE]"), "0 tokens of 4, and finish_reason is length"),
        ((event("a"), event("", "stop"), used(5), "[DONE]"), "5 tokens of 4, and finish_reason is stop"),
        ((event("a"), event("", "abort"), used(4), "[DONE]"), "finish_reason is abort"),
        ((event("", "length"), used(4), "[DONE]"), "no text"),
        (('{"error": {"message": "dead"}}', "[DONE]"), 'an error in the stream: {"message": "dead"}'),
        (('{"error": "dead"}', '{"error": "gone"}', "[DONE]"), 'an error in the stream: "dead"'),
        ((), "cut: no [DONE]"),
    ],
)
def test_a_stream_that_is_not_whole_is_bad_whatever_its_status(said: tuple[str, ...], problem: str) -> None:
    assert judged(stream(*said), 4)["problem"] == problem


def test_an_answer_may_end_before_its_limit_where_it_says_so() -> None:
    assert judged(stream(event("a"), event("", "stop"), used(3), "[DONE]"), 4)["problem"] == ""


def asked(began: float, first: float, ended: float, problem: str = "") -> dict[str, object]:
    times = {"began": began, "first": first, "last": ended, "ended": ended}
    return {**times, "tokens": 11, "prompt": 7, "problem": problem}


def test_a_level_is_counted_from_its_first_request_to_the_end_of_its_last() -> None:
    level = row([asked(10, 11, 12), asked(10, 12, 14), asked(12, 13, 15)], 2)
    assert level["seconds"] == 5 and level["rate"] == pytest.approx(33 / 5)
    assert (level["user"], level["user_p5"]) == pytest.approx((11 / 3, 11 / 4))
    assert (level["first_p50"], level["first_p95"]) == (1, 2)
    assert level["token"] == pytest.approx(0.2)
    assert (level["answers"], level["bad"], level["tokens"], level["prompt"]) == (3, 0, 11, 7)


@pytest.mark.parametrize("number", [1, 8, 12, 16, 20, 32, 40, 64, 80, 128])
def test_95_of_100_are_never_fewer_however_few_were_asked(number: int) -> None:
    values = [float(each) for each in range(number)]
    late, slow = percentile(values, 95), percentile(values, 5)
    assert sum(each <= late for each in values) >= 0.95 * number
    assert sum(each >= slow for each in values) >= 0.95 * number
    assert percentile(values, 50) == (number - 1) // 2 and percentile(values, 100) == number - 1


def test_what_is_bad_has_taken_its_time_and_given_nothing() -> None:
    level = row([asked(0, 1, 2), asked(0, 1, 4, "cut: no finish_reason"), asked(0, 1, 1, "HTTP 503")], 3)
    assert level["rate"] == pytest.approx(11 / 4)
    assert level["bad"] == 2 and level["problems"] == {"HTTP 503": 1, "cut: no finish_reason": 1}


def test_a_level_without_one_good_answer_has_no_figures() -> None:
    level = row([asked(0, 1, 2, "HTTP 500")], 1)
    assert level["rate"] is None and level["bad"] == 1
    assert cells({"engine": "vllm", "way": "itself", **level})[5:] == ["-"] * 10


def test_levels_that_an_older_version_has_kept_can_still_be_read() -> None:
    level = {"engine": "vllm", "way": "itself", **row([asked(0, 1, 2)], 1)}
    del level["user_p5"]
    assert cells(level)[5:8] == ["5.5", "5.5", "-"]
    assert picture([level]).count("<polyline") == 2


def test_the_card_is_told_as_busy_at_a_power_and_with_the_most_memory() -> None:
    lines = ["0, 50, 40.5, 1000", "0, 70, 59.5, 3000", "1, 20, [N/A], 10", "1, 20, [N/A], 20"]
    assert summary(lines) == {"busy": 40, "power": 50, "memory": 3020}
    assert summary(["0, 50, 40, 1", "1, 50, 60, 1"])["power"] == 100
    assert summary([]) == {}


def listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port)).close()
    return True


def test_a_sweep_of_an_engine_prints_a_row_for_each_level_with_what_that_engine_does(tmp_path: Path) -> None:
    """The test engine gives a token every 10 ms, to everybody at once."""
    port, lines, svg = free_port(), tmp_path / "levels.jsonl", tmp_path / "levels.svg"
    environment = {**os.environ, "FAST_PORT": str(port), "FAST_TOKENS": "0.01"}
    program = str(ROOT / "tests/support/fast_engine.py")
    with subprocess.Popen([sys.executable, program], env=environment) as engine:
        try:
            words = ["--url", f"http://127.0.0.1:{port}/v1", "--levels", "1,4", "--tokens", "20"]
            more = ["--prompt", "50", "--least", "4", "--each", "1", "--name", "vllm"]
            command = [sys.executable, "-m", "bench.sweep", *words, *more]
            files = ["--json", str(lines), "--picture", str(svg)]
            eventually(lambda: listens(port))
            done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
        finally:
            engine.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    levels = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(each["users"], each["answers"], each["bad"], each["tokens"]) for each in levels] == [
        (1, 4, 0, 20),
        (4, 4, 0, 20),
    ]
    assert all(abs(each["prompt"] - 50) <= 4 for each in levels), "about as long as was asked for"
    one, four = (each["rate"] for each in levels)
    assert one < 100 and one < four < 400, "a user gets less than 100 tokens a second here"
    assert len(re.findall(r"^\| vllm \|", done.stdout, re.M)) == 2
    assert "vllm, http" in done.stderr and "4 users: " in done.stderr
    assert svg.read_text().count("<polyline") == 3


@pytest.mark.parametrize(
    ("most", "scale"),
    [
        (626.9, ["0", "200", "400", "600", "800"]),
        (11.99, ["0", "3", "6", "9", "12"]),
        (0.114, ["0", "0.03", "0.06", "0.09", "0.12"]),
        (1000.0, ["0", "250", "500", "750", "1000"]),
    ],
)
def test_the_scale_of_a_picture_has_round_numbers(most: float, scale: list[str]) -> None:
    said = re.findall(r">([\d.]+)</text>", over_time({"busy, %": {"CPU": [(0.0, 0.0), (0.5, most)]}}, []))
    assert said[:5] == scale


def test_a_level_that_has_no_figure_is_missing_in_the_picture() -> None:
    level = {"engine": "vllm", "way": "itself", **row([asked(0, 1, 2, "HTTP 500")], 1)}
    assert "<polyline" not in picture([level])


def test_the_name_of_a_span_at_the_right_end_is_inside_the_picture() -> None:
    spans = [(0.0, 50.0, "Ollama is measured", False), (99.0, 100.0, "restoring", True)]
    drawn = over_time({"busy, %": {"": [(0.0, 50.0), (100.0, 50.0)]}}, spans)
    last = re.search(r'<text x="([\d.]+)"[^>]*text-anchor="(\w+)"[^>]*>restoring', drawn)
    assert last is not None and last[2] == "end" and float(last[1]) <= WIDTH
    first = re.search(r'text-anchor="(\w+)"[^>]*>Ollama is measured', drawn)
    assert first is not None and first[1] == "start"
