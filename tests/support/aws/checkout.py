"""A project on the stand-ins for AWS as a git checkout in which the make targets run, as CI has it."""

import shutil
import subprocess

from common import ROOT
from tests.support.aws.project import AwsProject
from tests.support.project import NO_BYTECODE, TEAM

MORE = ("Makefile", "docs", ".gitignore", "requirements.lock", "review")
NOT_OURS = ("/state/", "/aws-calls", "/ca.pem")
"""What only the tests put there."""


class Checkout:
    """The project's folder under git."""

    def __init__(self, project: AwsProject) -> None:
        self.project = project
        project.have_tools()
        for name in MORE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, project.folder / name, dirs_exist_ok=True, ignore=NO_BYTECODE)
            else:
                shutil.copy(ROOT / name, project.folder / name)
        self.run("git", "init", "--quiet", "--initial-branch=main")
        (project.folder / ".git" / "info" / "exclude").write_text("\n".join([*NOT_OURS, ""]))

    def run(self, *words: str, **env: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.project.folder,
            env={**self.project.for_tools, **TEAM, "STACK": self.project.stack, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)} exited {done.returncode}:\n{done.stdout}"
        return done.stdout

    def make(self, target: str, **env: str) -> str:
        """A make target of this stack; the packages are those of the checkout under test."""
        return self.run("make", "-s", "-o", ".venv/.synced", target, **env)

    def commit(self, message: str, **settings: object) -> None:
        """Change settings, render, and commit."""
        self.project.configure(**settings)
        self.make("render")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)
