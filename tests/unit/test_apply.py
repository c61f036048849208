"""What `make apply` and `make rollback` refuse, with real files and a stand-in for Pulumi's CLI."""

import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import ROOT, StepFailed
from components.facts import Foreseen
from review.events import parse
from review.plan import content
from tools import environment, review, rollback
from tools.ask import agree, yes

UNIT = Path(__file__).parent
EVENTS = UNIT / "golden" / "reviews" / "flip.events"
OPEN = UNIT / "golden" / "reviews" / "engine-port.events"
PLANS = UNIT / "golden" / "plans"
"""Plans as Pulumi's engine saved them, in parts: two previews each of a first deployment and of a flip."""
MADE, AGAIN = PLANS / "made.json", PLANS / "made-again.json"

CLI = """#!/bin/sh
# as much of the CLI as a review asks for; what it is asked is kept
echo "$*" >>{folder}/asked
case "$1 $2" in
  "stack export") cat {folder}/state ;;
  "stack history") cat {folder}/history ;;
  "config --json") echo "{{}}" ;;
  "preview --json")
    cat {folder}/events
    while [ $# -gt 0 ]; do [ "$1" != --save-plan ] || cp {folder}/plan "$2"; shift; done ;;
  "up --yes") git status --porcelain >{folder}/edited ;;
  *) echo "not known: $*" >&2; exit 1 ;;
esac
"""


STATE = {"deployment": {"manifest": {"time": "2026-11-24T20:37:07Z"}}}
"""As it was written when the last update ended."""


class Cli:
    """What the stand-in says, and was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").write_text(json.dumps(STATE))
        (folder / "events").write_text(EVENTS.read_text())
        (folder / "plan").write_text(MADE.read_text())
        self.program = folder / "pulumi"
        self.program.write_text(CLI.format(folder=folder))
        self.program.chmod(0o755)

    def moves_on(self) -> None:
        """An update runs meanwhile."""
        (self.folder / "state").write_text(json.dumps({**STATE, "more": 1}))

    def ran(self, *updates: dict[str, Any]) -> None:
        """The stack's history, the oldest first."""
        (self.folder / "history").write_text(json.dumps(updates[::-1]))

    @property
    def updates(self) -> list[str]:
        return [line for line in (self.folder / "asked").read_text().splitlines() if line.startswith("up ")]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    folder = tmp_path / "cli"
    folder.mkdir()
    cli = Cli(folder)
    monkeypatch.setattr(environment, "cli", lambda stack=None: cli.program)
    monkeypatch.setattr(environment, "process_environment", lambda *_: dict(os.environ))
    return cli


@pytest.fixture
def reviewed(cli: Cli, tmp_path: Path) -> Path:
    """The folder of a review of the stack `local`; the files are those of this checkout."""
    folder = tmp_path / "reviews" / "local"
    review.make("local", folder)
    return folder


def rebind(folder: Path, **fields: str) -> None:
    bound = json.loads((folder / review.BOUND).read_text())
    (folder / review.BOUND).write_text(json.dumps({**bound, **fields}))


def widened(plan: str) -> str:
    """A plan under which something more may happen to the gateway."""
    read = json.loads(plan)
    (urn,) = [urn for urn in read["resourcePlans"] if urn.endswith("-gateway")]
    read["resourcePlans"][urn]["steps"].append("delete")
    return json.dumps(read)


@pytest.mark.parametrize("change", ["made", "flip"])
def test_two_previews_of_one_change_have_plans_of_the_same_content(change: str) -> None:
    one, two = ((PLANS / f"{name}.json").read_text() for name in (change, f"{change}-again"))
    assert one != two
    assert content(one) == content(two)


