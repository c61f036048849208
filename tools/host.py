"""Where the Docker host of a stack is, for the tools that talk to it."""

import os
from pathlib import Path

from common import ROOT, StepFailed
from components.aws.settings import AwsSettings
from components.labels import Labels
from components.ssh_config import USER
from stacks import aws_cli
from stacks.aws_cli import AwsError, FoundOnAws
from stacks.aws_target import SSH_FILES
from stacks.settings import PROJECT, SettingsError, config_in, from_files


def is_on_aws(stack: str, root: Path = ROOT) -> bool:
    """Whether the stack's file in `root` says that it runs on AWS; its other settings may be wrong. Raises
    StepFailed where it can't be read."""
    return _target(stack, root) == "aws"


def is_on_cluster(stack: str, root: Path = ROOT) -> bool:
    """Whether the stack's file in `root` says that it runs on Kubernetes; its other settings may be wrong.
    Raises StepFailed where it can't be read."""
    return _target(stack, root) == "kubernetes"


def _target(stack: str, root: Path) -> str:
    file = root / f"Pulumi.{stack}.yaml"
    try:
        return str(config_in(file).get(f"{PROJECT}:target", ""))
    except FileNotFoundError:
        return ""
    except SettingsError as error:
        raise StepFailed(str(error)) from None


def on_aws(stack: str) -> AwsSettings | None:
    """The stack's AWS settings, or None where it is on another target. Raises StepFailed."""
    if not is_on_aws(stack):
        return None
    try:
        return from_files(stack, ROOT).aws
    except SettingsError as error:
        raise StepFailed(str(error)) from None


def look(stack: str, settings: AwsSettings, mine: str | None) -> FoundOnAws:
    """What there is of the stack in AWS; `mine` is the instance of its state. Raises StepFailed."""
    try:
        return aws_cli.look(settings.region, Labels(project=PROJECT, stack=stack), mine)
    except AwsError as error:
        raise StepFailed(str(error)) from None


def ssh_config(stack: str) -> Path:
    """What `ssh` needs to reach the stack's instance; each preview writes it."""
    return ROOT / SSH_FILES / stack / "config"


def refuse_cluster(stack: str) -> None:
    """Raises StepFailed for a stack that has no Docker host."""
    if is_on_cluster(stack):
        raise StepFailed(
            f"this asks the Docker host of a stack, and `{stack}` is on a cluster, which has none. What "
            f"serves there: make status STACK={stack}"
        )


def reach(stack: str, mine: str | None) -> None:
    """Has this process's `docker` talk to the stack's host from here on. Raises StepFailed where it can't.

    `mine` is the instance that the stack's state has made.
    """
    refuse_cluster(stack)
    settings = on_aws(stack)
    if settings is None:
        return
    found = look(stack, settings, mine)
    if found.state != "running":
        raise StepFailed(
            f"the instance of stack `{stack}` is {found.state or 'not there'}. Run: make "
            f"{'recover' if found.instance is None else 'wake'} STACK={stack}"
        )
    config = ssh_config(stack)
    if not config.exists():
        raise StepFailed(f"there is no {config}; a preview writes it: pulumi preview --stack {stack}")
    os.chdir(ROOT)  # the ssh_config names its files relative to it
    os.environ["DOCKER_HOST"] = (
        f"ssh://{USER}@{found.instance if settings.access == 'ssm' else found.address}"
    )
    os.environ["CHANGEOVER_SSH_CONFIG"] = str(config)
    os.environ["PATH"] = f"{ROOT / 'components' / 'ssh'}:{os.environ['PATH']}"
