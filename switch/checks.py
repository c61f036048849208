"""What has to be true before anything is drained. Raises Failed, whose text says what to type."""

from pathlib import Path

from switch.docker import Docker, DockerError
from switch.plan import Gateway, Plan

VALIDATE_SECONDS = 60
REFRESH = "`pulumi up --refresh` fetches it again."


class Failed(Exception):
    """Something asked for can't be done; the text is for the person at `pulumi up`."""


def complete_file(weights: Path, kind: str, folder: str) -> Path:
    """The file that says that the weights in a folder are whole."""
    return weights / kind / folder / ".complete"


def check(plan: Plan, docker: Docker, weights: Path) -> str:
    """What was checked, in words."""
    engine = plan.engine
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
            f"the weights {engine.kind}/{engine.weights} are not on this host, or not whole. Fetch them "
            "again: `pulumi up --replace '**weights**'`."
        )
    validate(plan.gateway, docker)
    return "checked: image, weights, gateway config"


def validate(gateway: Gateway, docker: Docker) -> None:
    """Has the pinned gateway image itself read the config, in a container without a network."""
    if not docker.has_image(gateway.image):
        raise Failed(f"the gateway's image {gateway.image} is not on this host. {REFRESH}")
    name = "-".join([*docker.labels.values(), "check"])
    host = {"NetworkMode": "none", "RestartPolicy": {"Name": "no"}}
    try:
        docker.create(name, "check", Image=gateway.image, Cmd=gateway.validate, HostConfig=host)
        docker.put(name, gateway.config_file, gateway.config)
        docker.start(name)
        code = docker.wait(name, VALIDATE_SECONDS)
        said = docker.logs(name) if code else ""
    except TimeoutError as error:
        raise Failed(f"{gateway.image} did not finish reading its config in {VALIDATE_SECONDS} s") from error
    except DockerError as error:
        raise Failed(f"the gateway's config could not be checked with {gateway.image}: {error}") from error
    finally:
        docker.remove(name)
    if code:
        raise Failed(f"the gateway refuses its config (exit status {code}):\n{said.strip()}")
