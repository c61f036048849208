"""What there is to go back to, and the lines that make git agree."""

from typing import Any

import pytest

from review.history import NoWayBack, Update, lines, overrides, read, unfinished, way_back


def entry(result: str = "succeeded", commit: str = "c1", kind: str = "update", **more: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "version": 0,
        "startTime": "2026-11-24T20:36:07.000Z",
        "endTime": "2026-11-24T20:37:07.000Z",
        "message": "Say why\n\nat length",
        "environment": {"git.head": commit, "git.dirty": "false"},
        "result": result,
        "config": {
            "changeover:engine": {"value": more.pop("engine", "ollama"), "secret": False},
            "changeover:apiKeys": {
                "value": '{"acme":"k"}',
                "objectValue": {"acme": more.pop("key", "k")},
                "secret": True,
            },
            "aws:region": {"value": "eu-west-1", "secret": False},
        },
    }


def updates(*entries: dict[str, Any]) -> list[Update]:
    """Given the oldest first, as they happened; the CLI gives the newest first."""
    return read(list(reversed(entries)))


def test_updates_are_counted_and_previews_of_other_kinds_left_out() -> None:
    found = updates(entry(), entry(kind="refresh"), entry("failed", engine="vllm"))
    assert [each.number for each in found] == [1, 2]
    assert [each.ok for each in found] == [True, False]
    assert found[0].settings == {"engine": "ollama", "apiKeys": {"acme": "k"}}
    assert found[0].secret == {"apiKeys"}
    assert found[1].words.endswith("engine vllm, FAILED (Say why)")


def test_back_from_an_update_is_the_last_that_ran_something_else() -> None:
    found = updates(entry(), entry(engine="vllm"), entry(engine="vllm"))
    now, then = way_back(found)
    assert (now.number, then.number) == (3, 1)


def test_another_commit_with_the_same_settings_is_something_else() -> None:
    _, then = way_back(updates(entry(commit="c1"), entry(commit="c2")))
    assert then.commit == "c1"


def test_back_from_an_update_that_did_not_end_is_the_last_that_succeeded_though_it_is_the_newest() -> None:
    found = updates(entry(), entry(engine="vllm"), entry(commit="c2"))
    _, then = way_back(found, unfinished=True)
    assert then.number == 3


@pytest.mark.parametrize(
    ("written", "pending", "expected"),
    [
        ("2026-11-24T20:37:06.794083397Z", [], False),
        ("2026-11-24T20:37:08.5Z", [], False),
        ("2026-11-24T21:37:05.794083397+01:00", [], False),
        ("2026-11-24T20:39:00.794083397Z", [], True),
        ("2026-11-24T20:37:06.794083397Z", [{"type": "updating"}], True),
    ],
)
def test_an_update_that_did_not_end_is_known_by_the_state_that_it_left(
    written: str, pending: list[dict[str, str]], expected: bool
) -> None:
    state = {"manifest": {"time": written}, "pending_operations": pending}
    assert unfinished([entry()], state) is expected


def test_back_from_a_failed_update_is_what_ran_until_then_even_with_the_same_settings() -> None:
    found = updates(entry(engine="vllm"), entry(), entry("failed", engine="vllm"), entry("failed"))
    _, then = way_back(found)
    assert then.number == 2


def test_any_update_that_succeeded_can_be_named() -> None:
    found = updates(entry(), entry("failed"), entry(engine="vllm"))
    assert way_back(found, 1)[1].number == 1
    with pytest.raises(NoWayBack, match="TO=2 is not an update that succeeded; those that did are 1, 3"):
        way_back(found, 2)


@pytest.mark.parametrize("entries", [(), (entry(),), (entry(), entry()), (entry("failed"),)])
def test_nothing_to_go_back_to_is_said(entries: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(NoWayBack):
        way_back(updates(*entries))


def test_only_what_differs_from_the_defaults_is_written() -> None:
    then = {"engine": "vllm", "context": "4096", "standby": "true", "apiKeys": {}, "port": "18080"}
    defaults = {"context": 4096, "standby": True, "apiKeys": {}, "port": 8080}
    assert overrides(then, defaults) == {"engine": "vllm", "port": "18080"}


def test_the_lines_to_commit_are_those_that_differ() -> None:
    now = {"engine": "vllm", "context": 1024, "vllmFlags": ["--x"], "standby": True}
    then = {"engine": "ollama", "context": "1024", "port": "18080", "standby": "true"}
    assert lines(now, then) == [
        "-  changeover:engine: vllm",
        "+  changeover:engine: ollama",
        "+  changeover:port: 18080",
        "-  changeover:vllmFlags: ['--x']",
    ]
