"""The API keys that the proxies know, as digests, and whether somebody edited them in place."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switch import files
from switch.answers import AS_DECLARED, GONE, edited
from switch.checks import Failed
from switch.plan import PlanError, load
from switch.proxies import statuses
from switch.shared import TENANT

FILE = "keys.json"
WAIT_SECONDS = 75
"""For the proxies to take note. One that hangs is started again after `Seconds.answers`."""
SAY_SECONDS = 10
"""After which it is said that the proxies are waited for."""
DOCKER_SECONDS = 300
"""For Docker to say which proxies run."""
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Applied:
    """What `apply` remembers: the digest of the file that it wrote, and what was seen before."""

    digest: str
    seen: str


def parse(raw: Any) -> str:
    """The content of the file that the proxies read: `open`, and `keys` as digest → tenant.

    Raises PlanError, which says neither a digest nor what might be a key.
    """
    if not isinstance(raw, dict) or set(raw) != {"open", "keys"}:
        raise PlanError("the keys must be an object with `open` and `keys`, and nothing else")
    if not isinstance(raw["open"], bool) or not isinstance(raw["keys"], dict):
        raise PlanError("`open` must be true or false, and `keys` an object")
    for number, (digest, tenant) in enumerate(raw["keys"].items()):
        if not DIGEST.fullmatch(digest):
            raise PlanError(f"name {number} of `keys` must be a SHA-256 in 64 lower-case hexadecimal digits")
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise PlanError(f"value {number} of `keys` must be a tenant: letters, digits, '.', '_' and '-'")
    return json.dumps({"open": raw["open"], "keys": raw["keys"]}, indent=1, sort_keys=True) + "\n"


def apply(
    content: str,
    seen: str,
    folder: Path,
    memory: Path,
    proxies: Callable[[], list[str]],
    say: Callable[[str], None],
) -> str:
    """Gives the proxies the keys in `content`, waits until each that runs (`proxies`) has them, and returns
    how it went. `say` is told what is waited for.

    `seen` is what `look` said before, which it says again from now on. Raises Failed, DockerError, and
    OSError; of that TimeoutError where Docker gives no answer.
    """
    files.write(folder / FILE, content, 0o644)  # the proxies are another user
    digest = hashlib.sha256(content.encode()).hexdigest()
    began, told = time.monotonic(), False
    while True:
        asked = time.monotonic()
        running = _running(proxies, say)
        began += time.monotonic() - asked  # Docker's time is no proxy's
        if not (late := _without(digest, running)):
            break
        waited, who = time.monotonic() - began, " and ".join(late)
        if waited > WAIT_SECONDS:
            raise Failed(
                f"the keys are written, but {who} did not take note of them within {WAIT_SECONDS} s. To see "
                f"why, run: docker logs {late[0]}"
            )
        if waited > SAY_SECONDS and not told:
            say(f"waiting for {who} to take note of the keys")
            told = True
        time.sleep(0.1)
    files.write(memory, json.dumps({"digest": digest, "seen": seen or AS_DECLARED}))
    there = json.loads(content)
    tenants = len(set(there["keys"].values()))
    said = "no key is needed" if there["open"] else f"keys of {tenants} tenant{'' if tenants == 1 else 's'}"
    return f"{said}: known to {' and '.join(running) or 'every proxy that will start'}"


def _running(proxies: Callable[[], list[str]], say: Callable[[str], None]) -> list[str]:
    """The proxies that run, once Docker says so. Raises DockerError, and OSError; of that TimeoutError where
    Docker gives no answer for `DOCKER_SECONDS`."""
    began = time.monotonic()
    while True:
        try:
            return proxies()
        except TimeoutError as error:
            if time.monotonic() - began > DOCKER_SECONDS:
                raise
            say(f"{error}; waiting for it")


def _without(digest: str, running: list[str]) -> list[str]:
    said = statuses(running)
    return [name for name in running if name not in said or said[name].keys != digest]


def look(folder: Path, memory: Path) -> str:
    """`edited in place` with a digest if the keys are not those that `apply` left, else what it was told.

    So an edit shows once, and its repair leaves no difference behind.
    """
    try:
        applied: Applied = load(Applied, json.loads(memory.read_text()), str(memory), strict=False)
    except (FileNotFoundError, ValueError):
        return AS_DECLARED
    try:
        digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    except FileNotFoundError:
        return GONE
    return applied.seen if digest == applied.digest else edited(digest)
