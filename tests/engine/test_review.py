"""The whole story of reviewed changes on a bare git repository, with a stack on the real engines.

Told in order, as a team would live it: each test goes on where the one before it stopped. Both engines are
the test engine, since nothing here is about how they load; everything else is real.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.stack import remove_fast_engine, use_fast_engine
from common import ROOT
from components.labels import Labels
from tests.support.project import TEAM, docker, kill_group, link_environment, offline_settings
from tests.support.reviews import serve_with_the_standby
from tests.support.switch_stack import wait
from tools import environment
from tools.rollback import ALL

pytestmark = pytest.mark.engine

STACK = "story"
VERSION = "0.0.0-story"
FILTERS = ("--filter", f"label=changeover.stack={STACK}")
SETTINGS = f"Pulumi.{STACK}.yaml"


@dataclass
class Team:
    """A clone of the team's repository, and the make targets in it."""

    clone: Path

    def run(self, *words: str, fails: int = 0, **env: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.clone,
            env={**environment.process_environment(), **TEAM, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == fails, f"{' '.join(words)} exited {done.returncode}:\n{done.stdout}"
        return done.stdout

    def make(self, target: str, *, fails: int = 0, **env: str) -> str:
        # the packages are those of the checkout under test, so nothing is installed
        return self.run("make", "-s", "-o", ".venv/.synced", target, f"STACK={STACK}", fails=fails, **env)

    def git(self, *words: str) -> str:
        return self.run("git", *words).strip()

    def change(self, message: str, **settings: object) -> None:
        """Change settings, render, and commit."""
        file = self.clone / SETTINGS
        content = yaml.safe_load(file.read_text())
        content["config"] |= {f"changeover:{key}": value for key, value in settings.items()}
        file.write_text(yaml.safe_dump(content))
        self.make("render")
        self.git("add", "--all")
        self.git("commit", "--message", message)

    def pulumi(self, *words: str) -> str:
        return self.run("pulumi", *words, "--stack", STACK, "--non-interactive")

    def kill_at(self, said: str) -> None:
        """Start an update and SIGKILL it, with all it started, as soon as it has said that."""
        log = self.clone.parent / "killed.log"
        with log.open("wb") as out:
            update = subprocess.Popen(
                ["pulumi", "up", "--yes", "--skip-preview", "--stack", STACK, "--non-interactive"],
                cwd=self.clone,
                env=environment.process_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        while said not in log.read_text():
            assert update.poll() is None, log.read_text()
            time.sleep(0.05)
        kill_group(update)

    @property
    def engine(self) -> str:
        return str(json.loads(self.pulumi("stack", "output", "--json"))["engine"])

    @property
    def status(self) -> dict[str, Any]:
        """What the switch says."""
        told = docker("exec", self.container("switch"), "python3", "-m", "switch", "status", "--json")
        return dict(json.loads(told))

    def container(self, role: str) -> str:
        words = ("--filter", f"label=changeover.role={role}", "--format", "{{.Names}}")
        (name,) = docker("ps", *FILTERS, *words).split()
        return name


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A bare repository with the project as it is now, and a clone with a deployed stack."""
    folder = tmp_path_factory.mktemp("team")
    clone = folder / "clone"
    clone.mkdir()
    subprocess.run(
        f"git ls-files -co --exclude-standard -z | tar --null -T - -cf - | tar -C {clone} -xf -",
        shell=True,
        cwd=ROOT,
        check=True,
    )
    use_fast_engine(clone, VERSION)
    own = clone / ".changeover"
    own.mkdir()
    for part in (environment.BIN, environment.PULUMI_HOME):
        (own / part.name).symlink_to(part)
    (own / "state").mkdir()
    (own / "passphrase").write_text("a test's own")
    link_environment(clone)
    state = {
        "PULUMI_BACKEND_URL": environment.backend_in(own / "state"),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(own / "passphrase"),
        "PULUMI_HOME": str(own / "pulumi"),
    }
    team = Team(clone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "variables", lambda: {**_variables(), **state})
        team.run("git", "init", "--quiet", "--initial-branch=main")
        config = offline_settings(parallel=2)
        settings = {"config": {f"changeover:{key}": value for key, value in config.items()}}
        (clone / SETTINGS).write_text(yaml.safe_dump(settings))
        (clone / "rendered" / STACK).mkdir(parents=True)
        team.pulumi("stack", "init")
        team.change("The project, with a stack")
        team.run("git", "init", "--quiet", "--bare", str(folder / "bare.git"))
        team.git("remote", "add", "origin", str(folder / "bare.git"))
        team.git("push", "--quiet", "--set-upstream", "origin", "main")
        wipe()  # what a killed run left
        try:
            team.pulumi("up", "--yes", "--skip-preview")
            yield team
        finally:
            wipe()
            remove_fast_engine(VERSION)


_variables = environment.variables


def wipe() -> None:
    labels = Labels(project="changeover", stack=STACK)
    if left := docker("ps", "--all", "--quiet", *FILTERS).split():
        docker("rm", "--force", "--volumes", *left)
    if left := docker("network", "ls", "--quiet", "--filter", f"name=^{labels.prefix}(-clients)?$").split():
        docker("network", "rm", *left)
    if left := docker("volume", "ls", "--quiet", *FILTERS).split():
        docker("volume", "rm", *left)


def test_a_branch_that_flips_is_a_diff_of_a_few_lines_that_needs_no_credentials(team: Team) -> None:
    team.git("switch", "--quiet", "--create", "flip")
    team.change("Serve with vLLM", engine="vllm")
    lines = team.git("diff", "--unified=0", "main", "--", SETTINGS, f"rendered/{STACK}").splitlines()
    changed = [line for line in lines if line[0] in "+-" and line[1] not in "+-"]
    routing = (team.clone / "rendered" / STACK / "routing.toml").read_text()
    first, second = re.findall(r'"([a-z]+-[0-9a-f]{8})"', routing.splitlines()[1])
    assert changed == [
        "-  changeover:engine: ollama",
        "+  changeover:engine: vllm",
        "-engine: ollama",
        "+engine: vllm",
        f'-engines = ["{second}", "{first}"]',
        f'+engines = ["{first}", "{second}"]',
        '-routing = ["ollama", "vllm"]',
        '+routing = ["vllm", "ollama"]',
    ]


def test_a_stale_rendering_is_no_review(team: Team) -> None:
    file = team.clone / "rendered" / STACK / "tensorzero.toml"
    before = file.read_text()
    file.write_text(before.replace("630000", "500000"))
    assert f"rendered/{STACK}/ is stale: tensorzero.toml. Run: make render" in team.make("review", fails=2)
    file.write_text(before)


def test_the_review_says_in_one_sentence_what_happens(team: Team) -> None:
    first = team.make("review").splitlines()[0]
    assert first.startswith(f"Engine of `{STACK}`: Ollama → vLLM by hold, requests wait about ")
    assert first.endswith(
        "none is expected to be lost; nothing is replaced but the gateway; back with `make rollback "
        f"STACK={STACK}`."
    )
    assert team.engine == "ollama", "a review changes nothing"


def test_a_review_is_stale_when_something_else_was_merged(team: Team) -> None:
    team.git("switch", "--quiet", "main")
    readme = team.clone / "README.md"
    readme.write_text(readme.read_text() + "\nAnother change.\n")
    team.git("commit", "--quiet", "--all", "--message", "Another change")
    team.git("merge", "--quiet", "--no-edit", "flip")
    text = team.make("apply", fails=2, REVIEW=f"reviews/{STACK}")
    assert "this is not what was reviewed; nothing was changed." in text
    assert "something else was merged" in text
    assert f"Review it again: make review STACK={STACK}" in text
    assert team.engine == "ollama"


def test_a_merge_of_what_was_reviewed_is_applied_by_its_plan(team: Team) -> None:
    team.git("switch", "--quiet", "flip")
    team.git("merge", "--quiet", "--no-edit", "main")
    team.make("review")
    team.git("switch", "--quiet", "main")
    team.git("merge", "--quiet", "--no-ff", "--message", "Merge flip", "flip")
    team.git("push", "--quiet")
    text = team.make("apply", REVIEW=f"reviews/{STACK}")
    assert "released after" in text
    assert team.engine == "vllm"
    assert team.make("review").startswith(f"`{STACK}`: no changes.")


def test_the_update_leaves_a_certificate(team: Team) -> None:
    (file,) = (team.clone / "certificates" / STACK).glob("*ollama-to-vllm.md")
    assert "committed" in file.read_text()


def test_a_review_of_other_settings_is_refused_and_what_differs_is_said(team: Team) -> None:
    team.change("Another context", context=896)
    team.make("review")
    team.git("reset", "--quiet", "--hard", "HEAD~1")
    text = team.make("apply", fails=2, REVIEW=f"reviews/{STACK}")
    assert "other files are checked out" in text
    assert "the rendered files differ" in text
    assert "the preview says something else" in text


def test_drift_is_found_and_put_right(team: Team) -> None:
    assert "no drift" in team.make("drift")
    edge, gateway = team.container("edge"), team.container("gateway")
    docker("exec", "--user", "0", gateway, "sed", "-i", "s/630000/1000/", "/app/config/tensorzero.toml")
    change = (
        "wget -q -O /dev/null --header 'Content-Type: application/json' --post-data '\"5m\"' "
        "http://localhost:2019/config/apps/http/grace_period"
    )
    docker("exec", edge, "sh", "-c", change)
    text = team.make("drift", fails=2)
    assert f"the TOML in `{gateway}` was edited in place" in text
    assert "the edge's configuration was edited in place" in text
    team.pulumi("up", "--yes", "--skip-preview", "--refresh")
    assert "no drift" in team.make("drift")

    team.make("review")
    docker("stop", edge)
    text = team.make("apply", fails=2, REVIEW=f"reviews/{STACK}")
    assert "the preview says something else" in text, "it changed behind Pulumi's back after the review"
    team.make("review")
    text = team.make("drift", fails=2)
    assert f"the container `changeover-{STACK}-edge` is stopped" in text
    team.make("apply", REVIEW=f"reviews/{STACK}")
    assert "no drift" in team.make("drift")


def test_an_engine_that_was_made_active_by_hand_is_found_and_put_right(team: Team) -> None:
    left = team.status["live"]
    serves = serve_with_the_standby(STACK, team.clone)
    assert team.status["live"] == serves
    text = team.make("drift", fails=2)
    assert f"the active engine: `{serves}` serves, although Pulumi left `{left}` serving" in text
    team.pulumi("up", "--yes", "--skip-preview", "--refresh")
    assert team.status["live"] == left
    assert "no drift" in team.make("drift")


def test_a_rollback_asks_first(team: Team) -> None:
    text = team.make("rollback", fails=2)
    assert f"Engine of `{STACK}`: vLLM → Ollama by hold" in text
    assert "not done; nothing was changed" in text
    assert team.engine == "vllm"


def test_a_rollback_brings_back_what_ran_before_and_says_what_to_commit(team: Team) -> None:
    # a program that has moved on, and would not even start
    (team.clone / "__main__.py").write_text("raise SystemExit('broken by a later merge')\n")
    team.git("commit", "--quiet", "--all", "--message", "Break the program")
    text = team.make("rollback", YES="1")
    assert team.engine == "ollama"
    assert "-  changeover:engine: vllm\n+  changeover:engine: ollama\n" in text
    assert "Break the program" in text.partition("The program has moved on since")[2]
    assert list((team.clone / "certificates" / STACK).glob("*vllm-to-ollama.md"))
    assert team.git("worktree", "list").count("\n") == 0, "its worktree is gone"


def test_drift_complains_until_git_says_what_runs(team: Team) -> None:
    team.git("revert", "--no-edit", "HEAD")
    text = team.make("drift", fails=2)
    assert "runs something other than the settings here say" in text
    team.change("Go back to Ollama", engine="ollama")
    assert "no drift" in team.make("drift")


def test_a_failed_update_is_rolled_back(team: Team) -> None:
    team.change("A speed that no engine here has", engine="vllm", gateTokensPerSecond=1000)
    team.make("review")
    text = team.make("apply", fails=2, REVIEW=f"reviews/{STACK}")
    assert "vllm is too slow: it reached" in text
    text = team.make("rollback", YES="1")
    assert "FAILED" in text
    assert team.engine == "ollama"
    assert "+  changeover:engine: ollama" in text
    team.change("Go back to Ollama again", engine="ollama", gateTokensPerSecond=1)
    assert "no drift" in team.make("drift")


@pytest.mark.parametrize("phase", ["prepare", pytest.param("commit", marks=pytest.mark.long)])
def test_a_killed_update_is_rolled_back(team: Team, phase: str) -> None:
    team.change(f"Serve with vLLM, and be killed in {phase}", engine="vllm")
    team.kill_at(f"{phase}: vllm")
    told = json.loads(team.pulumi("stack", "history", *ALL))
    good = max(n for n, each in enumerate(reversed(told), 1) if each["result"] == "succeeded")

    text = team.make("rollback", fails=2, YES="1")
    assert "an update that did not end" in text
    assert f"pulumi cancel --stack {STACK}" in text
    assert "the stack is currently locked" in text

    team.pulumi("cancel", "--yes")
    wait(lambda: team.status["under_way"] is None, 120)  # the switch takes it back, or ends it, by itself
    text = team.make("rollback", YES="1")
    assert f"→ update {good} of " in text, "what ran until then, and nothing older"
    assert text.count("  now ") == 1, "the update that did not end"
    assert team.engine == "ollama"
    assert f"changeover-{STACK}-ollama-" in team.status["live"]
    assert "-  changeover:engine: vllm\n+  changeover:engine: ollama\n" in text
    team.change(f"Go back after {phase}", engine="ollama")
    assert "no drift" in team.make("drift")
    assert "update that did not end" not in team.make("rollback", fails=2)


def test_the_history_reads_as_what_happened_and_any_update_can_be_named(team: Team) -> None:
    text = team.make("rollback", fails=2, TO="99")
    assert "TO=99 is not an update that succeeded" in text
    told = json.loads(team.pulumi("stack", "history", *ALL))
    story = [(each["config"]["changeover:engine"]["value"], each["result"]) for each in reversed(told)]
    assert story[:2] == [("ollama", "succeeded"), ("vllm", "succeeded")]
    assert ("vllm", "failed") in story
    assert "→ update 1 of " in team.make("rollback-review", TO="1", CI="true")
    text = team.make("rollback", TO="1", CI="true", REVIEW=f"reviews/{STACK}.rollback")
    assert "→ update 1 of " in text
    assert team.engine == "ollama"


def test_a_review_from_before_an_update_is_refused(team: Team) -> None:
    team.pulumi("up", "--yes", "--skip-preview", "--refresh")  # what git says, after the rollback
    team.make("review")
    team.pulumi("up", "--yes", "--skip-preview", "--config", "changeover:gateCompletions=2")
    team.git("checkout", "--quiet", "--", SETTINGS)  # the CLI has written it there
    text = team.make("apply", fails=2, REVIEW=f"reviews/{STACK}")
    assert "the stack's state has changed: an update ran in between" in text
    assert "other files are checked out" not in text
