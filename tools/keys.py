"""`make keys`: the SSH keys of a stack on AWS, the host's own and the deployer's, made once."""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from common import ROOT, StepFailed, main_guard, say
from tools.environment import pulumi
from tools.host import is_on_aws

WHO = ("host", "client")


HALVES = ("sshKeys", "sshPublicKeys")
"""The settings with the private and with the public half of each."""


def missing(config: dict[str, dict[str, object]], stack: str) -> list[str]:
    """Whose keys a stack's settings don't have yet. Raises StepFailed where one half of a key is there."""
    halves = {key: config.get(f"changeover:{key}") or {} for key in HALVES}
    for who in WHO:
        there = [key for key in HALVES if who in halves[key]]
        if len(there) == 1:
            half = f"{there[0]}.{who}"
            raise StepFailed(
                f"the settings have one half of the key `{who}`, `{half}`. Put the other half back: a new "
                "key would lock out who trusts the old one. If nobody does yet, remove this half: pulumi "
                f"config rm --path {half} --stack {stack}. Then run again: make keys STACK={stack}"
            )
    return [who for who in WHO if who not in halves["sshKeys"]]


def make(folder: Path, who: str) -> tuple[str, str]:
    """A new Ed25519 key without a passphrase: its private and its public half. Raises StepFailed."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / who)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise StepFailed("there is no `ssh-keygen`. On Debian: apt-get install openssh-client") from None
    if done.returncode != 0:
        raise StepFailed(f"ssh-keygen failed: {done.stderr.strip()}")
    return (folder / who).read_text(), (folder / f"{who}.pub").read_text().strip()


def keys(stack: str) -> None:
    """Make what is missing and put it into Pulumi.<stack>.yaml, the private halves as secrets."""
    file = ROOT / f"Pulumi.{stack}.yaml"
    if not file.exists():
        raise StepFailed(f"there is no {file.name}")
    if not is_on_aws(stack, ROOT):  # with them the settings of any other could not be deployed
        raise StepFailed(
            f"stack `{stack}` is not on AWS, and only there are keys needed. Run: make keys STACK=…"
        )
    wanted = missing(yaml.safe_load(file.read_text()).get("config") or {}, stack)
    if not wanted:
        say(f"{file.name} has its keys already, and they stay: no client would trust another host key.")
        return
    with tempfile.TemporaryDirectory() as folder:
        for who in wanted:
            private, public = make(Path(folder), who)
            secret = ("config", "set", "--secret", "--path", f"sshKeys.{who}", "--stack", stack)
            pulumi(*secret, stdin=private, capture=True)  # on stdin: a command line can be read by others
            pulumi("config", "set", "--path", f"sshPublicKeys.{who}", public, "--stack", stack, capture=True)
    say(f"Made the keys of {' and '.join(wanted)}. They are in {file.name}, the private ones encrypted.")


if __name__ == "__main__":
    main_guard(lambda: keys(sys.argv[1]))
