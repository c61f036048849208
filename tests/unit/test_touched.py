"""Which stacks CI looks at."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stacks import settings
from tools import touched as module
from tools.touched import stacks, touched


def test_dev_comes_before_prod_and_a_stack_on_someones_machine_or_a_cluster_is_left_out(
    tmp_path: Path,
) -> None:
    of = {"prod": "aws", "dev": '"aws"', "local": "docker", "mine": "'docker'", "fleet": "kubernetes"}
    for name, target in of.items():
        (tmp_path / f"Pulumi.{name}.yaml").write_text(f"config:\n  changeover:target: {target}\n")
    assert stacks(tmp_path) == ["dev", "prod"]
    (tmp_path / "Pulumi.v1.2.yaml").write_text("config:\n  changeover:target: aws\n")
    assert stacks(tmp_path) == ["v1.2", "dev", "prod"] and settings.stacks(tmp_path)[-1] == "v1.2"
    assert touched(["v1.2"], ["Pulumi.v1.2.yaml"]) == ["v1.2"]


def test_a_name_with_a_dot_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.team.a.yaml").write_text("config:\n  changeover:target: aws\n")
    assert stacks(tmp_path) == ["team.a"]
    assert touched(["team", "team.a"], ["Pulumi.team.a.yaml"]) == ["team.a"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["Pulumi.prod.yaml", "rendered/prod/tensorzero.toml"], ["prod"]),
        (["rendered/dev/cutover.txt"], ["dev"]),
        (["components/edge.py"], ["dev", "prod"]),
        (["stacks/settings.py"], ["dev", "prod"]),
        (["README.md", "tests/unit/test_touched.py", "Pulumi.local.yaml", "bench/flip.py"], []),
    ],
)
def test_a_stack_is_touched_by_its_own_files_and_by_the_program(
    changed: list[str], expected: list[str]
) -> None:
    assert touched(["dev", "prod"], changed) == expected


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A repository with two stacks, whose branch `main` has had a change of `dev` merged."""
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def run(*words: str) -> str:
        who = ("-c", "user.name=A tester", "-c", "user.email=tester@example.org")
        return subprocess.check_output(["git", *who, *words], cwd=tmp_path, text=True).strip()

    def change(stack: str, engine: str) -> None:
        settings = f"config:\n  changeover:target: aws\n  changeover:engine: {engine}\n"
        (tmp_path / f"Pulumi.{stack}.yaml").write_text(settings)
        run("add", "--all")
        run("commit", "--quiet", "--message", f"{stack}: {engine}")

    run("init", "--quiet", "--initial-branch=main")
    change("dev", "ollama")
    change("prod", "ollama")
    run("switch", "--quiet", "--create", "branch")
    change("dev", "vllm")
    run("switch", "--quiet", "main")
    change("prod", "vllm")  # merged by somebody else meanwhile
    run("merge", "--quiet", "--no-ff", "--message", "Merge branch", "branch")
    return run


@pytest.mark.parametrize(
    ("head", "base", "expected"),
    [
        ("branch", "main^1", ["dev"]),  # a pull request whose base has moved on
        ("main", "main^1", ["dev"]),  # the merge
        ("main", "main^1^", ["dev", "prod"]),
        ("main", "", ["dev", "prod"]),
        ("main", "0" * 40, ["dev", "prod"]),  # as on a new branch
    ],
)
def test_what_a_merge_has_touched_is_what_its_branch_changed(
    git: Callable[..., str], head: str, base: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    git("switch", "--quiet", head)
    module.main(git("rev-parse", base) if base.startswith("main") else base)
    assert json.loads(capsys.readouterr().out) == expected


def test_a_file_that_leaves_the_program_touches_every_stack(
    git: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "components").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "components" / "rules.yaml").write_text("a\n" * 50)
    git("add", "--all")
    git("commit", "--quiet", "--message", "rules")
    git("mv", "components/rules.yaml", "docs/rules.yaml")
    git("commit", "--quiet", "--message", "they go")
    module.main("HEAD^")
    assert json.loads(capsys.readouterr().out) == ["dev", "prod"]


@pytest.mark.parametrize("name", ["components/modèle.toml", 'components/a "b".py', "components/a\nb.py"])
def test_a_file_of_the_program_touches_every_stack_whatever_its_name(
    git: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "components").mkdir()
    (tmp_path / name).touch()
    git("add", "--all")
    git("commit", "--quiet", "--message", "a model")
    module.main("HEAD^")
    assert json.loads(capsys.readouterr().out) == ["dev", "prod"]
