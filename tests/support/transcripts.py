"""Transcripts of the switch's machine: what happens in a change, as a text to read from top to bottom.

Each is made by the real machine on a simulated host, and `tests/unit/test_transcripts.py` compares it with a
file. `python -m tests.support.transcripts` writes the files anew; read what differs in `git diff tests`.
"""

import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from common import ROOT
from switch.machine import (
    JOBS,
    Abandoned,
    Action,
    ActionFinished,
    ChangeRequested,
    Event,
    Followed,
    JournalWriteFailed,
    StackReleased,
    Started,
    State,
    Tick,
    Transaction,
)
from tests.support.simulated_host import (
    NEW,
    NEW_GATEWAY,
    OLD,
    PROXY,
    Box,
    Cutover,
    SimulatedHost,
    plan,
)

ANEW = "stack-ollama-2"
"""The engine that serves, with other settings: another container."""
FOLDER = ROOT / "tests" / "unit" / "transcripts"
Value = TypeVar("Value")
WIDTH = 106
COLUMNS = "{:<30} {:<18} {:<24} {}"
"""What happens, the phases that are entered then, what the proxies are told, and the actions."""


class NoChance(random.Random):
    """Where something may happen one way or the other, the first or the middle one does."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2

    def random(self) -> float:
        return 0.99


@dataclass
class TranscriptLine:
    """A line of a transcript; `times` is how often it came in turn with the one before it."""

    at: float
    text: str
    times: int = 1


class TranscribedHost(SimulatedHost):
    """A simulated host that writes down what happens to the machine, and what it makes of that."""

    def __init__(self, overlap: bool = False) -> None:
        super().__init__(NoChance(), overlap)
        self.began = self.now
        self.rows: list[TranscriptLine] = []
        self.told = ""

    def takes(self, action: Action) -> float:
        return {"start": 0.5, "stop": 1.0, "probe": 0.3}.get(action.do, 0.2)

    def says(self, text: str) -> None:
        """What happens outside of the machine, in words."""
        self.rows += [
            TranscriptLine(self.now, ""),
            *(TranscriptLine(self.now, f"# {line}") for line in textwrap.wrap(text, WIDTH)),
        ]

    def noted(self, event: Event, was: State, actions: list[Action]) -> None:
        before, change = was.transaction, self.state.transaction
        if before and change and before.id != change.id:
            before = None
        phases, lines = entered(before, change), change.lines if change else []
        said = [f'"{line}"' for line in lines[len(before.lines) if before else 0 :]]
        if self.state.trouble and self.state.trouble != was.trouble:
            said.append(f"trouble: {self.state.trouble}")
        if self.state.healed_at != was.healed_at:
            said.append(f"put right: {self.state.healed}")
        todo = ", ".join(map(order, actions))
        told, self.told = self.told, self.what_proxies_do()
        shown = "" if told == self.told else self.told
        at_once = isinstance(event, ActionFinished) and event.ok and event.action.do not in JOBS
        if phases or shown or said or todo or not (at_once or isinstance(event, Tick | Followed)):
            self.write(COLUMNS.format(happened(event), " ".join(phases), shown, todo))
        for line in said:
            self.rows.append(TranscriptLine(self.now, short(f"    {line}")))

    def write(self, text: str) -> None:
        """One line. If the last two come again in turn, they are counted and not repeated."""
        self.rows.append(TranscriptLine(self.now, text.rstrip()))
        if len(self.rows) > 3 and [row.text for row in self.rows[-2:]] == [
            row.text for row in self.rows[-4:-2]
        ]:
            for row in self.rows[-4:-2]:
                row.times += 1
            del self.rows[-2:]

    def what_proxies_do(self) -> str:
        """What the proxies are told, in short."""
        given_up = f", give up {' '.join(self.file.given_up)}" if self.file.given_up else ""
        return (f"go to {self.file.engine}" if self.file.held_since is None else "hold") + given_up

    def text(self) -> str:
        """The transcript from the beginning on, in seconds."""
        lines = []
        for row in self.rows:
            at = row.at - self.began
            if row.text.startswith(("#", " ")) or not row.text:
                lines.append(f"{'' if row.text.startswith('#') else '        '}{row.text}".rstrip())
            else:
                again = f"  ({row.times} times)" if row.times > 1 else ""
                lines.append(f"{at:7.1f} {row.text}{again}")
        return "\n".join(lines) + "\n"


def entered(before: Transaction | None, now: Transaction | None) -> list[str]:
    """The phases that a change has entered, from what it was before."""
    if before is None or now is None:
        return [now.phase] if now else []
    ended = [str(step["phase"]) for step in now.steps[len(before.steps) :]]
    return [*ended[1:], now.phase] if ended else []


def short(text: str) -> str:
    """A text without the part of the names that all containers share."""
    return text.replace("stack-", "")


def happened(event: Event) -> str:
    """An event in a few words."""
    return short(_happened(event))


def _happened(event: Event) -> str:
    match event:
        case Started():
            return "the switch has started"
        case Tick(stalled=stalled):
            return f"tick, after {stalled:.0f} s without" if stalled else "tick"
        case ChangeRequested(verb, wanted):
            return f"{verb} {wanted.engine.container} is asked"
        case Followed():
            return "the change is followed"
        case Abandoned():
            return "the change is abandoned"
        case ActionFinished(action, ok):
            return f"{action.do} {action.container}".strip() + (": done" if ok else f": {event.text}")
        case JournalWriteFailed():
            return "the journal can't be written"
        case StackReleased():
            return "the stack is released"


def order(action: Action) -> str:
    """An action in a few words."""
    through = " through the gateway" if action.through == "gateway" else ""
    return short(f"{action.do} {action.container}").strip() + through


@dataclass(frozen=True)
class Transcript:
    """A text about what `happens` to a host; `about` says what to look at."""

    name: str
    about: str
    happens: Callable[[], TranscribedHost]

    @property
    def text(self) -> str:
        head = "\n".join(textwrap.wrap(self.about, WIDTH))
        columns = COLUMNS.format("what happens", "phase", "the proxies", "what is to be done")
        return f"{head}\n\nseconds {columns}\n{self.happens().text().lstrip(chr(10))}"


def checked(value: Value, wanted: Value) -> None:
    assert value == wanted, f"{value}, not {wanted}"


def changed(cutover: Cutover, engine: str = NEW) -> TranscribedHost:
    """A whole change that goes well."""
    host = TranscribedHost(overlap=cutover == "overlap")
    host.boxes[ANEW] = Box(ANEW, "engine")
    host.run(1)
    host.says("`pulumi up` begins: its first step is the prepare.")
    host.ask("prepare", plan(engine, cutover))
    checked(host.follow(), 0)
    host.run(1)
    host.says("Pulumi makes the new gateway, and then the commit.")
    host.make_gateway()
    host.ask("commit", plan(engine, cutover, NEW_GATEWAY))
    checked(host.follow(), 0)
    return host


def engine_fails() -> TranscribedHost:
    host = TranscribedHost()
    host.boxes[NEW].mode = "error"
    host.run(1)
    host.says("`pulumi up` begins. The new engine will answer each completion with an error.")
    host.ask("prepare", plan())
    checked(host.follow(), 1)
    host.says("`pulumi up` has failed, and the old engine serves.")
    host.run(2)
    return host


def coordinator_dies() -> TranscribedHost:
    host = TranscribedHost()
    host.boxes[NEW].mode = "silent"
    host.run(1)
    host.says("`pulumi up` begins. The new engine loads for long.")
    host.ask("prepare", plan())
    host.follow(patience=5)
    host.says("`pulumi up` is killed: nobody follows the change any more.")
    assert host.run(60, lambda: host.phase() == "failed")
    return host


def switch_dies() -> TranscribedHost:
    host = TranscribedHost()
    host.run(1)
    host.says("`pulumi up` begins.")
    host.ask("prepare", plan())
    assert host.run(30, lambda: host.phase() == "loading")
    host.run(1)
    host.says(
        "The switch is killed while requests are held, and Docker starts it again. The proxies still hold."
    )
    host.kill()
    assert host.run(60, lambda: host.phase() == "failed")
    return host


def engine_crashes() -> TranscribedHost:
    host = TranscribedHost()
    host.run(1)
    host.says("The process of the engine that serves ends, and Docker starts it again: it is another run.")
    host.boxes[OLD].runs += 1
    host.run(5)
    assert host.settled()
    host.says("Somebody stops it with `docker stop`, after which Docker does not start it again.")
    host.boxes[OLD].running = False
    host.run(5)
    assert host.settled()
    return host


def host_reboots() -> TranscribedHost:
    host = TranscribedHost()
    host.run(1)
    host.says("The host is rebooted. Docker starts the proxy and the switch, and no engine.")
    host.reboots, host.docker_starts = 1, False
    host.kill()
    assert host.run(60, host.settled)
    return host


def something_hangs() -> TranscribedHost:
    host = TranscribedHost()
    host.run(1)
    host.says("The engine that serves gives no answer any more, though its container runs.")
    host.hang(OLD)
    assert host.run(60, lambda: bool(host.state.terminating))
    assert host.run(60, host.settled)
    host.says("A proxy hangs: it is restarted, and nothing else is touched.")
    host.run(5)
    host.hang(PROXY)
    assert host.run(60, lambda: host.boxes[PROXY].runs == 1)
    host.run(5)
    return host


TRANSCRIPTS: Sequence[Transcript] = (
    Transcript(
        "hold",
        "A change from Ollama to vLLM by hold. Requests wait in the proxies from `draining` on, until a "
        "completion has come through the new gateway. There is never more than one engine.",
        lambda: changed("hold"),
    ),
    Transcript(
        "overlap",
        "The same change by overlap. The new engine passes its gate while the old one serves, and no request "
        "is held. Old gateway and old engine end once the proxies have nothing there any more.",
        lambda: changed("overlap"),
    ),
    Transcript(
        "context",
        "A change of the setting `context` by hold. The engine stays Ollama, and yet it is another container "
        "with other flags: so it goes as a change to another engine does. The old one is called the standby "
        "until Pulumi, at the end of its update, removes it.",
        lambda: changed("hold", ANEW),
    ),
    Transcript(
        "gateway",
        "A change of the gateway alone, whose engine stays: nothing is held, and no engine is started or "
        "stopped. The prepare has nothing to do.",
        lambda: changed("hold", OLD),
    ),
    Transcript(
        "engine-fails",
        "A change by hold whose new engine fails its gate. It leads back: the new engine is stopped, and the "
        "old one is started, and serves before the change ends.",
        engine_fails,
    ),
    Transcript(
        "coordinator-dies",
        "The coordinator of a change is killed while the new engine loads. Its lease runs out, and the "
        "switch leads back by itself.",
        coordinator_dies,
    ),
    Transcript(
        "switch-dies",
        "The switch itself is killed in the middle of a hold. It starts with the state in its journal, looks "
        "at what is there, and leads back.",
        switch_dies,
    ),
    Transcript(
        "engine-crashes",
        "The engine that serves crashes. Nobody asks for a change, and there is none: requests are held "
        "until the same engine, which Docker or the switch has started again, has passed its gate.",
        engine_crashes,
    ),
    Transcript(
        "host-reboots",
        "The host is rebooted. Requests are held from the first look on, until the engine has passed its "
        "gate again and the gateway runs.",
        host_reboots,
    ),
    Transcript(
        "something-hangs",
        "What runs and gives no answer is ended and started again: an engine through its gate, while "
        "requests are held, and a proxy at once.",
        something_hangs,
    ),
)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for each in TRANSCRIPTS:
        (FOLDER / f"{each.name}.txt").write_text(each.text)


if __name__ == "__main__":
    main()
