"""What the coordinator tells the switch, and the commands that tell it. Pure.

The switch lives in a container on the Docker host and is told through `docker exec`, so the same
commands work for a Docker engine here and for one behind SSH: only `DOCKER_HOST` differs.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from components import tensorzero
from components.catalogue import GIB
from components.engines import PORT, SHUTDOWN_TIMEOUT, EngineSpec
from components.gate import GATE_MAX_TOKENS, GATE_TIMEOUT
from components.traps import Trap
from components.weights import Weights

REQUEST_SECONDS = 600
"""Longest answer that the proxy lets an engine give; engines on a CPU are slow. No drain can be longer."""
FIRST_TOKEN_SECONDS = 300
"""Longest wait of the proxy for a stream's first byte, from when the engine is asked."""
ANSWERS = 45
"""Seconds without any answer to the smallest question, after which the switch takes what serves for hung. It
waits for no prompt and in no queue: the engines answer it beside their work."""
SILENT = FIRST_TOKEN_SECONDS + 180
"""Seconds without a byte of any completion, the switch's own included, after which it takes an engine for
hung. The proxy hangs up on every request after the first part of it: what came before the switch's has ended.
"""
LEASE_FOLLOWING = 15
"""Seconds without a `follow` after which the switch takes a killed coordinator for dead."""
LEASE_PREPARED = 60
"""Seconds between prepare and commit: the time in which Pulumi creates one gateway container."""
GATEWAY_ANSWERS = 60
STOP_GRACE = SHUTDOWN_TIMEOUT + 15
"""Seconds from SIGTERM to SIGKILL for an engine that others than the switch stop while it answers. vLLM takes
about 9 s to end after its last answer."""
DRAINED_GRACE = 2
"""The same for the switch, which stops an engine only once no proxy asks it: it has nothing to finish, and
every second more is one that requests wait."""
MEMORY_FREE = 20
"""Seconds in which the driver has given back the memory of an engine that has ended. Ollama's on an H100 was
back 0.3 s after SIGTERM at the latest."""
SECONDS = {
    "request": REQUEST_SECONDS,
    "stop": DRAINED_GRACE,
    "lease_following": LEASE_FOLLOWING,
    "lease_prepared": LEASE_PREPARED,
    "gateway": GATEWAY_ANSWERS,
    "memory": MEMORY_FREE,
    "answers": ANSWERS,
    "tokens": SILENT,
}
"""What of a plan's times is no setting."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One change of what is live. Durations in seconds; `gateway_config` is the gateway's rendered TOML, None
    where there is no gateway, and `routing` the proxies'.

    `gpu_bytes` is what the engine takes on each GPU, 0 on a CPU, and `host_bytes` what it takes of the host's
    RAM; `gpu_there` and `host_there` are what there is for engines, 0 where not known. With `insist` an
    overlap that does not fit is an error. `gate_prompt` is the length of the gate's long prompt in tokens,
    and `traps` are what is known to go wrong in it. `engine_image`, `gateway_image` (empty without a gateway)
    and, in `images`, the stack's others are references. `reason`, `sum` and `loading` (expected seconds) are
    for the certificate.
    """

    spec: EngineSpec
    mode: Literal["hold", "overlap"]
    insist: bool
    drain: int
    load: int
    completions: int
    tokens_per_second: int
    gpu_bytes: int
    host_bytes: int
    gpu_there: int
    host_there: int
    engine_image: str
    gateway_image: str
    images: tuple[str, ...]
    gateway_config: str | None
    routing: str
    reason: str
    sum: str
    loading: float
    gate_prompt: int
    traps: tuple[Trap, ...]

    @property
    def memory(self) -> str:
        """What the engine takes of what there is, for a reviewer: it says which way the switch will go."""
        parts = (("GPU", self.gpu_bytes, self.gpu_there), ("RAM", self.host_bytes, self.host_there))
        return ", ".join(
            f"{what} {need / GIB:.2f} of {f'{there / GIB:.2f}' if there else 'unknown'} GiB"
            for what, need, there in parts
            if need
        )

    def render(self, *, engine: str, gateway: str | None = None, no_flip: str = "") -> str:
        """The plan as JSON for the switch; `engine` and `gateway` are names of containers.

        A plan to prepare has no `gateway`, one to commit has, unless the stack has none at all. `no_flip` is
        why it must not be carried out where the other engine serves; empty: it may.
        """
        plan = {
            "engine": {
                "name": self.spec.name,
                "kind": self.spec.kind,
                "container": engine,
                "port": PORT,
                "model": self.spec.served,
                "weights": self.spec.weights.folder,
                "gpu_bytes": self.gpu_bytes,
                "host_bytes": self.host_bytes,
            },
            "cutover": self.mode,
            "insist": self.insist,
            "memory": {"gpu": self.gpu_there, "host": self.host_there},
            "seconds": {
                "drain": self.drain,
                "load": self.load,
                **SECONDS,
            },
            "gate": {
                "completions": self.completions,
                "max_tokens": GATE_MAX_TOKENS,
                "timeout": GATE_TIMEOUT,
                "tokens_per_second": self.tokens_per_second,
                "prompt_tokens": self.gate_prompt,
                "sense": self.spec.model.able and not self.spec.model.embeds,
                **({"embeds": True} if self.spec.model.embeds else {}),
                "traps": [asdict(trap) for trap in self.traps],
            },
            "gateway": None if self.gateway_config is None else self._gateway(self.gateway_config, gateway),
            "routing": self.routing,
            "about": {
                "engine_image": self.engine_image,
                "gateway_image": self.gateway_image,
                "reason": self.reason,
                "sum": self.sum,
                "loading_seconds": self.loading,
                "images": self.images,
            },
            **({"no_flip": no_flip} if no_flip else {}),
        }
        return json.dumps(plan, indent=2) + "\n"

    def _gateway(self, config: str, container: str | None) -> dict[str, object]:
        return {
            "image": self.gateway_image,
            "config": config,
            "path": tensorzero.CHAT_PATH,
            "model": tensorzero.qualified(self.spec.served),
            "port": tensorzero.PORT,
            "config_file": tensorzero.CONFIG_FILE,
            "validate": tensorzero.VALIDATE,
            **({"container": container} if container else {}),
        }


