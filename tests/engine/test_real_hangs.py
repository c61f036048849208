"""The real engines with the process behind their HTTP server stopped: it goes on answering, and nothing is
ever done. All times are those of a deployment."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from switch.plan import FIRST_TOKEN_SECONDS, Seconds
from switch.pulse import OWN_TOKEN_SECONDS, SAID_SECONDS
from tests.support.project import Project, docker, offline_settings

pytestmark = [pytest.mark.engine, pytest.mark.long]

WORKS = re.compile(r"ollama runner|EngineCore")
"""The process of each engine that computes."""
SLACK = 60
"""Seconds for looks, and for the engine to load again."""


@pytest.fixture(params=["ollama", "vllm"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, f"hangs-{request.param}", **offline_settings(engine=request.param))
    project.wipe()
    project.up()
    yield project
    project.wipe()


def worker(project: Project) -> int:
    rows = docker("top", project.live(), "-eo", "pid,args").splitlines()
    (found,) = [row for row in rows if WORKS.search(row)]
    return int(found.split()[0])


def ask(project: Project, tokens: int) -> str:
    """How an answer of so many tokens ends: its `finish_reason`, or what went wrong."""
    outputs = project.outputs()
    try:
        with openai.OpenAI(
            base_url=outputs["endpoint"], api_key="none", max_retries=0, timeout=900
        ) as client:
            said = list(
                client.chat.completions.create(
                    model=outputs["model"],
                    messages=[{"role": "user", "content": "Count."}],
                    max_tokens=tokens,
                    stream=True,
                )
            )
    except openai.APIStatusError as error:
        return str(error.status_code)
    except (openai.APIError, OSError) as error:
        return type(error).__name__
    return next((each.choices[0].finish_reason for each in reversed(said) if each.choices), None) or "cut"


def test_a_real_engine_that_hangs_is_said_given_up_and_brought_back(project: Project) -> None:
    engine, said = project.live(), list[str]()
    started = docker("inspect", "-f", "{{.State.StartedAt}}", engine)
    with ThreadPoolExecutor(3) as pool:
        begun = pool.submit(ask, project, 900)
        time.sleep(0.5)
        os.kill(worker(project), signal.SIGSTOP)
        began, waits, last = time.monotonic(), pool.submit(ask, project, 8), None
        while docker("inspect", "-f", "{{.State.StartedAt}}", engine) == started:
            after = time.monotonic() - began
            assert after < Seconds.tokens + SLACK, said
            silent = json.loads(project.switch("status", "--json"))["silent"]
            if silent and not said:
                assert after < OWN_TOKEN_SECONDS + SAID_SECONDS + SLACK
                said.append(silent[engine])
            if last is None and after > FIRST_TOKEN_SECONDS:
                last = pool.submit(ask, project, 8)
            time.sleep(2)
        assert after > Seconds.tokens - SLACK, "it was given up before its patience was over"
        assert said and "has given no token" in said[0]
        assert begun.result() not in ("stop", "length"), "the stream that had begun can't be whole"
        assert waits.result() == "504"
        assert last is not None and last.result() in ("stop", "length"), "it had no byte, and is asked again"
    assert ask(project, 8) in ("stop", "length")
    healed = json.loads(project.switch("status", "--json"))["healed"]["what"]
    assert f"({engine}) hangs" in healed and "no completion has given anything" in healed
