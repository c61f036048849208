"""What ran on a stack, from its own history, and the settings that bring it back. Pure.

`pulumi stack history --json` gives the newest update first, each with the settings it ran with and the commit
that was checked out. The file backend gives every update the version 0, so updates are counted here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

PREFIX = "changeover:"
ENDING_SECONDS = 5
"""An update that ends may write its state once more after the time that the history has."""


class NoWayBack(Exception):
    """There is nothing to go back to. The text says why and what to type."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """One update. `number` counts from 1. `edited`: the checkout held more than its commit.

    `settings` are by key without namespace: texts, or what JSON holds. `secret` names those that are secrets.
    """

    number: int
    ok: bool
    started: str
    message: str
    commit: str
    edited: bool
    settings: Mapping[str, Any]
    secret: frozenset[str]

    def same(self, other: "Update") -> bool:
        """Whether both ran one program with one set of settings."""
        return (self.commit, self.settings) == (other.commit, other.settings)

    @property
    def words(self) -> str:
        """The update in one line."""
        result = "" if self.ok else ", FAILED"
        day, time = self.started[:10], self.started[11:19]
        return (
            f"update {self.number} of {day} {time} UTC, commit {self.commit[:10] or 'unknown'}, "
            f"engine {self.settings.get('engine')}{result} ({self.message})"
        )


def read(entries: Sequence[Mapping[str, Any]]) -> list[Update]:
    """The updates in the CLI's JSON, the oldest first; refreshes, imports and the like are left out."""
    found: list[Update] = []
    for entry in reversed(entries):
        if entry["kind"] != "update":
            continue
        environment = entry.get("environment") or {}
        config = {key: each for key, each in entry["config"].items() if key.startswith(PREFIX)}
        found.append(
            Update(
                number=len(found) + 1,
                ok=entry["result"] == "succeeded",
                started=entry["startTime"],
                message=(entry.get("message") or "no message").splitlines()[0],
                commit=environment.get("git.head", ""),
                edited=environment.get("git.dirty") == "true",
                settings={
                    key.removeprefix(PREFIX): each.get("objectValue", each.get("value"))
                    for key, each in config.items()
                },
                secret=frozenset(key.removeprefix(PREFIX) for key, each in config.items() if each["secret"]),
            )
        )
    return found


def unfinished(entries: Sequence[Mapping[str, Any]], deployment: Mapping[str, Any]) -> bool:
    """Whether an update began after the last in the CLI's JSON: one that was killed is never in it.

    `deployment` is that of `pulumi stack export`. The update can also be running.
    """
    if not entries or deployment.get("pending_operations"):
        return bool(entries)
    written, ended = (
        datetime.fromisoformat(text) for text in (deployment["manifest"]["time"], entries[0]["endTime"])
    )
    return (written - ended).total_seconds() > ENDING_SECONDS


def way_back(
    updates: Sequence[Update], to: int | None = None, *, unfinished: bool = False
) -> tuple[Update, Update]:
    """The last update, and the one to go back to.

    After one that failed, or is `unfinished` and so not among them, that is the last that succeeded; else the
    last that ran something else. `to` is the number of another one. Raises NoWayBack.
    """
    if not updates:
        raise NoWayBack("the stack has never been updated. Deploy it: make up")
    now = updates[-1]
    if to is not None:
        chosen = next((each for each in updates if each.number == to), None)
        if chosen is None or not chosen.ok:
            known = ", ".join(str(each.number) for each in updates if each.ok)
            raise NoWayBack(f"TO={to} is not an update that succeeded; those that did are {known}")
        return now, chosen
    for each in reversed(updates):
        if each.ok and (unfinished or not now.ok or not each.same(now)):
            return now, each
    raise NoWayBack("no other update of this stack has succeeded: there is nothing to go back to")


def overrides(then: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings that an update ran with, those that a settings file has to name."""
    texts = {key: _text(value) for key, value in defaults.items()}
    return {key: value for key, value in then.items() if key not in texts or _text(value) != texts[key]}


def lines(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """The lines of a settings file that differ, as a diff; a secret is given as it stands encrypted."""
    said = []
    for key in sorted(now.keys() | then.keys()):
        old, new = now.get(key), then.get(key)
        if _text(old) == _text(new):
            continue
        said += [f"-  {PREFIX}{key}: {_shown(old)}"] if key in now else []
        said += [f"+  {PREFIX}{key}: {_shown(new)}"] if key in then else []
    return said


def _text(value: Any) -> str:
    """One form for what a file says (1024, true) and the engine keeps ("1024", "true")."""
    if isinstance(value, Mapping):
        return str({key: _text(each) for key, each in sorted(value.items())})
    if isinstance(value, list):
        return str([_text(each) for each in value])
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) + "}"
    return _text(value)
