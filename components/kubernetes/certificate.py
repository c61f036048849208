"""What a change across a cluster leaves behind for people: one JSON and one short Markdown file. Pure."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Literal

from components import naming
from switch.words import utc

Result = Literal["committed", "failed", "left"]
"""`left`: nobody followed it to its end, and the next update goes on from there."""


@dataclass(frozen=True)
class Step:
    """After so many `seconds`, so many hosts had the new engine and served with it, and so many served at
    all."""

    seconds: float
    new: int
    serve: int


@dataclass
class ChangeRecord:
    """One change. `old` is the name of the engine that served before, empty where none did. Times are in
    seconds since the epoch."""

    stack: str
    old: str
    new: str
    hosts: int
    at_once: int
    began: float
    steps: list[Step] = field(default_factory=list)

    def saw(self, now: float, new: int, serve: int) -> None:
        """So many serve now. What is as it was is not noted again."""
        if not self.steps or (self.steps[-1].new, self.steps[-1].serve) != (new, serve):
            self.steps.append(Step(round(now - self.began, 1), new, serve))

    @property
    def name(self) -> str:
        """The certificate's name, without an extension: when it began, and from what to what."""
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.began))
        return f"{at}-{_kind(self.old) or 'none'}-to-{_kind(self.new)}"

    @property
    def fewest(self) -> int:
        """How many hosts served when the fewest did, from when the first one did."""
        served = [step.serve for step in self.steps]
        first = next((at for at, count in enumerate(served) if count), len(served))
        return min(served[first:], default=0)

    def files(self, result: Result, ended: float, error: str = "") -> dict[str, str]:
        """Both files: name → text. `error` says why it failed or was left."""
        said = {
            "name": self.name,
            "result": result,
            "error": error or None,
            **asdict(self),
            "began": utc(self.began),
            "seconds": round(ended - self.began, 1),
            "fewest": self.fewest,
        }
        page = self._markdown(result, ended, error)
        return {f"{self.name}.json": json.dumps(said, indent=2) + "\n", f"{self.name}.md": page}

    def _markdown(self, result: Result, ended: float, error: str) -> str:
        after = {"committed": self.new, "failed": self.old or "–", "left": "not known"}[result]
        away = f"{self.at_once} at a time" if self.at_once > 1 else "one at a time"
        lines = [
            f"# {_kind(self.old) or 'nothing'} → {_kind(self.new)}: {result}",
            "",
            f"{utc(self.began)}, {ended - self.began:.1f} s in all, {self.hosts} hosts, {away}. "
            f"When the fewest served, {self.fewest} did.",
            "",
            *([f"It {'was left' if result == 'left' else 'failed'}: {error}", ""] if error else []),
            "| | engine |",
            "|---|---|",
            f"| before | {self.old or '–'} |",
            f"| after | {after} |",
            "",
            "| after seconds | hosts with the new engine | hosts that serve |",
            "|---|---|---|",
            *(f"| {step.seconds:.1f} | {step.new} | {step.serve} |" for step in self.steps),
            "",
        ]
        return "\n".join(lines)


def _kind(engine: str) -> str:
    found = naming.engine_in(engine)
    return found[0] if found else engine
