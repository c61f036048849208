"""What the switch must still know after a kill or a reboot, in a volume: the state, and past transactions."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from switch.machine import State, Transaction
from switch.plan import PlanError, load

KEPT = 50


class Journal:
    """`folder`/state.json and `folder`/history/*.json, the newest 50. Raises OSError when it can't write."""

    def __init__(self, folder: Path) -> None:
        self.file, self.history = folder / "state.json", folder / "history"

    def read(self) -> State:
        """The state as it was last written; an empty one if there is none or it is not readable."""
        try:
            state: State = load(State, json.loads(self.file.read_text()), "journal", strict=False)
        except FileNotFoundError:
            return State()
        except (ValueError, PlanError) as error:
            print(f"journal {self.file} is not readable ({error}); it is set aside", flush=True)
            self.file.replace(self.file.with_suffix(".unreadable"))
            return State()
        return state

    def write(self, state: State) -> None:
        """All or nothing, also when the power goes. What is under way in this process only is left out."""
        kept = dataclasses.replace(state, busy=None, gating=None)
        _write(self.file, dataclasses.asdict(kept))

    def archive(self, transaction: Transaction) -> None:
        """One file for each transaction, with all that a report on it needs."""
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(transaction.began))
        self.history.mkdir(parents=True, exist_ok=True)
        _write(self.history / f"{at}-{transaction.id}.json", dataclasses.asdict(transaction))
        for old in sorted(self.history.glob("*.json"))[:-KEPT]:
            old.unlink()


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with new.open("w") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
