"""What the coordinator tells the switch, and the shell lines that tell it. Pure.

The switch lives in a container on the Docker host and is told through `docker exec`, so the same
lines work for a Docker engine here and for one behind SSH: only `DOCKER_HOST` differs.
"""

import json
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from components import caddyfile, tensorzero
from components.engines import PORT, EngineSpec

GATE_MAX_TOKENS = 8
GATE_TIMEOUT = 60
LEASE_FOLLOWING = 15
"""Seconds without a `follow` after which the switch takes a killed coordinator for dead."""
LEASE_PREPARED = 90
"""Seconds between prepare and commit: the time in which Pulumi creates one gateway container."""
GATEWAY_ANSWERS = 60
STOP_GRACE = 30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One change of what is live. Durations in seconds; `gateway_config` is the rendered TOML."""

    spec: EngineSpec
    mode: Literal["hold", "overlap"]
    drain: int
    load: int
    completions: int
    gateway_image: str
    gateway_config: str

    def render(self, *, engine: str, gateway: str | None = None) -> str:
        """The plan as JSON for the switch; `engine` and `gateway` are names of containers.

        Without `gateway` it is a plan to prepare, with it one to commit.
        """
        plan = {
            "engine": {
                "kind": self.spec.kind,
                "container": engine,
                "port": PORT,
                "model": self.spec.model.name,
                "weights": self.spec.weights.folder,
            },
            "cutover": self.mode,
            "seconds": {
                "drain": self.drain,
                "load": self.load,
                "stop": STOP_GRACE,
                "lease_following": LEASE_FOLLOWING,
                "lease_prepared": LEASE_PREPARED,
                "gateway": GATEWAY_ANSWERS,
            },
            "gate": {
                "completions": self.completions,
                "max_tokens": GATE_MAX_TOKENS,
                "timeout": GATE_TIMEOUT,
            },
            "gateway": {
                "image": self.gateway_image,
                "config": self.gateway_config,
                "path": tensorzero.CHAT_PATH,
                "model": tensorzero.qualified(self.spec.model.name),
                "port": tensorzero.PORT,
                "config_file": tensorzero.CONFIG_FILE,
                **({"container": gateway} if gateway else {}),
            },
        }
        return json.dumps(plan, indent=2) + "\n"


_SWITCH = 'docker exec -i "$SWITCH" python3 -m switch'

_FOLLOW = """\
misses=0
while :; do
  docker exec "$SWITCH" python3 -m switch follow
  code=$?
  case "$code" in
    75) misses=0; continue ;;
    0) exit 0 ;;
    1) docker exec "$SWITCH" true 2>/dev/null && exit 1 ;;
  esac
  misses=$((misses + 1))
  if [ "$misses" -gt 30 ]; then
    echo "The switch ($SWITCH) does not answer. It restores by itself; look with: docker logs $SWITCH" >&2
    exit 1
  fi
  sleep 1
done
"""
"""Prints what is new until the phase has ended. A switch that is being restarted is waited for."""

PREPARE = f"{_SWITCH} prepare || exit 1\n{_FOLLOW}"
COMMIT = f'{_SWITCH} commit --seen "$LIVE" || exit 1\n{_FOLLOW}'
LIVE = f"{_SWITCH} live || echo unreachable"
RELEASE = f"{_SWITCH} release || echo 'The switch does not answer; there is nothing to release.'"
FETCH = f"{_SWITCH} fetch"


def upload_then_fetch(engine: str, folder: str, upload: str) -> str:
    """Shell lines that send a folder of the offline builder's models and then fetch; the request is stdin."""
    receive = f"{_SWITCH} receive --engine {engine} --folder {folder}"
    return f"""\
request=$(cat)
models="${{CHANGEOVER_CACHE:-$HOME/.cache/changeover}}/models"
tar -C "$models/{upload}" -cf - . | {receive} || exit 1
printf '%s' "$request" | {FETCH}
"""


CONFIGURE = f"""\
docker exec -i "$EDGE" /bin/sh -c {quote(caddyfile.APPLY)} || exit 1
echo 'The edge runs with this configuration.'
"""
"""Brings the edge to the configuration and keys on stdin. A changed key needs no reload and cuts nobody."""
