"""The code of our own services as a zip that Python runs from, and where the docker provider reads it. Pure
but for `write`."""

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from common import ROOT


@dataclass(frozen=True)
class Code:
    """One package of this project, such as `switch`."""

    package: str

    @property
    def built(self) -> Path:
        """Where it lies here, relative to the project's folder, in which Pulumi's plugins run."""
        return Path(".changeover") / f"{self.package}.zip"

    def zip(self) -> bytes:
        """The package's modules, the same bytes on every machine."""
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as out:
            for file in sorted((ROOT / self.package).rglob("*.py")):
                out.writestr(zipfile.ZipInfo(file.relative_to(ROOT).as_posix()), file.read_bytes())
        return raw.getvalue()

    def write(self) -> str:
        """Put the zip where the docker provider reads it when it makes the container; its SHA-256 in hex."""
        code = self.zip()
        if not self.built.exists() or self.built.read_bytes() != code:
            self.built.parent.mkdir(exist_ok=True)
            new = self.built.with_suffix(f".{os.getpid()}")
            new.write_bytes(code)
            new.replace(self.built)  # two programs may run at once
        return hashlib.sha256(code).hexdigest()
