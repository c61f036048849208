"""A Docker engine, for looking only: this machine's through its socket, or another's through SSH."""

import contextlib
import http.client
import io
import json
import socket
import subprocess
import tarfile
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, Self

from components.labels import Labels, label
from stacks.owner import DockerObject, FoundOnHost
from stacks.target_error import TargetError
from switch import owner
from switch.docker import DockerError, message
from switch.journal import loads
from switch.shared import JOURNAL

TIMEOUT_SECONDS = 60
PEEK = "peek"
"""Role of a container that is made to read a volume, and removed at once."""


class DockerLook(http.client.HTTPConnection):
    """One connection for all questions, since through SSH each takes a second or more to open.

    With `ssh`, the words of an `ssh` command with its host, it reaches that host's engine as the `docker`
    command does; without, the engine whose socket is `path`. A context manager.
    """

    def __init__(self, path: str, ssh: Sequence[str] = ()) -> None:
        super().__init__("docker", timeout=TIMEOUT_SECONDS)
        self._path, self._ssh = path, ssh
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def connect(self) -> None:
        """Called by the base class before the first question, and after one that ended the connection."""
        if not self._ssh:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
            return
        self._end()
        self.sock, there = socket.socketpair()
        self.sock.settimeout(self.timeout)
        with there:
            self._process = subprocess.Popen(
                [*self._ssh, "docker", "system", "dial-stdio"],
                stdin=there.fileno(),
                stdout=there.fileno(),
                stderr=subprocess.PIPE,
            )

    def close(self) -> None:
        """Closes the connection, and ends the SSH session that carries it."""
        super().close()
        self._end()

    def _end(self) -> str:
        """Ends `ssh`, and returns what it said."""
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # its input has ended, or it has said why it could not
        self._process.kill()
        _, said = self._process.communicate()
        self._process = None
        return said.decode(errors="replace").strip()

    def __call__(self, url: str, *, all: bool = False, **filters: str | Sequence[str]) -> Any:
        """The engine's answer to a GET; of containers `all`, running or not.

        Raises TargetError with what it said, or what kept it from answering.
        """
        wanted = {key: [each] if isinstance(each, str) else list(each) for key, each in filters.items()}
        query = {**({"all": 1} if all else {}), **({"filters": json.dumps(wanted)} if wanted else {})}
        if query:
            url += "?" + urllib.parse.urlencode(query)
        try:
            return self._ask("GET", url)
        except DockerError as error:
            raise TargetError(str(error)) from None

    def _ask(self, method: str, url: str, body: Any = None) -> Any:
        """The JSON of the answer, or its bytes where it is none. Raises DockerError, or TargetError."""
        try:
            self.request(
                method, url, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = self.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.sock = None
            raise TargetError(self._end() or str(error) or repr(error)) from None
        if answer.status >= 400:
            raise DockerError(answer.status, message(raw))
        return json.loads(raw) if raw and "json" in (answer.getheader("Content-Type") or "") else raw

    def stack(self, labels: Labels) -> FoundOnHost:
        """What there is of a stack. Raises TargetError, also where its journal is there and can't be read."""
        ours = [f"{label('project')}={labels.project}", f"{label('stack')}={labels.stack}"]
        things = []
        switch = ""
        for row in self("/containers/json", all=True, label=ours):
            role = row["Labels"].get(label("role"), "")
            if role == PEEK:
                continue  # one of another look that was killed
            name = (row["Names"] or [row["Id"]])[0].lstrip("/")  # one that is just being removed has none
            things.append(DockerObject("container", row["Id"], name, role, row["Labels"]))
            if role == "switch":
                switch = row["Id"]
        for row in self("/networks", label=ours):
            role = row["Labels"].get(label("role"), "")
            things.append(DockerObject("network", row["Id"], row["Name"], role, row["Labels"]))
        for row in self("/volumes", label=ours)["Volumes"] or ():
            role = row["Labels"].get(label("role"), "")
            things.append(DockerObject("volume", row["Name"], row["Name"], role, row["Labels"]))
        journal = next((each.name for each in things if each.kind == "volume" and each.role == "journal"), "")
        if not journal:
            return FoundOnHost(things=tuple(things), owner=None, serves="")
        try:
            with self._reader(switch, journal, labels) as container:
                record = self._file(container, owner.FILE)
                states = (self._file(container, name) for name in ("state.json", "state.old"))
                serves = next(filter(None, map(_serves, states)), "")  # the older one where it is needed
        except DockerError as error:
            raise TargetError(f"the journal of stack `{labels.stack}` can't be read: {error}") from None
        return FoundOnHost(things=tuple(things), owner=owner.parse(record), serves=serves)

    @contextlib.contextmanager
    def _reader(self, switch: str, journal: str, labels: Labels) -> Iterator[str]:
        """A container through which the journal can be read; one made for it never runs, and goes again."""
        if switch:
            yield switch
            return
        images = self("/images/json")
        if not images:
            raise TargetError(
                f"the volume {journal} can't be read: the Docker host has no image from which a container "
                "could be made. Run: docker pull busybox"
            )
        spec = {
            "Image": images[0]["Id"],
            "Cmd": ["is-never-run"],
            "Labels": labels.of(PEEK),
            "HostConfig": {"Binds": [f"{journal}:{JOURNAL}:ro"]},
        }
        made = self._ask("POST", "/containers/create", spec)["Id"]
        try:
            yield made
        finally:
            with contextlib.suppress(DockerError):
                self._ask("DELETE", f"/containers/{made}?force=1")

    def _file(self, container: str, name: str) -> str:
        """A file of the journal; empty where there is none. Raises DockerError."""
        query = urllib.parse.urlencode({"path": f"{JOURNAL}/{name}"})
        try:
            raw = self._ask("GET", f"/containers/{container}/archive?{query}")
        except DockerError as error:
            if error.status != 404 or "No such container" in str(error):
                raise
            return ""
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            return file.read().decode(errors="replace") if file else ""


def _serves(journal: str) -> str:
    """What serves, in words, as the journal says."""
    try:
        state = loads(journal)
    except ValueError:
        return ""
    if state.active is None:
        return ""
    engine = state.active.plan.engine
    return f"{engine.kind} serves {engine.model}, since {owner.day(state.active.since)}"
