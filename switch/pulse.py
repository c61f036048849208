"""Whether what serves answers, asked all the time: in threads, so that what hangs holds up nothing here.

Two questions are asked, since an engine can hang in two ways:

- Of engines, gateways and proxies the smallest there is (`GET /v1/models`, `GET /status`). It waits for no
  prompt and for no place in a queue, so the patience is short (`Seconds.answers`). Any HTTP answer will do.
- Of an engine whether any byte of what its model computes comes, for anybody. The proxies say when one came
  last; after a minute without, the switch asks for one token itself. The patience (`Seconds.tokens`) is
  longer than the proxies' own for a first byte, after which they hang up: so all that was before the switch's
  own request in the engine's queue has ended, or given a byte, when it is over. An engine that works, however
  slowly, gives a byte in time.

Time in which this process itself was stopped, or the whole machine, counts for neither. Docker is not asked,
and its DNS neither, so that a Docker that hangs is not taken for an engine that does.
"""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from switch.client import BROKEN, JSON, asked
from switch.machine import Silence, Watch

PAUSE_SECONDS = 1.0
CALM_PAUSE_SECONDS = 5.0
"""After an answer: engines write each question into their logs."""
TRIES = 4
"""In a row at least, before anything is said to hang."""
OWN_TOKEN_SECONDS = 60.0
"""Without a byte from an engine, after which the switch asks for one."""
SAID_SECONDS = 5.0
"""Of silence, from which on it is told in the status."""
SLACK_SECONDS = 3.0
"""That a question may take longer than its time-out. What takes longer still was stopped."""


@dataclass
class RunHealth:
    """What is known of whether one run of a container answers.

    `asked` is for how many seconds the smallest question has had no answer, and `tokens` for how many no byte
    of a completion has come.
    """

    watch: Watch
    asked: float = 0
    why: str = ""
    tokens: float = 0
    asking: bool = False
    """Whether the switch's own request for a token is there."""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def calm(self) -> float:
        """For so many seconds without a token, the switch does not ask for one itself."""
        return min(OWN_TOKEN_SECONDS, self.watch.plan.seconds.tokens / (2 * TRIES))

    @property
    def timeout(self) -> float:
        """How many seconds one small question may take."""
        return max(1.0, self.watch.plan.seconds.answers / TRIES)

    def hears(self, why: str, took: float) -> None:
        """Takes in how a small question went: `why` it had no answer (empty: it had one), and how many
        seconds it took, with the pause after it."""
        if not why:
            self.asked, self.why = 0, ""
        elif took <= self.timeout + PAUSE_SECONDS + SLACK_SECONDS:
            self.asked, self.why = self.asked + took, why

    def listens(self, ago: float, took: float) -> None:
        """Takes in a look, `took` seconds after the last: a byte came to the proxies `ago` seconds ago."""
        if took <= 2 * PAUSE_SECONDS + SLACK_SECONDS:
            self.tokens += took
        self.tokens = min(self.tokens, ago)

    def hangs(self) -> str:
        """How the run shows that it hangs; empty: it does not."""
        seconds = self.watch.plan.seconds
        if self.asked >= seconds.answers:
            return f"it has not answered for {self.asked:.0f} s ({self.why})"
        if self.tokens >= seconds.tokens:
            return f"it answers, but no completion has given anything for {self.tokens:.0f} s"
        return ""

    def silent(self) -> Silence | None:
        """What has been noticed of the run and need not mean anything yet; None: nothing."""
        seconds = self.watch.plan.seconds
        if self.asked >= SAID_SECONDS:
            return Silence(f"has not answered for {self.asked:.0f} s ({self.why})", seconds.answers)
        if self.tokens >= self.calm + SAID_SECONDS:
            return Silence(f"has given no token for {self.tokens:.0f} s", seconds.tokens)
        return None


