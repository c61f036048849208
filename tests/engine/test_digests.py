"""Images by digest, pulled by the real Docker engine and plugin from a small registry on this machine."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.pins import Image
from switch.docker import Docker
from tests.support.project import CommandFailed, Project, docker, offline_settings

pytestmark = pytest.mark.engine

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
PROGRAM = """\
import pulumi
import pulumi_docker as docker

image = docker.RemoteImage("image", name={reference!r}, keep_locally=True)
pulumi.export("id", image.image_id)
"""


class Registry(ThreadingHTTPServer):
    """As much of a registry as a pull takes. What a tag means can be changed, what a digest means can't."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def keep(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return digest

    def push(self, tag: str, text: str) -> str:
        """An image with one file, under `tag`; its digest."""
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            member = tarfile.TarInfo("what")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        raw = layer.getvalue()
        zipped = gzip.compress(raw, mtime=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(raw).hexdigest()}"]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": self.keep(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": len(zipped),
                    "digest": self.keep(zipped),
                }
            ],
        }
        self.tags[tag] = self.keep(json.dumps(manifest).encode())
        return self.tags[tag]


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        kind, _, name = self.path.removeprefix("/v2/").removeprefix("what/").partition("/")
        if not kind:
            return self.answer(200, b"{}", "application/json")
        content = self.server.blobs.get(self.server.tags.get(name, name))
        if content is None:
            unknown = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return self.answer(404, json.dumps(unknown).encode(), "application/json")
        return self.answer(200, content, MANIFEST if kind == "manifests" else "application/octet-stream")

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if kind == MANIFEST:
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        yield registry
        registry.shutdown()
        place = f"127.0.0.1:{registry.server_port}/what"
        left = docker("images", "--quiet", "--no-trunc", "--filter", f"reference={place}").split()
        left += docker("images", "--quiet", "--no-trunc", "--digests", place).split()
        if left:
            docker("rmi", "--force", *set(left))


def test_an_image_by_its_digest_stays_whatever_its_tag_becomes(registry: Registry, tmp_path: Path) -> None:
    digest = registry.push("1.0", "reviewed")
    reference = f"127.0.0.1:{registry.server_port}/what:1.0@{digest}"
    other = registry.push("1.0", "something else")
    assert other != digest
    project = Project(tmp_path, "digests", **offline_settings())
    (tmp_path / "__main__.py").write_text(PROGRAM.format(reference=reference))
    project.up()
    (there,) = json.loads(docker("image", "inspect", reference))
    pulled = Image(name="what", version="1.0", public=reference, reason="", digest="", size=0).pulled
    assert there["RepoDigests"] == [pulled] and project.outputs()["id"] == there["Id"]
    assert project.changes() == {}

    # what the switch does with an image by its name
    host = Docker("changeover", "digests")
    assert host.has_image(reference) and not host.in_use(reference)
    host.remove_image(reference)
    assert not host.has_image(reference)

    lost = reference.replace(digest, f"sha256:{'0' * 64}")
    (tmp_path / "__main__.py").write_text(PROGRAM.format(reference=lost))
    with pytest.raises(CommandFailed, match="manifest unknown"):
        project.up()
