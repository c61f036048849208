"""What is written down of a request, and that nothing else is."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from proxy.answers import Events, Usage
from proxy.records import Books, RequestRecord
from proxy.usage import KEPT_FILES


def test_a_line_says_who_asked_what_and_how_it_went() -> None:
    record = RequestRecord(
        100.0, "/v1/chat/completions", tenant="acme", model="tiny", engine="vllm-1", stream=True
    )
    record.status, record.usage, record.held, record.first = 200, Usage(3, 2), 0.25, 100.5
    said = json.loads(record.line(102.0))
    assert said.pop("time").endswith("+00:00")
    assert said == {
        "tenant": "acme",
        "endpoint": "/v1/chat/completions",
        "model": "tiny",
        "engine": "vllm-1",
        "stream": True,
        "status": 200,
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "tokens": "reported",
        "first_ms": 500.0,
        "total_ms": 2000.0,
        "held_ms": 250.0,
        "hung_up": False,
        "cut": False,
    }


def test_an_answer_that_was_broken_off_counts_the_events_that_were_seen_and_says_so() -> None:
    record = RequestRecord(0.0, "/v1/chat/completions", events=7, hung_up=True, status=200)
    said = json.loads(record.line(1.0))
    assert (said["completion_tokens"], said["tokens"], said["prompt_tokens"]) == (7, "events", None)
    gone = json.loads(RequestRecord(0.0, "/v1/chat/completions", hung_up=True).line(1.0))
    assert (gone["status"], gone["completion_tokens"], gone["tokens"]) == (None, None, None)


def test_a_message_that_was_broken_off_counts_its_events_and_not_the_0_tokens_that_it_began_with() -> None:
    """Both engines begin a streamed message with its prompt's tokens and 0 of its answer."""
    begins = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 0}}}
    piece = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}
    ends = {"type": "message_delta", "usage": {"output_tokens": 5}}
    for said, tokens in (
        ([begins, piece, piece], (9, 3, "events")),
        ([begins, piece, ends], (9, 5, "reported")),
    ):
        events = Events(False, "tiny", "tiny")
        events.feed(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in said))
        record = RequestRecord(0.0, "/v1/messages", usage=events.usage, events=events.seen, status=200)
        line = json.loads(record.line(1.0))
        assert (line["prompt_tokens"], line["completion_tokens"], line["tokens"]) == tokens


def test_lines_go_to_dockers_log_and_into_the_volume_where_old_ones_are_let_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(KEPT_FILES + 3):
        old = tmp_path / f"access-{number}.log"
        old.write_text("old")
        os.utime(old, (number, number))
    books = Books(tmp_path, "host")
    books.enter(RequestRecord(0.0, "other", status=404), 1.0)
    books.close()
    line = capsys.readouterr().out
    assert (tmp_path / "access-host.log").read_text() == line
    assert len(list(tmp_path.iterdir())) == KEPT_FILES + 1
    assert not (tmp_path / "access-2.log").exists()


def test_counters_know_a_tenant_only_where_a_key_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    books = Books(None, "host")
    for known in (True, False):
        record = RequestRecord(
            0.0, "/v1/chat/completions", tenant="acme", known=known, engine="vllm-1", status=200
        )
        record.usage, record.first = Usage(3, 2), 0.5
        books.enter(record, 1.0)
    page = generate_latest(books.registry).decode()
    by = 'endpoint="/v1/chat/completions",engine="vllm-1"'
    for tenant in ("acme", "-"):
        assert f'changeover_requests_total{{{by},status="200",tenant="{tenant}"}} 1.0' in page
        assert f'changeover_tokens_total{{{by},kind="completion",tenant="{tenant}"}} 2.0' in page
        assert f'changeover_first_byte_seconds_count{{{by},tenant="{tenant}"}} 1.0' in page


def page(books: Books, *names: str) -> dict[str, float]:
    """The series of a scrape."""
    lines = (each for each in asyncio.run(books.exposed(names)).decode().splitlines() if each[0] != "#")
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def answered(books: Books, status: int = 200) -> None:
    books.enter(
        RequestRecord(0.0, "/v1/chat/completions", engine="vllm-1", status=status, cut=status == 200), 1.0
    )


def test_a_counter_is_zero_in_its_first_scrape_and_whole_in_every_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    by = 'endpoint="/v1/chat/completions",engine="vllm-1"'
    good, bad = (f'changeover_requests_total{{{by},status="{status}",tenant="-"}}' for status in (200, 500))
    cut, took = (f'changeover_{name}{{{by},tenant="-"}}' for name in ("cut_total", "request_seconds_count"))
    books = Books(None, "host")
    for _ in range(40):
        answered(books)
    assert page(books, "changeover_requests_total")[good] == 40
    seen = page(books)
    assert [seen[name] for name in (good, cut, took)] == [0, 0, 0]
    answered(books, 500)
    seen = page(books)
    assert [seen[name] for name in (good, bad, cut, took)] == [40, 0, 40, 41]
    assert page(books)[bad] == 1
    assert not any(name.partition("{")[0].endswith("_created") for name in page(books))


def test_an_engine_that_was_asked_once_says_0_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    books = Books(None, "host")
    books.at_engines({"ollama-1": 2})
    assert page(books)['changeover_running{engine="ollama-1"}'] == 2
    books.at_engines({"vllm-1": 1})
    seen = page(books)
    assert [seen[f'changeover_running{{engine="{name}"}}'] for name in ("ollama-1", "vllm-1")] == [0, 1]