def test_the_order_in_which_docker_says_a_containers_networks_is_no_content() -> None:
    read = json.loads((PLANS / "flip.json").read_text())
    state = next(each["state"] for urn, each in read["resourcePlans"].items() if urn.endswith("-gateway"))
    networks = [{"ipAddress": "172.30.0.6", "networkName": "stack"}, {"networkName": "clients"}]
    state["networkDatas"] = networks
    one = content(json.dumps(read))
    state["networkDatas"] = networks[::-1]
    assert content(json.dumps(read)) == one
    state["networkDatas"] = networks[:1]
    assert content(json.dumps(read)) != one


def test_a_name_that_is_not_new_is_part_of_the_content() -> None:
    plan = (PLANS / "flip.json").read_text()
    (switch,) = set(re.findall(r"changeover-planned-switch-[0-9a-f]{7}", plan))
    assert content(plan.replace(switch, f"{switch[:-7]}0000000")) != content(plan)


def test_how_a_secret_of_the_settings_is_encrypted_is_no_content_and_whose_it_is_is() -> None:
    """A rollback encrypts it anew in each preview."""
    plan = MADE.read_text()
    (secret,) = set(re.findall(r'"secure": "(v1:[^"]+)"', plan))
    assert content(plan.replace(secret, "v1:other")) == content(plan)
    assert content(plan.replace('"acme": {', '"bob": {')) != content(plan)


@pytest.mark.parametrize(
    "change",
    [
        widened,
        lambda plan: re.sub(r"-ollama-e68d4c1b-[0-9a-f]{7}", "-other", plan, count=1),
        lambda plan: plan.replace('routing = [\\"ollama\\", \\"vllm\\"]', 'routing = [\\"vllm\\"]'),
        lambda plan: plan.replace('"readOnly": true', '"readOnly": false'),
    ],
)
def test_a_plan_that_allows_something_else_has_another_content(change: Callable[[str], str]) -> None:
    other = change(MADE.read_text())
    assert content(other) != content(MADE.read_text())


def test_what_a_cluster_answers_to_a_trial_is_no_part_of_a_plan_and_what_it_is_asked_for_is() -> None:
    def tried(kind: str, version: str, replicas: int) -> str:
        goal = {"name": "proxy", "inputDiff": {"updates": {"spec": {"replicas": replicas}}}}
        state = {"metadata": {"resourceVersion": version, "uid": f"uid-{version}"}, "__fieldManager": version}
        plan = {"goal": goal, "steps": ["update"], "state": state}
        return json.dumps({"resourcePlans": {f"urn:pulumi:s::p::changeover:index:X${kind}::proxy": plan}})

    kind = "kubernetes:apps/v1:Deployment"
    assert content(tried(kind, "1", 2)) == content(tried(kind, "2", 2))
    assert content(tried(kind, "1", 2)) != content(tried(kind, "1", 3))
    assert content(tried("docker:index/network:Network", "1", 2)) != content(
        tried("docker:index/network:Network", "2", 2)
    )


def test_what_was_reviewed_is_applied_by_a_plan_of_the_same_content_that_was_made_here(
    cli: Cli, reviewed: Path
) -> None:
    """The review's own plan was brought here by whoever could write one."""
    (cli.folder / "plan").write_text(AGAIN.read_text())  # as each preview has other seeds and names
    review.apply("local", reviewed)
    (update,) = cli.updates
    fresh = reviewed.with_name("local.now") / review.PLAN
    assert f"--plan {fresh}" in update
    assert fresh.read_text() == AGAIN.read_text() != (reviewed / review.PLAN).read_text()


