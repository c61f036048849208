"""`make wake`: starts a stack's stopped instance, and waits until it is up."""

import sys

from common import StepFailed, main_guard, say
from components.aws.settings import AwsSettings
from stacks.aws_cli import AwsError, aws
from tools import owner
from tools.host import on_aws

WAIT_SECONDS = 900
SPOT = "Only AWS can start a spot instance that it interrupted, when there is capacity."


def start(settings: AwsSettings, instance: str, stack: str) -> None:
    """Start `instance` and wait for AWS's own checks of it. Raises StepFailed."""
    try:
        aws(settings.region, "ec2", "start-instances", "--instance-ids", instance)
        say(f"Starting {instance} …")
        wait = ("ec2", "wait", "instance-status-ok", "--instance-ids", instance)
        aws(settings.region, *wait, seconds=WAIT_SECONDS)
    except AwsError as error:
        note = f"{SPOT}\n" if settings.spot else ""
        raise StepFailed(
            f"{error}\n{note}Try again later, or make another instance: REPLACE=1 make recover STACK={stack}"
        ) from None
    say(
        f"{instance} is up. The switch brings the engine back; requests wait meanwhile. "
        f"Look with: make status STACK={stack}"
    )


def wake(stack: str) -> None:
    """Start the stack's instance where it is stopped. Raises StepFailed where there is none."""
    settings = on_aws(stack)
    if settings is None:
        raise StepFailed(f"stack `{stack}` is not on AWS, so there is nothing to wake")
    found = owner.on_aws(stack, settings)
    if found.instance is None:
        raise StepFailed(f"stack `{stack}` has no instance. If it was deployed: make recover STACK={stack}")
    if found.state in ("pending", "running"):
        say(f"{found.instance} is {found.state}.")
        return
    try:
        wait = ("ec2", "wait", "instance-stopped", "--instance-ids", found.instance)
        aws(settings.region, *wait, seconds=WAIT_SECONDS)
    except AwsError as error:
        raise StepFailed(f"{found.instance} is {found.state} and does not stop: {error}") from None
    start(settings, found.instance, stack)


if __name__ == "__main__":
    main_guard(lambda: wake(sys.argv[1]))
