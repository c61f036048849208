"""`make review`, `make apply` and `make drift`: what would change, as a person reads it, and then just that.

A review is a folder `reviews/<stack>/` with the Markdown, Pulumi's plan, and what it was bound to.
"""

import argparse
import difflib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common import ROOT, StepFailed, main_guard, say
from review.changes import is_flip
from review.drift import MAIL, lasting, unconfirmed
from review.drift import drift as drift_words
from review.events import COMPONENT, Preview, PreviewFailed, parse
from review.markdown import render
from review.plan import content
from review.warnings import broken, not_ready
from stacks.aws_target import SSH_FILES
from stacks.blueprint import blueprint_of
from stacks.settings import RENDERED, SettingsError, from_files
from tools import advice, environment, owner, port
from tools.environment import pulumi
from tools.host import is_on_aws, is_on_cluster, on_aws, reach
from tools.render import stale, twins

PLAN, TEXT, BOUND = "plan.json", "review.md", "bound.json"
READY_TRIES, READY_SECONDS = 4, 10
"""How often a preview looks, and how many seconds it waits before it looks again, at what is not ready: a pod
that a busy node can't ask in time is so for a moment, and a review would be of that moment."""
ASLEEP = "asleep; nothing was looked at"
SHOWN = 30
"""Lines of difference between two reviews that a refusal shows."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a review holds for: a review of one is no review of another.

    `tree` is what was checked out: a merge that changes nothing has the tree of the branch. `plan` is what
    Pulumi's plan allows. `commit` is for people, and for no comparison. Of a rollback `rendered` is empty:
    its files are those of the commit that its text names. `advice` is the line about the traffic that its
    text has: what is advised later is another thing. A review of a version before has it in no field.
    """

    stack: str
    tree: str
    state: str
    rendered: str
    review: str
    plan: str
    commit: str
    advice: str = ""

    def differences(self, now: "Bound") -> list[str]:
        """In words, what is not as it was when this was reviewed."""
        said = {
            "stack": "it is the review of another stack",
            "tree": "other files are checked out: something else was merged, or files were edited",
            "state": "the stack's state has changed: an update ran in between",
            "rendered": "the rendered files differ",
            "review": "the preview says something else",
            "plan": "the plan allows something else",
        }
        before, after = asdict(self), asdict(now)
        return [f"{said[key]} ({before[key]} → {after[key]})" for key in said if before[key] != after[key]]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def git(*words: str, root: Path = ROOT) -> str:
    """What git says of this checkout. Raises StepFailed with its own words."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, errors="surrogateescape", check=False
        )
    except FileNotFoundError:
        raise StepFailed("there is no `git` command here. Install git, and run the same again") from None
    if done.returncode != 0:
        raise StepFailed(f"`git {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout


def tree_of(root: Path) -> str:
    """The tree that is checked out; with `+` and a digest of the difference where files were edited or are
    new: those of a stack of one's own, say, which are in no commit."""
    diff = git("diff", "--no-ext-diff", "--no-textconv", "HEAD", root=root)  # not as somebody likes to see it
    names = git("ls-files", "--others", "--exclude-standard", "-z", root=root).split("\0")
    new = [
        f"{name}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}"
        for name in names
        if (root / name).is_file()
    ]
    tree = git("rev-parse", "HEAD^{tree}", root=root).strip()
    return f"{tree}+{_digest(diff, *new)}" if diff or new else tree


def rendered_of(root: Path, stack: str) -> str:
    """A digest of the rendered files. Raises StepFailed when they are stale."""
    try:
        names = stale(root, stack)
    except SettingsError as error:
        raise StepFailed(str(error)) from None
    if names:
        raise StepFailed(f"rendered/{stack}/ is stale: {', '.join(names)}. Run: make render")
    files = sorted((root / RENDERED / stack).iterdir())
    return _digest(*(part for file in files for part in (file.name, file.read_text())))


def state_of(stack: str) -> str:
    """A digest of the stack's state."""
    return _digest(pulumi("stack", "export", "--stack", stack, capture=True))


