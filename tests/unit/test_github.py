"""What the workflows say on GitHub, against a small stand-in of its API."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from offline.steps import StepFailed
from tools import github, review


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
    drift(0, f"dev is {review.ASLEEP}")
    assert issue["state"] == "open", "nothing was looked at"
    drift(0, "no drift")
    assert issue["state"] == "closed"
    with pytest.raises(StepFailed, match="could not be looked for"):
        drift(1, "no credentials")
