"""What the switch and the edge answer in a line, beside how the program reads it. Pure.

Pulumi's state keeps most of these lines: another text would be a change of every stack.
"""

import re
from dataclasses import dataclass

AS_DECLARED = "as declared"
"""What is said of gateway, keys and edge where nobody has edited them."""
EDITED = "edited in place"
GONE = f"{EDITED}: gone"
"""What is said of a file that somebody has removed."""
LOOKED_AT = ("gateway", "keys", "edge")
WAIT, GO_ON = "requests wait", "no request waits"
"""Whether requests are held; `components/change.sh` reads it."""
CAN_GO = "can go"
"""Begins the line about each thing that `make gc` could free."""


def edited(digest: str) -> str:
    """What is said of what somebody has edited; `digest` is of what it is now, in hexadecimal digits."""
    return f"{EDITED} {digest[:12]}"


def is_edited(answer: object) -> bool:
    """Whether somebody has edited or removed it."""
    return str(answer).startswith(EDITED)


def line(part: str, answer: str) -> str:
    """The answer about one of `LOOKED_AT`."""
    return f"{part} {answer}"


def looked(lines: str) -> dict[str, str]:
    """The answer about each of `LOOKED_AT`. Where there is none, it is taken to be as it was declared."""
    there = dict(each.split(" ", 1) for each in lines.splitlines())
    return {part: there.get(part, AS_DECLARED) for part in LOOKED_AT}


NONE, UNREACHABLE = "none", "unreachable"
"""No engine serves; and what stands in the place of an answer where the switch gives none."""


@dataclass(frozen=True, kw_only=True)
class LiveEngine:
    """What serves: the container `engine`, or `NONE` since the change with the number `since`.

    `damaged` says when the journal was damaged, for a person; empty: it is not.
    """

    engine: str
    since: int = 0
    damaged: str = ""

    @property
    def text(self) -> str:
        """The answer."""
        if self.damaged:
            return f"the journal was damaged at {self.damaged}; {self.engine}"
        return f"{NONE} since change {self.since}" if self.engine == NONE else self.engine


def live_in(text: str) -> LiveEngine | None:
    """What serves, from the answer; None where the switch gave none."""
    if text == UNREACHABLE:
        return None
    if found := re.fullmatch(r"the journal was damaged at (.+); (\S+)", text):
        return LiveEngine(engine=found[2], damaged=found[1])
    if found := re.fullmatch(rf"{NONE} since change (\d+)", text):
        return LiveEngine(engine=NONE, since=int(found[1]))
    return LiveEngine(engine=text)


def certified(certificate: str) -> str:
    """The last line about a change, with its certificate in short."""
    return f"certificate: {certificate}"


def certificate_in(lines: str) -> str:
    """The certificate in short, from all that was said of a change."""
    return lines.strip().rpartition("certificate: ")[2]
