"""The Docker Engine API over its unix socket: the few calls that the switch needs, from Docker 20.10 on.

Paths carry no version, so the engine answers in its own. Raises DockerError (with the engine's own message),
or OSError when the engine can't be reached; of that TimeoutError, whose text names Docker, where it gives no
answer.
"""

import contextlib
import datetime
import http.client
import io
import json
import re
import tarfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from switch.client import SocketConnection, asked
from switch.machine import Container, World
from switch.shared import SOCKET, label

OWN_NETWORKS = ("bridge", "host", "none")

OWN = ("engine", "gateway", "proxy", "edge", "switch")
"""Roles of the stack's containers that are there to stay."""

MONITOR_ROLES = ("monitor", "alerts")
"""Roles of what runs beside the stack. It is no part of the machine's world, and nothing waits for it."""

BESIDE_SECONDS = 2
"""For what Docker says of one of these: it may wait for a container that is stuck."""

PROCESSES = 1024
"""Processes and threads that a container of the stack may have. Edge, proxy, gateway and switch have some
ten, and the gateway's runtime takes up to 512 more for what blocks."""

ENGINE_PROCESSES = 8192
"""Processes and threads that an engine may have: its libraries start some for each core of the host."""

LIMIT_AGAIN_SECONDS = 60
"""Between two tries to limit the processes of a container that Docker did not limit."""

LEAST = {"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"], "PidsLimit": PROCESSES}
"""What a helper container of the switch may do, as Docker's API calls it."""

CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
"""What tells a terminal to do something, but for the ends of a line, or turns the order of letters round."""


