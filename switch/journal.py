"""What the switch must still know after a kill or a reboot, in a volume: the state, and certificates.

The previous state, as it was before the last write, is kept as well, and replaces a state that is damaged or
gone. A state that is older than what the proxies were told last is one that somebody has restored: what it
says of what serves is not so any more.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switch import certificate, files, owner
from switch.checks import Failed
from switch.machine import Damage, State, Transaction
from switch.machine.route import Route
from switch.plan import load

KEPT = 50


KEYS = {"terminating": "doomed", "memory_wait": "room"}
"""Fields of the state whose key in the file is another word, and that word.

The file has kept the words of the first version, so that a stack goes on with what it has: this version reads
what an older one wrote, and after a rollback the older one reads what this one wrote.
"""
WAYS = {"overlap": "beside"}
"""Ways of a change that the file calls by another word, and that word."""


def dumps(state: State) -> str:
    """The text of the file, without what only this process is doing: a job, a gate, a wait for memory."""
    kept = dataclasses.asdict(dataclasses.replace(state, busy=None, gating=None, memory_wait=None))
    return json.dumps(_in_words(kept, KEYS, WAYS), indent=1)


def loads(text: str) -> State:
    """The state from the text of the file, written by this version, an older or a later one.

    Raises ValueError where it can't be read.
    """
    raw = json.loads(text)
    if isinstance(raw, dict):
        raw = _in_words(raw, _swapped(KEYS), _swapped(WAYS))
    state: State = load(State, raw, "journal", strict=False)
    return state


def _in_words(raw: dict[str, Any], keys: Mapping[str, str], ways: Mapping[str, str]) -> dict[str, Any]:
    """A state as JSON with other words for some keys, and for the ways of its changes, in the same order."""
    raw = {keys.get(key, key): value for key, value in raw.items()}
    for name in ("transaction", "waiting", "last"):
        change = raw.get(name)
        if isinstance(change, dict) and isinstance(way := change.get("way"), str):
            raw[name] = {**change, "way": ways.get(way, way)}
    return raw


def _swapped(words: Mapping[str, str]) -> dict[str, str]:
    return {there: here for here, there in words.items()}


class Journal:
    """`folder`/state.json with the previous state (state.old), and in `folder`/certificates the newest 50.

    Raises OSError when it can't write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.certificates = folder, folder / "state.json", folder / "certificates"
        self.older = folder / "state.old"

    def read(self, now: float, told: Route | None = None) -> State:
        """The state as it was last written, or what is still known of it.

        It is empty at a first start: where there is no state, nor a previous one, and the proxies were told
        of no engine. Where what ran is to be forgotten, all of that is removed (`boot.sh`). `told` is what
        the proxies were told last. Never raises: a switch that does not start helps nobody.
        """
        why = ""
        try:
            state = self._load(self.file)
        except (OSError, ValueError) as error:
            gone = isinstance(error, FileNotFoundError)
            why = f"{self.file.name} is {'gone' if gone else f'not readable ({error})'}"
            try:
                state = self._load(self.older)
            except (OSError, ValueError) as error:
                lost = isinstance(error, FileNotFoundError)
                if gone and lost and not (told and told.engine):
                    return State()
                why += (
                    f", and {'there is no previous state' if lost else 'the previous state is not readable'}"
                )
                state = self._unknown(State(), told, why, now)
            else:
                state.damage = Damage(now, f"{why}; the previous state was taken instead")
        if told and _is_older(state, told):
            why = f"{why}{' and ' if why else ''}it is older than what the proxies were told last"
            state = self._unknown(state, told, why, now)
        if why:
            print(f"the journal was damaged: {why}", flush=True)
            with contextlib.suppress(OSError):  # it may be read-only, and is told so soon enough
                with contextlib.suppress(FileNotFoundError):
                    self.file.replace(self.file.with_suffix(".aside"))
                self.write(state)
        return state

    def _unknown(self, state: State, told: Route | None, why: str, now: float) -> State:
        """What is left of `state` where it does not say what serves. The count of changes goes on, since an
        owner knows an old state by it."""
        commits = state.commits
        with contextlib.suppress(Failed, OSError):
            known = owner.read(self.folder)
            commits = max(commits, known.changes if known else 0)
        told = told if told and told.engine else None
        releases = max(state.releases, told.release if told else 0)
        return State(images=state.images, commits=commits, releases=releases, damage=Damage(now, why, told))

    @staticmethod
    def _load(file: Path) -> State:
        return loads(file.read_text())

    def write(self, state: State) -> None:
        """Replaces the file as a whole: also after a power cut it is the old one or the new one."""
        files.write(self.file, dumps(state), older=self.older)

    def archive(self, transaction: Transaction) -> None:
        """Leaves a change's certificate, as JSON and as Markdown."""
        new = certificate.files(certificate.certificate(transaction))
        for name, text in new.items():
            files.write(self.certificates / name, text)
        for suffix in ("json", "md"):  # the new one is not the last by its name where the clock was set back
            others = sorted(each for each in self.certificates.glob(f"*.{suffix}") if each.name not in new)
            for old in others[: 1 - KEPT]:
                old.unlink()


def _is_older(state: State, told: Route) -> bool:
    """Whether a state is older than what the proxies were told last, so that somebody must have restored it.

    A release is in the journal before the proxies are told of it. Only the previous state of one in which one
    was just decided is one release behind, and takes it back. 0 releases are in a state from before the first
    commit, in which nothing is active, and in one of a version that did not count them, which proves nothing.
    """
    behind = told.release - state.releases
    change = state.transaction
    counted = state.releases > 0 or (state.active is None and told.engine is not None)
    return counted and behind > (1 if change and change.phase == "starting" else 0)
