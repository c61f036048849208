"""What has to be true before anything is drained. Raises Failed, whose text says what to type."""

import os
from pathlib import Path

from switch.docker import Docker, DockerError
from switch.plan import Plan, PlannedGateway
from switch.shared import COMPLETE

VALIDATE_SECONDS = 60
ROOM = 100 * 2**20
"""Bytes that a change may need on the host's disk: the logs of a new engine and a new gateway, 30 MB at most
each, and what Docker and the switch write of it."""
REFRESH = "To fetch it again, run: pulumi up --refresh"


class Failed(Exception):
    """Something asked for can't be done; the text is for the person at `pulumi up`."""


def complete_file(weights: Path, kind: str, folder: str) -> Path:
    """The file that says that the weights in a folder are whole."""
    return weights / kind / folder / COMPLETE


def disk(journal: Path) -> tuple[int, str]:
    """How many bytes are free on the disk of the switch's journal, which is Docker's own, and the same in
    words."""
    there = os.statvfs(journal)
    free = there.f_bavail * there.f_frsize
    return free, (
        f"{free / 2**20:.0f} MiB are free on the Docker host's disk (seen in the volume of the switch's "
        "journal). To make room, run `make gc`, or `docker image prune` on the Docker host"
    )


def check(plan: Plan, docker: Docker, journal: Path, weights: Path, serves: Plan | None = None) -> str:
    """What was checked, in words. `serves` is the plan of what is active.

    Raises Failed, and TimeoutError where Docker gives no answer, which says nothing about the plan.
    """
    engine = plan.engine
    if plan.no_flip and serves and serves.engine.kind != engine.kind:
        raise Failed(f"{serves.engine.kind} must not change to {engine.kind}: {plan.no_flip}")
    free, said = disk(journal)
    if free < ROOM:
        raise Failed(f"a change may need {ROOM / 2**20:.0f} MiB, and {said}")
    try:
        image = docker.image_of(engine.container)
    except DockerError as error:
        raise Failed(f"the container {engine.container} can't be used: {error}") from error
    if not docker.has_image(image):
        raise Failed(
            f"the image of {engine.container} ({image[:19]}) is not on this host any more. {REFRESH}"
        )
    if not complete_file(weights, engine.kind, engine.weights).exists():
        raise Failed(
            f"the weights {engine.kind}/{engine.weights} are not on this host, or not complete. To fetch "
            "them again, run: pulumi up --replace '**weights**'"
        )
    if plan.gateway is None:
        return "checked: disk, image, weights"
    validate(plan.gateway, docker)
    return "checked: disk, image, weights, gateway config"


def validate(gateway: PlannedGateway, docker: Docker) -> None:
    """Has the pinned gateway image itself read the config, in a container without a network.

    Raises Failed, and TimeoutError where Docker gives no answer.
    """
    if not docker.has_image(gateway.image):
        raise Failed(f"the gateway's image {gateway.image} is not on this host. {REFRESH}")
    name = "-".join([*docker.labels.values(), "check"])
    host = {"NetworkMode": "none", "RestartPolicy": {"Name": "no"}}
    try:
        docker.create(name, "check", Image=gateway.image, Cmd=list(gateway.validate), HostConfig=host)
        docker.put(name, gateway.config_file, gateway.config)
        docker.start(name)
        code = _exit_status(name, docker)
        if code is None:
            raise Failed(f"{gateway.image} did not finish reading its config in {VALIDATE_SECONDS} s")
        said = docker.logs(name) if code else ""
    except DockerError as error:
        raise Failed(f"the gateway's config could not be checked with {gateway.image}: {error}") from error
    finally:
        docker.remove(name)
    if code:
        raise Failed(f"the gateway refuses its config (exit status {code}):\n{said.strip()}")


def _exit_status(name: str, docker: Docker) -> int | None:
    """The exit status of a container; None where it still runs after `VALIDATE_SECONDS`. Raises
    TimeoutError."""
    try:
        return docker.wait(name, VALIDATE_SECONDS)
    except TimeoutError:  # it may have been Docker that stood still: what does it say now?
        return docker.exit_status(name)
