"""Whose the stack on this host is: a record in the journal's volume, for everyone who wants to touch it.

A state of Pulumi has a random id, and counts the changes that it made. The record says which state that is,
and the newest count that is known to be kept in it, so that an older or a copied state is known too.
"""

import dataclasses
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from switch import files
from switch.checks import Failed
from switch.plan import PlanError, load

FILE = "owner.json"
OWNED = "this stack belongs now to the state"
"""How the answer to an owner begins whose record was written."""
ANY = "any"
"""Stands for whoever the owner is, on a machine that is a state's own."""


@dataclass(frozen=True)
class OwnerRecord:
    """`since` and `at` (when it was said last) are in seconds since the epoch; `folder` and `machine` are
    where that was. `changes` is what the state counted then, and `containers` the ids in it of those of which
    a stack has one.
    """

    id: str
    folder: str
    machine: str
    since: float
    at: float
    changes: int
    containers: list[str] = field(default_factory=list)


def parse(text: str) -> OwnerRecord | None:
    """The record from the text of its file; None where that is no record.

    The stack then belongs to the state that has its containers, as before there were owners.
    """
    try:
        owner: OwnerRecord = load(OwnerRecord, json.loads(text), FILE, strict=False)
    except (ValueError, PlanError):
        return None
    return owner


def read(journal: Path) -> OwnerRecord | None:
    """The record in the folder `journal`; None where there is none that says anything."""
    try:
        return parse((journal / FILE).read_text(errors="replace"))
    except FileNotFoundError:
        return None


def write(journal: Path, said: OwnerRecord, instead: str) -> str:
    """Keeps what an owner says of itself, and returns a line that says so.

    The record of another owner is replaced only where `instead` is its id, or `any`. Raises Failed, OSError.
    """
    now = read(journal)
    if now and now.id not in (said.id, instead) and instead != ANY:
        raise Failed(
            f"this stack belongs to the state {now.id}, last changed from {now.folder} on {now.machine}; "
            f"{said.id} does not take its place"
        )
    if now and now.id == said.id:
        said = dataclasses.replace(said, since=now.since)
    files.write(journal / FILE, json.dumps(dataclasses.asdict(said), indent=1))
    return f"{OWNED} {said.id}; changes: {said.changes}"


def counted(changes: int) -> str:
    """The line with the count in the output of a step, which Pulumi's state keeps."""
    return f"change {changes} of this stack"


def count(said: str) -> int | None:
    """The count from the output of a step; None where a version wrote it that did not say it."""
    found = re.search(r"^change (\d+) of this stack$", said, re.MULTILINE)
    return int(found[1]) if found else None


def day(at: float) -> str:
    """A time for a person, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def ago(seconds: float) -> str:
    """A span of time for a person."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
