"""`make rollback`: what ran on a stack before, reviewed, asked about once, and then run again.

It is an ordinary update, from a git worktree of the commit that was running then, with the settings of then.
As in `make apply` it breaks no policy, is of the state that was looked at, and does what its plan allows.
`make rollback-review` only writes its review; with that as REVIEW, `make rollback` does just this and asks
nothing. In CI it goes back only to what was merged.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from common import ROOT, StepFailed, main_guard, say
from components.facts import Foreseen
from review import history
from review.events import Preview, parse
from review.history import PREFIX, NoWayBack, Update
from review.markdown import render
from review.warnings import broken
from stacks.blueprint import blueprint_of
from stacks.settings import SettingsError, declared, from_files
from tools import environment, review
from tools.ask import agree
from tools.environment import pulumi
from tools.review import git
from tools.touched import PROGRAM

SHOWN_UPDATES = 8
ALL = ("--json", "--page-size", "0")
"""Of `pulumi stack history`, which tells the last ten by itself."""


@contextmanager
def worktree(commit: str, stack: str) -> Iterator[Path]:
    """A worktree of `commit` with an environment in which its program runs; it is gone afterwards."""
    folder = environment.HOME / "rollback" / stack
    with _alone(stack, folder.parent):
        yield from _made(folder, commit)


@contextmanager
def _alone(stack: str, place: Path) -> Iterator[None]:
    """Raises StepFailed where another rollback of the stack runs here: one would take the other's worktree
    and plan away, and then go on with those of the other."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{stack}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepFailed(
                f"another `make rollback STACK={stack}` runs in this folder, and may wait for its answer; "
                "nothing was changed. End that one first"
            ) from None
        yield


