"""What the workflows say on GitHub, against a small stand-in of its API."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline.steps import StepFailed
from tools import github, review
from tools.environment import ROOT


class GitHub:
    """Issues, comments and artifacts of one repository. What it does not know fails the test."""

    def __init__(self) -> None:
        self.comments: dict[int, dict[str, Any]] = {}
        self.issues: dict[int, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self.calls.append(f"{method} {path.partition('?')[0]}")
        number = int((re.findall(r"/(\d+)", path) or ["0"])[0])
        match method, re.sub(r"\d+", "N", path.partition("?")[0]):
            case "GET", "issues/N/comments":
                return list(self.comments.values())
            case "POST", "issues/N/comments":
                new = 100 + len(self.comments)
                self.comments[new] = {"id": new, "user": {"login": github.US}, **(body or {})}
            case "PATCH", "issues/comments/N":
                self.comments[number].update(body or {})
            case "GET", "issues":
                return [each for each in self.issues.values() if each["state"] == "open"]
            case "POST", "issues":
                self.issues[7] = {"number": 7, "state": "open", **(body or {})}
            case "PATCH", "issues/N":
                self.issues[number].update(body or {})
            case "GET", "actions/artifacts":
                name = re.findall(r"name=([^&]+)", path)[0]
                return {"artifacts": [each for each in self.artifacts if each["name"] == name]}
            case _:
                raise AssertionError(f"GitHub was asked for {method} {path}")
        return None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> GitHub:
    hub = GitHub()
    monkeypatch.setattr(github, "gh", hub)
    monkeypatch.setenv("PULL_REQUEST", "5")
    return hub


def test_a_review_is_one_comment_that_is_updated(hub: GitHub, tmp_path: Path) -> None:
    file = tmp_path / "review.md"
    mark = "<!-- changeover: Review of dev -->"
    hub.comments[1] = {"id": 1, "user": {"login": "somebody"}, "body": f"{mark}\n## all is well"}
    for text in ("first", "second"):
        file.write_text(text)
        github.comment("Review of dev", file)
    file.write_text("another")
    github.comment("Review of prod", file)
    assert hub.comments.pop(1)["body"].endswith("all is well"), "another's comment is no place for a review"
    bodies = [each["body"] for each in hub.comments.values()]
    assert [body.splitlines()[1::2] for body in bodies] == [
        ["## Review of dev", "second"],
        ["## Review of prod", "another"],
    ]


def test_a_certificate_that_is_not_there_is_no_comment(hub: GitHub, tmp_path: Path) -> None:
    github.comment("Certificate of dev", tmp_path / "none.md")
    assert hub.calls == []


def artifact(name: str, run: int, created: str, repository: int = 1, expired: bool = False) -> dict[str, Any]:
    run_ = {"id": run, "head_repository_id": repository, "repository_id": 1}
    return {"name": name, "created_at": created, "expired": expired, "workflow_run": run_}


def test_only_a_review_of_this_tree_from_this_repository_is_applied(
    hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    name = f"review-dev-{review.git('rev-parse', 'HEAD^{tree}').strip()}"
    hub.artifacts = [
        artifact(name, 1, "2026-11-24T01"),
        artifact(name, 2, "2026-11-24T02"),
        artifact(name, 3, "2026-11-24T03", repository=2),
        artifact(name, 4, "2026-11-24T04", expired=True),
        artifact("review-dev-of-another-tree", 5, "2026-11-24T05"),
    ]
    github.fetch_review("dev")
    assert output.read_text() == f"name={name}\nrun=2\n"
    hub.artifacts = hub.artifacts[2:]
    with pytest.raises(StepFailed, match="nobody has reviewed what is merged here"):
        github.fetch_review("dev")


def test_a_drift_is_one_issue_that_closes_when_it_is_gone(
    hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(answer))

    def drift(code: int, text: str) -> None:
        answer.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
        answer.chmod(0o755)
        github.drift_issue("dev")

    drift(0, "no drift")
    assert hub.issues == {}
    drift(2, "the edge is stopped")
    drift(2, "the edge and the switch are stopped")
    (issue,) = hub.issues.values()
    assert (issue["title"], issue["labels"], issue["state"]) == ("Drift of dev", ["drift"], "open")
    assert issue["body"] == "the edge and the switch are stopped\n"
    drift(2, "x" * 2 * github.LONGEST)
    assert len(issue["body"]) == github.LONGEST
    drift(0, f"dev is {review.ASLEEP}")
    assert issue["state"] == "open", "nothing was looked at"
    drift(0, "no drift")
    assert issue["state"] == "closed"
    with pytest.raises(StepFailed, match="could not be looked for"):
        drift(1, "no credentials")


GH = """#!{python}
# a test double of GitHub's CLI: keeps what it is asked, and answers by method and path without its query
import json, pathlib, sys
folder = pathlib.Path("{folder}")
api, flag, method, path, *more = sys.argv[1:]
assert (api, flag) == ("api", "--method") and more in ([], ["--input", "-"]), sys.argv
said = sys.stdin.read()
asked = [method, path, json.loads(said) if more else None]
with (folder / "asked").open("a") as out:
    out.write(json.dumps(asked) + "\\n")
