"""What may be freed on the Docker host: weights and images that neither serve nor lead back."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from switch.answers import CAN_GO
from switch.docker import Docker, DockerError
from switch.machine import UNDER_WAY, State
from switch.owner import day
from switch.plan import Plan
from switch.shared import COMPLETE

GIB = 2**30
MONITOR = ("history", "monitor")
"""Roles of the volumes that a monitor has: with `monitor: false` they stay on AWS, and the history after a
`make down`."""


class Busy(Exception):
    """Nothing can be freed now. The text says why."""


def collect(
    state: State, docker: Docker, weights: Path, locks: Path, say: Callable[[str], None], *, free: bool
) -> None:
    """Says what is kept, and names what can go or, with `free`, frees it. Raises Busy, DockerError.

    Kept are the weights and images of every engine whose container exists, of what serves, and of the way
    back, which is what served before it. Images are those that this stack has used and no others. Volumes
    are those of a monitor that is no longer there.
    """
    if state.transaction and state.transaction.phase in UNDER_WAY:
        raise Busy("a change is under way; nothing is freed before it has ended")
    if state.damage:
        raise Busy(
            f"the switch's journal was damaged at {day(state.damage.since)}, so what leads back is not known "
            "for certain; nothing is freed before `pulumi up` has made it right"
        )
    if fetching(locks):
        raise Busy("weights are being fetched; nothing is freed before that has ended")
    plans = [plan for plan in (state.active.plan if state.active else None, state.back) if plan]
    kept = docker.weights() | {(plan.engine.kind, plan.engine.weights) for plan in plans}
    for kind, folder in sorted(kept):
        say(f"kept   weights {kind}/{folder}{_why(kind, folder, state)}")
    images = {image for plan in plans for image in plan.about.all_images}
    found, fate = 0, "freed " if free else CAN_GO
    for home in sorted(weights.glob("*/*")):
        if home.is_dir() and (home.parent.name, home.name) not in kept:
            found += 1
            size = sum(file.lstat().st_size for file in home.rglob("*") if file.is_file()) / GIB
            say(f"{fate} weights {home.parent.name}/{home.name}: {size:.2f} GiB")
            if free:
                # the mark first: what is cut off half-way must not be taken for whole
                (home / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(home)
    for image in sorted(set(state.images) - images):
        if not docker.has_image(image) or docker.in_use(image):
            continue
        found += 1
        if free:
            try:
                docker.remove_image(image)
            except DockerError as error:
                say(f"stays  image {image}: {error}")
                continue
        say(f"{fate} image {image}")
    for volume in docker.left_volumes(MONITOR):
        found += 1
        if free:
            docker.remove_volume(volume)
        say(f"{fate} volume {volume}: the stack has no monitor")
    if not found:
        say("nothing to free")


def _why(kind: str, folder: str, state: State) -> str:
    def has(plan: Plan) -> bool:
        return (plan.engine.kind, plan.engine.weights) == (kind, folder)

    if state.active and has(state.active.plan):
        return ": serves"
    return ": the way back" if state.back and has(state.back) else ": its engine's container exists"


def fetching(locks: Path) -> bool:
    """Whether a fetch of weights holds its lock."""
    for file in locks.glob("switch-*.lock"):
        with file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
