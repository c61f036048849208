"""Coding agents as their packages are, on the whole way, and the guide to them as it is written.

An agent is told what the engine made for tests has to do: to say something, or to call one of the agent's
tools.
"""

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offline import agents
from tests.agents import guide
from tests.conformance.asking import ask
from tests.support import fast_engine
from tests.support.alone import Alone, alone
from tests.support.way import Way, eventually

pytestmark = pytest.mark.engine

HOLD_SECONDS = 17
"""How long all agents are held: long enough for a word."""
SAYS = "The tide turns at noon."
EDITED = "a grey seal, asleep"


def say(text: str) -> str:
    return f"[[say {json.dumps(text)}]]"


@dataclass(frozen=True)
class Agent:
    """`path` is the protocol that it speaks. What it is told to call; no `tool`: it asks for text to put into
    the file."""

    program: str
    path: str
    tool: str = ""
    arguments: Mapping[str, str] | None = None

    @property
    def told(self) -> str:
        if not self.tool:
            return say("\n".join((guide.FILE, "```", EDITED, "```", "")))
        return f"[[call {self.tool} {json.dumps(self.arguments)}]]"


AGENTS = {
    "Codex": Agent("codex", "/v1/responses", "exec_command", {"cmd": f"cat {guide.FILE}"}),
    "Claude Code": Agent("claude", "/v1/messages", "Read", {"file_path": guide.FILE}),
    "opencode": Agent("opencode", "/v1/chat/completions", "read", {"filePath": guide.FILE}),
    "Aider": Agent("aider", "/v1/chat/completions"),
    "Continue": Agent("cn", "/v1/chat/completions", "Read", {"filepath": guide.FILE}),
}


@dataclass
class Used:
    """A way with one engine, and where agents find it and nothing else."""

    way: Way
    programs: Path
    where: Alone

    def asked(self) -> list[Any]:
        """What has arrived at the engine, oldest first."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.way.ports['vllm']}/asked") as answer:
            return list(json.load(answer))

    def has(self, agent: str) -> bool:
        return (self.programs / AGENTS[agent].program).exists()

    def run(self, agent: str, told: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return guide.run(agent, told, folder, self.programs, self.where)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    programs, folder = agents.install(), tmp_path_factory.mktemp("agents")
    with Way(name=guide.NAME) as way:
        way.start_engine("vllm", Path(fast_engine.__file__), FAST_KEEP="100")
        way.start()
        eventually(lambda: ask(way.port, "GET", "/v1/models").status == 200)
        with alone(folder, {guide.PORT: way.port}) as where:
            yield Used(way, programs, where)


def wrong(agent: str, requests: list[Any]) -> list[str]:
    """What is not as it should be about the requests of an agent; titles and the like come without tools."""
    its, found = AGENTS[agent], []
    for each in requests:
        path, model = each["path"].partition("?")[0], each["body"]["model"]
        if (path, model) != (its.path, guide.NAME):
            found.append(f"{path} for {model}")
    tools = [{name(tool) for tool in each["body"].get("tools") or []} for each in requests]
    if its.tool and not any(its.tool in each for each in tools):
        found.append(f"no tool {its.tool} in {tools}")
    return found


def name(tool: Mapping[str, Any]) -> str:
    return str((tool.get("function") or tool).get("name"))


def test_the_guide_has_every_agent() -> None:
    assert set(guide.commands()) == set(AGENTS)


@pytest.mark.parametrize("agent", AGENTS)
def test_what_a_tool_of_an_agent_gives_comes_back_and_is_answered(
    used: Used, tmp_path: Path, agent: str
) -> None:
    if not used.has(agent):
        pytest.skip(f"no {agent} for this machine")
    repository, since = guide.begun(tmp_path), len(used.asked())
    done = used.run(agent, AGENTS[agent].told, repository)
    said = done.stdout + done.stderr
    requests = used.asked()[since:]
    assert done.returncode == 0 and not wrong(agent, requests), said
    if AGENTS[agent].tool:
        assert f"{AGENTS[agent].tool} gave: " in done.stdout and guide.HELD in done.stdout, said
    else:  # what it asks for after that is a message for the commit, and it shows what was changed
        assert (repository / guide.FILE).read_text() == f"{EDITED}\n", said
        assert EDITED in fast_engine.prompt_of(requests[-1]["body"]) and len(requests) == 2
        log = subprocess.run(["git", "log", "--oneline"], cwd=repository, capture_output=True, check=True)
        assert len(log.stdout.splitlines()) == 2


def test_agents_that_are_held_say_what_they_are_answered(used: Used, tmp_path: Path) -> None:
    there = [agent for agent in AGENTS if used.has(agent)]
    done = dict[str, subprocess.CompletedProcess[str]]()

    def run(agent: str) -> None:
        done[agent] = used.run(agent, say(SAYS), guide.begun(tmp_path / AGENTS[agent].program))

    def held() -> bool:
        """Whether each waits; one may ask for a title beside."""
        return int(used.way.status("proxy-1")["held"]) >= len(there)

    since = len(used.asked())
    used.way.hold_seconds = guide.SECONDS
    used.way.route(held=True)
    threads = [threading.Thread(target=run, args=(agent,)) for agent in there]
    try:
        for thread in threads:
            thread.start()
        eventually(held, 120, "all agents ask")
        time.sleep(HOLD_SECONDS)
        assert used.asked()[since:] == [] and not done
    finally:
        used.way.route()
        for thread in threads:
            thread.join()
    failed = {agent: each for agent, each in done.items() if each.returncode or SAYS not in each.stdout}
    assert set(done) == set(there) and not failed
    asked = {each["path"].partition("?")[0] for each in used.asked()[since:]}
    assert asked == {AGENTS[agent].path for agent in there}