def _made(folder: Path, commit: str) -> Iterator[Path]:
    _remove(folder)  # what a killed run left
    try:
        git("worktree", "add", "--detach", "--force", str(folder), commit)
    except StepFailed as error:
        raise StepFailed(
            f"the commit {commit[:10]}, which ran then, is not in this clone. Run: git fetch --unshallow, "
            f"or fetch the branch that holds it.\n{error}"
        ) from None
    try:
        if (folder / "requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes():
            (folder / ".venv").symlink_to(sys.prefix)
        else:
            say("The program of that time needs other packages; installing them …")
            made = subprocess.run(["make", "--no-print-directory", "venv"], cwd=folder, check=False)
            if made.returncode != 0:
                raise StepFailed(
                    f"the packages of the commit {commit[:10]} can't be installed; the reason is above. "
                    "Nothing was changed"
                )
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    git("worktree", "prune")


def refuse_broken(seen: Preview, stack: str) -> None:
    """Refuses what breaks a policy, as `make apply` does, and says how to go back anyway: what ran before may
    be older than a policy."""
    accepted = {word.strip() for word in os.environ.get("ACCEPT", "").split(",")}
    try:
        review.refuse_broken(seen, accepted)
    except StepFailed as error:
        names = ",".join(dict.fromkeys(each.policy for each in broken(seen)))
        raise StepFailed(
            f"{error}\nTo go back anyway: ACCEPT='{names}' make rollback STACK={stack}"
        ) from None


def write_settings(folder: Path, stack: str, then: Update, env: dict[str, str]) -> dict[str, Any]:
    """Write `Pulumi.<stack>.yaml` of then into `folder`; secrets are encrypted as the stack's are now.

    Returns the settings by key as they stand in the file.
    """
    file = folder / f"Pulumi.{stack}.yaml"
    here = yaml.safe_load((ROOT / file.name).read_text())
    block = declared(folder)
    defaults = {key: entry["default"] for key, entry in block.items() if "default" in entry}
    chosen = history.overrides(then.settings, defaults)
    config = {f"{PREFIX}{key}": value for key, value in chosen.items() if key not in then.secret}
    file.write_text(yaml.safe_dump({**here, "config": config}, sort_keys=False))
    for key in sorted(then.secret & chosen.keys()):
        value = chosen[key]
        parts = {f'{key}["{name}"]': each for name, each in value.items()} if isinstance(value, dict) else {}
        for path, secret in (parts or {key: value}).items():
            words = ["config", "set", "--secret", "--path", path, "--stack", stack, "--non-interactive"]
            pulumi(*words, capture=True, cwd=folder, environment=env, stdin=str(secret))
    written = yaml.safe_load(file.read_text())["config"]
    return {key.removeprefix(PREFIX): value for key, value in written.items() if key.startswith(PREFIX)}


def updates_of(stack: str) -> tuple[list[Update], bool]:
    """The stack's updates, the oldest first, and whether another began and has not ended.

    They hold secrets: print their words only.
    """
    told = json.loads(pulumi("stack", "history", *ALL, "--show-secrets", "--stack", stack, capture=True))
    state = json.loads(pulumi("stack", "export", "--stack", stack, capture=True))
    return history.read(told), history.unfinished(told, state["deployment"])


def keep_certificates(folder: Path, stack: str) -> None:
    """Bring the certificates that an update in `folder` left to this checkout."""
    source = folder / "certificates" / stack
    if source.exists():
        shutil.copytree(source, ROOT / "certificates" / stack, dirs_exist_ok=True)


def to_commit(stack: str, then: Update, settings: dict[str, Any]) -> str:
    """What to type so that git says what the stack now runs."""
    here = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    now = {key.removeprefix(PREFIX): value for key, value in here.items() if key.startswith(PREFIX)}
    # Encrypting twice gives two texts, so secrets are compared as they are.
    plain = json.loads(pulumi("config", "--json", "--show-secrets", "--stack", stack, capture=True))
    for key in then.secret & now.keys():
        if plain[f"{PREFIX}{key}"].get("objectValue") == then.settings[key]:
            now[key] = settings[key]
    changed = history.lines(now, settings)
    parts = []
    if changed:
        parts += [
            f"In Pulumi.{stack}.yaml:",
            *changed,
            f"and then: make render && git commit -a -m 'Go back on {stack}'",
        ]
    moved = git("log", "--oneline", f"{then.commit}..HEAD", "--", *PROGRAM).splitlines()
    if moved:
        parts += [
            "The program has moved on since; these commits no longer run there:",
            *(f"  {line}" for line in moved),
            "Revert those that must not come back (git revert COMMIT), or apply them again with a review.",
        ]
    if not parts:
        return "What git has is what runs."
    return "\n".join(
        ["To commit, so that git and stack agree (until then `make drift` reports a difference):", *parts]
    )


def in_ci() -> bool:
    """Whether nobody is at a keyboard here who could know better: GitHub and others set CI."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def merged(commit: str) -> bool:
    """Whether a commit is in the history of what is checked out, which in CI is `main`."""
    try:
        return not git("rev-list", "--max-count=1", commit, "^HEAD")
    except StepFailed:  # this clone has no such commit
        return False


def unmerged(update: Update) -> str:
    """Why what an update ran may never have been merged, as the end of a sentence; empty where it was."""
    if update.edited:
        return "ran in a checkout with edits that were not committed"
    if not merged(update.commit):
        return f"ran the commit {update.commit[:10]}, which is not in the history of what is checked out here"
    return ""


def refuse_unmerged(updates: Sequence[Update], then: Update, stack: str) -> None:
    """Refuses in CI what was never merged: its program would run with the role that may change."""
    why = unmerged(then)
    if not why or not in_ci():
        return
    good = [str(each.number) for each in updates if each.ok and each.commit and not unmerged(each)]
    raise StepFailed(
        f"update {then.number} {why}, and CI goes back only to what was merged. Nothing was changed, and "
        "what runs goes on. "
        + (
            f"Name one of these as TO: {', '.join(good[-SHOWN_UPDATES:])}"
            if good
            else "No update of this stack was merged"
        )
        + ". To go back to this one all the same, run this with rights of your own, in a clone that has its "
        f"commit: TO={then.number} make rollback STACK={stack}"
    )


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """Where a rollback goes. `text`: the stack's updates with a mark at that one, and what is to be known of
    it. `unfinished`: an update began and did not end."""

    then: Update
    unfinished: bool
    text: str


def find(stack: str, to: int | None) -> WayBack:
    """The way back on `stack` to what ran before, or to update number `to`, which is also printed.

    Raises StepFailed where there is none.
    """
    file = ROOT / f"Pulumi.{stack}.yaml"
    if not file.exists():
        raise StepFailed(
            f"there is no {file.name} here, which says how the stack's secrets are encrypted. Run: git log "
            f"--all -- {file.name}, and get it back from there"
        )
    updates, unfinished = updates_of(stack)
    try:
        now, then = history.way_back(updates, to, unfinished=unfinished)
    except NoWayBack as error:
        raise StepFailed(str(error)) from None
    marks = {now.number: "" if unfinished else "now", then.number: "→"}
    last = updates[-SHOWN_UPDATES:]
    lines = ["Updates of this stack, the newest last:", ""]
    # with four spaces they are code in Markdown, where a message can't pass for a part of the review
    for each in last if then in last else [then, *last]:
        lines.append(f"    {marks.get(each.number, ''):>3} {each.words}")
    if unfinished:
        lines.append("    now an update that did not end: it was killed, or it still runs")
        lines += ["", f"If it was killed, the stack is locked until you run: pulumi cancel --stack {stack}"]
    if why := unmerged(then) if then.commit else "":
        lines += ["", f"Update {then.number} {why}."]
    if then.edited:
        lines.append("Its settings are known from the history, but edited code is not.")
    way = WayBack(then=then, unfinished=unfinished, text="\n".join([*lines, ""]))
    say(way.text)
    if not then.commit:
        raise StepFailed(f"update {then.number} ran outside of git, so its program is not known")
    refuse_unmerged(updates, then, stack)
    return way


@dataclass(frozen=True, kw_only=True)
class Previewed:
    """What ran then in a worktree of its own, and the preview of it. `settings` are those of then. `needed`:
    it does not run already."""

    folder: Path
    environment: dict[str, str]
    settings: dict[str, Any]
    seen: Preview
    bound: review.Bound
    needed: bool


def foreseen_in(stack: str, folder: Path) -> Foreseen:
    """What follows from the settings in `folder` as today's code computes it; nothing where it takes them no
    more, or where they were declared before some of today's were."""
    try:
        return blueprint_of(from_files(stack, folder)).foreseen
    except (SettingsError, LookupError, TypeError, ValueError):
        return Foreseen()


@contextmanager
def previewed(stack: str, way: WayBack, kept: Path) -> Iterator[Previewed]:
    """A worktree for the way back; the review of it is printed, and written into `kept`."""
    then = way.then
    with worktree(then.commit, stack) as folder:
        venv = folder / ".venv"
        env = environment.process_environment(venv if not venv.is_symlink() else Path(sys.prefix))
        settings = write_settings(folder, stack, then, env)
        if not then.edited:
            _hide_settings(folder, stack)
        kept.mkdir(parents=True, exist_ok=True)
        state = review.state_of(stack)
        seen = parse(review.events_of(stack, kept / review.PLAN, root=folder, env=env))
        seen = replace(seen, foreseen=foreseen_in(stack, folder))
        text = render(seen)
        bound = review.bind(stack, kept, f"{way.text}\n{text}", state)
        say(text)
        needed = bool(seen.changes or seen.drift or way.unfinished)
        if not needed:
            say("It runs already; nothing was changed.")
        yield Previewed(
            folder=folder, environment=env, settings=settings, seen=seen, bound=bound, needed=needed
        )


def _hide_settings(folder: Path, stack: str) -> None:
    """Have git take the settings that were written into a worktree for its commit's.

    They are in the history, and the code is the commit's: Pulumi would note that it was edited, as of a
    checkout of which nobody knows what it ran.
    """
    here = ("-C", str(folder))
    if file := git(*here, "ls-files", "--", f"Pulumi.{stack}.yaml").strip():
        git(*here, "update-index", "--skip-worktree", "--", file)


def review_rollback(stack: str, to: int | None) -> None:
    """Write the review of a rollback and print it; nothing is changed. Raises StepFailed."""
    way, kept = find(stack, to), ROOT / "reviews" / f"{stack}.rollback"
    with previewed(stack, way, kept) as there:
        if there.needed:
            where = kept.relative_to(ROOT)
            say(f"Do exactly this with: TO={way.then.number} make rollback STACK={stack} REVIEW={where}")


def rollback(stack: str, to: int | None, reviewed: Path | None = None) -> None:
    """Go back on `stack` to what ran before, or to update number `to`: by the review in the folder `reviewed`
    and nothing else, or after a question. Raises StepFailed."""
    again = f"{f'TO={to} ' if to else ''}make rollback-review STACK={stack}"
    before = review.read_review(reviewed, again)[0] if reviewed else None
    way, kept = find(stack, to), environment.HOME / "rollback" / f"{stack}.review"
    then = way.then
    with previewed(stack, way, kept) as there:
        if reviewed and before:
            review.refuse_other(reviewed, before, kept, there.bound, again)
        if there.needed:
            refuse_broken(there.seen, stack)
            if not reviewed:
                agree("Go back to it?", "rollback", stack)
                if review.state_of(stack) != there.bound.state:
                    raise StepFailed(
                        "an update ran while this waited; nothing was changed. Run the same command again"
                    )
            title = re.sub(r"^(Back to update \d+: )+", "", then.message)
            message = f"Back to update {then.number}: {title}"
            plan = ("--plan", str(kept / review.PLAN))
            words = ["up", "--yes", "--skip-preview", "--refresh", *plan, "--stack", stack]
            try:
                pulumi(*words, "--message", message, cwd=there.folder, environment=there.environment)
            finally:
                keep_certificates(there.folder, stack)
        say(to_commit(stack, then, there.settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["review", "run"])
    parser.add_argument("stack")
    asked = parser.parse_args()
    to = os.environ.get("TO") or None
    if to is not None and not to.isdigit():
        raise StepFailed(
            f"TO={to} cannot work; it must be the number of an update. Run: pulumi stack history --stack "
            f"{asked.stack}, which lists them"
        )
    number = int(to) if to else None
    if asked.action == "review":
        review_rollback(asked.stack, number)
    else:
        given = os.environ.get("REVIEW")
        rollback(asked.stack, number, Path(given).resolve() if given else None)


if __name__ == "__main__":
    main_guard(main)
