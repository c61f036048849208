"""A load on an endpoint that counts a request good only when its whole answer came.

A status code proves nothing: a stream that was cut ends as HTTP 200 with `[DONE]`. What an answer has to
be is known exactly here, since the models under test never end by themselves and answer alike at temperature
0: `finish_reason` is `length`, the usage says as many tokens as were asked for, and a streamed answer has the
very text of one that came whole, in the same protocol; others have other words for `length`. A request that
its own client hung up on is none of these, and no loss.
"""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import aiohttp
import openai

from switch.protocols import CHAT, COMPLETIONS, MESSAGES, PROTOCOLS, RESPONSES, Broken, Said, TextProtocol

LIMIT = {
    CHAT.name: ("length",),
    COMPLETIONS.name: ("length",),
    RESPONSES.name: ("incomplete", "completed"),
    MESSAGES.name: ("max_tokens",),
}
"""By protocol, the words for an answer that ended since it had as many tokens as were asked for."""

PATIENCE = (-2.3, 0.5)
"""Powers of ten: a client that hangs up does so after 5 ms to 3 s, as often before 0.1 s as after it. So some
have no byte of their answer, held or not, and some have a part of it."""


FAILURES = (
    *(openai.OpenAIError, aiohttp.ClientError, TimeoutError, Broken),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),  # no answer of its protocol
)


@dataclass
class Outcome:
    """One request: when it began and how long it took (seconds, monotonic clock), and what went wrong.

    `aborted`: its client hung up on it, and until then nothing had gone wrong.
    """

    began: float
    took: float
    streamed: bool
    problem: str | None
    tokens: int
    content: str = ""
    aborted: bool = False
    protocol: str = CHAT.name
    client: int = 0

    @property
    def ended(self) -> float:
        return self.began + self.took

    @property
    def cut(self) -> bool:
        """Whether an answer had begun and then lacked something; else a bad request has failed outright."""
        return self.problem is not None and self.problem.startswith("cut")