class Pulse:
    """Asks the containers that it was last told to `watch`. `heard` gives how many seconds ago something came
    from the engine of this name to a proxy, as far as they know; infinite: never."""

    def __init__(self, heard: Callable[[str], float]) -> None:
        self._heard = heard
        self._runs: dict[tuple[str, str], RunHealth] = {}

    def watch(self, watches: Iterable[Watch]) -> None:
        """Asks these from now on, and no others."""
        wanted = {(each.container, each.started_at): each for each in watches}
        for key in set(self._runs) - set(wanted):
            self._runs.pop(key).over.set()
        for key, each in wanted.items():
            if key in self._runs:
                self._runs[key].watch = each
                continue
            run = self._runs[key] = RunHealth(each)
            for ask in (self._ask, self._listen) if each.role == "engine" else (self._ask,):
                threading.Thread(target=ask, args=(run,), daemon=True).start()

    def forget(self) -> None:
        """Forgets what was seen until now, since the switch itself could reach nobody."""
        for run in self._runs.values():
            run.asked = run.tokens = 0

    def hangs(self) -> dict[str, str]:
        """Which of the containers that are watched hang, and how that shows."""
        return {run.watch.container: why for run in list(self._runs.values()) if (why := run.hangs())}

    def silent(self) -> dict[str, Silence]:
        """Which of the containers that are watched may yet turn out to hang, and what was noticed."""
        return {run.watch.container: how for run in list(self._runs.values()) if (how := run.silent())}

    def _ask(self, run: RunHealth) -> None:
        """Asks a run the smallest question, again and again."""
        while not run.over.is_set():
            began = time.monotonic()
            why = question(run.watch, run.timeout)
            run.over.wait(PAUSE_SECONDS if why else min(CALM_PAUSE_SECONDS, run.timeout))
            run.hears(why, time.monotonic() - began)

    def _listen(self, run: RunHealth) -> None:
        """Finds out whether tokens come from a run, for anybody, and asks for one when none has come for
        long."""
        while not run.over.is_set():
            began = time.monotonic()
            ago = self._heard(run.watch.plan.engine.name)
            run.over.wait(PAUSE_SECONDS)
            run.listens(ago, time.monotonic() - began)
            if run.tokens > run.calm and not run.asking:
                run.asking = True
                threading.Thread(target=self._own_token, args=(run,), daemon=True).start()

    @staticmethod
    def _own_token(run: RunHealth) -> None:
        """Asks for a token, and waits for it for as long as the run is watched."""
        while not run.over.is_set():
            if token(run.watch, run.watch.plan.seconds.tokens):
                run.tokens = 0
                break
            run.over.wait(PAUSE_SECONDS)
        run.asking = False


def question(watch: Watch, timeout: float) -> str:
    """Why there is no answer of any kind within `timeout` seconds; empty where there is one."""
    connection = http.client.HTTPConnection(watch.address, watch.port, timeout=timeout)
    path = "/v1/models" if watch.role == "engine" else "/status"
    try:
        with asked(connection, "GET", path):
            return ""
    except TimeoutError:
        return "no answer"
    except ConnectionRefusedError:
        return "" if watch.ending else "it does not listen"
    except http.client.HTTPException as error:
        return "" if watch.ending else f"it breaks off: {type(error).__name__}"
    except OSError as error:
        return "" if watch.ending else str(error)


def token(watch: Watch, patience: float) -> bool:
    """Whether there is an answer to the smallest completion, or embedding, each part of it within so many
    seconds."""
    connection = http.client.HTTPConnection(watch.address, watch.port, timeout=patience)
    path = "/v1/chat/completions"
    ask: dict[str, object] = {
        "model": watch.plan.engine.model,
        "messages": [{"role": "user", "content": "-"}],
        "max_tokens": 1,
        "stream": True,
    }
    if watch.plan.gate.embeds:
        path, ask = "/v1/embeddings", {"model": watch.plan.engine.model, "input": "-"}
    with contextlib.suppress(*BROKEN), asked(connection, "POST", path, json.dumps(ask), JSON) as answer:
        # the head alone says nothing: some send it before they have looked at the request
        return bool(answer.read())
    return False
