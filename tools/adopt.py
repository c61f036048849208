"""`make adopt`: takes over a stack on this Docker host whose state is lost, while it serves.

Volumes and network are taken over, and the edge too, which holds the port. Everything else is made anew
beside what is there: an ordinary change of the engine, in which requests wait. What is old goes at the end.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from common import ROOT, StepFailed, main_guard, say
from components.labels import Labels
from stacks import ours
from stacks import owner as owners
from stacks.blueprint import blueprint_of
from stacks.origin import docker_plugin_origin
from stacks.owner import DockerObject, FoundOnHost, Known
from stacks.settings import PROJECT, from_files
from switch.shared import COMPLETE, WEIGHTS
from tools import docker_engine, owner, up
from tools.ask import yes
from tools.environment import PULUMI_HOME, pulumi
from tools.host import is_on_aws, refuse_cluster

PROXY_SECONDS = 630
"""For what an old proxy still carries: see `components.proxy.GRACE`."""

UNREAD = {"attach": False, "logs": False, "wait": False, "envs": []}
"""What the docker plugin keeps of a container that it made, and reads from none. It replaces one without."""

SWITCH = ("python3", "-m", "switch")


def _docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise StepFailed(f"`docker {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout if done.returncode == 0 else ""


def whose(stack: str, state: Known, host: FoundOnHost) -> str:
    """The owner whose place is to be taken. Raises StepFailed where there is none."""
    if not host.owner and not any(each.kind != "volume" for each in host.things):
        raise StepFailed(
            f"no stack `{stack}` is on this Docker host: nothing to adopt. Run: make up STACK={stack}"
        )
    if not owner.refusal(stack, state, host) and not _unknown(state, host):
        raise StepFailed(f"the stack `{stack}` here is this state's already. Run: make up STACK={stack}")
    return host.owner.id if host.owner else owners.UNKNOWN


def check(stack: str, host: FoundOnHost, theirs: str) -> None:
    """Raises StepFailed where something can't be adopted; nothing on the host was changed by then."""
    labels = Labels(project=PROJECT, stack=stack)
    anew = (
        f"{owners.NOTHING} Remove the stack and create it again, which keeps the weights: make down "
        f"STACK={stack} OWNER={theirs} && make up STACK={stack}"
    )
    plugin = docker_plugin_origin(PULUMI_HOME)
    for each in host.things:
        if each.kind == "network" and each.labels != labels.of(each.role, plugin=plugin):
            raise StepFailed(
                f"its network was made by another Docker plugin or another version of it. {anew}"
            )
    if not host.of():
        return  # nothing serves there that could be cut
    switches = host.of("switch")
    said = _docker("exec", switches[0].id, *SWITCH, "status", "--json", check=False) if switches else ""
    if not said:
        raise StepFailed(
            f"its switch is gone or does not answer, so nothing could make requests wait. {anew}"
        )
    if json.loads(said)["under_way"]:
        raise StepFailed(
            f"its engine is being changed. {owners.NOTHING} Run the same command again when that has ended"
        )
    for spec in blueprint_of(from_files(stack, ROOT)).specs:
        place = f"{WEIGHTS}/{spec.kind}/{spec.weights.folder}"
        command = ("sh", "-c", f"test -e {place}/{COMPLETE} && echo here")
        if not _docker("exec", switches[0].id, *command, check=False):
            raise StepFailed(
                f"these settings need the weights {spec.weights.folder} of {spec.kind}. They are not there, "
                f"and `make adopt` downloads nothing. {owners.NOTHING} Set `model`, `quantization` and "
                f"`standby` in Pulumi.{stack}.yaml as they were when the stack was made, or take the "
                "checkout that made it, since the catalogue may name other weights now. To see what is "
                f"there: docker exec {switches[0].name} ls /weights/{spec.kind}"
            )