@dataclass
class LoadGenerator:
    """`clients` tasks that ask one thing after another until stopped.

    Every other request is streamed, its length goes through `max_tokens`, and its protocol through
    `protocols`. Chat is asked by OpenAI's own client, and the others as bytes. Used as a context manager
    around what is to be survived. No client retries: the endpoint must hold.
    """

    endpoint: str
    model: str
    clients: int = 4
    max_tokens: Sequence[int] = (8, 96)
    api_key: str = "none"
    timeout: float = 300.0
    pause: float = 0.2
    """Seconds that a client thinks between two requests. Without it a few keep a small machine busy."""
    aborts: int = 0
    """Of so many requests of a client, one is hung up on by it, unless it is answered sooner; 0: of none."""
    protocols: Sequence[str] = (CHAT.name,)
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> "LoadGenerator":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def round(self) -> int:
        """After so many answers each client has had every kind of them once, if all are equally fast."""
        return self.clients * 2 * len(self.max_tokens) * len(self.protocols)

    @property
    def bad(self) -> list[Outcome]:
        """The requests that failed or were cut."""
        return bad(self.outcomes)

    @property
    def longest(self) -> float:
        """The longest request, in seconds."""
        return max(outcome.took for outcome in self.outcomes)

    @property
    def aborted(self) -> int:
        """How many requests their clients hung up on."""
        return sum(outcome.aborted for outcome in self.outcomes)

    def wait_for_answers(self, count: int, timeout: float = 120.0) -> None:
        """Return once `count` more requests have ended; raise TimeoutError otherwise."""
        goal = len(self.outcomes) + count
        deadline = time.monotonic() + timeout
        while len(self.outcomes) < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.outcomes)} of {goal} requests ended in {timeout} s")
            time.sleep(0.05)

    def summary(self) -> str:
        """One line, with the first problems in words."""
        lost = self.bad
        problems = "; ".join(sorted({str(outcome.problem) for outcome in lost})[:3])
        aborted = f"{self.aborted} aborted, " if self.aborts else ""
        counts = f"{len(self.outcomes)} sent, {aborted}{len(lost)} failed or cut"
        return f"{counts}, longest {self.longest:.1f} s {problems}".strip()

    async def _run(self) -> None:
        chat = openai.AsyncOpenAI(
            base_url=self.endpoint,
            api_key=self.api_key,
            max_retries=0,
            timeout=self.timeout,
        )
        raw = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.api_key}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_read=self.timeout),
            connector=aiohttp.TCPConnector(limit=0),
        )
        async with chat, raw:
            await asyncio.gather(*(self._client(chat, raw, number) for number in range(self.clients)))

    async def _client(self, chat: openai.AsyncOpenAI, raw: aiohttp.ClientSession, number: int) -> None:
        kinds = itertools.cycle(
            [
                (s, n, PROTOCOLS[name])
                for n in self.max_tokens
                for s in (True, False)
                for name in self.protocols
            ]
        )
        chance = random.Random(number)
        for streamed, tokens, protocol in itertools.islice(kinds, number, None):
            if self._stop.is_set():
                return
            aborts = self.aborts and chance.randrange(self.aborts) == 0
            patience = 10 ** chance.uniform(*PATIENCE) if aborts else None
            began, problem, aborted, pieces = time.monotonic(), None, False, list[str]()
            try:
                async with asyncio.timeout(patience):
                    if protocol is CHAT:
                        problem = await (self._stream if streamed else self._whole)(chat, tokens, pieces)
                    else:
                        problem = await self._other(raw, protocol, tokens, pieces, streamed=streamed)
            except FAILURES as error:
                aborted = type(error) is TimeoutError and patience is not None
                cut = "cut: " if pieces else ""
                problem = None if aborted else f"{cut}{type(error).__name__}: {error}"[:200]
            took = time.monotonic() - began
            text = "".join(pieces)
            self.outcomes.append(
                Outcome(began, took, streamed, problem, tokens, text, aborted, protocol.name, number)
            )
            await asyncio.sleep(self.pause)

    async def _whole(self, client: openai.AsyncOpenAI, tokens: int, pieces: list[str]) -> str | None:
        """What is wrong with an answer, whose text goes into `pieces`."""
        answer = await client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=tokens,
            temperature=0,
        )
        choice = answer.choices[0]
        pieces.append(choice.message.content or "")
        used = answer.usage.completion_tokens if answer.usage else None
        return _judge(pieces, choice.finish_reason, used, tokens)

    async def _stream(self, client: openai.AsyncOpenAI, tokens: int, pieces: list[str]) -> str | None:
        """The same of one that is streamed, whose text is in `pieces` as far as it came: something empty as
        soon as it begins."""
        finish, used = None, None
        chunks = await client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        pieces.append("")
        async with chunks:  # what is hung up on is closed at once
            async for chunk in chunks:
                used = chunk.usage.completion_tokens if chunk.usage else used
                for choice in chunk.choices:
                    pieces.append(choice.delta.content or "")
                    finish = choice.finish_reason or finish
        return _judge(pieces, finish, used, tokens)

    async def _other(
        self,
        raw: aiohttp.ClientSession,
        protocol: TextProtocol,
        tokens: int,
        pieces: list[str],
        *,
        streamed: bool,
    ) -> str | None:
        """The same of an answer in any protocol."""
        url = self.endpoint.removesuffix("/v1") + protocol.path
        ask = protocol.ask(self.model, "Count.", max_tokens=tokens, stream=streamed)
        async with raw.post(url, json=ask) as answer:
            if answer.status != 200:
                return f"HTTP {answer.status}: {await answer.text()}"[:200]
            if not streamed:
                said = protocol.read(await answer.json(content_type=None))
            else:
                said = Said()
                pieces.append("")
                async for line in answer.content:
                    if line.startswith(b"data:"):
                        protocol.hear(said, line.removeprefix(b"data:").strip())
                        pieces[0] = said.content
                if not said.ended:
                    return "cut: the stream has no end"
        pieces[:] = [said.content]
        return _judge(pieces, said.finish, said.tokens, tokens, protocol)


def _judge(
    pieces: Sequence[str], finish: str | None, used: int | None, tokens: int, protocol: TextProtocol = CHAT
) -> str | None:
    if finish not in LIMIT[protocol.name]:
        return f"cut: finish_reason is {finish}"
    if used != tokens:
        return f"cut: {used} tokens of {tokens}"
    return None if any(pieces) else "cut: empty answer"


def bad(outcomes: Iterable[Outcome], texts: Iterable[Outcome] | None = None) -> list[Outcome]:
    """Those that failed or were cut, also a stream whose text is not that of any answer that came whole.

    Whole answers are looked for in `texts`, or else in `outcomes` themselves.
    """
    outcomes = list(outcomes)
    known = {
        (each.protocol, each.tokens, each.content)
        for each in (outcomes if texts is None else texts)
        if not (each.streamed or each.aborted or each.problem)
    }
    judged = [
        replace(each, problem="cut: its text is that of no whole answer")
        if each.streamed
        and not (each.aborted or each.problem)
        and (each.protocol, each.tokens, each.content) not in known
        else each
        for each in outcomes
    ]
    return [each for each in judged if each.problem]
