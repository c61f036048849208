"""What each tenant has used, from the proxy's own log."""

import csv
import datetime
import json
import os
import random
from pathlib import Path

import pytest

from proxy import usage as summing
from proxy.answers import Usage
from proxy.protocols import CHAT, COUNT_TOKENS, EMBEDDINGS
from proxy.records import Books, RequestRecord
from tools import usage

LATER = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC).timestamp()
"""All days of these logs are over."""


def test_what_the_proxy_writes_is_what_is_summed(tmp_path: Path) -> None:
    rng = random.Random(5)
    books = Books(tmp_path, "one")
    wanted: dict[str, dict[str, int]] = {}
    for _ in range(300):
        tenant = rng.choice(["alice", "bob", "-"])
        record = RequestRecord(0.0, "/v1/chat/completions", tenant=tenant, engine="ollama-1", status=200)
        counts = wanted.setdefault(tenant, dict.fromkeys(summing.COUNTS, 0))
        counts["requests"] += 1
        match rng.choice(["reported", "cut", "failed", "silent"]):
            case "reported":
                record.usage = Usage(prompt=7, completion=rng.randrange(100))
                counts["prompt_tokens"] += 7
                counts["completion_tokens"] += record.usage.completion or 0
            case "cut":
                record.events, record.hung_up = rng.randrange(1, 50), True
                counts["events"] += record.events
                counts["hung_up"] += 1
            case "failed":
                record.status = rng.choice([400, 503])
                counts["failed"] += 1
            case "silent":
                counts["unknown"] += 1
        books.enter(record, 1.0)
    books.close()
    (tmp_path / "access-two.log").write_text('{"time": "2026-11-01T00:00:00.000+00:00", "ten')
    said = summing.summed(summing.lines(tmp_path))
    ((_, found),) = said["days"].items()
    assert found == wanted and said["unreadable"] == 1 and said["since"]


def test_each_line_is_there_once_also_where_the_files_get_other_names_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "access-one.log"
    for number, text in enumerate(("a\nb\n", "c\n", "d\n")):
        older = tmp_path / f"access-one.log{f'.{2 - number}' if number < 2 else ''}"
        older.write_text(text)
        os.utime(older, (number, number))
    reading = summing.lines(tmp_path)
    found = [next(reading)]
    for name, becomes in ((".2", ".3"), (".1", ".2"), ("", ".1")):
        Path(f"{file}{name}").rename(f"{file}{becomes}")
    file.write_text("e\n")
    assert [*found, *reading] == ["a\n", "b\n", "c\n", "d\n"], "as of the moment in which it began"


def test_an_answer_is_unknown_only_where_it_had_tokens_of_which_nobody_told(tmp_path: Path) -> None:
    books = Books(tmp_path, "one")
    for endpoint, prompt in ((EMBEDDINGS, 7), (EMBEDDINGS, None), (COUNT_TOKENS, None), (CHAT, None)):
        record = RequestRecord(0.0, endpoint, engine="ollama-1", status=200, usage=Usage(prompt=prompt))
        books.enter(record, 1.0)
    books.close()
    ((_, found),) = summing.summed(summing.lines(tmp_path))["days"].items()
    assert (found["-"]["prompt_tokens"], found["-"]["unknown"]) == (7, 2)


def test_a_log_of_which_a_proxy_has_dropped_its_oldest_file_is_known_from_there_on() -> None:
    log = [line("2026-11-01", "a", 1, 1), line("2026-11-03", "a", 1, 1)]
    assert summing.summed(log)["since"][:16] == "2026-11-01T10:00"
    dropped = datetime.datetime(2026, 11, 2, 12, tzinfo=datetime.UTC).timestamp()
    assert summing.summed(log, dropped)["since"][:16] == "2026-11-02T12:00"
    assert summing.summed([], dropped)["since"] == ""


def line(day: str, tenant: str, prompt: int, completion: int) -> str:
    return json.dumps(
        {
            "time": f"{day}T10:00:00.000+00:00",
            "tenant": tenant,
            "endpoint": CHAT,
            "status": 200,
            "engine": "ollama-1",
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "tokens": "reported",
            "hung_up": False,
        }
    )


def test_a_tenants_share_is_that_of_the_days_tokens_and_of_the_price() -> None:
    log = [line("2026-11-02", "a", 10, 20), line("2026-11-02", "b", 60, 10), line("2026-11-01", "a", 1, 1)]
    table = usage.rows(summing.summed(log)["days"], 0.5, LATER)
    assert [(row.day, row.tenant) for row in table] == [
        ("2026-11-01", "a"),
        ("2026-11-02", "b"),
        ("2026-11-02", "a"),
    ]
    assert [row.share for row in table] == pytest.approx([1, 0.7, 0.3])
    assert [row.usd for row in table] == pytest.approx([12, 8.4, 3.6])
    assert usage.rows(summing.summed(log)["days"], None, LATER)[0].usd is None


def test_of_today_only_the_hours_so_far_cost_something() -> None:
    days = summing.summed([line("2026-11-01", "a", 1, 1), line("2026-11-02", "a", 1, 1)])["days"]
    at_six = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC).timestamp()
    assert [row.usd for row in usage.rows(days, 0.5, at_six)] == pytest.approx([12, 3])
    assert usage.rows(days, 0.5, at_six - 24 * 3600)[1].usd == 0, "the host's clock may be ahead"


def test_the_csv_has_a_row_for_each_tenant_and_day_and_plain_numbers(tmp_path: Path) -> None:
    table = usage.rows(summing.summed([line("2026-11-02", "a", 10, 20)])["days"], 0.5, LATER)
    usage.write(tmp_path / "usage.csv", table)
    head, row = csv.reader((tmp_path / "usage.csv").read_text().splitlines())
    assert tuple(head) == usage.HEAD
    assert row == ["2026-11-02", "a", "1", "0", "0", "10", "20", "0", "0", "1.0", "12.0"]
    assert len(table[0].texts()) == len(usage.HEAD)


def test_of_no_tokens_at_all_there_is_a_share_of_nothing() -> None:
    (row,) = usage.rows(summing.summed([line("2026-11-02", "a", 0, 0)])["days"], 1.0, LATER)
    assert (row.share, row.usd) == (0.0, 0.0)
