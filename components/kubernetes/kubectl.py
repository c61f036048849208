"""`kubectl`, by which the steps of `pulumi up` reach a cluster: a kubeconfig may log in by programs of its
own."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.labels import label


class ClusterError(Exception):
    """The cluster did not do what it was asked for. The text is the person's who types `pulumi up`."""


class Missing(ClusterError):
    """There is no such object."""


ClusterObject = Mapping[str, Any]
"""An object as the cluster says it."""

RunKubectl = Callable[[Sequence[str], str], str]
"""Runs `kubectl` with these words and this on stdin, and gives what it prints. Raises ClusterError."""


def get(run: RunKubectl, *words: str) -> Any:
    """What `kubectl get` says: an object, or a list of some. Raises ClusterError, and Missing for an object
    that is not there."""
    return json.loads(run(["get", *words, "--output", "json"], ""))


def selector(project: str, stack: str, role: str = "") -> str:
    """What of the cluster is the stack's, and of these what has a role."""
    labels = {"project": project, "stack": stack, **({"role": role} if role else {})}
    return ",".join(f"{label(key)}={value}" for key, value in labels.items())


Send = Callable[[Path, Sequence[str]], None]
"""Runs `kubectl` with these words and a folder as a tar on stdin. Raises ClusterError."""


def _program(namespace: str, context: str) -> list[str]:
    """The person's own, in this namespace and by this context of the kubeconfig; empty: by the current
    one."""
    return ["kubectl", "--namespace", namespace, *(["--context", context] if context else [])]


def kubectl(namespace: str, context: str) -> RunKubectl:
    """Runs `kubectl` for questions that are answered at once: each request has 20 s."""

    def run(words: Sequence[str], stdin: str) -> str:
        program = [*_program(namespace, context), "--request-timeout", "20s"]
        with _found():
            done = subprocess.run(
                [*program, *words], input=stdin, capture_output=True, text=True, check=False
            )
        return _answer(done, words)

    return run


def sender(namespace: str, context: str) -> Send:
    """Runs `kubectl` to send a folder, however long that takes."""

    def send(folder: Path, words: Sequence[str]) -> None:
        program = _program(namespace, context)
        with (
            subprocess.Popen(["tar", "-C", folder, "-cf", "-", "."], stdout=subprocess.PIPE) as tar,
            _found(),
        ):
            done = subprocess.run(
                [*program, *words], stdin=tar.stdout, capture_output=True, text=True, check=False
            )
        _answer(done, words)
        if tar.returncode:
            raise ClusterError(f"{folder} could not be read")

    return send


@contextlib.contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ClusterError(
            "there is no `kubectl`, by which this program reaches the cluster. Install it, and type the "
            "same again."
        ) from None


def _answer(done: subprocess.CompletedProcess[str], words: Sequence[str]) -> str:
    if done.returncode:
        said = done.stderr.strip()
        raise (Missing if "(NotFound)" in said else ClusterError)(said or f"kubectl {words[0]} failed")
    return done.stdout
