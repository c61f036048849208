"""What the workflows ask of GitHub, through its `gh` command: comments, reviews, the issue of a drift."""

import argparse
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common import ROOT, StepFailed, main_guard, say
from tools.review import ASLEEP, git

US = "github-actions[bot]"
"""Who writes with a workflow's token: what others wrote under the same mark is left alone."""
REVIEW = ".github/workflows/review.yml"
MAIN = "main"
"""The branch that is applied, as the workflows say it."""
REBASED = ("base_ref_changed", "automatic_base_change_succeeded")
"""Events by which a pull request was to be merged into another branch until then:
https://docs.github.com/en/rest/using-the-rest-api/issue-event-types"""
CERTIFICATE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*\.md")
"""The name of a certificate's page."""
LONGEST = 65_000
"""Characters of a comment or an issue; GitHub takes 65,536."""


def gh(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One call of GitHub's REST API on this repository. Raises StepFailed with its own words."""
    repository = os.environ["GITHUB_REPOSITORY"]
    command = ["gh", "api", "--method", method, f"repos/{repository}/{path}"]
    done = subprocess.run(
        [*command, *(["--input", "-"] if body is not None else [])],
        input=json.dumps(body) if body is not None else "",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed(f"GitHub: {method} {path}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def pull_request() -> int | None:
    """The number of the pull request that this run belongs to, or that brought the commit here."""
    if number := os.environ.get("PULL_REQUEST"):
        return int(number)
    found = gh("GET", f"commits/{git('rev-parse', 'HEAD').strip()}/pulls")
    return int(found[0]["number"]) if found else None


def comment(title: str, file: Path) -> None:
    """Put the file's text under `title` into the pull request's one comment of that title."""
    try:
        text = read_plain(file)
    except FileNotFoundError:
        say(f"there is no {file}, so there is nothing to comment")
        return
    number = pull_request()
    if number is None:
        say("this commit came with no pull request, so nothing is commented")
        return
    mark = f"<!-- changeover: {title} -->"
    body = {"body": f"{mark}\n## {title}\n\n{text}"[:LONGEST]}
    for each in listed(f"issues/{number}/comments"):
        if each["user"]["login"] == US and each["body"].startswith(mark):
            gh("PATCH", f"issues/comments/{each['id']}", body)
            return
    gh("POST", f"issues/{number}/comments", body)


def read_plain(file: Path) -> str:
    """The text of a regular file. Raises FileNotFoundError, and StepFailed where it is anything else.

    A link would be read with this job's rights: /proc/self/environ holds its credentials.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, errors="replace") as opened:
            if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return opened.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StepFailed(f"{file} can't be read: {error.strerror}") from None
    raise StepFailed(f"{file} is not a regular file, and is not read")


def certificate(stack: str) -> None:
    """Put the stack's newest certificate into the pull request's comment for it.

    Certificates come from the host: their names are nothing that a shell or make may see, and only regular
    files with plain names are any.
    """
    folder = ROOT / "certificates" / stack
    there = [
        each
        for each in (os.scandir(folder) if folder.is_dir() else ())
        if CERTIFICATE.fullmatch(each.name) and each.is_file(follow_symlinks=False)
    ]
    if not there:
        say(f"there is no certificate in {folder}, so there is nothing to comment")
        return
    newest = max(there, key=lambda each: each.stat(follow_symlinks=False).st_mtime_ns)
    comment(f"Certificate of {stack}", Path(newest.path))


def listed(path: str) -> list[Any]:
    """Everything that a list of GitHub's has, over all of its pages."""
    found: list[Any] = []
    for page in range(1, 100):
        there = gh("GET", f"{path}{'&' if '?' in path else '?'}per_page=100&page={page}")
        found += there
        if len(there) < 100:
            break
    return found


def fetch_review(stack: str) -> None:
    """Find the run that holds the review of what is checked out; its name and number go to the next step.

    Whoever can start a workflow can give an artifact any name. So only a run of the workflow `review` counts
    that began as this repository's own: of the last commit of the pull request that brought this one here, or
    by hand on this very commit of `main`. That workflow's file is then part of what was reviewed, since
    nothing else than `main` was merged into for it.
    """
    name = f"review-{stack}-{git('rev-parse', 'HEAD^{tree}').strip()}"
    commit = git("rev-parse", "HEAD").strip()
    pulls = gh("GET", f"commits/{commit}/pulls")
    found = [
        each
        for each in gh("GET", f"actions/artifacts?name={name}&per_page=100")["artifacts"]
        if not each["expired"] and _reviews(each["workflow_run"], commit, pulls)
    ]
    if not found:
        raise StepFailed(
            f"there is no review of what is merged here ({name}): something else was merged in between, or "
            "the review has expired, or it is of another workflow, branch or commit. Nothing was changed. "
            "Start the workflow `review` on this branch, and then run this one again"
        )
    newest = max(found, key=lambda each: str(each["created_at"]))
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as out:
        out.write(f"name={name}\nrun={newest['workflow_run']['id']}\n")


def _reviews(artifact: dict[str, Any], commit: str, pulls: list[dict[str, Any]]) -> bool:
    """Whether the run of an artifact reviewed `commit`, which these pull requests brought."""
    if artifact["head_repository_id"] != artifact["repository_id"]:
        return False  # of a fork
    run = gh("GET", f"actions/runs/{artifact['id']}")
    if str(run["path"]).partition("@")[0] != REVIEW or run["head_sha"] != artifact["head_sha"]:
        return False
    if run["event"] == "workflow_dispatch":
        return (run["head_branch"], run["head_sha"]) == (MAIN, commit)
    return run["event"] == "pull_request" and any(
        (run["head_branch"], run["head_sha"]) == (each["head"]["ref"], each["head"]["sha"])
        and each["head"]["repo"] is not None
        and each["head"]["repo"]["id"] == artifact["repository_id"]
        and each["merged_at"] is not None
        and each["merge_commit_sha"] == commit
        and only_into_main(each)
        for each in pulls
    )


def only_into_main(pull: dict[str, Any]) -> bool:
    """Whether no pull request with this one's branch was ever to be merged into another than `main`.

    A run tells neither its pull request, once that is merged (con/tinuous#28), nor what it was to be merged
    into; and what it ran was the merge, so the workflow of whoever may push that other branch.
    """
    head = pull["head"]
    label = quote(f"{head['repo']['owner']['login']}:{head['ref']}", safe="")
    there = [pull, *listed(f"pulls?state=all&head={label}")]
    return all(each["base"]["ref"] == MAIN for each in there) and not any(
        event["event"] in REBASED
        for number in {each["number"] for each in there}
        for event in listed(f"issues/{number}/events")
    )


def drift_issue(stack: str) -> None:
    """Look for drift: keep one issue open while there is any, and close it when there is none.

    A stack that sleeps leaves the issue as it is.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tools.review", "drift", stack],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    say(done.stdout)
    body = {"body": done.stdout[:LONGEST]}
    if done.returncode not in (0, 2):
        raise StepFailed(f"the check of `{stack}` for drift failed; the reason is above")
    if ASLEEP in done.stdout:
        return
    title = f"Drift of {stack}"
    open_ones = gh("GET", "issues?state=open&labels=drift&per_page=100")
    number = next((each["number"] for each in open_ones if each["title"] == title), None)
    if done.returncode == 2 and number is None:
        gh("POST", "issues", {"title": title, **body, "labels": ["drift"]})
    elif done.returncode == 2:
        gh("PATCH", f"issues/{number}", body)
    elif number is not None:
        gh("POST", f"issues/{number}/comments", body)
        gh("PATCH", f"issues/{number}", {"state": "closed"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    commenter = actions.add_parser("comment")
    commenter.add_argument("title")
    commenter.add_argument("file", type=Path)
    for action in ("certificate", "fetch-review", "drift-issue"):
        actions.add_parser(action).add_argument("stack")
    asked = parser.parse_args()
    if asked.action == "comment":
        comment(asked.title, asked.file)
    elif asked.action == "certificate":
        certificate(asked.stack)
    elif asked.action == "fetch-review":
        fetch_review(asked.stack)
    else:
        drift_issue(asked.stack)


if __name__ == "__main__":
    main_guard(main)
