"""What the workflows say on GitHub, against a small stand-in of its API."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import ROOT, StepFailed
from tools import github, review


class GitHub:
    """Issues, comments and artifacts of one repository. What it does not know fails the test."""

    def __init__(self) -> None:
        self.comments: dict[int, dict[str, Any]] = {}
        self.issues: dict[int, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.runs: dict[int, dict[str, Any]] = {}
        self.pulls: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.events: dict[int, list[str]] = {}
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
            case "GET", "actions/runs/N":
                return self.runs[number]
            case "GET", listed if re.fullmatch(r"commits/\w+/pulls", listed):
                assert path == f"commits/{HEAD}/pulls"
                return self.pulls
            case "GET", "pulls":
                assert "state=all&head=owner%3Aflip&" in path
                return [*self.pulls, *self.others]
            case "GET", "issues/N/events":
                return [{"event": each} for each in self.events.get(number, [])]
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
    file.write_text("x" * 2 * github.LONGEST)
    github.comment("Review of all", file)
    assert len(hub.comments.pop(max(hub.comments))["body"]) == github.LONGEST
    assert hub.comments.pop(1)["body"].endswith("all is well"), "another's comment is no place for a review"
    bodies = [each["body"] for each in hub.comments.values()]
    assert [body.splitlines()[1::2] for body in bodies] == [
        ["## Review of dev", "second"],
        ["## Review of prod", "another"],
    ]


def test_a_certificate_that_is_not_there_is_no_comment(hub: GitHub, tmp_path: Path) -> None:
    github.comment("Certificate of dev", tmp_path / "none.md")
    assert hub.calls == []


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `dev`'s certificates."""
    monkeypatch.setattr(github, "ROOT", tmp_path)
    folder = tmp_path / "certificates" / "dev"
    folder.mkdir(parents=True)
    return folder


def write(file: Path, text: str, second: int) -> None:
    file.write_text(text)
    os.utime(file, (second, second))


def test_the_newest_certificate_of_a_stack_is_a_comment(hub: GitHub, certificates: Path) -> None:
    write(certificates / "2.md", "newest", 2)
    write(certificates / "1.md", "older", 1)
    write(certificates / "3.json", "{}", 3)
    github.certificate("dev")
    (said,) = hub.comments.values()
    assert said["body"].startswith("<!-- changeover: Certificate of dev -->")
    assert said["body"].endswith("newest")
    github.certificate("prod")
    assert len(hub.comments) == 1


def test_no_link_is_followed_out_of_the_certificates(hub: GitHub, certificates: Path, tmp_path: Path) -> None:
    """Whoever has the host names what comes from there; this job's credentials are in its environment."""
    (certificates / "x.md").symlink_to("/proc/self/environ")
    github.certificate("dev")
    assert hub.calls == []
    with pytest.raises(StepFailed, match=r"x\.md can't be read"):
        github.comment("Certificate of dev", certificates / "x.md")
    os.mkfifo(certificates / "y.md")
    github.certificate("dev")
    with pytest.raises(StepFailed, match="not a regular file"):
        github.comment("Certificate of dev", certificates / "y.md")
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["$(shell touch {}).md", "`touch {}`.md", "x; touch {} #.md", "$$(touch {}).md"]
)
def test_neither_make_nor_the_shell_runs_what_is_in_a_name(tmp_path: Path, name: str) -> None:
    given = name.format(tmp_path / "ran")
    assert words_of("comment", TITLE=given, FILE=given) == ["tools.github", "comment", given, given]
    for target in ("certificate", "fetch-review", "drift-issue"):
        assert words_of(target, STACK=given) == ["tools.github", target, given]
    assert words_of("apply", STACK=given) == ["tools.review", "apply", given]
    assert not (tmp_path / "ran").exists()


HEAD = review.git("rev-parse", "HEAD").strip()
NAME = f"review-dev-{review.git('rev-parse', 'HEAD^{tree}').strip()}"
LAST = "a" * 40
"""The last commit of the pull request that brought this one here."""


def reviewed(hub: GitHub, number: int, **more: Any) -> None:
    """An artifact, with the run that left it; `more` is changed in either."""
    run = {"event": "pull_request", "path": github.REVIEW, "head_branch": "flip", "head_sha": LAST}
    hub.runs[number] = {**run, **{key: value for key, value in more.items() if key in run}}
    hub.artifacts.append(
        {
            "name": more.get("name", NAME),
            "created_at": more.get("created_at", f"2026-11-24T{number:02}"),
            "expired": more.get("expired", False),
            "workflow_run": {
                "id": number,
                "repository_id": 1,
                "head_repository_id": more.get("repository", 1),
                "head_branch": hub.runs[number]["head_branch"],
                "head_sha": more.get("said_sha", hub.runs[number]["head_sha"]),
            },
        }
    )


def merged(**more: Any) -> dict[str, Any]:
    """The pull request that brought what is checked out."""
    head = {"ref": "flip", "sha": LAST, "repo": {"id": 1, "owner": {"login": "owner"}}}
    rest = {"number": 5, "base": {"ref": "main"}, "merged_at": "x", "merge_commit_sha": HEAD}
    return {"head": {**head, **more.pop("head", {})}, **rest, **more}


