"""The times of a plan, and the commands that tell the switch. Pure.

The switch lives in a container on the Docker host and is told through `docker exec`, so the same
commands work for a Docker engine here and for one behind SSH: only `DOCKER_HOST` differs.
"""

from components import facts
from components.engines import SHUTDOWN_TIMEOUT
from components.shell import program
from components.weights import Weights
from switch import answers, shared
from switch.plan import Plan, Seconds

REQUEST_SECONDS = 600
"""Longest answer that the proxy lets an engine give; engines on a CPU are slow."""
LEASE_FOLLOWING = 15
"""Seconds without a `follow` after which the switch takes a killed coordinator for dead."""
LEASE_PREPARED = 60
"""Seconds between prepare and commit: the time in which Pulumi creates one gateway container."""
GATEWAY_ANSWERS = 60
STOP_GRACE = SHUTDOWN_TIMEOUT + 15
"""Seconds from SIGTERM to SIGKILL for an engine that others than the switch stop while it answers. vLLM takes
about 9 s to end after its last answer."""
DRAINED_GRACE = 2
"""Seconds from SIGTERM to SIGKILL for an engine that the switch stops. It does so only once no proxy asks the
engine: there is nothing to finish, and every second more is one that requests wait."""
MEMORY_FREE = 20
"""Seconds in which the driver has given back the memory of an engine that has ended. Ollama's on an H100 was
back 0.3 s after SIGTERM at the latest."""


def times(drain: int, load: int) -> Seconds:
    """A plan's times: both that are settings, and what is none."""
    return Seconds(
        drain=drain,
        load=load,
        request=REQUEST_SECONDS,
        stop=DRAINED_GRACE,
        lease_following=LEASE_FOLLOWING,
        lease_prepared=LEASE_PREPARED,
        gateway=GATEWAY_ANSWERS,
        memory=MEMORY_FREE,
    )


def memory(plan: Plan) -> str:
    """What the engine takes of what there is, for a reviewer: it says which way the switch will go."""
    engine, there = plan.engine, plan.memory
    return facts.memory({"GPU": (engine.gpu_bytes, there.gpu), "RAM": (engine.host_bytes, there.host)})


_SWITCH = 'docker exec -i "$SWITCH" python3 -m switch'

# Scripts are named by their path in the project, so that a failed step shows one line and not a program.
# `exec`: the script has to see that the plugin which started it is gone.
PREPARE = "exec sh components/change.sh prepare"
COMMIT = 'exec sh components/change.sh commit --seen "$LIVE"'
SHOW_LIVE = f'docker exec "$SWITCH" cat {shared.LIVE_FILE} || echo {answers.UNREACHABLE}'
RELEASE = f"{_SWITCH} release || echo 'The switch does not answer; there is nothing to release.'"
FETCH = f"{_SWITCH} fetch"

KEYS = f'{_SWITCH} keys --seen "$SEEN"'
"""Gives the proxies the keys on stdin, by the switch, and waits until they know them. Nobody is cut."""

LOOK = "exec sh components/look.sh"
"""`switch.answers.looked` reads what it says."""

CONFIGURE = """docker exec -e SEEN="$SEEN" -e CADDYFILE="$CADDYFILE" "$EDGE" /bin/sh -c "$APPLY" && \
echo 'The edge runs with this configuration.'"""
"""Brings the edge to `$CADDYFILE`."""

PROXY_FILES = "exec sh components/proxy_files.sh"
PROXY_READY = "exec sh components/proxy_ready.sh"
MONITOR_FILES = "exec sh components/monitor_files.sh"

IDENTITY = "od -An -N6 -tx1 /dev/urandom | tr -d ' \\n'"
"""Prints a state's id: random, and so the same in no two states that were made."""
OWN = "sh components/owner.sh own 2>&1 || true"
"""Has the host keep whose it is and the count of changes that is safe in the state now."""
GUARD = 'echo "This stack belongs to the state $OWNER."'

# These texts are in the states of stacks, and stay as they are there: another text would run each step again.
# What a state deletes has to work with the files of another version, too.
DISOWN = program("disown")
ATTACH = program("attach") + "\n"
DETACH = program("detach")
CA = program("edge_ca")


def upload_then_fetch(weights: Weights) -> str:
    """The command that sends a folder of the offline builder's models and then fetches."""
    return f"sh components/upload.sh {weights.upload} {weights.kind} {weights.folder}"
