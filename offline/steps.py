"""Cached build steps with visible progress.

A step builds into a folder that is named by everything its result depends on, so an unchanged step
is skipped and a changed one never reuses a stale result. A step that is interrupted leaves nothing
that could be taken for a result: it builds beside its place and is renamed into it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common import StepFailed, cache_root, say


def key_of(*parts: str | bytes) -> str:
    """A short content key (12 hex digits) of everything that a step's result depends on."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


def run(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command with its output appended to `log`; raise StepFailed with the log's end if it fails."""
    with log.open("ab") as out:
        out.write(("\n$ " + " ".join(map(str, command)) + "\n").encode())
        out.flush()
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise StepFailed(f"`{command[0]} …` exited {done.returncode}:\n{tail}\nThe whole log: {log}")


def place_of(name: str, key: str) -> Path:
    """Where the result of step `name` for `key` is, once it is built."""
    return cache_root() / name / key


def cached(name: str, key: str, build: Callable[[Path, Path], None]) -> Path:
    """The folder with the result of step `name` for `key`; built by `build(folder, log)` if missing.

    Prints a line when a build starts, one every 15 seconds, and one when it ends. Two processes that
    want the same step build it once.
    """
    place = place_of(name, key)
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_dir():
            return place
        work = place.with_suffix(".building")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        log = place.parent / f"{key}.log"
        log.unlink(missing_ok=True)
        started = time.monotonic()
        say(f"  {name}: building (log: {log})")
        done = threading.Event()

        def tick() -> None:
            while not done.wait(15):
                say(f"  {name}: {time.monotonic() - started:.0f} s …")

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            build(work, log)
        except StepFailed as error:
            raise StepFailed(f"{name} could not be built. {error}") from error
        finally:
            done.set()
            ticker.join()
        work.rename(place)
        say(f"  {name}: built in {time.monotonic() - started:.0f} s")
    return place


def go_environment() -> dict[str, str]:
    """What every Go build runs with: no toolchain download, and nothing written outside the cache."""
    return {
        "GOTOOLCHAIN": "local",
        # Without -modcacherw the module cache is read-only, and deleting it takes more than rm -r.
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOWORK": "off",
        "GOMODCACHE": str(cache_root() / "go" / "mod"),
        "GOCACHE": str(cache_root() / "go" / "build"),
    }


def need(program: str, package: str) -> None:
    """Raise StepFailed unless `program` is on PATH; says which Debian package brings it."""
    if shutil.which(program) is None:
        raise StepFailed(f"`{program}` is missing. Run: apt-get install {package}")
