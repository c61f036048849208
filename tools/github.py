"""What the workflows ask of GitHub, through its `gh` command: comments, reviews, the issue of a drift."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from offline.steps import StepFailed, main_guard, say
from tools.environment import ROOT
from tools.review import ASLEEP, git

US = "github-actions[bot]"
"""Who writes with a workflow's token: what others wrote under the same mark is left alone."""
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
    if not file.is_file():
        say(f"there is no {file}: nothing to say")
        return
    number = pull_request()
    if number is None:
        say("no pull request brought this commit; nothing is said")
        return
    mark = f"<!-- changeover: {title} -->"
    body = {"body": f"{mark}\n## {title}\n\n{file.read_text()}"[:LONGEST]}
    for page in range(1, 100):
        there = gh("GET", f"issues/{number}/comments?per_page=100&page={page}")
        for each in there:
            if each["user"]["login"] == US and each["body"].startswith(mark):
                gh("PATCH", f"issues/comments/{each['id']}", body)
                return
        if len(there) < 100:
            break
    gh("POST", f"issues/{number}/comments", body)


def fetch_review(stack: str) -> None:
    """Find the run that holds the review of what is checked out; its name and number go to the next step.

    Only a run of this repository's own branches counts: a fork can give an artifact any name.
    """
    name = f"review-{stack}-{git('rev-parse', 'HEAD^{tree}').strip()}"
    found = [
        each
        for each in gh("GET", f"actions/artifacts?name={name}&per_page=100")["artifacts"]
        if not each["expired"]
        and each["workflow_run"]["head_repository_id"] == each["workflow_run"]["repository_id"]
    ]
    if not found:
        raise StepFailed(
            f"nobody has reviewed what is merged here ({name}): something else was merged in between, or the "
            "review has expired. Nothing was changed. Start the workflow `review` on this branch, and then "
            "this one again"
        )
    newest = max(found, key=lambda each: str(each["created_at"]))
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as out:
        out.write(f"name={name}\nrun={newest['workflow_run']['id']}\n")


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
        raise StepFailed(f"drift of `{stack}` could not be looked for; why is said above")
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
    for action in ("fetch-review", "drift-issue"):
        actions.add_parser(action).add_argument("stack")
    asked = parser.parse_args()
    if asked.action == "comment":
        comment(asked.title, asked.file)
    elif asked.action == "fetch-review":
        fetch_review(asked.stack)
    else:
        drift_issue(asked.stack)


if __name__ == "__main__":
    main_guard(main)
