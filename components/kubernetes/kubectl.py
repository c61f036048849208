"""`kubectl`, by which the steps of `pulumi up` reach a cluster: a kubeconfig may log in by programs of its
own."""

import subprocess
from collections.abc import Callable, Sequence


class ClusterError(Exception):
    """The cluster did not do what it was asked for. The text is the person's who types `pulumi up`."""


class Missing(ClusterError):
    """There is no such object."""


Run = Callable[[Sequence[str], str], str]
"""Runs `kubectl` with these words and this on stdin, and gives what it prints. Raises ClusterError."""


def kubectl(namespace: str, context: str) -> Run:
    """The person's own, in this namespace and by this context of the kubeconfig; empty: by the current
    one."""
    which = ["--namespace", namespace, *(["--context", context] if context else [])]

    def run(words: Sequence[str], stdin: str) -> str:
        try:
            done = subprocess.run(
                ["kubectl", *which, "--request-timeout", "20s", *words],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise ClusterError(
                "there is no `kubectl`, by which this program reaches the cluster. Install it, and type the "
                "same again."
            ) from None
        if done.returncode:
            said = done.stderr.strip()
            raise (Missing if "(NotFound)" in said else ClusterError)(said or f"kubectl {words[0]} failed")
        return done.stdout

    return run