@pytest.fixture
def output(hub: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a step of a workflow says to the next."""
    hub.pulls = [merged()]
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    return tmp_path / "output"


def test_the_newest_review_of_the_pull_request_that_was_merged_is_applied(hub: GitHub, output: Path) -> None:
    for number in (1, 2):
        reviewed(hub, number)
    github.fetch_review("dev")
    assert output.read_text() == f"name={NAME}\nrun=2\n"


def test_a_review_that_was_started_by_hand_on_what_is_merged_is_applied(hub: GitHub, output: Path) -> None:
    hub.pulls = []
    by_hand = {"event": "workflow_dispatch", "head_branch": "main", "head_sha": HEAD}
    reviewed(hub, 1, **by_hand, path=f"{github.REVIEW}@refs/heads/main")
    github.fetch_review("dev")
    assert output.read_text().endswith("run=1\n")


BY_HAND = {"event": "workflow_dispatch", "head_branch": "main", "head_sha": HEAD}


@pytest.mark.parametrize(
    "more",
    [
        {"repository": 2},  # a fork
        {"expired": True},
        {"name": "review-dev-of-another-tree"},
        {"path": ".github/workflows/mine.yml"},
        {"path": ".github/workflows/review.yml.yml"},
        {"event": "push"},
        {"event": "schedule"},
        {"head_sha": "b" * 40},  # an earlier commit of the pull request
        {"head_branch": "another"},
        {"said_sha": "b" * 40},
        {**BY_HAND, "head_branch": "mine"},
        {**BY_HAND, "head_sha": LAST},
        {**BY_HAND, "path": ".github/workflows/mine.yml"},
    ],
    ids=str,
)
def test_a_review_of_another_repository_workflow_branch_or_commit_is_refused(
    hub: GitHub, output: Path, more: dict[str, Any]
) -> None:
    reviewed(hub, 9, **more)
    with pytest.raises(StepFailed, match="there is no review of what is merged here"):
        github.fetch_review("dev")
    assert not output.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"merged_at": None},
        {"merge_commit_sha": LAST},
        {"head": {"repo": {"id": 2}}},
        {"head": {"repo": None}},  # a fork that is gone
        {"head": {"sha": "b" * 40}},
        {"base": {"ref": "mine"}},
    ],
    ids=str,
)
def test_a_pull_request_that_did_not_bring_what_is_checked_out_is_no_review_of_it(
    hub: GitHub, output: Path, more: dict[str, Any]
) -> None:
    hub.pulls = [merged(**more)]
    reviewed(hub, 1)
    with pytest.raises(StepFailed, match="there is no review of what is merged here"):
        github.fetch_review("dev")


def test_a_branch_that_was_to_be_merged_into_another_than_main_too_is_not_reviewed(
    hub: GitHub, output: Path
) -> None:
    """Its run would be that of a merge with whatever workflow the other branch has, and looks the same."""
    reviewed(hub, 1)
    hub.others = [merged(number=6, base={"ref": "mine"}, merged_at=None)]
    with pytest.raises(StepFailed, match="there is no review of what is merged here"):
        github.fetch_review("dev")
    hub.others = [merged(number=6, merged_at=None)]
    for number in (5, 6):
        hub.events = {number: ["labeled", "base_ref_changed"]}
        with pytest.raises(StepFailed, match="there is no review of what is merged here"):
            github.fetch_review("dev")
    hub.events = {5: ["labeled"]}
    github.fetch_review("dev")
    assert output.read_text().endswith("run=1\n")


def test_every_page_of_a_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event that a pull request was to be merged into another branch may be on any of them."""
    there = [{"event": "labeled"}] * 250 + [{"event": "base_ref_changed"}]

    def gh(method: str, path: str) -> list[dict[str, str]]:
        (page,) = re.findall(r"[?&]per_page=100&page=(\d+)$", path)
        return there[100 * (int(page) - 1) : 100 * int(page)]

    monkeypatch.setattr(github, "gh", gh)
    assert github.listed("issues/5/events") == github.listed("issues/5/events?x=1") == there
    there = there[:200]
    assert github.listed("issues/5/events") == there


def test_each_stack_has_an_issue_of_its_own(hub: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.issues[8] = {"number": 8, "state": "open", "title": "Drift of prod", "body": "the edge is stopped"}
    for code in (0, 2):
        done = subprocess.CompletedProcess([], code, "")
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        github.drift_issue("dev")
        assert hub.issues[8]["state"] == "open"
    assert hub.issues[8]["body"] == "the edge is stopped" and hub.issues[7]["title"] == "Drift of dev"


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
    with pytest.raises(StepFailed, match="the check of `dev` for drift failed"):
        drift(1, "no credentials")


PYTHON = sys.executable


def words_of(target: str, **variables: str) -> list[str]:
    """What a make target would run with these variables in its environment, as a workflow gives them."""
    printing = f"RUN={PYTHON} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"
    said = subprocess.check_output(
        ["make", "-s", "-o", ".venv/.synced", target, printing],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": "", **variables},
        text=True,
    )
    words: list[str] = json.loads(said)
    return words


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
        words = words_of(target, **variables)
        assert words.pop(0) == "tools.github"
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
    hub = GitHub()
    reviewed(hub, 7)
    answers = {
        f"commits/{HEAD}/pulls": [merged()],
        "actions/artifacts": {"artifacts": hub.artifacts},
        "actions/runs/7": hub.runs[7],
        "pulls": [],
        "issues/5/events": [],
    }
    asked = typed("fetch-review", answers, STACK="dev")
    assert [path for _, path, _ in asked] == [
        f"repos/owner/name/commits/{HEAD}/pulls",
        f"repos/owner/name/actions/artifacts?name={NAME}&per_page=100",
        "repos/owner/name/actions/runs/7",
        "repos/owner/name/pulls?state=all&head=owner%3Aflip&per_page=100&page=1",
        "repos/owner/name/issues/5/events?per_page=100&page=1",
    ]
    assert (tmp_path / "output").read_text() == f"name={NAME}\nrun=7\n"


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
    with pytest.raises(StepFailed, match=r"GET commits/.*/pulls: gh: Not Found"):
        typed("fetch-review", {}, STACK="dev")
