"""`make down`: removes the stack and keeps the weights; `make clean-all` removes what was built."""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Sequence

from common import ROOT, StepFailed, cache_root, main_guard, say
from components import naming
from components.gpu_memory import KINDS
from components.kubernetes.pods import STORE
from components.labels import Labels
from components.pins import EDGE, GATEWAY, MONITOR, OLLAMA, SWITCH, VLLM_CPU
from stacks import owner as owners
from stacks.owner import DockerObject, FoundOnHost
from stacks.settings import PROJECT
from tools import environment, owner
from tools.environment import pulumi
from tools.host import is_on_aws, is_on_cluster, on_aws, ssh_config
from tools.up import STACK

KEPT = (*(naming.child(each, "weights") for each in KINDS), naming.VLLM_CACHE, naming.HISTORY)
"""Volumes that outlive their stack: what is in them took hours to fetch, minutes to compile, or months."""


def _docker(*words: str) -> list[str]:
    if shutil.which("docker") is None:
        raise StepFailed("there is no `docker` command here. Install Docker, and run the same command again")
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"`docker {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout.split()


def _kept_here() -> list[str]:
    """The stacks in this folder's own state."""
    return sorted(file.stem for file in (environment.STATE / ".pulumi" / "stacks").rglob("*.json"))


def _stacks() -> list[str]:
    if not (environment.BIN / "pulumi").exists() and not os.environ.get(environment.BACKEND):
        if _kept_here():
            raise StepFailed(
                "a stack exists, but the Pulumi CLI that made it is gone. Get the CLI back first: make cli"
            )
        return []
    return [each["name"] for each in json.loads(pulumi("stack", "ls", "--json", capture=True))]


def _refuse_protected(stack: str) -> None:
    """Raises StepFailed where something is protected: Pulumi would delete everything else before it came to
    that."""
    state = json.loads(pulumi("stack", "export", "--stack", stack, capture=True))
    held = [each for each in state["deployment"].get("resources") or [] if each.get("protect")]
    if held:
        names = ", ".join(each["urn"].rsplit("::", 1)[1] for each in held)
        raise StepFailed(
            f"stack `{stack}` is protected ({names}); nothing was changed. To destroy it: pulumi config set "
            f"protect false --stack {stack} && pulumi up --stack {stack}, and then this command again"
        )


def _refuse_locked(stack: str) -> None:
    """Raises StepFailed while an update of the stack runs: what that has made is in no state yet, and would
    pass for what an interrupted one left.

    Pulumi tells of its lock only where it takes it. It takes it before it finds that there is nothing of this
    name to destroy.
    """
    nothing = f"urn:pulumi:{stack}::{PROJECT}::{PROJECT}:none::none"
    try:
        pulumi("destroy", "--yes", "--skip-preview", "--target", nothing, "--stack", stack, capture=True)
    except StepFailed as error:
        if "no resource named" in str(error):
            return
        if "currently locked" not in str(error):
            raise
        raise StepFailed(
            f"an update of the stack `{stack}` runs, or was killed; nothing was removed. Wait for its end, "
            f"or if it was killed, run: pulumi cancel --stack {stack}, and then this command again"
        ) from error


def down(stack: str = STACK) -> None:
    """Destroy `stack` and what an interrupted update left; `WEIGHTS=delete` takes the weights too.

    Containers of others that are attached to its networks are named, and stay.

    A stack of another state on this Docker host is refused, unless `OWNER` names that. On AWS the weights
    always go, with the data volume, once `protect` is false. Raises StepFailed.
    """
    if is_on_cluster(stack):
        raise StepFailed(
            f"this clears a Docker host up, and `{stack}` is on a cluster. "
            f"Run: pulumi destroy --stack {stack}. Weights stay on its nodes, in {STORE}/{stack}"
        )
    if is_on_aws(stack):
        _down_on_aws(stack)
        return
    known = stack in _stacks()
    state, host = owner.state_of(stack), owner.found(stack)
    named = os.environ.get("OWNER")
    theirs = host.owner.id if host.owner else owners.whose(state, host)
    why = owner.refusal(stack, state, host)
    if named and named != theirs:
        there = (
            f"the stack `{stack}` here belongs to {theirs}"
            if theirs
            else f"this host has no stack `{stack}` of that state"
        )
        raise StepFailed(f"OWNER={named}: {there}. Nothing was changed")
    if why and not named:
        raise StepFailed(why)
    if not known and not host.things:
        raise StepFailed(
            f"there is no stack `{stack}`, neither in this state nor on this Docker host; nothing was changed"
        )
    if known and not why:
        _refuse_protected(stack)
        _refuse_locked(stack)
        state, host = owner.state_of(stack), owner.found(stack)  # an update may have ended since
        if os.environ.get("WEIGHTS") != "delete" and _leave_history(stack):
            state = owner.state_of(stack)
        # what an interrupted update left would hold network and journal, and what is gone can't be deleted
        _refuse_locked(stack)  # or an update that has begun meanwhile would lose what it makes
        _remove(unknown := [each for each in host.of() if each.id not in {one.id for one in state.things}])
        if unknown:
            say(f"Removed {len(unknown)} containers that an interrupted update left behind")
        _let_go(host)
        _destroy(stack, *(["--refresh"] if owners.missing(state, host) else []))
    elif known:
        # what that state knows was another's or is gone
        pulumi("stack", "rm", "--yes", "--force", "--preserve-config", "--stack", stack)
    _clear(stack, theirs)