def test_a_flip_says_what_is_advised_and_other_advice_of_today_is_no_other_review(
    cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "reviews" / "local"
    review.make("local", folder, lambda: "4 concurrent requests; advice: stay")
    text = (folder / review.TEXT).read_text()
    assert "\nWhat its traffic says: 4 concurrent requests; advice: stay.\n" in text
    review.apply("local", folder)
    assert len(cli.updates) == 1


def test_a_review_from_before_its_advice_was_a_field_is_read(cli: Cli, reviewed: Path) -> None:
    bound = json.loads((reviewed / review.BOUND).read_text())
    assert bound.pop("advice") == ""
    (reviewed / review.BOUND).write_text(json.dumps(bound))
    review.apply("local", reviewed)
    assert len(cli.updates) == 1


def test_what_is_no_flip_asks_for_no_advice(cli: Cli, tmp_path: Path) -> None:
    (cli.folder / "events").write_text(OPEN.read_text())
    review.make("local", tmp_path / "reviews" / "local", lambda: pytest.fail("it was asked"))


def test_a_plan_that_was_swapped_is_refused(cli: Cli, reviewed: Path) -> None:
    plan = reviewed / review.PLAN
    plan.write_text(widened(plan.read_text()))
    with pytest.raises(StepFailed, match=r"plan\.json is not the one that was reviewed"):
        review.apply("local", reviewed)
    rebind(reviewed, plan=review.plan_of(reviewed))  # and what is said of it as well
    with pytest.raises(StepFailed, match=r'the plan allows something else(.|\n)*-    "delete"'):
        review.apply("local", reviewed)
    plan.unlink()
    with pytest.raises(StepFailed, match="is not a plan"):
        review.apply("local", reviewed)
    assert cli.updates == []


def test_a_text_that_was_swapped_is_refused(cli: Cli, reviewed: Path) -> None:
    text = reviewed / review.TEXT
    text.write_text(text.read_text().replace("Ollama", "nothing"))
    with pytest.raises(StepFailed, match=r"review\.md is not the one that was reviewed"):
        review.apply("local", reviewed)
    assert cli.updates == []


def test_a_review_of_another_version_or_a_damaged_one_is_refused(cli: Cli, reviewed: Path) -> None:
    bound = json.loads((reviewed / review.BOUND).read_text())
    del bound["plan"]
    for text in (json.dumps(bound), "{", "[]"):
        (reviewed / review.BOUND).write_text(text)
        with pytest.raises(StepFailed, match="by another version of Changeover, or is damaged"):
            review.apply("local", reviewed)
    assert cli.updates == []


@pytest.mark.parametrize("plan", ["5", '{"resourcePlans": null}', '{"resourcePlans": {"x": {}}}', "[" * 9999])
def test_a_plan_that_is_none_is_refused_in_words(cli: Cli, reviewed: Path, plan: str) -> None:
    (reviewed / review.PLAN).write_text(plan)
    with pytest.raises(StepFailed, match=r"plan\.json is not a plan"):
        review.apply("local", reviewed)
    assert cli.updates == []


def test_who_names_a_file_of_a_review_is_told_that_there_is_none(reviewed: Path) -> None:
    with pytest.raises(StepFailed, match=r"there is no review in .*review\.md"):
        review.apply("local", reviewed / review.TEXT)


def test_a_value_may_have_any_character_in_it(cli: Cli) -> None:
    events = cli.folder / "events"
    events.write_text(events.read_text().replace('"ollama"', '"ollama\x85\u2028"'))
    said = [json.loads(line) for line in review.events_of("local")]
    assert "ollama\x85\u2028" in json.dumps(said, ensure_ascii=False)


UNREADY = {
    "op": "update",
    "type": "kubernetes:apps/v1:Deployment",
    "urn": "urn:pulumi:local::changeover::kubernetes:apps/v1:Deployment::deployment-proxy",
    "old": {"initErrors": ["no pod is there"]},
    "new": {},
}
"""As Pulumi's engine says it of what nothing changes."""


def test_a_review_looks_again_at_what_is_not_ready_for_a_moment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = cli.folder / "events"
    good, slept = events.read_text(), list[float]()
    last = review.READY_TRIES

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == last:
            events.write_text(good)

    monkeypatch.setattr(time, "sleep", sleep)
    for last, there in ((2, False), (review.READY_TRIES, True)):
        events.write_text(good + json.dumps({"resourcePreEvent": {"metadata": UNREADY}}) + "\n")
        seen = parse(review.events_of("local"))
        assert [each.name for each in seen.changes if each.unready] == ["deployment-proxy"] * there
        assert slept == [review.READY_SECONDS] * min(last, review.READY_TRIES - 1)
        assert "Not ready at this moment: deployment-proxy. Looking again in" in capsys.readouterr().err
        slept.clear()


def test_what_goes_is_not_waited_for() -> None:
    for op, said in (("delete", "deleted"), ("replace", "replaced"), ("delete-replaced", "left over")):
        (change,) = parse([json.dumps({"resourcePreEvent": {"metadata": {**UNREADY, "op": op}}})]).changes
        assert (change.op, change.unready, change.only_waits) == (said, (), False)


def test_what_does_not_get_ready_is_no_drift_and_no_success_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = (UNIT / "golden" / "reviews" / "nothing.events").read_text().splitlines()
    waits = {"resourcePreEvent": {"metadata": UNREADY}}
    monkeypatch.setattr(review, "is_on_cluster", lambda stack: True)
    monkeypatch.setattr(review, "events_of", lambda *_: [*nothing, json.dumps(waits)])
    with pytest.raises(SystemExit, match="2"):
        review.drift("local")
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("`local`: `deployment-proxy` (Deployment) is not ready, and the update waits")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, in which the settings of a stack of one's own are new."""
    folder = tmp_path / "repository"
    folder.mkdir()
    who = ("-c", "user.name=A tester", "-c", "user.email=tester@example.org")
    for name in ("requirements.lock", "Pulumi.yaml", "Pulumi.prod.yaml"):
        (folder / name).write_text("config: {}\n")
    (folder / ".gitignore").write_text(".venv\n/reviews/\n")
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "first")):
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    (folder / "Pulumi.mine.yaml").write_text("apiKeys: {bob: {secure: one}}\n")
    return folder


