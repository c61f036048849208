"""A copied project whose plugin `aws` is the test plugin, and whose AWS is the emulator."""

from pathlib import Path

import yaml

from tests.support.aws.emulator import Emulator
from tests.support.project import Project

PLUGIN = Path(__file__).parent / "bin"


class AwsProject(Project):
    """A stack of a copied project on the emulator's account."""

    def __init__(self, folder: Path, stack: str, emulator: Emulator, **settings: object) -> None:
        super().__init__(folder, stack, **settings)
        self.environment |= emulator.environment
        self.environment["CHANGEOVER_TEST_AWS_CALLS"] = str(folder / "aws-calls")
        del self.environment["PYTHONDONTWRITEBYTECODE"]  # compiling pulumi_aws anew costs seconds a command
        self._name_plugin()

    def _name_plugin(self) -> None:
        file = self.folder / "Pulumi.yaml"
        content = yaml.safe_load(file.read_text())
        content["plugins"] = {"providers": [{"name": "aws", "path": str(PLUGIN)}]}
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def program(self, text: str) -> None:
        """Run this program in place of the project's own, without the project's settings."""
        (self.folder / "__main__.py").write_text(text)
        file = self.folder / "Pulumi.yaml"
        content = yaml.safe_load(file.read_text())
        content.pop("config", None)
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def state_text(self) -> str:
        """The state file as it lies in the backend."""
        (file,) = (self.folder / "state").rglob(f"{self.stack}.json")
        return file.read_text()

    def aws_calls(self) -> list[str]:
        """The API calls of the plugin so far, as `service:Operation`, each once."""
        return sorted(set((self.folder / "aws-calls").read_text().split()))