def plan_of(folder: Path) -> str:
    """A digest of what the plan of a review allows. Raises StepFailed where none can be read."""
    try:
        return _digest(content((folder / PLAN).read_text()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StepFailed(f"{folder / PLAN} is not a plan: {error}") from None


def events_of(
    stack: str, plan: Path | None = None, root: Path = ROOT, env: Mapping[str, str] | None = None
) -> list[str]:
    """The engine's JSON events of a preview of `stack`, a line each. Raises StepFailed."""
    words = ["preview", "--json", "--stack", stack, "--non-interactive"]
    program = environment.cli(stack)

    def preview(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *words, *more],
            cwd=root,
            env={
                **(env or environment.process_environment()),
                "PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def read(done: subprocess.CompletedProcess[str]) -> list[str]:
        # JSON leaves what else would end a line, such as U+0085, as it is
        lines = [line for line in done.stdout.split("\n") if line.startswith("{")]
        if done.returncode != 0:
            said = done.stderr.strip()
            try:
                parse(lines)
            except PreviewFailed as error:
                said = f"{error}\n{said}".strip()
            if "no resource plugin" in said:
                said += f"\n{environment.how_to_fetch()}"
            raise StepFailed(f"the preview of `{stack}` failed; nothing was changed.\n{said}")
        return lines

    if is_on_aws(stack, root) and not (root / SSH_FILES / stack / "config").exists():
        read(preview())  # the program writes what SSH needs, and a refresh comes before the program
    for tries_left in reversed(range(READY_TRIES)):
        # Without --refresh a stopped container would not show.
        lines = read(preview("--refresh", *(["--save-plan", str(plan)] if plan else [])))
        late = [each.name for each in parse(lines).changes if each.unready]
        if not late or not tries_left:
            break
        again = f"Not ready at this moment: {', '.join(late)}. Looking again in {READY_SECONDS} s"
        print(again, file=sys.stderr, flush=True)
        time.sleep(READY_SECONDS)
    return lines


def preview_of(stack: str, plan: Path | None = None) -> Preview:
    """The preview of `stack`, with what was changed behind Pulumi's back. Raises StepFailed."""
    return parse(events_of(stack, plan))


def make(stack: str, folder: Path, advised: Callable[[], str] = str) -> tuple[Bound, Preview]:
    """Preview `stack` and write its review into `folder`; that of a flip also says what is `advised`."""
    rendered = rendered_of(ROOT, stack)
    folder.mkdir(parents=True, exist_ok=True)
    state = state_of(stack)
    foreseen = blueprint_of(from_files(stack, ROOT)).foreseen
    seen = replace(preview_of(stack, folder / PLAN), foreseen=foreseen)
    said = advised() if is_flip(seen) else ""
    text = render(seen, said, twins(ROOT, stack))
    return bind(stack, folder, text, state, rendered, said), seen


def bind(stack: str, folder: Path, text: str, state: str, rendered: str = "", advice: str = "") -> Bound:
    """Write a review of this text into `folder`, where its plan is. `state` is a digest of the stack's state
    before the preview, and `advice` the line about the traffic that the text has."""
    bound = Bound(
        stack=stack,
        tree=tree_of(ROOT),
        state=state,
        rendered=rendered,
        review=_digest(text),
        plan=plan_of(folder),
        commit=git("rev-parse", "HEAD").strip(),
        advice=advice,
    )
    (folder / TEXT).write_text(text)
    (folder / BOUND).write_text(json.dumps(asdict(bound), indent=2) + "\n")
    return bound


def review(stack: str) -> None:
    """Write the review of `stack` and print it."""
    folder = ROOT / "reviews" / stack
    _, seen = make(stack, folder, advice.Line(stack).text)
    say((folder / TEXT).read_text())
    if seen.changes:
        say(f"Apply exactly this with: make apply STACK={stack} REVIEW={folder.relative_to(ROOT)}")


def apply(stack: str, folder: Path) -> None:
    """Apply what was reviewed, and refuse anything else.

    Text and plan are compared with what the review says of them, and that with a preview that is made here:
    so neither can be another one's, nor both of them and what is said of them. What runs is the plan of this
    preview: the other one was only brought here.
    """
    again = f"make review STACK={stack}"
    reviewed, before = read_review(folder, again)
    fresh = folder.with_name(f"{stack}.now")
    now, seen = make(stack, fresh, lambda: reviewed.advice)
    refuse_other(folder, reviewed, fresh, now, again)
    refuse_broken(seen)
    say(before.splitlines()[0])
    pulumi("up", "--yes", "--skip-preview", "--refresh", "--plan", str(fresh / PLAN), "--stack", stack)


def refuse_other(folder: Path, reviewed: Bound, fresh: Path, now: Bound, again: str) -> None:
    """Raises StepFailed where the review in `fresh` is another one than that in `folder`: what differs, and
    that it is made again by the command `again`."""
    if different := reviewed.differences(now):
        texts = [[(each / TEXT).read_text() for each in (folder, fresh)]]
        if now.review == reviewed.review:
            texts.append([content((each / PLAN).read_text()) for each in (folder, fresh)])
        shown = [
            line
            for was, is_now in texts
            for line in difflib.unified_diff(
                was.splitlines(), is_now.splitlines(), "reviewed", "now", n=0, lineterm=""
            )
            if not line.startswith("@@")
        ]
        more = [f"… and {len(shown) - SHOWN} more lines"] if len(shown) > SHOWN else []
        raise StepFailed(
            "this is not what was reviewed; nothing was changed.\n  "
            + "\n  ".join([*different, *shown[:SHOWN], *more])
            + f"\nReview it again: {again}"
        )


def read_review(folder: Path, again: str) -> tuple[Bound, str]:
    """What the review in `folder` was bound to, and its text. Raises StepFailed where text or plan are not
    those that were bound, or not there; `again` is the command that makes one."""
    try:
        bound = Bound(**json.loads((folder / BOUND).read_text()))
        text = (folder / TEXT).read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise StepFailed(f"there is no review in {folder}. Run: {again}") from None
    except (TypeError, ValueError):
        raise StepFailed(
            f"the review in {folder} was made by another version of Changeover, or is damaged. Run: {again}"
        ) from None
    for name, said, there in (
        (TEXT, bound.review, _digest(text)),
        (PLAN, bound.plan, plan_of(folder)),
    ):
        if said != there:
            raise StepFailed(
                f"{folder / name} is not the one that was reviewed ({said} → {there}); nothing was changed. "
                f"Run: {again}"
            )
    return bound, text


def refuse_broken(seen: Preview, accepted: Collection[str] = ()) -> None:
    """Raises StepFailed where the change breaks a policy that is not among the `accepted` ones."""
    if policies := [each for each in broken(seen) if each.policy not in accepted]:
        raise StepFailed("nothing was changed.\n  " + "\n  ".join(each.words for each in policies))


def drift(stack: str) -> None:
    """Say what was changed behind Pulumi's back; exit status 2 if anything was, or is not ready.

    An instance that is stopped is a note: a preview would refuse it, and sleeping is no drift.
    """
    if (settings := on_aws(stack)) and (there := owner.on_aws(stack, settings)).state in (
        "stopping",
        "stopped",
    ):
        say(f"`{stack}` is {ASLEEP} ({there.instance} is {there.state}).")
        return
    seen, silent = preview_of(stack), ""
    if not is_on_cluster(stack):
        reach(stack, owner.state_of(stack).instance)
        silent = port.trouble(stack)
    found, stays = drift_words(seen), lasting(seen)
    for note in (notes := unconfirmed(seen)):
        say(f"`{stack}`: {note}.")
    again = {change.name for change in seen.drift if notes and change.type == MAIL}
    for note in not_ready(seen):
        say(f"`{stack}`: {note}.")
    others = [each for each in seen.changes if not each.only_waits]
    if silent:
        say(f"`{stack}` can't be reached, and no update puts it right: {silent}")
    elif not found and not stays and {change.name for change in seen.changes} <= again:
        say(f"`{stack}`: no drift.")
        return
    if found:
        say(f"`{stack}` was changed behind Pulumi's back; `pulumi up --refresh` puts it right:")
        say("\n".join(f"- {line}" for line in found))
    if stays:
        say(f"`{stack}` was changed behind Pulumi's back, and no update puts it right:")
        say("\n".join(f"- {line}" for line in stays))
    if others and not found and not stays:
        say(
            f"`{stack}` runs something other than the settings here say. If what runs is right (after a "
            "rollback, say), commit its settings; if the settings here are right, review and apply them."
        )
    if others:
        names = ", ".join(f"`{each.name}`" for each in others if not each.type.startswith(COMPONENT))
        say(f"An update would touch {names}.")
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
                f"which review? Run: make apply STACK={asked.stack} REVIEW=reviews/{asked.stack}"
            )
        apply(asked.stack, Path(given).resolve())


if __name__ == "__main__":
    main_guard(main)
