"""What the switch must still know after a kill or a reboot, in a volume: the state, and certificates."""

import dataclasses
import json
from pathlib import Path

from switch import certificate, files
from switch.machine import State, Transaction
from switch.plan import PlanError, load

KEPT = 50


class Journal:
    """`folder`/state.json, and in `folder`/certificates the newest 50. Raises OSError when it can't write."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.certificates = folder, folder / "state.json", folder / "certificates"

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
        kept = dataclasses.replace(state, busy=None, gating=None, room=None)
        files.write(self.file, json.dumps(dataclasses.asdict(kept), indent=1))

    def archive(self, transaction: Transaction) -> None:
        """Leaves a change's certificate, as JSON and as Markdown."""
        for name, text in certificate.files(certificate.certificate(transaction)).items():
            files.write(self.certificates / name, text)
        for suffix in ("json", "md"):
            for old in sorted(self.certificates.glob(f"*.{suffix}"))[:-KEPT]:
                old.unlink()
