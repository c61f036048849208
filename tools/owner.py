"""Whose a stack on its host is, for the tools: every one that touches a host looks first."""

import json
import os
from urllib.parse import urlsplit

from common import StepFailed
from components.aws.settings import AwsSettings
from components.labels import Labels
from stacks import aws_cli, aws_target, ours, owner
from stacks.docker_look import DockerLook
from stacks.owner import FoundOnHost, Known
from stacks.settings import PROJECT
from stacks.target_error import TargetError
from stacks.targets import current_docker_host, no_engine
from switch.owner import ANY
from tools import environment
from tools.environment import pulumi
from tools.host import is_on_aws, reach
from tools.host import look as look_at


def state_of(stack: str) -> Known:
    """What the state says; nothing where it has no such stack. Raises StepFailed."""
    if not (environment.BIN / "pulumi").exists() and not os.environ.get(environment.BACKEND):
        return owner.known({})  # a fresh clone
    if stack not in [each["name"] for each in json.loads(pulumi("stack", "ls", "--json", capture=True))]:
        return owner.known({})
    return owner.of_export(json.loads(pulumi("stack", "export", "--stack", stack, capture=True)))


def found(stack: str) -> FoundOnHost:
    """What the stack's host has of it: the one to which `docker` talks now. Raises StepFailed."""
    try:
        address = current_docker_host()
        url = urlsplit(address)
        if url.scheme not in ("unix", "ssh"):
            raise StepFailed(
                f"DOCKER_HOST is {address}, and only unix://… is allowed. Unset it, or run: docker context "
                "use default"
            )
        port = ("-p", str(url.port)) if url.port else ()
        who = f"{url.username}@{url.hostname}" if url.username else str(url.hostname)
        with (
            DockerLook(url.path, ("ssh", *port, who)) if url.scheme == "ssh" else DockerLook(url.path) as look
        ):
            try:
                look("/_ping")
            except TargetError as error:
                raise StepFailed(no_engine(address, error)) from None
            return look.stack(Labels(project=PROJECT, stack=stack))
    except TargetError as error:
        raise StepFailed(str(error)) from None


def refusal(stack: str, state: Known, host: FoundOnHost) -> str:
    """Why this checkout may not touch the stack on its host; empty: it may."""
    # a machine on AWS is its state's, whatever snapshot its data is from
    instead = ANY if is_on_aws(stack) else os.environ.get(ours.ADOPT, "")
    return owner.refusal(state, host, Labels(project=PROJECT, stack=stack), instead=instead)


def look(stack: str) -> tuple[Known, FoundOnHost]:
    """What state and host say of the stack. Raises StepFailed where it is another state's."""
    state = state_of(stack)
    reach(stack, state.instance)
    host = found(stack)
    if why := refusal(stack, state, host):
        raise StepFailed(why)
    return state, host


def on_aws(stack: str, settings: AwsSettings) -> aws_cli.FoundOnAws:
    """What there is of the stack in AWS: of several instances the one that the state has made.

    Raises StepFailed where there is one that the state does not know.
    """
    state = state_of(stack)
    there = look_at(stack, settings, state.instance)
    try:
        aws_target.check_known(there, state, settings.region, stack)
    except TargetError as error:
        raise StepFailed(str(error)) from None
    return there
