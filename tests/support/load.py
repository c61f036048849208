"""A load on an endpoint that counts a request good only when its whole answer came.

A status code proves nothing: a stream that was cut ends as HTTP 200 with `[DONE]`.
"""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

import openai


@dataclass
class Outcome:
    """One request: when it began and how long it took (seconds, monotonic clock), and what went wrong."""

    began: float
    took: float
    streamed: bool
    problem: str | None


@dataclass
class Load:
    """`clients` tasks that ask one thing after another, every other request streamed, until stopped.

    Used as a context manager around what is to be survived. No client retries: the endpoint must hold.
    """

    endpoint: str
    model: str
    clients: int = 4
    max_tokens: int = 24
    api_key: str = "none"
    timeout: float = 300.0
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> "Load":
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
    def bad(self) -> list[Outcome]:
        """The requests that failed or were cut."""
        return [outcome for outcome in self.outcomes if outcome.problem]

    @property
    def longest(self) -> float:
        """The longest request, in seconds."""
        return max(outcome.took for outcome in self.outcomes)

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
        problems = "; ".join(sorted({str(outcome.problem) for outcome in self.bad})[:3])
        counts = f"{len(self.outcomes)} sent, {len(self.bad)} failed or cut"
        return f"{counts}, longest {self.longest:.1f} s {problems}".strip()

    async def _run(self) -> None:
        client = openai.AsyncOpenAI(
            base_url=self.endpoint, api_key=self.api_key, max_retries=0, timeout=self.timeout
        )
        async with client:
            await asyncio.gather(*(self._client(client, number) for number in range(self.clients)))

    async def _client(self, client: openai.AsyncOpenAI, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            streamed = turn % 2 == 0
            began = time.monotonic()
            try:
                problem = await (self._stream(client) if streamed else self._whole(client))
            except (openai.OpenAIError, json.JSONDecodeError) as error:
                problem = f"{type(error).__name__}: {error}"[:200]
            took = time.monotonic() - began
            self.outcomes.append(Outcome(began=began, took=took, streamed=streamed, problem=problem))
            turn += 1

    async def _whole(self, client: openai.AsyncOpenAI) -> str | None:
        answer = await client.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": "Count."}], max_tokens=self.max_tokens
        )
        choice = answer.choices[0]
        return _judge(choice.message.content, choice.finish_reason)

    async def _stream(self, client: openai.AsyncOpenAI) -> str | None:
        content, finish = "", None
        chunks = await client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=self.max_tokens,
            stream=True,
        )
        async for chunk in chunks:
            for choice in chunk.choices:
                content += choice.delta.content or ""
                finish = choice.finish_reason or finish
        return _judge(content, finish)


def _judge(content: str | None, finish: str | None) -> str | None:
    if finish is None:
        return "cut: no finish_reason"
    return None if content else "empty answer"
