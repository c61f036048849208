"""`make down`: removes the stack and keeps the weights; `make clean-all` removes what was built."""

import argparse
import json
import os
import shutil
import subprocess

from components.labels import Labels
from components.pins import EDGE, GATEWAY, OLLAMA, SWITCH, VLLM_CPU
from offline.steps import StepFailed, cache_root, main_guard, say
from stacks.settings import PROJECT
from tools import environment
from tools.environment import ROOT, pulumi
from tools.host import is_on_aws
from tools.up import STACK


def _docker(*words: str) -> list[str]:
    if shutil.which("docker") is None:
        raise StepFailed("there is no `docker` command")
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"`docker {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout.split()


def _stacks() -> list[str]:
    if not (environment.BIN / "pulumi").exists():
        if any((environment.STATE / ".pulumi" / "stacks").rglob("*.json")):
            raise StepFailed(
                "a stack exists, and the Pulumi CLI that made it is gone. Get it back first: make up"
            )
        return []
    return [each["name"] for each in json.loads(pulumi("stack", "ls", "--json", capture=True))]


def _refuse_protected(stack: str) -> None:
    """Pulumi would delete whatever else it can before it met what is protected."""
    state = json.loads(pulumi("stack", "export", "--stack", stack, capture=True))
    held = [each for each in state["deployment"].get("resources") or [] if each.get("protect")]
    if held:
        names = ", ".join(each["urn"].rsplit("::", 1)[1] for each in held)
        raise StepFailed(
            f"stack `{stack}` is protected ({names}); nothing was changed. To destroy it: pulumi config set "
            f"protect false --stack {stack} && pulumi up --stack {stack}, and the same again"
        )


def down(stack: str = STACK) -> None:
    """Destroy `stack` and what an interrupted update left; `WEIGHTS=delete` takes the weights too.

    On AWS the weights always go, with the data volume, once `protect` is false. Raises StepFailed.
    """
    known = stack in _stacks()
    if known:
        _refuse_protected(stack)
        pulumi("destroy", "--yes", "--skip-preview", "--stack", stack)
        pulumi("stack", "rm", "--yes", "--preserve-config", "--stack", stack)
    if is_on_aws(stack):
        if not known:
            where = environment.variables()["PULUMI_BACKEND_URL"]
            raise StepFailed(
                f"there is no stack `{stack}` in {where}; nothing was changed. Where its state is elsewhere: "
                f"export {environment.BACKEND}=s3://…"
            )
        say("The stack is gone, and the data volume with its weights. Its snapshots stay.")
        return
    filters = [
        "--filter",
        f"label=changeover.project={PROJECT}",
        "--filter",
        f"label=changeover.stack={stack}",
    ]
    if left := _docker("ps", "--all", "--quiet", *filters):
        say(f"Removing {len(left)} containers that an interrupted update left behind")
        _docker("rm", "--force", *left)
    if left := _docker("network", "ls", "--quiet", *filters):
        _docker("network", "rm", *left)
    volumes = _docker("volume", "ls", "--quiet", *filters)
    if os.environ.get("WEIGHTS") == "delete":
        if volumes:
            _docker("volume", "rm", *volumes)
        say("The stack and its weights are gone.")
    elif volumes:
        prefix = Labels(project=PROJECT, stack=stack).prefix
        say(f"The stack is gone. The volumes {prefix}-… keep its weights; WEIGHTS=delete removes them.")


def clean_all() -> None:
    """Remove the environment, the cache folder and the offline images. Refuses while a stack exists."""
    if stacks := _stacks():
        raise StepFailed(f"the stack `{stacks[0]}` still exists. Take it down first: make down")
    for image in (OLLAMA, VLLM_CPU, GATEWAY, EDGE, SWITCH):
        try:
            _docker("rmi", image.offline)
        except StepFailed as error:
            if "No such image" not in str(error):
                say(f"The image {image.offline} stays: {error}")
    for folder in (environment.HOME, cache_root(), ROOT / ".venv"):
        say(f"Removing {folder}")
        # Go makes its module cache read-only
        subprocess.run(["chmod", "-R", "u+w", folder], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean-all", action="store_true", help="remove what was built as well")
    main_guard(clean_all if parser.parse_args().clean_all else down)
