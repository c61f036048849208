"""The clients' programs, run from where a test can tell them what to do."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.clients import Clients

HERE = Path(__file__).parent
PLAIN = ("chat", "stream", "tools")
ENDING = ("abort", "timeout", "retry", "held")
STEPS: dict[str, tuple[str, ...]] = {
    "openai_python.py": (
        *("models", *PLAIN, "structured", "completions"),
        *("responses", "responses_stream", "responses_tools", "responses_structured", *ENDING),
    ),
    "anthropic_python.py": ("models", *PLAIN, "count", *ENDING),
    "litellm_python.py": (
        *("models", *PLAIN, "structured", "completions", "responses"),
        *("messages", "messages_stream", *ENDING),
    ),
    "langchain_python.py": (*PLAIN, "structured", "completions", "responses", "responses_stream", *ENDING),
    "openai_node.mjs": (
        *("models", *PLAIN, "structured", "completions"),
        *("responses", "responses_stream", "responses_structured", *ENDING),
    ),
    "anthropic_node.mjs": ("models", *PLAIN, "count", *ENDING),
    "ai_sdk.mjs": (*PLAIN, "structured", "completions", "responses", "responses_stream", *ENDING),
}
"""Every program with what it does."""
SECONDS = 240
"""Longer than whatever a client is let wait for: a program that hangs is ended."""


@dataclass(frozen=True)
class Said:
    """What came of a step: what it gave, or the class of its error with a message; and how long it took."""

    gave: Any = None
    error: str = ""
    message: str = ""
    seconds: float = 0


class Program:
    """One client, from its start on."""

    def __init__(self, name: str, folder: Path, command: Path, endpoint: str, model: str) -> None:
        environment = {
            **os.environ,
            "ENDPOINT": endpoint,
            "MODEL": model,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would ask for its newest list of prices
        }
        self.name = name
        self._process = subprocess.Popen(
            [command, name],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._steps: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """What it can do, once it has said so."""
        if not self._steps:
            self._steps = tuple(self._heard()["steps"])
        return self._steps

    def do(self, step: str, **asked: Any) -> Said:
        """Does it, and waits for its end."""
        assert step in self.steps and self._process.stdin
        self._process.stdin.write(json.dumps({"step": step, **asked}) + "\n")
        self._process.stdin.flush()
        return Said(**self._heard())

    def _heard(self) -> Any:
        assert self._process.stdout
        end = threading.Timer(SECONDS, self._process.kill)
        end.start()
        try:
            line = self._process.stdout.readline()
        finally:
            end.cancel()
        assert line, f"{self.name} ended, or did nothing for {SECONDS} s"
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def place(folder: Path, clients: Clients) -> None:
    """Puts the programs into `folder`, beside the packages of Node's."""
    for file in (*HERE.glob("*.mjs"), *HERE.glob("*_python.py"), HERE / "driver.py"):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(clients.modules)


def started(folder: Path, clients: Clients, endpoint: str, model: str) -> dict[str, Program]:
    """All programs by name, without waiting for any of them: some need seconds to start."""
    commands = {".py": clients.python, ".mjs": clients.node}
    return {name: Program(name, folder, commands[Path(name).suffix], endpoint, model) for name in STEPS}


def at_once(programs: Iterable[Program], step: str, **asked: Any) -> "AtOnce":
    """Has each of them do the same."""
    return AtOnce(programs, step, asked)


class AtOnce:
    """What programs do at the same time."""

    def __init__(self, programs: Iterable[Program], step: str, asked: dict[str, Any]) -> None:
        self._said = dict[str, Said]()
        self._threads = [
            threading.Thread(target=self._do, args=(program, step, asked), daemon=True)
            for program in programs
        ]
        for thread in self._threads:
            thread.start()

    def _do(self, program: Program, step: str, asked: dict[str, Any]) -> None:
        self._said[program.name] = program.do(step, **asked)

    def ended(self) -> dict[str, Said]:
        """What came of it, by program."""
        for thread in self._threads:
            thread.join()
        return self._said
