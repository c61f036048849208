"""A stand-in for Hugging Face's hub, for its own library.

As the hub does, it gives files of a commit only, names Git's own hash of a small one and the SHA-256 of a
large one, and sends whoever wants that to another address, where such files are kept.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.support.listening import listening

LARGE = (".safetensors",)
"""How the names end of what the hub keeps outside of Git."""


@dataclass
class Hub:
    """One repository at one commit. `kept` is what is given in place of a file, by its name, and `gone` the
    files for which it has no answer; an empty name stands for all that is asked."""

    repository: str
    commit: str
    files: Mapping[str, bytes]
    kept: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    url: str = ""


def hash_of(name: str, raw: bytes) -> str:
    """What the hub calls a file by."""
    if name.endswith(LARGE):
        return hashlib.sha256(raw).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves it on a port of the loopback address; `url` is what HF_ENDPOINT takes."""

    def sibling(name: str) -> object:
        raw = hub.files[name]
        of_git = {"rfilename": name, "size": len(raw), "blobId": hashlib.sha1(raw).hexdigest()}
        if not name.endswith(LARGE):
            return {**of_git, "blobId": hash_of(name, raw)}
        return {**of_git, "lfs": {"sha256": hash_of(name, raw), "size": len(raw), "pointerSize": 134}}

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        if any(path.endswith(each) for each in hub.gone):
            return 503, {}, b""
        if found := re.fullmatch(rf"/{hub.repository}/resolve/{hub.commit}/(.+)", path):
            name, here = found[1], {"X-Repo-Commit": hub.commit}
            if name not in hub.files:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            raw, said = hub.files[name], f'"{hash_of(name, hub.files[name])}"'
            if not name.endswith(LARGE):
                return 200, {**here, "ETag": said}, hub.kept.get(name, raw)
            elsewhere = hub.url.replace("127.0.0.1", "localhost")
            linked = {"X-Linked-Etag": said, "X-Linked-Size": str(len(raw))}
            return 302, {**here, **linked, "Location": f"{elsewhere}/kept/{name}"}, b""
        if (kept := path.removeprefix("/kept/")) != path and kept in hub.files:
            return 200, {"ETag": '"of where it is kept"'}, hub.kept.get(kept, hub.files[kept])
        about: object = None
        if re.fullmatch(rf"/api/models/{hub.repository}/revision/(main|{hub.commit})", path):
            about = {"id": hub.repository, "sha": hub.commit, "siblings": [*map(sibling, hub.files)]}
        elif path == f"/api/models/{hub.repository}/tree/{hub.commit}":
            about = [
                {"type": "file", "path": name, "size": len(raw), "oid": hash_of(name, raw)[:40]}
                for name, raw in hub.files.items()
            ]
        if about:
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        code = "RevisionNotFound" if hub.repository in path else "RepoNotFound"
        return 404, {"X-Error-Code": code}, b""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = answer(unquote(self.path.partition("?")[0]))
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with listening(Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
