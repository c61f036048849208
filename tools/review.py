"""`make review`, `make apply` and `make drift`: what would change, as a person reads it, and then just that.

A review is a folder `reviews/<stack>/` with the Markdown, Pulumi's plan, and what it was bound to.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from offline.steps import StepFailed, main_guard, say
from review.events import Preview, PreviewFailed, parse
from review.text import drift as drift_words
from review.text import render, warnings
from stacks.settings import SettingsError
from tools import environment
from tools.environment import ROOT, pulumi
from tools.render import stale

PLAN, TEXT, BOUND = "plan.json", "review.md", "bound.json"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a review holds for: a review of one is no review of another."""

    stack: str
    commit: str
    state: str
    rendered: str
    review: str

    def differences(self, now: "Bound") -> list[str]:
        """In words, what is not as it was when this was reviewed."""
        said = {
            "stack": "it is the review of another stack",
            "commit": "the commit is another one: something was merged, or files were edited",
            "state": "the stack's state is another one: an update ran in between",
            "rendered": "the rendered files differ",
            "review": "the preview says something else: something was changed behind Pulumi's back",
        }
        before, after = asdict(self), asdict(now)
        return [f"{said[key]} ({before[key]} → {after[key]})" for key in said if before[key] != after[key]]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def commit_of(root: Path) -> str:
    """The commit that is checked out; with `+` and a digest of the difference where files were edited."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StepFailed(f"a review is bound to a commit, and git says: {done.stderr.strip()}")
        return done.stdout

    edited = git("diff", "HEAD") + git("status", "--porcelain")
    head = git("rev-parse", "HEAD").strip()
    return f"{head}+{_digest(edited)}" if edited else head


def rendered_of(root: Path, stack: str) -> str:
    """A digest of the rendered files. Raises StepFailed when they are stale."""
    try:
        names = stale(root, stack)
    except SettingsError as error:
        raise StepFailed(str(error)) from None
    if names:
        raise StepFailed(f"stacks/{stack}/ is stale: {', '.join(names)}. Type: make render")
    files = sorted((root / "stacks" / stack).iterdir())
    return _digest(*(part for file in files for part in (file.name, file.read_text())))


def preview_of(stack: str, plan: Path | None = None) -> Preview:
    """The preview of `stack`, with what was changed behind Pulumi's back. Raises StepFailed."""
    # Without --refresh a stopped container would not show.
    words = ["preview", "--json", "--refresh", "--stack", stack, "--non-interactive"]
    done = subprocess.run(
        [environment.BIN / "pulumi", *words, *(["--save-plan", str(plan)] if plan else [])],
        cwd=ROOT,
        env={**environment.process_environment(), "PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        seen = parse(line for line in done.stdout.splitlines() if line.startswith("{"))
    except PreviewFailed as error:
        raise StepFailed(f"the preview of `{stack}` failed; nothing was changed.\n{error}") from None
    if done.returncode != 0:
        raise StepFailed(f"the preview of `{stack}` failed; nothing was changed.\n{done.stderr.strip()}")
    return seen


def make(stack: str, folder: Path) -> tuple[Bound, Preview]:
    """Preview `stack` and write its review into `folder`."""
    rendered = rendered_of(ROOT, stack)
    folder.mkdir(parents=True, exist_ok=True)
    state = _digest(pulumi("stack", "export", "--stack", stack, capture=True))
    seen = preview_of(stack, folder / PLAN)
    text = render(seen, stack=stack, cutover=(ROOT / "stacks" / stack / "cutover.txt").read_text())
    bound = Bound(stack=stack, commit=commit_of(ROOT), state=state, rendered=rendered, review=_digest(text))
    (folder / TEXT).write_text(text)
    (folder / BOUND).write_text(json.dumps(asdict(bound), indent=2) + "\n")
    return bound, seen


def review(stack: str) -> None:
    """Write the review of `stack` and print it."""
    folder = ROOT / "reviews" / stack
    make(stack, folder)
    say((folder / TEXT).read_text())
    say(f"Apply just this with: make apply STACK={stack} REVIEW={folder.relative_to(ROOT)}")


def apply(stack: str, folder: Path) -> None:
    """Apply what was reviewed, and refuse anything else."""
    try:
        reviewed = Bound(**json.loads((folder / BOUND).read_text()))
    except FileNotFoundError:
        raise StepFailed(f"there is no review in {folder}. Type: make review STACK={stack}") from None
    now, seen = make(stack, ROOT / "reviews" / f"{stack}.now")
    if different := reviewed.differences(now):
        lines = "\n  ".join(different)
        raise StepFailed(
            f"this is not what was reviewed; nothing was changed.\n  {lines}\n"
            f"Review it again: make review STACK={stack}"
        )
    if broken := [each for each in warnings(seen, stack) if each.startswith("policy broken")]:
        raise StepFailed("nothing was changed.\n  " + "\n  ".join(broken))
    pulumi("up", "--yes", "--skip-preview", "--refresh", "--plan", str(folder / PLAN), "--stack", stack)


def drift(stack: str) -> None:
    """Say what was changed behind Pulumi's back; exit status 2 if anything was."""
    seen = preview_of(stack)
    found = drift_words(seen)
    if not found and seen.changes:
        names = ", ".join(f"`{change.name}`" for change in seen.changes)
        found = [f"what is deployed is not what the settings here say: {names} would change"]
    if not found:
        say(f"`{stack}`: no drift.")
        return
    say(f"`{stack}` was changed behind Pulumi's back; `pulumi up` puts it right:")
    say("\n".join(f"- {line}" for line in found))
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["review", "apply", "drift"])
    parser.add_argument("stack")
    asked = parser.parse_args()
    if asked.action == "review":
        review(asked.stack)
    elif asked.action == "drift":
        drift(asked.stack)
    else:
        given = os.environ.get("REVIEW")
        if not given:
            raise StepFailed(
                f"which review? Type: make apply STACK={asked.stack} REVIEW=reviews/{asked.stack}"
            )
        apply(asked.stack, Path(given).resolve())


if __name__ == "__main__":
    main_guard(main)