class DockerError(Exception):
    """Docker has refused a call. The text is its own message, `status` the HTTP status of its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def message(raw: bytes) -> str:
    """What the engine says in the body of an error."""
    text = raw.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return text.strip()


class Docker:
    """The containers of one stack. `timeout` is in seconds and holds for one call."""

    beside: Mapping[str, Container] = {}
    """What is beside the stack, as `world` saw it last, by name, running or not."""

    def __init__(self, project: str, stack: str, path: str = SOCKET) -> None:
        self.labels = {label("project"): project, label("stack"): stack}
        self._path = path
        self._bounded: set[tuple[str, float]] = set()
        self._unbounded: dict[tuple[str, float], float] = {}
        """When a container was last tried to be limited that isn't, by the monotonic clock."""

    @contextlib.contextmanager
    def _asked(
        self, method: str, url: str, body: Any = None, *, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer once its head has come. What goes wrong while it is read is an OSError as well."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        connection = SocketConnection(self._path, timeout)
        try:
            with asked(connection, method, url, raw, {"Content-Type": kind}) as answer:
                if answer.status >= 400:
                    raise DockerError(answer.status, message(answer.read()))
                yield answer
        except TimeoutError as error:
            raise TimeoutError(f"Docker gives no answer within {timeout:g} s") from error
        except http.client.HTTPException as error:
            raise OSError(f"Docker broke off its answer: {error!r}") from error

    def call(self, method: str, url: str, body: Any = None, timeout: float = 15) -> Any:
        """The JSON answer of one call, or its bytes when it isn't JSON, or None when it is empty."""
        with self._asked(method, url, body, timeout=timeout) as answer:
            raw, kind = answer.read(), answer.getheader("Content-Type") or ""
        if "json" not in kind:
            return raw or None
        return json.loads(raw) if raw else None

    def world(self) -> World:
        """The containers of the stack that are there to stay, by name, running or not."""
        labels = [f"{key}={value}" for key, value in self.labels.items()]
        query = urllib.parse.urlencode({"all": "1", "filters": json.dumps({"label": labels})})
        found, beside = dict[str, Container](), dict[str, Container]()
        for row in self.call("GET", f"/containers/json?{query}"):
            role = row["Labels"].get(label("role"))
            look = f"/containers/{row['Id']}/json"
            if role in MONITOR_ROLES:
                name = row["Names"][0].removeprefix("/")
                try:
                    beside[name] = _container(self.call("GET", look, timeout=BESIDE_SECONDS))
                except (DockerError, OSError) as error:
                    gone = isinstance(error, DockerError) and error.status == 404
                    if name in self.beside and not gone:
                        beside[name] = self.beside[name]  # it was asked at a bad moment
            if role in OWN:
                try:
                    container = _container(self.call("GET", look))
                except DockerError as error:
                    if error.status != 404:
                        raise
                else:
                    found[container.name] = container
        self.beside = beside
        return found

    def bound(self, world: World) -> None:
        """Limits the processes of each container, once. What fails is said, and tried again after a while.

        Pulumi's docker provider can't do that. Docker can, also for a container that runs: so one of an older
        version is limited as well, and none has to be replaced for it. Never raises: nothing depends on it.
        """
        for container in (*world.values(), *self.beside.values()):
            name = container.name
            key, now = (name, container.created), time.monotonic()
            tried = self._unbounded.get(key)
            if key in self._bounded or (tried is not None and now < tried + LIMIT_AGAIN_SECONDS):
                continue
            limit = ENGINE_PROCESSES if container.role == "engine" else PROCESSES
            try:
                self.call("POST", f"/containers/{name}/update", {"PidsLimit": limit})
            except (DockerError, OSError) as error:
                leaves = isinstance(error, DockerError) and error.status in (404, 409)
                if not leaves and tried is None:
                    print(f"the number of processes of {name} can't be limited: {error}", flush=True)
                self._unbounded[key] = now
            else:
                self._bounded.add(key)
                self._unbounded.pop(key, None)

    def start(self, name: str) -> None:
        """Starts a container. One that runs is left alone."""
        self.call("POST", f"/containers/{name}/start", timeout=120)

    def stop(self, name: str, seconds: float) -> None:
        """Ends a container by SIGTERM, and by SIGKILL after `seconds`. Returns when it has ended."""
        try:
            self.call("POST", f"/containers/{name}/stop?t={seconds:.0f}", timeout=seconds + 60)
        except DockerError as error:
            if error.status != 404:
                raise

    def signal(self, name: str) -> None:
        """Sends SIGTERM to a container, and never SIGKILL. One that does not run is left alone."""
        try:
            self.call("POST", f"/containers/{name}/kill?signal=SIGTERM")
        except DockerError as error:
            if error.status not in (404, 409):
                raise

    def restart(self, name: str) -> None:
        """Ends a container at once, whatever it does, and starts it again."""
        self.call("POST", f"/containers/{name}/restart?t=0", timeout=60)

    def connect(self, name: str, network: str, aliases: Iterable[str]) -> None:
        """Puts a container on a network, by these names."""
        spec = {"Container": name, "EndpointConfig": {"Aliases": list(aliases)}}
        self.call("POST", f"/networks/{urllib.parse.quote(network)}/connect", spec)

    def remove(self, name: str) -> None:
        """Removes a container, running or not, and its anonymous volumes. One that is gone is fine."""
        try:
            self.call("DELETE", f"/containers/{name}?force=1&v=1", timeout=60)
        except DockerError as error:
            if error.status != 404:
                raise

    def has_image(self, image: str) -> bool:
        """Whether an image of this name or id is on the host."""
        try:
            self.call("GET", f"/images/{urllib.parse.quote(image, safe='/:@')}/json")
        except DockerError as error:
            if error.status == 404:
                return False
            raise
        return True

    def in_use(self, image: str) -> bool:
        """Whether any container on the host, of this stack or another, was made from the image."""
        raw = self.call("GET", f"/images/{urllib.parse.quote(image, safe='/:@')}/json")
        return any(row["ImageID"] == raw["Id"] for row in self.call("GET", "/containers/json?all=1"))

    def remove_image(self, image: str) -> None:
        """Removes a name of an image, and the image where it has no other. Docker refuses that while a
        container uses it."""
        self.call("DELETE", f"/images/{urllib.parse.quote(image, safe='/:@')}", timeout=120)

    def weights(self) -> set[tuple[str, str]]:
        """The weights of every engine container of the stack, as the kind of the engine and a folder."""
        labels = [f"{key}={value}" for key, value in self.labels.items()] + [f"{label('role')}=engine"]
        query = urllib.parse.urlencode({"all": "1", "filters": json.dumps({"label": labels})})
        rows = [row["Labels"] for row in self.call("GET", f"/containers/json?{query}")]
        return {(row[label("engine")], row[label("weights")]) for row in rows}

    def left_volumes(self, roles: Iterable[str]) -> list[str]:
        """The stack's volumes of these roles that no container, running or not, uses."""
        labels = [f"{key}={value}" for key, value in self.labels.items()]
        query = urllib.parse.urlencode({"filters": json.dumps({"label": labels, "dangling": ["true"]})})
        rows = self.call("GET", f"/volumes?{query}")["Volumes"] or ()
        return sorted(row["Name"] for row in rows if row["Labels"].get(label("role")) in roles)

    def remove_volume(self, name: str) -> None:
        """Removes a volume. Docker refuses that while a container uses it."""
        self.call("DELETE", f"/volumes/{urllib.parse.quote(name)}", timeout=120)

    def image_of(self, name: str) -> str:
        """The id of the image that a container was made from."""
        return str(self.call("GET", f"/containers/{name}/json")["Image"])

    def create(self, name: str, role: str, **spec: Any) -> None:
        """A container of the stack with the least rights; one of that name that a killed run has left is
        removed first."""
        self.remove(name)
        spec["HostConfig"] = {**LEAST, **spec.get("HostConfig", {})}
        spec["Labels"] = {**self.labels, label("role"): role}
        self.call("POST", f"/containers/create?name={name}", spec, timeout=60)

    def put(self, name: str, path: str, content: str) -> None:
        """Writes one file into a container that need not run; folders on the way are made."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content.encode()), 0o644
            tar.addfile(member, io.BytesIO(content.encode()))
        self.call("PUT", f"/containers/{name}/archive?path=/", raw.getvalue())

    def get(self, name: str, path: str) -> str:
        """The text of one file of a container, running or not."""
        query = urllib.parse.urlencode({"path": path})
        raw = self.call("GET", f"/containers/{name}/archive?{query}")
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            assert file is not None, f"{path} is no file"
            return file.read().decode(errors="replace")

    def labels_of(self, name: str) -> dict[str, str]:
        """The labels of one container."""
        return dict(self.call("GET", f"/containers/{name}/json")["Config"]["Labels"] or {})

    def wait(self, name: str, timeout: float) -> int:
        """The exit status of a container, once it has ended."""
        return int(self.call("POST", f"/containers/{name}/wait", timeout=timeout)["StatusCode"])

    def exit_status(self, name: str) -> int | None:
        """The exit status of a container that has ended; None where it has not."""
        state = self.call("GET", f"/containers/{name}/json")["State"]
        return None if state["Running"] else int(state["ExitCode"])

    def logs(self, name: str, lines: int = 15) -> str:
        """The last `lines` lines of a container's output, both streams in order, without CONTROL: an engine
        may say what a client has sent, and this is shown in terminals."""
        return CONTROL.sub("", b"".join(self._stream(name, f"tail={lines}", 15)).decode(errors="replace"))

    def follow(self, name: str, timeout: float) -> Iterator[bytes]:
        """A container's output as it comes, until it ends. `timeout` is the longest silence, in seconds."""
        try:
            yield from self._stream(name, "follow=1", timeout)
        except TimeoutError as error:
            raise TimeoutError(f"nothing came from {name} within {timeout:g} s") from error

    def ends(self, timeout: float = 3600) -> Iterator[bytes]:
        """One item each time a container of the stack ends, for as long as Docker tells."""
        labels = [f"{key}={value}" for key, value in self.labels.items()]
        filters = json.dumps({"type": ["container"], "event": ["die"], "label": labels})
        query = urllib.parse.urlencode({"filters": filters})
        with self._asked("GET", f"/events?{query}", timeout=timeout) as answer:
            yield from answer

    def _stream(self, name: str, query: str, timeout: float) -> Iterator[bytes]:
        url = f"/containers/{name}/logs?stdout=1&stderr=1&{query}"
        with self._asked("GET", url, timeout=timeout) as answer:
            # without a terminal Docker sends frames: stream, 3 zeros, size (4 bytes, big endian), payload
            while head := answer.read(8):
                if len(head) == 8 and head[0] < 3 and head[1:4] == b"\0\0\0":
                    yield answer.read(int.from_bytes(head[4:]))
                else:
                    yield head + answer.read()


def _container(raw: dict[str, Any]) -> Container:
    labels, state = raw["Config"]["Labels"] or {}, raw["State"]
    # Docker's own are nobody's here: a container that is just being made may be on one for a moment
    networks = {k: v for k, v in raw["NetworkSettings"]["Networks"].items() if k not in OWN_NETWORKS}
    addresses = [endpoint["IPAddress"] for endpoint in networks.values()]
    return Container(
        name=raw["Name"].lstrip("/"),
        role=labels[label("role")],
        kind=labels.get(label("engine"), ""),
        running=state["Running"] and not state["Restarting"],
        restarting=state["Restarting"],
        started_at=state["StartedAt"],
        exit_code=state["ExitCode"],
        oom=state["OOMKilled"],
        restarts=raw["RestartCount"],
        created=_time(raw["Created"]),
        networks={
            network: [alias for alias in endpoint["Aliases"] or [] if alias != raw["Id"][:12]]
            for network, endpoint in networks.items()
        },
        address=next((address for address in addresses if address), ""),
    )


def _time(text: str) -> float:
    """Seconds since the epoch of Docker's RFC 3339 time, which has up to nine digits of a second."""
    whole = re.sub(r"\.\d+", "", text).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(whole).timestamp()
