"""`python -m components.kubernetes.files`: brings to the cluster what the pods run of our own code, and the
proxy's packages.

They are ConfigMaps whose names say what is in them: one that is there is right, and none is ever changed. So
no image has to be built, and no node needs a package registry. They are no resources of Pulumi's, since its
state would hold four megabytes of them.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT
from components.code import Code
from components.kubernetes.hour import LastHour
from components.kubernetes.kubectl import ClusterError, Missing, RunKubectl, kubectl, selector
from components.kubernetes.looked import lease_name
from components.kubernetes.pods import ARCHITECTURE, PLATFORM
from components.labels import Labels
from components.proxy import LOCK, PYTHON

PARTS = 6
"""ConfigMaps with a part of the packages each: they have 3.9 MB, and one ConfigMap takes 1 MiB."""
PART_BYTES = 2**20
PACKAGES = ("proxy", "switch")


@dataclass(frozen=True, kw_only=True)
class Names:
    """What is to be on the cluster: a digest of our code by package, and one of each part of the packages."""

    code: dict[str, str]
    packages: tuple[str, ...]


def names() -> Names:
    """What the code and the lock file of this checkout are called. Reads files, and fetches nothing."""
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:8]
    return Names(
        code={each: hashlib.sha256(Code(each).zip()).hexdigest()[:8] for each in PACKAGES},
        packages=tuple(f"{lock}-{number}" for number in range(PARTS)),
    )


def packed(folder: Path) -> bytes:
    """A folder as a tar, compressed: the same bytes for the same files."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0) as out,
        tarfile.open(fileobj=out, mode="w") as tar,
    ):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                entry = tar.gettarinfo(file, str(file.relative_to(folder)))
                entry.uid = entry.gid = entry.mtime = 0
                entry.uname = entry.gname = ""
                entry.mode = 0o755 if entry.mode & 0o100 else 0o644
                with file.open("rb") as content:
                    tar.addfile(entry, content)
    return raw.getvalue()


