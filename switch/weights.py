"""Weights: taken in from a tar (`receive`), or fetched by a helper container (`fetch`). Run by the CLI."""

import fcntl
import json
import os
import re
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from switch.checks import Failed, complete_file
from switch.docker import Docker, DockerError
from switch.plan import Fetch, name
from switch.shared import WEIGHTS

GIB = 2**30
SILENCE_SECONDS = 3600
EVERY_SECONDS = 5
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def receive(weights: Path, engine: str, folder: str, tar: IO[bytes]) -> str:
    """Unpacks a tar of files and folders into <engine>/<folder>/source, replacing it once all is in.

    Links, devices and names that lead outside are refused (ValueError), whatever the Python version allows.
    """
    home = weights / name(engine, "engine") / name(folder, "folder")
    new, old, target = home / ".source.new", home / ".source.old", home / "source"
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    files = size = 0
    with tarfile.open(fileobj=tar, mode="r|*") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"the tar holds {member.name!r}, which leads outside of its folder")
            if member.isdir():
                (new / path).mkdir(parents=True, exist_ok=True)
            elif content := archive.extractfile(member) if member.isreg() else None:
                (new / path).parent.mkdir(parents=True, exist_ok=True)
                with (new / path).open("wb") as out:
                    shutil.copyfileobj(content, out)
                files, size = files + 1, size + member.size
            else:
                raise ValueError(f"the tar holds {member.name!r}, which is no file or folder (use `tar -h`)")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return f"received {files} files, {size / 2**20:.1f} MiB, into {engine}/{folder}/source"


def fetch(ask: Fetch, docker: Docker, weights: Path, say: Callable[[str], None], locks: Path) -> None:
    """Runs the script of `ask` in its image until the weights are whole. Raises Failed.

    The helper container sees the volume at /weights, has no GPU, and is on Docker's default network: public
    models come from the internet.
    """
    done = complete_file(weights, ask.engine, name(ask.folder, "folder"))
    helper = "-".join([*docker.labels.values(), "fetch", ask.engine, ask.folder])
    with (locks / f"switch-{helper}.lock").open("w") as lock:
        _take(lock, helper, docker, say)
        if done.exists() and json.loads(done.read_text()).get("digest") == ask.digest:
            say(f"{ask.engine}: weights already here ({ask.folder})")
            return
        _room(ask, weights)
        done.unlink(missing_ok=True)
        done.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            docker.create(
                helper,
                "fetch",
                Image=ask.image,
                Entrypoint=["/bin/sh", "-c"],
                Cmd=[ask.script],
                Env=[f"{key}={value}" for key, value in ask.env.items()],
                HostConfig={"Binds": [f"{ask.volume}:{WEIGHTS}"], "RestartPolicy": {"Name": "no"}},
            )
            docker.start(helper)
            for line in calm(_lines(docker.follow(helper, SILENCE_SECONDS))):
                say(line)
            code = docker.wait(helper, 60)
            said = _lines([docker.logs(helper).encode()]) if code else []
        except DockerError as error:
            raise Failed(f"the weights {ask.folder} could not be fetched: {error}") from error
        finally:
            docker.remove(helper)
        if code:
            last = "".join(f"\n  {line}" for line in said if line)
            raise Failed(f"fetching the weights {ask.folder} failed (exit status {code}):{last}")
        os.sync()  # the mark must not survive a power cut that the weights did not
        done.write_text(json.dumps({"digest": ask.digest, "at": time.time()}))
        say(f"{ask.engine}: weights here ({ask.folder}, {time.monotonic() - began:.1f} s)")


def _take(lock: IO[str], helper: str, docker: Docker, say: Callable[[str], None]) -> None:
    """Waits while another fetch of the same weights has the lock. One that is killed lets go of it."""
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                line = docker.logs(helper, 1).strip().rpartition("\r")[2]
            except DockerError:
                line = ""
            say(f"another fetch of these weights is under way {line}".rstrip())
            time.sleep(EVERY_SECONDS)


def _room(ask: Fetch, weights: Path) -> None:
    disk = os.statvfs(weights / ask.engine)
    free, need = disk.f_bavail * disk.f_frsize, ask.need_bytes * 1.05
    if free < need:
        raise Failed(
            f"the weights {ask.folder} need {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free for the "
            f"volume {ask.volume}. Nothing was fetched. Free some (`docker image prune` on the Docker host), "
            "or choose a smaller model (`pulumi config set model …`), and run `pulumi up` again."
        )


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of output; a carriage return or a moved cursor ends one too, as progress bars do."""
    rest = b""
    for chunk in chunks:
        *whole, rest = re.split(rb"[\r\n]|\x1b\[\d*[GAF]", rest + chunk)
        yield from (CONTROL.sub(b"", line).decode(errors="replace").strip() for line in whole)
    yield CONTROL.sub(b"", rest).decode(errors="replace").strip()


def calm(lines: Iterable[str], clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Leaves out empty lines, and those that differ from one of the last 5 s in their figures only."""
    seen: dict[str, float] = {}
    for line in lines:
        key = re.sub(r"[^A-Za-z]+", "", line)[:24]
        if line and clock() - seen.get(key, -EVERY_SECONDS) >= EVERY_SECONDS:
            seen[key] = clock()
            yield line


def say(line: str) -> None:
    """Prints. A reader that is gone (a killed `docker exec`) must not keep this process and its lock."""
    signal.alarm(60)
    print(line, flush=True)
    signal.alarm(0)