answer = json.loads((folder / "answers").read_text()).get(method + " " + path.partition("?")[0])
if answer is None and method == "GET":
    sys.exit("gh: Not Found (HTTP 404)")
print("" if answer is None else json.dumps(answer))
"""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs what a make target runs, with the double of `gh` on PATH; returns what GitHub was asked."""
    (tmp_path / "gh").write_text(GH.format(python=sys.executable, folder=tmp_path))
    (tmp_path / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("PULL_REQUEST", "5")

    def run(target: str, answers: dict[str, Any], **variables: str) -> list[Any]:
        (tmp_path / "answers").write_text(
            json.dumps({f"GET repos/owner/name/{k}": v for k, v in answers.items()})
        )
        (tmp_path / "asked").write_text("")
        given = [f"{key}={value}" for key, value in variables.items()]
        said = subprocess.check_output(
            ["make", "-s", "-n", "-o", ".venv/.synced", target, *given],
            cwd=ROOT,
            env={**os.environ, "MAKEFLAGS": ""},
            text=True,
        )
        python, flag, module, *words = shlex.split(said)
        assert (python, flag, module) == (".venv/bin/python", "-m", "tools.github")
        monkeypatch.setattr(sys, "argv", ["github", *words])
        github.main()
        return [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]

    return run


def test_make_comment_asks_github_by_its_command(typed: Callable[..., list[Any]], tmp_path: Path) -> None:
    (tmp_path / "review.md").write_text("Nothing is lost.")
    there = "issues/5/comments"
    asked = typed("comment", {there: []}, TITLE="Review of dev", FILE=str(tmp_path / "review.md"))
    body = {"body": "<!-- changeover: Review of dev -->\n## Review of dev\n\nNothing is lost."}
    assert asked == [
        ["GET", f"repos/owner/name/{there}?per_page=100&page=1", None],
        ["POST", f"repos/owner/name/{there}", body],
    ]


def test_make_fetch_review_names_the_run_to_the_next_step(
    typed: Callable[..., list[Any]], tmp_path: Path
) -> None:
    name = f"review-dev-{review.git('rev-parse', 'HEAD^{tree}').strip()}"
    (asked,) = typed(
        "fetch-review", {"actions/artifacts": {"artifacts": [artifact(name, 7, "2026")]}}, STACK="dev"
    )
    assert asked[1] == f"repos/owner/name/actions/artifacts?name={name}&per_page=100"
    assert (tmp_path / "output").read_text() == f"name={name}\nrun=7\n"


def test_make_drift_issue_opens_one(
    typed: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n[ \"$*\" = '-m tools.review drift dev' ] && echo drifted && exit 2\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    asked = typed("drift-issue", {"issues": []}, STACK="dev")
    issue = {"title": "Drift of dev", "body": "drifted\n", "labels": ["drift"]}
    assert asked[1:] == [["POST", "repos/owner/name/issues", issue]]


def test_what_github_refuses_is_said_in_its_own_words(typed: Callable[..., list[Any]]) -> None:
    with pytest.raises(StepFailed, match=r"GET actions/artifacts.*: gh: Not Found"):
        typed("fetch-review", {}, STACK="dev")
