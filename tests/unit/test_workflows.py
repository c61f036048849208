"""What the workflows must never do. Their form is actionlint's business."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(file: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(file.read_text()))


def test_there_are_workflows() -> None:
    names = {file.stem for file in FILES}
    assert names == {"check", "review", "apply", "apply-stack", "drift", "rollback"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_action_is_pinned_by_its_commit(file: Path) -> None:
    for used in re.findall(r"uses: (\S+)", file.read_text()):
        assert used.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_is_allowed_that_a_job_does_not_say(file: Path) -> None:
    assert load(file)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_there_is_no_secret_and_no_long_lived_key(file: Path) -> None:
    text = file.read_text()
    assert "secrets." not in text
    assert "aws-access-key-id" not in text
    assert "pull_request_target" not in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_others_wrote_is_in_no_shell_line(file: Path) -> None:
    for job in load(file)["jobs"].values():
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", ""), step


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_others_wrote_reaches_make_through_the_environment(file: Path) -> None:
    """A value on make's own command line is expanded by make, with what it calls functions: `$(shell …)`."""
    for job in load(file)["jobs"].values():
        for step in job.get("steps", []):
            for line in step.get("run", "").splitlines():
                assert not re.search(r"\bmake\b.*=", line), line
                assert "make" not in line or "$(" not in line, line


def test_no_recipe_has_a_variable_that_somebody_gives() -> None:
    ours = {"RUN", "VENV", "PYTEST", "FLIPS", "PYTHON", "COMPILE", "LOCK", "MAKEFILE_LIST"}
    for line in (ROOT / "Makefile").read_text().splitlines():
        if line.startswith("\t"):
            assert set(re.findall(r"(?<!\$)\$[({]([^)}]*)", line)) <= ours, line


def test_all_tests_run_as_root_or_those_on_aws_would_not_run() -> None:
    job = load(ROOT / ".github" / "workflows" / "check.yml")["jobs"]["test"]
    assert job["steps"][-1]["run"] == 'sudo -E env "PATH=$PATH" .ci/run'


def test_a_pull_request_from_a_fork_gets_no_role() -> None:
    on = load(ROOT / ".github" / "workflows" / "review.yml")
    jobs = on["jobs"]
    assert "head.repo.full_name == github.repository" in jobs["touched"]["if"]
    assert jobs["review"]["needs"] == "touched"


def test_only_what_is_merged_is_applied() -> None:
    on = load(ROOT / ".github" / "workflows" / "apply.yml")
    assert on[True]["push"] == {"branches": ["main"]}
    assert on["jobs"]["touched"]["if"] == "github.ref == 'refs/heads/main'"
    for name in ("dev", "prod"):
        assert "touched" in on["jobs"][name]["needs"]
    back = load(ROOT / ".github" / "workflows" / "rollback.yml")
    for name in ("show", "rollback"):
        assert back["jobs"][name]["if"] == "github.ref == 'refs/heads/main'"


@pytest.mark.parametrize("name", ["apply", "rollback"])
def test_what_waits_for_another_update_is_not_cancelled_by_what_comes_after_it(name: str) -> None:
    """Without `queue`, GitHub keeps one that waits and cancels it for the next. `prod` waits for people."""
    file = load(ROOT / ".github" / "workflows" / f"{name}.yml")
    assert file["concurrency"] == {"group": "apply", "cancel-in-progress": False, "queue": "max"}


def test_prod_comes_after_dev_and_waits_for_an_approval() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "apply.yml")["jobs"]
    assert "dev" in jobs["prod"]["needs"]
    assert """contains(fromJSON('["success", "skipped"]'), needs.dev.result)""" in jobs["prod"]["if"]
    for file, name in (("apply-stack", "apply"), ("rollback", "rollback")):
        job = load(ROOT / ".github" / "workflows" / f"{file}.yml")["jobs"][name]
        assert job["environment"] == "${{ inputs.stack }}"
        assert "vars.AWS_APPLY_ROLE" in str(job)


@pytest.mark.parametrize(
    ("file", "changes", "review", "folder"),
    [
        ("apply-stack", "apply", "make review", "$STACK"),
        ("rollback", "rollback", "make rollback-review", "$STACK.rollback"),
    ],
)
def test_who_approves_reads_what_merged_code_says_and_no_comment(
    file: str, changes: str, review: str, folder: str
) -> None:
    """A branch's own workflow may write comments in the same name."""
    jobs = load(ROOT / ".github" / "workflows" / f"{file}.yml")["jobs"]
    assert jobs[changes]["needs"] == "show"
    assert "environment" not in jobs["show"]
    assert "vars.AWS_REVIEW_ROLE" in str(jobs["show"]) and "APPLY_ROLE" not in str(jobs["show"])
    assert set(jobs["show"]["permissions"].items()) == {("contents", "read"), ("id-token", "write")}
    *_, reviews, shows = (step["run"] for step in jobs["show"]["steps"] if "run" in step)
    assert (reviews, shows) == (review, f'cat "reviews/{folder}/review.md" >>"$GITHUB_STEP_SUMMARY"')


def test_a_rollback_is_the_one_that_was_shown_to_who_approved_it() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "rollback.yml")["jobs"]
    (kept,) = (step["with"] for step in jobs["show"]["steps"] if "upload-artifact" in step.get("uses", ""))
    *_, fetches, goes = jobs["rollback"]["steps"]
    assert "download-artifact" in fetches["uses"]
    assert fetches["with"] == {key: kept[key] for key in ("name", "path")}, "of this very run, and no other"
    assert jobs["rollback"]["env"]["REVIEW"] == kept["path"]
    assert goes["run"].startswith("make rollback |")
    same = ("STACK", "TO", "CHANGEOVER_BACKEND")
    assert all(jobs["show"]["env"][key] == jobs["rollback"]["env"][key] for key in same)
    assert "YES" not in jobs["rollback"]["env"], "without its review it would ask, and not go on"


def test_a_rollback_in_ci_can_tell_what_was_merged() -> None:
    for job in load(ROOT / ".github" / "workflows" / "rollback.yml")["jobs"].values():
        assert job["steps"][0]["with"]["fetch-depth"] == 0
