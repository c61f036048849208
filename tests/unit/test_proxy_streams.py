"""A stream on its way, held against streams that are made up, whose events know what has to come of them.

Nothing is parsed here. An event is made twice from the same draws, with the engine's name for its model and
with the name that the client asked for. It says whether it is a usage that only the proxy wanted, which
tokens it counts, and whether it is one of the answer's own.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from proxy.answers import Events, Usage

OWN, ASKED = "tiny", "Qwen/a-name:7b"
"""The model's name at the engine, and the one that the client asked for."""
ENDS = (b"\n", b"\r\n", b"\r")
"""Ends of a line, of which an event has one kind."""
TEXTS = ("a", '"usage"', "data: [DONE]", "\n\n", "größe 🙂", "tiny", '{"model":"tiny"}', "\u2028", "\\")
"""Of which an answer's text is made: also what would be something else outside of it."""
ODD = ("", " ", "{", "[]", "7", "null", '"usage"', '{"usage":', '{"model":"tiny"', "[DONE] ", "\\", "tiny")
"""Data that is no JSON object."""

Named = Callable[[str], dict[str, Any]]
"""What an event says, with the model's name in it."""
Count = tuple[int | None, int | None]
"""Tokens of the prompt and of the answer, as far as an event says them."""
NOTHING: Count = (None, None)


@dataclass(frozen=True)
class Event:
    """`before`, `data` and `after` are its bytes as the engine says them, and `renamed` is what becomes of
    `data` for a client that asked for another name. `extra`: it is left out where only the proxy wanted it.
    `zeros`: so much of it is left out there.
    """

    before: bytes
    data: bytes
    after: bytes
    renamed: bytes
    counts: bool = True
    extra: bool = False
    usage: Count = NOTHING
    zeros: bytes = b""

    def out(self, *, adds_usage: bool, asked: str) -> bytes:
        if self.extra and adds_usage:
            return b""
        data = self.data if asked == OWN else self.renamed
        data = data.replace(self.zeros, b"", 1) if adds_usage else data
        return self.before + data + self.after