def test_what_is_in_no_commit_is_part_of_what_was_reviewed(repository: Path) -> None:
    """A key that is set after the review is in no plan that can be compared: it is a secret."""
    before = review.tree_of(repository)
    assert review.tree_of(repository) == before
    (repository / "Pulumi.mine.yaml").write_text("apiKeys: {bob: {secure: two}}\n")
    after = review.tree_of(repository)
    assert after != before
    (repository / "Pulumi.mine.yaml").unlink()
    assert "+" not in review.tree_of(repository)


def test_an_edit_counts_however_somebody_likes_to_see_differences(repository: Path) -> None:
    for setting in (("diff.external", "true"), ("status.showUntrackedFiles", "no")):
        review.git("config", *setting, root=repository)
    seen = {review.tree_of(repository)}
    for text in ("one", "two", b"\xff".decode(errors="surrogateescape")):
        (repository / "Pulumi.prod.yaml").write_text(text, errors="surrogateescape")
        seen.add(review.tree_of(repository))
    assert len(seen) == 4


@pytest.fixture
def rolling(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit to go back to, in a checkout of that repository."""
    monkeypatch.setattr(environment, "HOME", tmp_path / "home")
    monkeypatch.setattr(rollback, "ROOT", repository)
    monkeypatch.setattr(rollback, "git", lambda *words: review.git(*words, root=repository))
    return review.git("rev-parse", "HEAD", root=repository).strip()


def test_a_second_rollback_takes_nothing_away_from_one_that_waits_for_its_answer(rolling: str) -> None:
    with rollback.worktree(rolling, "prod") as folder:
        (folder / "Pulumi.prod.yaml").write_text("the first")
        with (
            pytest.raises(StepFailed, match="another `make rollback STACK=prod` runs in this folder"),
            rollback.worktree(rolling, "prod"),
        ):
            pass
        assert (folder / "Pulumi.prod.yaml").read_text() == "the first"
        with rollback.worktree(rolling, "dev"):
            pass
    assert not folder.exists()
    with rollback.worktree(rolling, "prod"):
        pass


def test_packages_of_then_that_cannot_be_installed_are_a_failure_in_words(
    rolling: str, repository: Path
) -> None:
    (repository / "requirements.lock").write_text("others")
    with pytest.raises(StepFailed, match="can't be installed"), rollback.worktree(rolling, "prod"):
        pass


def test_without_its_file_of_settings_a_stack_is_asked_nothing(rolling: str, cli: Cli) -> None:
    with pytest.raises(StepFailed, match=r"there is no Pulumi\.dev\.yaml here"):
        rollback.rollback("dev", None)
    assert not (cli.folder / "asked").exists()


def update(commit: str, engine: str, *, edited: bool = False) -> dict[str, Any]:
    """An update that succeeded, as the CLI's JSON has it."""
    return {
        "kind": "update",
        "startTime": "2026-11-24T20:36:07Z",
        "endTime": "2026-11-24T20:37:07Z",
        "message": "Say why",
        "environment": {"git.head": commit, "git.dirty": str(edited).lower()},
        "result": "succeeded",
        "config": {"changeover:engine": {"value": engine, "secret": False}},
    }


@pytest.fixture
def back(rolling: str, repository: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a review of going back to the first of two updates, both of one commit."""
    for name in ("CI", "YES", "ACCEPT"):
        monkeypatch.delenv(name, raising=False)
    cli.ran(update(rolling, "ollama"), update(rolling, "vllm"))
    return repository / "reviews" / "prod.rollback"


def test_an_update_that_runs_while_a_rollback_waits_for_its_answer_is_not_run_over(
    back: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "agree", lambda *_: cli.moves_on())
    with pytest.raises(StepFailed, match="an update ran while this waited; nothing was changed"):
        rollback.rollback("prod", None)
    assert cli.updates == []
    monkeypatch.setattr(rollback, "agree", lambda *_: None)
    rollback.rollback("prod", None)
    (ran,) = cli.updates
    assert "--message Back to update 1: Say why" in ran


@pytest.mark.parametrize("lacks", ["hosts", "zone", "quantization"])
def test_settings_that_were_declared_before_some_of_todays_foresee_nothing(
    lacks: str, tmp_path: Path
) -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    shutil.copy(ROOT / "Pulumi.local.yaml", tmp_path)
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump(declared))
    assert rollback.foreseen_in("local", tmp_path) != Foreseen()
    del declared["config"][lacks]
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump(declared))
    assert rollback.foreseen_in("local", tmp_path) == Foreseen()


@pytest.mark.parametrize("edited", [False, True])
def test_ci_goes_back_only_to_what_was_merged_and_a_person_is_told(
    edited: bool,
    back: Path,
    rolling: str,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    repository: Path,
) -> None:
    who = ("-c", "user.name=A tester", "-c", "user.email=tester@example.org")
    branch = review.git(*who, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "other", root=repository)
    commit, why = (
        (rolling, "in a checkout with edits that were not committed")
        if edited
        else (branch.strip(), f"the commit {branch[:10]}, which is not in the history of what is checked out")
    )
    cli.ran(update(rolling, "vllm"), update(commit, "ollama", edited=edited), update(rolling, "vllm"))
    monkeypatch.setenv("YES", "1")
    monkeypatch.setenv("CI", "true")
    for goes in (rollback.rollback, rollback.review_rollback):
        with pytest.raises(StepFailed, match=f"update 2 ran {why}") as caught:
            goes("prod", None)
        assert "Name one of these as TO: 1, 3." in str(caught.value)
        assert str(caught.value).endswith("TO=2 make rollback STACK=prod")
    assert "preview" not in (cli.folder / "asked").read_text(), "its program did not run"
    capsys.readouterr()
    monkeypatch.setenv("CI", "")
    rollback.rollback("prod", None)
    assert len(cli.updates) == 1
    assert f"Update 2 ran {why}" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    rollback.rollback("prod", 1)
    assert len(cli.updates) == 2


def test_pulumi_sees_no_edits_in_a_rollback_to_what_had_none(
    back: Path, rolling: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody could go back to a rollback in CI."""
    monkeypatch.setenv("YES", "1")
    rollback.rollback("prod", None)
    assert (cli.folder / "edited").read_text() == ""
    cli.ran(update(rolling, "ollama", edited=True), update(rolling, "vllm"))
    rollback.rollback("prod", None)
    assert (cli.folder / "edited").read_text() == " M Pulumi.prod.yaml\n"


def test_a_rollback_that_was_reviewed_asks_nothing_and_is_by_a_plan_of_the_same_content(
    back: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    rollback.review_rollback("prod", None)
    said = capsys.readouterr().out
    assert (back / review.TEXT).read_text() in said
    assert "      → update 1 of 2026-11-24 20:36:07 UTC, commit " in said
    assert said.endswith(
        "\nDo exactly this with: TO=1 make rollback STACK=prod REVIEW=reviews/prod.rollback\n"
    )
    assert cli.updates == []
    (cli.folder / "plan").write_text(AGAIN.read_text())  # as each preview has other seeds and names
    rollback.rollback("prod", 1, back)
    (ran,) = cli.updates
    assert f"--plan {environment.HOME / 'rollback' / 'prod.review' / review.PLAN}" in ran


def test_a_rollback_that_is_not_the_one_that_was_reviewed_is_refused(back: Path, cli: Cli) -> None:
    again = r"Review it again: TO=1 make rollback-review STACK=prod$"
    with pytest.raises(StepFailed, match=r"there is no review in .* TO=1 make rollback-review STACK=prod$"):
        rollback.rollback("prod", 1, back)
    rollback.review_rollback("prod", 2)
    with pytest.raises(StepFailed, match=rf"the preview says something else(.|\n)*{again}"):
        rollback.rollback("prod", 1, back)
    rollback.review_rollback("prod", 1)
    (cli.folder / "plan").write_text(widened(MADE.read_text()))
    with pytest.raises(
        StepFailed, match=rf'the plan allows something else(.|\n)*\+    "delete"(.|\n)*{again}'
    ):
        rollback.rollback("prod", 1, back)
    (cli.folder / "plan").write_text(MADE.read_text())
    cli.moves_on()
    with pytest.raises(StepFailed, match=rf"an update ran in between(.|\n)*{again}"):
        rollback.rollback("prod", 1, back)
    review.make("prod", back)
    with pytest.raises(StepFailed, match="the rendered files differ"):
        rollback.rollback("prod", 1, back)
    assert cli.updates == []


def test_nobody_is_told_to_answer_yes_for_another_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without STACK it is the stack `local`, and YES=1 asks nobody."""
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(StepFailed, match=r"YES=1 make rollback STACK=prod$"):
        agree("Go back to it?", "rollback", "prod")
    with pytest.raises(StepFailed, match=r"YES=1 make report STACK=prod$"):
        agree("Go on?", "report", "prod")


def test_an_end_of_the_input_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert not yes("Go on?", "nobody")


def test_a_state_that_moved_on_is_refused(cli: Cli, reviewed: Path) -> None:
    cli.moves_on()
    with pytest.raises(StepFailed, match="an update ran in between"):
        review.apply("local", reviewed)
    assert cli.updates == []


def test_a_rollback_refuses_what_breaks_a_policy_unless_it_is_accepted_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = parse(OPEN.read_text().splitlines())
    for accepted in ("", "SSH is not open"):
        monkeypatch.setenv("ACCEPT", accepted)
        with pytest.raises(StepFailed, match="only the edge publishes a port") as caught:
            rollback.refuse_broken(seen, "local")
        assert "ACCEPT='only the edge publishes a port' make rollback STACK=local" in str(caught.value)
    monkeypatch.setenv("ACCEPT", "SSH is not open, only the edge publishes a port")
    rollback.refuse_broken(seen, "local")