def parts(data: bytes) -> list[bytes]:
    """The bytes in PARTS pieces, in order. Raises ClusterError where a ConfigMap can't take one."""
    size = -(-len(data) // PARTS)
    if size > PART_BYTES:
        raise ClusterError(
            f"the proxy's packages have {len(data)} bytes, and {PARTS} ConfigMaps take {PARTS * PART_BYTES}: "
            "raise PARTS in components/kubernetes/files.py"
        )
    return [data[number * size : (number + 1) * size] for number in range(PARTS)]


def fetch(folder: Path) -> None:
    """Has the proxy's packages put there, each by its hash. Raises ClusterError."""
    uv = Path(".venv/bin/uv")
    words = [str(uv) if uv.exists() else "uv", "pip", "install", "--quiet", "--target", str(folder)]
    words += ["--python-version", PYTHON, "--python-platform", PLATFORM, "--only-binary", ":all:"]
    words += ["--require-hashes", "--no-deps", "-r", str(LOCK)]
    if subprocess.run(words, check=False).returncode:
        raise ClusterError(
            "the proxy's packages could not be fetched. What serves goes on as before; mend it and run: "
            "pulumi up"
        )


def mounted(things: Iterable[Mapping[str, Any]]) -> set[str]:
    """The ConfigMaps that pods mount, or those that would be made of a Deployment or DaemonSet."""
    found = set[str]()
    for each in things:
        spec = each["spec"].get("template", each)["spec"]
        for volume in spec.get("volumes") or []:
            sources = [volume, *(volume.get("projected", {}).get("sources") or [])]
            found |= {source["configMap"]["name"] for source in sources if "configMap" in source}
    return found


@dataclass(frozen=True)
class Files:
    """The files of one stack, on a cluster that is reached by `run`. `fetch` fills a folder with packages."""

    labels: Labels
    namespace: str
    run: RunKubectl
    fetch: Callable[[Path], None] = fetch

    def bring(self, wanted: Names, folder: Path) -> list[str]:
        """Makes what is not there, and gives its names. `folder` keeps packages that were fetched."""
        made = []
        for package, digest in wanted.code.items():
            name = f"{package}-{digest}"
            if not self.there(name):
                self.make(name, {f"{package}.zip": Code(package).zip()})
                made.append(name)
        missing = [at for at, each in enumerate(wanted.packages) if not self.there(f"packages-{each}")]
        if missing:
            if not folder.is_dir():
                new = folder.with_suffix(f".{os.getpid()}")
                new.mkdir(parents=True)
                self.fetch(new)
                new.rename(folder)
            pieces = parts(packed(folder))
            for number in missing:
                name = f"packages-{wanted.packages[number]}"
                self.make(name, {f"part-{number}": pieces[number]})
                made.append(name)
        return made

    def remove(self) -> None:
        """Takes all of them away, also those of older code, and the lease of the changes, which is no
        resource of Pulumi's either: the stack is gone."""
        self.run(["delete", "configmaps", "--selector", self._selector("code")], "")
        self.run(["delete", "lease", lease_name(self.labels.stack), "--ignore-not-found"], "")

    def tidy(self, wanted: Names) -> list[str]:
        """Takes away what neither is wanted nor anything mounts, and gives its names: what served before the
        last change stays, so that a way back finds it."""
        keep = self.called(wanted) | mounted(self._get("pods,deployments,daemonsets", ""))
        there = {each["metadata"]["name"] for each in self._get("configmaps", "code")}
        gone = sorted(there - keep)
        if gone:
            self.run(["delete", "configmaps", *gone], "")
        return gone

    def _get(self, kinds: str, role: str) -> list[Any]:
        said = self.run(["get", kinds, "--selector", self._selector(role), "--output", "json"], "")
        return list(json.loads(said)["items"])

    def _selector(self, role: str) -> str:
        return selector(self.labels.project, self.labels.stack, role)

    def gone(self, wanted: Names) -> list[str]:
        """The names of what is wanted and is not there."""
        said = self.run(["get", "configmaps", "--selector", self._selector("code"), "--output", "name"], "")
        there = {line.rpartition("/")[2] for line in said.split()}
        return sorted(self.called(wanted) - there)

    def called(self, wanted: Names) -> set[str]:
        """The names of what is wanted."""
        things = [f"{package}-{digest}" for package, digest in wanted.code.items()]
        return {self.name(thing) for thing in (*things, *(f"packages-{each}" for each in wanted.packages))}

    def there(self, thing: str) -> bool:
        try:
            self.run(["get", "configmap", self.name(thing), "--output", "name"], "")
        except Missing:
            return False
        return True

    def name(self, thing: str) -> str:
        return f"{self.labels.stack}-{thing}"

    def make(self, thing: str, data: Mapping[str, bytes]) -> None:
        made: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name(thing),
                "namespace": self.namespace,
                "labels": self.labels.of("code"),
            },
            "immutable": True,
            "binaryData": {name: base64.b64encode(raw).decode() for name, raw in data.items()},
        }
        self.run(["create", "--filename", "-"], json.dumps(made))


def packages(wanted: Names) -> Path:
    """The folder in which the proxy's packages are kept once they were fetched."""
    lock = wanted.packages[0].partition("-")[0]
    return ROOT / ".changeover" / "wheels" / f"{lock}-{ARCHITECTURE}"


def main(environment: Mapping[str, str], words: Sequence[str] = ()) -> int:
    """Whose files they are is in PROJECT, STACK, NAMESPACE and CONTEXT. With the word `remove` they go."""
    labels = Labels(project=environment["PROJECT"], stack=environment["STACK"])
    namespace, wanted = environment["NAMESPACE"], names()
    files = Files(labels, namespace, kubectl(namespace, environment["CONTEXT"]))
    try:
        if words == ["remove"]:
            files.remove()
            return 0
        LastHour(labels, files.run).keep(time.time())  # another code has the proxies replaced
        made = files.bring(wanted, packages(wanted))
        gone = files.tidy(wanted)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"On the cluster now: {', '.join(made)}." if made else "All files are on the cluster.")
    if gone:
        print(f"No longer there, since nothing uses them: {', '.join(gone)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ, sys.argv[1:]))
