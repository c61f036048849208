"""Every turn of a conversation is known by its beginning, and two conversations are told apart."""

import json
from typing import Any

import pytest

from proxy.conversation import LOOK_BYTES, TEXT_BYTES, conversation
from proxy.reading import items, read

SYSTEM = {"role": "system", "content": "You are a pirate."}
ASKED = {"role": "user", "content": [{"type": "text", "text": "Where is it?"}, {"role": "assistant"}]}
SAID = {"role": "assistant", "content": "There, Cap'n ]}"}
THEN = {"role": "user", "content": "And now?"}


def of(**fields: Any) -> bytes:
    raw = json.dumps({"model": "tiny", "stream": True, **fields}).encode()
    return conversation(raw, read(raw))


@pytest.mark.parametrize("name", ["messages", "input"])
def test_a_later_turn_has_the_same_conversation_as_the_first(name: str) -> None:
    first = of(**{name: [SYSTEM, ASKED]})
    assert len(first) == 16
    for later in ([SAID], [SAID, THEN], [SAID, THEN, SAID, THEN]):
        assert of(**{name: [SYSTEM, ASKED, *later]}, temperature=0.5) == first


@pytest.mark.parametrize(
    "other", [[ASKED], [SYSTEM, THEN], [{**SYSTEM, "content": "You are not."}, ASKED], [SYSTEM, SAID, ASKED]]
)
def test_another_beginning_is_another_conversation(other: list[Any]) -> None:
    assert of(messages=other) != of(messages=[SYSTEM, ASKED])


def test_another_model_has_nothing_of_it() -> None:
    assert of(model="large", messages=[ASKED]) != of(messages=[ASKED])


def test_the_last_role_of_a_turn_counts_as_for_the_engines() -> None:
    raw = b'{"model":"tiny","messages":[{"role":"user","role":"system"},{"role":"user"},%s]}'
    one, other = raw % b"1", raw % b"2"
    assert conversation(one, read(one)) == conversation(other, read(other))
    without_question = b'{"model":"tiny","messages":[{"role":"system"},%s]}'
    one, other = without_question % b"1", without_question % b"2"
    assert conversation(one, read(one)) != conversation(other, read(other))


def test_a_text_that_goes_on_is_known_by_its_beginning() -> None:
    text = "x" * TEXT_BYTES
    assert of(prompt=text) == of(prompt=text + "y") != of(prompt="z" + text)


@pytest.mark.parametrize("fields", [{}, {"tools": []}])
def test_where_nothing_is_asked_there_is_no_conversation(fields: dict[str, Any]) -> None:
    assert of(**fields) == b""


@pytest.mark.parametrize("turns", [[], [1, None, "a", [[]], {}], {}, 7, None, "", [{"role": 7}], ["user"]])
def test_any_json_has_a_conversation(turns: Any) -> None:
    assert len(of(messages=turns)) == 16


def test_a_beginning_that_is_longer_than_what_is_looked_at_is_known_by_what_is() -> None:
    long = {"role": "user", "content": "x" * 2 * LOOK_BYTES}
    assert of(messages=[long]) == of(messages=[long, SAID, THEN])
    assert of(messages=[long]) != of(messages=[SYSTEM, long])


def test_items_are_those_of_the_list_alone() -> None:
    raw = b' [1 , [2,"]"] ,{"a":[3]}] , 4]'
    assert [raw[slice(*at)] for at in items(raw, 1)] == [b"1", b'[2,"]"]', b'{"a":[3]}']
    assert not list(items(b"[ ]", 0))