def _leave_history(stack: str) -> bool:
    """Has the state forget the monitor's history, and what uses it, so that a `destroy` leaves it there.
    Whether it had one. It is no volume that Pulumi always keeps, since `monitor: false` takes it away."""
    state = json.loads(pulumi("stack", "export", "--stack", stack, capture=True))
    volumes = [
        each["urn"]
        for each in state["deployment"].get("resources") or []
        if each["type"] == "docker:index/volume:Volume" and each["urn"].endswith(f"::{naming.HISTORY}")
    ]
    for urn in volumes:
        pulumi("state", "delete", urn, "--target-dependents", "--yes", "--stack", stack, capture=True)
    return bool(volumes)


def _down_on_aws(stack: str) -> None:
    if os.environ.get("OWNER"):
        raise StepFailed(
            "OWNER applies to a stack on this machine's Docker; on AWS a stack belongs to its state. Nothing "
            "was changed"
        )
    if stack not in _stacks():
        where = environment.variables()["PULUMI_BACKEND_URL"]
        raise StepFailed(
            f"there is no stack `{stack}` in {where}; nothing was changed. If its state is elsewhere: export "
            f"{environment.BACKEND}='s3://…?region=…'"
        )
    _refuse_protected(stack)
    settings = on_aws(stack)
    if settings is not None:
        there = owner.on_aws(stack, settings)
        if there.state == "running" and ssh_config(stack).exists():
            owner.look(stack)  # an older copy of the state destroys nothing
    _destroy(stack)
    say("The stack is gone, and so is the data volume with its weights. The volume's snapshots stay.")


def _destroy(stack: str, *more: str) -> None:
    pulumi("destroy", "--yes", "--skip-preview", *more, "--stack", stack)
    pulumi("stack", "rm", "--yes", "--preserve-config", "--stack", stack)


def _remove(containers: Sequence[DockerObject]) -> None:
    if containers:
        _docker("rm", "--force", *(each.id for each in containers))


def _let_go(host: FoundOnHost) -> None:
    """Takes containers that are not the stack's, such as a chat page, off its networks, and says which: with
    them there Docker would not remove these."""
    of_stack = {each.id for each in host.of()}
    for network in (each for each in host.things if each.kind == "network"):
        chosen = ("--filter", f"network={network.id}", "--format", "{{.ID}}={{.Names}}")
        rows = _docker("ps", "--all", "--no-trunc", *chosen)
        named = (row.partition("=") for row in rows)  # one that is just being removed has no name
        others = {id: name or id for id, _, name in named if id not in of_stack}
        if others:
            names = ", ".join(sorted(others.values()))
            say(f"Still attached to the network {network.name}: {names}. They stay, but lose that network")
        for id in others:
            _docker("network", "disconnect", "--force", network.id, id)


def _clear(stack: str, theirs: str) -> None:
    """Removes what the Docker host still has of the stack, weights only where that is asked for."""
    labels = Labels(project=PROJECT, stack=stack)
    host = owner.found(stack)
    if host.owner and host.owner.id != theirs:
        raise StepFailed(f"meanwhile the state {host.owner.id} has created the stack `{stack}` here again")
    if host.of():
        say(f"Removing {len(host.of())} containers of the state {theirs or owners.UNKNOWN}")
        _remove(host.of())
    _let_go(host)
    if networks := [each.id for each in host.things if each.kind == "network"]:
        _docker("network", "rm", *networks)
    volumes = [each.name for each in host.things if each.kind == "volume"]
    kept = [each for each in volumes if each in map(labels.name, KEPT)]
    if os.environ.get("WEIGHTS") == "delete":
        kept = []
    if rest := [each for each in volumes if each not in kept]:
        _docker("volume", "rm", *rest)
    if kept:
        history = " and the monitor's history" if labels.name(naming.HISTORY) in kept else ""
        say(
            f"The stack is gone. The volumes {labels.prefix}-… keep its weights{history}; WEIGHTS=delete "
            "removes them."
        )
    else:
        say("The stack and its weights are gone.")


def clean_all() -> None:
    """Remove the environment and the offline images, with `CACHE=delete` the cache folder too.

    Refuses while a stack exists.
    """
    if stacks := _stacks():
        raise StepFailed(
            f"the stack `{stacks[0]}` still exists. Remove it first: make down STACK={stacks[0]}"
        )
    if stacks := _kept_here():  # the others were those of a bucket
        raise StepFailed(
            f"the stack `{stacks[0]}` still exists: its state is in this folder, and not where "
            f"{environment.BACKEND} says. Remove it first: env -u {environment.BACKEND} make down "
            f"STACK={stacks[0]}"
        )
    for image in (OLLAMA, VLLM_CPU, GATEWAY, EDGE, SWITCH, *MONITOR):
        try:
            _docker("rmi", image.offline)
        except StepFailed as error:
            if "No such image" not in str(error):
                say(f"The image {image.offline} stays: {error}")
    shared = []
    if os.environ.get("CACHE") == "delete":
        shared = [cache_root()]
    else:
        say(f"The cache {cache_root()} stays, since other checkouts use it too. CACHE=delete removes it")
    for folder in (environment.HOME, *shared, ROOT / ".venv"):
        say(f"Removing {folder}")
        # Go makes its module cache read-only
        subprocess.run(["chmod", "-R", "u+w", folder], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean-all", action="store_true", help="remove what was built as well")
    main_guard(clean_all if parser.parse_args().clean_all else down)
