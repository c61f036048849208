"""The engine made for tests does what a prompt tells it, in every protocol in which agents ask."""

from typing import Any

import pytest

from tests.support.fast_engine import prompt_of, told

CALL = '[[call read {"path": "a.txt"}]]'
TOOL = {"name": "read", "description": "", "parameters": {}}
FIRST: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": CALL}], "tools": [{"function": TOOL}]},
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": CALL}]}],
        "tools": [{"type": "function", **TOOL}],
    },
    "messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": CALL}]}],
        "tools": [{"name": "read", "input_schema": {}}],
    },
}
RESULT: dict[str, dict[str, Any]] = {
    "chat": {"role": "tool", "content": "grey"},
    "responses": {"type": "function_call_output", "output": "grey"},
    "messages": {
        "role": "user",
        "content": [{"type": "tool_result", "content": [{"type": "text", "text": "grey"}]}],
    },
}


def does(asked: dict[str, Any]) -> tuple[str, tuple[str, str] | None] | None:
    return told(asked, prompt_of(asked))


@pytest.mark.parametrize("protocol", FIRST)
def test_it_calls_the_tool_that_it_is_told_and_then_says_what_that_gave(protocol: str) -> None:
    asked = FIRST[protocol]
    assert does(asked) == ("", ("read", '{"path": "a.txt"}'))
    given = "input" if protocol == "responses" else "messages"
    assert does({**asked, given: [*asked[given], RESULT[protocol]]}) == ("read gave: grey", None)


def test_it_says_what_it_is_told_quoted_or_not_and_calls_nothing_that_it_was_not_given() -> None:
    for prompt in ('[[say "a b"]]', '"[[say \\"a b\\"]]"', 'First [[say "c"]], no: [[say "a b"]].'):
        assert told({}, prompt) == ("a b", None)
    assert told({}, CALL) == ("There is no read.", None)
    for prompt in ("Hello.", "[[say nothing]]", '[[say "a"', "[[call read {]]"):
        assert told({}, prompt) is None
