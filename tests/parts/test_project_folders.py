"""The folders in which tests and measurements run Pulumi: its own Python language host runs a program in the
virtual environment that `Pulumi.yaml` names, whatever is first on PATH, so it has to be there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from common import ROOT
from tests.support.aws.emulator import Emulator
from tests.support.aws.project import DEPLOYER, AwsProject
from tests.support.project import Project, link_environment, pulumi_yaml


def only_the_folder(self: Project, *words: str, **_: Any) -> str:
    """In place of the CLI, which the fast tests do without."""
    if words[:2] == ("stack", "init"):
        self.settings_file.write_text("{}")
    return ""


@pytest.fixture(params=["docker", "aws"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(Project, "pulumi", only_the_folder)
    if request.param == "aws":
        return AwsProject(tmp_path, "unit", cast(Emulator, SimpleNamespace(environment={})))
    return Project(tmp_path, "unit")


def python_of(folder: Path) -> Path:
    """The Python that the language host runs the program of this folder with."""
    options = yaml.safe_load((folder / "Pulumi.yaml").read_text())["runtime"]["options"]
    return Path(folder, options["virtualenv"], "bin", "python")


def test_a_project_has_the_python_that_its_settings_name_and_pulumi_in_it(project: Project) -> None:
    subprocess.run([python_of(project.folder), "-c", "import pulumi"], env={}, check=True)
    project.use_sources(ROOT)
    assert python_of(project.folder).exists(), "it stays with the stack"


def test_a_bare_project_runs_as_this_one_does(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text(pulumi_yaml("bare"))
    link_environment(tmp_path)
    subprocess.run([python_of(tmp_path), "-c", "import pulumi"], env={}, check=True)


def test_a_program_on_aws_finds_the_deployers_programs_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Project, "pulumi", only_the_folder)
    AwsProject(tmp_path, "unit", cast(Emulator, SimpleNamespace(environment={})))
    for program in DEPLOYER.iterdir():
        assert (tmp_path / ".venv" / "bin" / program.name).readlink() == program


@pytest.mark.parametrize("first", [False, True])
def test_taking_a_folder_away_leaves_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    ours, folder, more = (tmp_path / name for name in ("ours", "folder", "more"))
    for file in (ours / "bin" / "python", ours / "lib" / "pulumi.py", more / "aws"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    folder.mkdir()
    monkeypatch.setattr(sys, "prefix", str(ours))
    link_environment(folder, first=more if first else None)
    assert (folder / ".venv" / "lib" / "pulumi.py").exists()
    shutil.rmtree(folder)
    assert (ours / "bin" / "python").exists()
    assert (ours / "lib" / "pulumi.py").exists()
    assert (more / "aws").exists()


def test_git_takes_an_environment_that_is_a_link_for_no_file_of_the_project() -> None:
    assert ".venv" in (ROOT / ".gitignore").read_text().splitlines(), "with a slash at its end it is no link"


def test_no_other_place_makes_a_folder_in_which_pulumi_runs() -> None:
    makes = re.compile(r'Pulumi\.yaml"|runtime: python|git ls-files -co|\.venv"\)?\.symlink_to')
    folders = [ROOT / each for each in ("bench", "tests/engine", "tests/conformance", "tests/support")]
    files = [file for folder in folders for file in folder.rglob("*.py") if makes.search(file.read_text())]
    assert {str(file.relative_to(ROOT)) for file in files} == {
        "bench/preview.py",  # in a folder of `Project`
        "tests/engine/test_command_plugin.py",  # by `link_environment`
        "tests/engine/test_review.py",  # by `link_environment`
        "tests/support/aws/project.py",  # in a folder of `Project`
        "tests/support/checkout.py",  # by `make`
        "tests/support/project.py",
    }, "a folder of its own gets its virtual environment by `link_environment`; then name it here"