def adopt(stack: str) -> None:
    """Ask, and take over. Raises StepFailed: what serves goes on then, and it can be typed again."""
    if is_on_aws(stack):
        raise StepFailed(
            f"stack `{stack}` is on AWS, and what a state made there can't be adopted: dozens of resources, "
            f"each known by an id. {owners.NOTHING} If the state is lost: snapshot the data volume, delete "
            "by hand what the stack has, and create it again with `dataSnapshot`"
        )
    refuse_cluster(stack)
    docker_engine.ensure()
    state, host = owner.state_of(stack), owner.found(stack)
    theirs = whose(stack, state, host)
    os.environ[ours.ADOPT] = theirs
    up.prepare()
    copied = state.id == theirs
    if copied or not state.things:  # else it was begun, and cut off
        check(stack, host, theirs)
        _preview(stack)
    serves = f"{host.serves}. " if host.serves else ""
    say(
        f"The stack `{stack}` here belongs to the state {theirs}. {serves}Requests wait while an engine "
        "starts."
    )
    alone = (
        "nothing was changed: there is no terminal, so nobody can be asked. Run: YES=1 make adopt "
        f"STACK={stack}"
    )
    if not yes("Take it over? The other state can't change it after that.", alone):
        raise StepFailed("nothing was changed")
    if copied and owners.missing(state, host):  # what an older copy knows is not there any more
        pulumi("stack", "rm", "--yes", "--force", "--preserve-config", "--stack", stack)
        up.ensure_stack()
    edge = Labels(project=PROJECT, stack=stack).name("edge")
    # a monitor that is there has its port and its history
    with _stopped(stack, "monitor"), _stopped(stack, "alerts"):
        # two switches on one journal would contradict each other; what serves goes on without one
        with _stopped(stack, "switch"):
            _up(stack, "--exclude", f"**::{edge}", "--exclude-dependents")
        old = [each.id for each in _left(stack) if each.role == "edge"]
        if not old or _adopt_edge(stack, edge, old[0]):
            _up(stack)
        else:
            say(
                "These settings need another edge. It is replaced: a client that connects in that second is "
                "refused."
            )
            with _stopped(stack, "edge"):
                _up(stack)
    say("Removing what was there before …")
    for each in _left(stack):
        _docker("stop", "--time", str(PROXY_SECONDS if each.role == "proxy" else 10), each.id)
        _docker("rm", each.id)
    say(f"The stack `{stack}` belongs to this checkout now. Look with: make status STACK={stack}")


def _preview(stack: str) -> None:
    """Shows what would be done. Raises StepFailed where the settings can't be deployed on what is there."""
    try:
        pulumi("preview", "--stack", stack)
    except StepFailed as error:
        raise StepFailed(f"{error}. {owners.NOTHING}") from None


def _up(stack: str, *more: str) -> None:
    try:
        pulumi("up", "--yes", "--skip-preview", *more, "--stack", stack)
    except StepFailed as error:
        raise StepFailed(
            f"{error}. What served goes on serving. Fix the cause and run: make adopt STACK={stack}"
        ) from None


@contextlib.contextmanager
def _stopped(stack: str, role: str) -> Iterator[None]:
    """Without the old container of a role: where the update fails, or is interrupted, before it made
    another, it goes on."""
    old = [each.id for each in _left(stack) if each.role == role]
    try:
        for each in old:
            _docker("stop", each)
        yield
    except BaseException:
        if not [each for each in owner.found(stack).of(role) if each.id not in old]:
            for each in old:
                _docker("start", each)
        raise


def _left(stack: str) -> list[DockerObject]:
    """The containers of the stack that this state did not make."""
    return _unknown(owner.state_of(stack), owner.found(stack))


def _unknown(state: Known, host: FoundOnHost) -> list[DockerObject]:
    known = {each.id for each in state.things}
    return [each for each in host.of() if each.id not in known]


def _adopt_edge(stack: str, name: str, container: str) -> bool:
    """Writes the edge that is there into the state, as if this had made it; False where another is wanted.

    To import it as Pulumi does would replace it: the plugin reads neither ports nor volumes from a container.
    """
    said = pulumi("preview", "--json", "--stack", stack, capture=True)
    steps = json.loads(said[said.index("{") :])["steps"]
    (new,) = [each["newState"] for each in steps if each["urn"].endswith(f"::{name}")]
    (there,) = json.loads(_docker("inspect", container))
    if not same(new["inputs"], there):
        return False
    inputs = {**new["inputs"], "name": there["Name"].lstrip("/")}
    exported = json.loads(pulumi("stack", "export", "--stack", stack, capture=True))
    exported["deployment"]["resources"].append(
        {**new, "id": there["Id"], "inputs": inputs, "outputs": {**inputs, **UNREAD, "id": there["Id"]}}
    )
    pulumi("stack", "import", "--stack", stack, stdin=json.dumps(exported), capture=True)
    pulumi("refresh", "--yes", "--skip-preview", "--target", new["urn"], "--stack", stack, capture=True)
    return True


def same(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether an edge that is there has the image, command and ports that are wanted, and runs."""
    ports = {
        f"{each['internal']}/{each.get('protocol', 'tcp')}": [
            {"HostIp": each["ip"], "HostPort": str(each["external"])}
        ]
        for each in wanted["ports"]
    }
    return bool(
        there["State"]["Running"]
        and there["Image"] == wanted["image"]
        and there["Config"]["Cmd"] == wanted["command"]
        and there["HostConfig"]["PortBindings"] == ports
    )


if __name__ == "__main__":
    main_guard(lambda: adopt(sys.argv[1]))
