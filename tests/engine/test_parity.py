"""`make parity` on real engines, under load: nothing is lost, and the stack is as it was."""

import json
import subprocess
import sys

import pytest

from bench.stack import deployed
from common import ROOT
from parity.table import differences
from stacks.blueprint import blueprint_of
from stacks.parity import parity_problem
from stacks.settings import from_files
from tests.support.load import LoadGenerator
from tests.support.project import CommandFailed

pytestmark = [pytest.mark.engine, pytest.mark.long]

KEY = "a-key-of-the-tester-1234"


def test_both_engines_are_compared_under_load_and_the_active_one_serves_again() -> None:
    with deployed("paritytest", cutover="hold") as project:
        secret = ["config", "set", "--secret", "--path", "apiKeys.tester"]
        project.pulumi(*secret, stdin=KEY)
        project.up()
        outputs, before = project.outputs(), project.live()
        with LoadGenerator(outputs["endpoint"], outputs["model"], clients=2, api_key=KEY) as load:
            load.wait_for_answers(4)
            words = [sys.executable, "-m", "tools.parity", "paritytest", "--root", str(project.folder)]
            done = subprocess.run(
                words,
                cwd=ROOT,
                env={**project.for_tools, "YES": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            load.wait_for_answers(4)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not load.bad, load.summary()
        assert project.settled() and project.live() == before
        assert project.changes() == {}
        assert "given up as asked" in project.switch("status")
        assert KEY not in done.stdout + done.stderr
        content = json.loads((project.folder / "rendered" / "paritytest" / "parity.json").read_text())
        assert "context-overlong" in differences(content), done.stdout  # Ollama cuts the prompt, vLLM refuses
        assert content["endpoint"] == "ollama"
        other = {row["probe"]: row["endpoint"] for row in content["probes"] if "endpoint" in row}
        assert not other, done.stdout
        blueprint = blueprint_of(from_files("paritytest", project.folder))
        assert "context-overlong" in parity_problem(blueprint, project.folder)

        # with such a table everything may change but the engine
        project.configure(requireParity=True, gateCompletions=2)
        assert "a change to the other engine is refused for now" in project.up()
        assert project.changes() == {}
        project.configure(engine="vllm")
        with pytest.raises(
            CommandFailed, match=r"ollama must not change to vllm: .*context-overlong"
        ) as refused:
            project.up()
        assert "drained" not in str(refused.value)
        assert project.settled() and project.live() == before
