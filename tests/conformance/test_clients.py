"""Clients that people have, as their packages are, on the whole way; and the guide to them, as written."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from offline import clients
from proxy.refusals import RETRY_AFTER_SECONDS
from tests.clients.programs import STEPS, Program, Said, at_once, place, started
from tests.conformance.asking import ask
from tests.support import fast_engine
from tests.support.way import Way, eventually

pytestmark = pytest.mark.engine

HOLD_SECONDS = float(os.environ.get("CLIENTS_HOLD_SECONDS", "20"))
"""How long clients are held: long enough for a word."""
GIVES_UP = {
    "openai_python.py": "APITimeoutError",
    "anthropic_python.py": "APITimeoutError",
    "litellm_python.py": "Timeout",
    "langchain_python.py": "OpenAITimeoutError",
    "openai_node.mjs": "APIConnectionTimeoutError",
    "anthropic_node.mjs": "APIConnectionTimeoutError",
    "ai_sdk.mjs": "DOMException",
}
"""How each client says that its own time is up."""
GUIDE = ROOT / "docs/clients.md"
ENDPOINT, NAME = "http://127.0.0.1:8080", "qwen-2.5-coder-0.5b"
"""What the guide calls endpoint and model."""


@dataclass
class Used:
    """A way with two test engines, of which `vllm` serves, and the clients that use it."""

    way: Way
    folder: Path
    clients: clients.Clients
    programs: dict[str, Program]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.way.port}"

    def lines(self, since: int, **wanted: Any) -> list[dict[str, Any]]:
        """Those of the access log after the first `since` that are as wanted."""
        return [
            line
            for line in self.way.access_log()[since:]
            if all(line[key] == value for key, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    installed, folder = clients.install(), tmp_path_factory.mktemp("clients")
    place(folder, installed)
    with Way() as way:
        for kind in way.kinds:
            way.start_engine(kind, Path(fast_engine.__file__), FAST_TOKENS="0.01")
        way.start()
        eventually(lambda: ask(way.port, "GET", "/v1/models").status == 200)
        programs = started(folder, installed, f"http://127.0.0.1:{way.port}", way.name)
        try:
            assert all(program.steps for program in programs.values())  # each of them has started
            yield Used(way, folder, installed, programs)
        finally:
            for program in programs.values():
                program.end()


def right(step: str, gave: Any) -> bool:
    """Whether a step gave what the test engine says."""
    if step == "models":
        return "tiny" in gave
    if step == "count":
        return bool(gave == 6)  # words
    if step.endswith("structured"):
        return bool(gave == {"city": "w0"})
    if step.endswith("tools"):
        name, arguments, *_, answered = gave
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
        return (name, given, answered) == ("weather", {"city": "w0"}, True)
    return str(gave[0] if isinstance(gave, list) else gave).startswith("harbour")


@pytest.mark.parametrize("name", STEPS)
def test_a_client_gets_what_it_asks_for(used: Used, name: str) -> None:
    program = used.programs[name]
    assert program.steps == STEPS[name]
    wrong = dict[str, Said]()
    for step in program.steps:
        if step not in ("abort", "timeout", "retry", "held"):
            said = program.do(step)
            if said.error or not right(step, said.gave):
                wrong[step] = said
    assert not wrong


@pytest.mark.parametrize("name", STEPS)
def test_a_client_that_aborts_ends_the_engines_work(used: Used, name: str) -> None:
    since = len(used.way.access_log())
    said = used.programs[name].do("abort")
    assert said.gave is True, said
    eventually(lambda: used.lines(since, stream=True), 8, "the request ends")
    (line,) = used.lines(since, stream=True)
    assert line["hung_up"] and line["completion_tokens"] < 900, line


def test_a_clients_own_time_out_ends_its_wait(used: Used) -> None:
    since = len(used.way.access_log())
    used.way.hold_seconds = 60
    used.way.route(held=True)
    try:
        said = at_once(used.programs.values(), "timeout", seconds=3).ended()
        eventually(lambda: len(used.lines(since, hung_up=True)) == len(said), 20, "all have hung up")
    finally:
        used.way.route()
    for name, each in said.items():
        assert each.error == GIVES_UP[name], (name, each)
        assert 2.9 < each.seconds < 20, (name, each)


def test_a_client_asks_again_by_itself_after_a_503(used: Used) -> None:
    since = len(used.way.access_log())
    used.way.hold_seconds = 2
    used.way.route(held=True)
    try:
        asked = at_once(used.programs.values(), "retry")
        eventually(lambda: len(used.lines(since, status=503)) >= len(STEPS), 60, "all have waited too long")
    finally:
        used.way.hold_seconds = 60
        used.way.route()
    for name, each in asked.ended().items():
        assert each.gave == "harbour", (name, each)
        assert each.seconds > RETRY_AFTER_SECONDS, (name, each)


def test_a_stream_that_is_held_comes_whole_to_every_client_from_another_engine(used: Used) -> None:
    way, since = used.way, len(used.way.access_log())
    way.hold_seconds = int(HOLD_SECONDS) + 60
    way.route(held=True)
    try:
        asked = at_once(used.programs.values(), "held")
        time.sleep(HOLD_SECONDS)
        way.start_gateway("ollama")
        way.route("ollama")
        said = asked.ended()
    finally:
        way.start_gateway("vllm")
        way.route("vllm")
    for name, each in said.items():
        assert each.gave == "harbour" and each.seconds >= HOLD_SECONDS - 1, (name, each)
    eventually(lambda: len(used.lines(since, stream=True)) >= len(STEPS), 10, "all are in the log")
    engines = [line["engine"] for line in used.lines(since, stream=True)]
    assert engines == [way.specs["ollama"].name] * len(STEPS)


def test_what_fails_after_a_word_is_an_error_to_every_client_and_no_empty_answer(used: Used) -> None:
    used.way.hold_seconds = 17
    used.way.route(held=True)
    try:
        said = at_once(used.programs.values(), "held").ended()
    finally:
        used.way.route()
    for name, each in said.items():
        assert each.error and "No engine answered in time" in each.message, (name, each)


def snippets() -> dict[str, tuple[str, str]]:
    """The guide's programs and commands: heading and number → language and text."""
    found, heading = dict[str, tuple[str, str]](), ""
    for part in re.split(r"^(?=## )", GUIDE.read_text(), flags=re.MULTILINE):
        heading = part.splitlines()[0].removeprefix("## ")
        for number, each in enumerate(re.finditer(r"^```(\w+)\n(.*?)^```", part, re.MULTILINE | re.DOTALL)):
            found[f"{heading} {number + 1}"] = (each.group(1), each.group(2))
    return found


@pytest.mark.parametrize("name", snippets())
def test_the_guide_works_as_it_is_written(used: Used, name: str) -> None:
    language, text = snippets()[name]
    assert ENDPOINT in text and NAME in text
    text = text.replace(ENDPOINT, used.endpoint).replace(NAME, used.way.name)
    suffix, command = {
        "python": (".py", str(used.clients.python)),
        "js": (".mjs", str(used.clients.node)),
        "sh": (".sh", "bash"),
    }[language]
    file = used.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}{suffix}"
    file.write_text(text)
    done = subprocess.run(
        [command, file], cwd=used.folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "w0" in done.stdout, done.stdout + done.stderr