_SWITCH = 'docker exec -i "$SWITCH" python3 -m switch'

# Scripts are named by their path in the project, so that a failed step shows one line and not a program.
# `exec`: the script has to see that the plugin which started it is gone.
PREPARE = "exec sh components/change.sh prepare"
COMMIT = 'exec sh components/change.sh commit --seen "$LIVE"'
LIVE = 'docker exec "$SWITCH" cat /tmp/live || echo unreachable'
RELEASE = f"{_SWITCH} release || echo 'The switch does not answer; there is nothing to release.'"
FETCH = f"{_SWITCH} fetch"

AS_DECLARED = "as declared"

LIVE_MOUNT = "/live"
"""Folder of the switch and of every proxy in which the switch says what may be asked, and who may ask."""

KEYS = f'{_SWITCH} keys --seen "$SEEN"'
"""Gives the proxies the keys on stdin, by the switch, and waits until they know them. Nobody is cut."""

LOOK = """\
labels="-f label=changeover.project=$PROJECT -f label=changeover.stack=$STACK"
for each in $(docker ps $labels --format '{{.Label "changeover.role"}}={{.ID}}'); do
  case $each in
    switch=*) said=$(docker exec "${each#*=}" python3 -m switch look) && echo "$said" & ;;
    edge=*) said=$(docker exec "${each#*=}" /bin/sh -c "$SEEN") && echo "edge $said" & ;;
  esac
done 2>/dev/null
wait"""
"""Says of gateway, keys and edge, a line each, whether they are what they were brought to: of the edge its
own program `$SEEN` knows it, of the others the switch. Nothing is said of what isn't there.

Each says all of it at once: two that write at the same time mix the pieces in which they write. Containers
are found by their labels and not by their names, so that what is said is known in every preview, that of a
new container too, and waits for nothing.
"""


def looked(said: str) -> dict[str, str]:
    """What `LOOK` said, by role."""
    there = dict(line.split(" ", 1) for line in said.splitlines())
    return {role: there.get(role, AS_DECLARED) for role in ("gateway", "keys", "edge")}


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
DISOWN = """\
[ ! -e components/owner.sh ] || exec sh components/owner.sh disown
for each in $(docker ps -q -f "label=changeover.project=$PROJECT" -f "label=changeover.stack=$STACK" \
  -f label=changeover.role=switch); do
  docker exec "$each" sh -c "grep -q $OWNER /journal/owner.json && rm /journal/owner.json"; done"""
"""Fails where the host is another state's. A checkout of a version that knows no owners forgets this one: its
state then is the owner by the containers that it has."""

ATTACH = """\
on=$(docker inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' "$EDGE") || exit
case " $on" in
  *" $NETWORK "*) ;;
  *) docker network connect --alias edge "$NETWORK" "$EDGE" || exit ;;
esac
echo "The edge is on the network $NETWORK."
"""
"""Puts the edge on one more network, where it is `edge`. Docker cuts none of its connections for that."""
DETACH = """\
for each in $(docker network inspect -f '{{range $id, $_ := .Containers}}{{$id}} {{end}}' "$NETWORK"); do
  docker network disconnect --force "$NETWORK" "$each"
done"""
"""Takes everything off a network, so that Docker lets it be removed."""

CA = """docker exec "$EDGE" /bin/sh -c '
tries=0
until cat /data/caddy/pki/authorities/local/root.crt 2>/dev/null; do
  tries=$((tries + 1)); [ "$tries" -lt 60 ] || exit 1; sleep 1
done'"""
"""Prints the certificate of the edge's own CA, which Caddy makes when it first needs one."""


def upload_then_fetch(weights: Weights) -> str:
    """The command that sends a folder of the offline builder's models and then fetches."""
    return f"sh components/upload.sh {weights.upload} {weights.kind} {weights.folder}"
