"""A copied project as a git checkout in which the make targets run, as a team's clone or CI has it."""

import os
import shutil
import subprocess

from tests.support.project import Project
from tools import environment
from tools.environment import ROOT

MORE = ("Makefile", "README.md", ".gitignore", "requirements.lock", "review", "tools")
NOT_OURS = ("/state/", "/aws-calls", "/ca.pem")
"""What only the tests put there."""
GIT = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A tester"), ("EMAIL", "tester@example.org"))
}


class Checkout:
    """The project's folder under git, with its own state, passphrase and environment."""

    def __init__(self, project: Project) -> None:
        self.project = project
        for name in MORE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, project.folder / name)
            else:
                shutil.copy(ROOT / name, project.folder / name)
        own = project.folder / ".changeover"
        own.mkdir(exist_ok=True)
        for part in (environment.BIN, environment.PULUMI_HOME):
            (own / part.name).symlink_to(part)
        (own / "passphrase").write_text(project.environment["PULUMI_CONFIG_PASSPHRASE"])
        (project.folder / ".venv").symlink_to(
            os.path.realpath(os.environ.get("VIRTUAL_ENV") or ROOT / ".venv")
        )
        self.run("git", "init", "--quiet", "--initial-branch=main")
        (project.folder / ".git" / "info" / "exclude").write_text("\n".join([*NOT_OURS, ""]))

    def run(self, *words: str, **env: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.project.folder,
            env={
                **self.project.environment,
                **GIT,
                "CHANGEOVER_BACKEND": (self.project.folder / "state").as_uri(),
                "STACK": self.project.stack,
                **env,
            },
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