class Maker:
    """Makes the events of one stream."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def events(self) -> Iterator[Event]:
        made = (self.token, self.token, self._zeros, self._usage, self._usage, self._nested, self._error)
        for _ in range(self._chance.randrange(1, 12)):
            yield self._chance.choice((*made, self._other, self._odd, self._lines, self._silent))()
        if self._chance.random() < 0.7:
            yield self._framed(b"[DONE]", counts=False)

    def token(self) -> Event:
        """With a usage that says nothing, or what was used so far, as vLLM can."""
        counted, used = self._count()
        more: dict[str, Any] = self._chance.choice([{}, {"usage": None}, {"usage": counted}])
        inside: dict[str, Any] = self._chance.choice([{}, {"model": OWN}])
        text = "".join(self._chance.choices(TEXTS, k=self._chance.randrange(4)))
        choice = {"index": 0, "delta": {"content": text}, **inside}
        return self._said(
            lambda name: {"id": "1", "model": name, "choices": [choice], **more},
            usage=used if more.get("usage") else NOTHING,
        )

    def _count(self) -> tuple[dict[str, Any], Count]:
        """A usage in any of the protocols' words; what of it is no number of tokens says nothing."""
        names = self._chance.choice(
            (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
        )
        said: dict[str, Any] = {
            name: self._chance.choice([0, 1, 7, 10**9, -1, 1.5, "3", True, None])
            for name in names
            if self._chance.random() < 0.8
        }
        prompt, completion = (
            said[name] if type(said.get(name)) is int and said[name] >= 0 else None for name in names
        )
        return {**said, "total_tokens": 8}, (prompt, completion)

    def _said(self, make: Named, *, extra: bool = False, usage: Count = NOTHING) -> Event:
        """An object as the engine says it, and for a client that asked for the other name."""
        separators = self._chance.choice(((",", ":"), (", ", ": "), (" ,", "  :\t")))
        plain, order = self._chance.random() < 0.5, self._chance.random()

        def said(name: str) -> bytes:
            members = list(make(name).items())
            shuffled = dict(random.Random(order).sample(members, len(members)))
            return json.dumps(shuffled, separators=separators, ensure_ascii=plain).encode()

        return self._framed(said(OWN), said(ASKED), counts=not extra, extra=extra, usage=usage)

    def _framed(
        self,
        data: bytes,
        renamed: bytes | None = None,
        *,
        counts: bool = True,
        extra: bool = False,
        usage: Count = NOTHING,
    ) -> Event:
        """With other lines around the data: comments, names, what nobody knows."""
        end = self._chance.choice(ENDS)
        others = [b": data: {}", b': "usage"', b"event: message", b"id: 7", b"retry: 3", b"dataset: {}"]
        before = [line + end for line in self._chance.sample(others, self._chance.choice((0, 0, 1, 2)))]
        after = [line + end for line in self._chance.sample(others, self._chance.choice((0, 0, 1)))]
        return Event(
            before=b"".join([*before, self._chance.choice((b"data: ", b"data:"))]),
            data=data,
            after=b"".join([end, *after, end]),
            renamed=data if renamed is None else renamed,
            counts=counts,
            extra=extra,
            usage=usage,
        )

    def _usage(self) -> Event:
        """Nothing but a usage, or something that is like it."""
        counted, used = self._count()
        there: dict[str, Any] = {"choices": []}
        choices = self._chance.choice([there, there, {}, {"choices": None}])
        said: Any = self._chance.choice([counted, counted, None, [], 7])
        usage = used if said is counted else NOTHING
        return self._said(
            lambda name: {"model": name, **choices, "usage": said},
            extra=choices == there and usage != NOTHING,
            usage=usage,
        )

    def _zeros(self) -> Event:
        """As Ollama says them beside each piece of a completion where the usage is asked for."""
        first = self._chance.random() < 0.2
        zeros = b'"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
        zeros = zeros + b"," if first else b"," + zeros

        def said(name: str) -> bytes:
            rest = json.dumps(
                {"choices": [{"text": '"usage"'}], "model": name}, separators=(",", ":")
            ).encode()
            return b"{" + zeros + rest[1:] if first else rest[:-1] + zeros + b"}"

        return replace(self._framed(said(OWN), said(ASKED)), zeros=zeros)

    def _nested(self) -> Event:
        """The answer as it is so far, as responses and messages say it. A message says so when it begins,
        and has no tokens then."""
        where = self._chance.choice(("response", "message"))
        counted, used = self._count()
        said: Any = self._chance.choice([counted, None])
        if where == "message":
            used = (used[0], None)
        return self._said(
            lambda name: {
                "type": "x",
                where: {"id": "1", "model": name, "usage": said, "output": [{"model": OWN}]},
                "metadata": {"model": OWN},
            },
            usage=used if said is counted else NOTHING,
        )

    def _error(self) -> Event:
        quote = self._chance.choice(("'", "`", '"'))
        about = self._chance.choice(("message", "error"))

        def make(name: str) -> dict[str, Any]:
            text = f"The model {quote}{name}{quote} is not {OWN} any more."
            return {about: text if about == "message" else {"message": text, "code": 500}}

        return self._said(make)

    def _other(self) -> Event:
        """JSON in which nothing is the model's name."""
        said: dict[str, Any] = self._chance.choice(
            [{}, {"model": "other"}, {"model": None}, {"model": [OWN]}, {"x": {"model": OWN}}]
        )
        return self._said(lambda _: said)

    def _odd(self) -> Event:
        return self._framed(self._chance.choice(ODD).encode() + self._chance.choice((b"", b"\xff")))

    def _lines(self) -> Event:
        """Several lines of data: what they say together is as it was."""
        end = self._chance.choice(ENDS)
        used = b'{"choices":[],"usage":{"prompt_tokens":3}}'
        first = self._chance.choice((b'{"model":"tiny",', b'{"model":"tiny"}', used))
        data = first + end + b'data: "usage":{}}'
        return Event(b"data: ", data, end * 2, data)

    def _silent(self) -> Event:
        """No data at all."""
        end = self._chance.choice(ENDS)
        line = self._chance.choice((b": it lives" + end, b": data: {}" + end, b"event: ping" + end, b""))
        return Event(line, b"", end * (1 if line else 2), b"", counts=False)


def latest(said: list[int | None]) -> int | None:
    """The last that is known."""
    return next((each for each in reversed(said) if each is not None), None)


@pytest.mark.parametrize("asked", [OWN, ASKED], ids=["own name", "another name"])
@pytest.mark.parametrize("adds_usage", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_each_event_comes_out_as_it_must_however_the_stream_is_cut(
    seed: int, adds_usage: bool, asked: str
) -> None:
    chance, left_out = random.Random(seed), 0
    for _ in range(150):
        made = list(Maker(chance).events())
        left_out += sum(each.extra for each in made) if adds_usage else 0
        came = b"".join(each.before + each.data + each.after for each in made)
        expected = b"".join(each.out(adds_usage=adds_usage, asked=asked) for each in made)
        prompt, completion = (latest([each.usage[at] for each in made]) for at in (0, 1))
        events, at, out = Events(adds_usage, OWN, asked), 0, b""
        while at < len(came):
            size = chance.choice((0, 1, 1, 2, 3, 7, 40, 1000))
            out += events.feed(came[at : at + size])
            at += size
        assert out + events.end() == expected, came
        assert (events.usage, events.seen) == (Usage(prompt, completion), sum(each.counts for each in made))
    assert (left_out > 10) is adds_usage


@pytest.mark.parametrize("asked", [OWN, ASKED], ids=["own name", "another name"])
def test_what_is_left_of_a_stream_that_breaks_off_is_given_on_too(asked: str) -> None:
    chance = random.Random(12)
    for _ in range(300):
        event = Maker(chance).token()
        whole, cut = event.data, event.data[: chance.randrange(len(event.data))]
        for data, expected in ((whole, whole if asked == OWN else event.renamed), (cut, cut)):
            events = Events(True, OWN, asked)
            assert events.feed(event.before + data) + events.end() == event.before + expected
