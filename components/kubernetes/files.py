"""`python -m components.kubernetes.files`: brings to the cluster what the pods run of our own code, and the
proxy's packages.

They are ConfigMaps whose names say what is in them, and none is ever changed: one that is there is right,
whoever made it. What a part of the packages is unpacked to follows from its name, however it was compressed,
so that parts from several checkouts are one archive all the same. So no image has to be built, and no node
needs a package registry. They are no resources of Pulumi's, since its state would hold three megabytes of
them.
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
from components.kubernetes.objects import content
from components.kubernetes.pods import ARCHITECTURE, PLATFORM
from components.labels import Labels
from components.proxy import LOCK, PYTHON

PARTS = 6
"""ConfigMaps with a part of the packages each: one takes 1 MiB, and the largest part has 0.7 MB."""
PART_BYTES = 2**20
OF_DISTRIBUTIONS = ("METADATA", "LICENSE", "NOTICE", "COPYING")
"""What names begin with that a wheel has in its `.dist-info`, and that is packed of it."""
LEVEL = 9
"""Of compression."""
PACKAGES = ("proxy", "switch")


@dataclass(frozen=True, kw_only=True)
class Names:
    """What is to be on the cluster: a digest of our code by package, and one of each part of the packages."""

    code: dict[str, str]
    packages: tuple[str, ...]


def names() -> Names:
    """What the code and the lock file of this checkout are called. Reads files, and fetches nothing."""
    lock = content(LOCK.read_text(), PYTHON, PLATFORM, PARTS, OF_DISTRIBUTIONS)
    return Names(
        code={each: hashlib.sha256(Code(each).zip()).hexdigest()[:8] for each in PACKAGES},
        packages=tuple(f"{lock}-{number}" for number in range(PARTS)),
    )


def packed(folder: Path) -> bytes:
    """The packages in a folder as a tar: the same bytes for the same wheels, wherever and by whichever
    version of `uv` they were installed."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", dereference=True) as tar:  # else one of two hard links is a link
        for file in sorted(folder.rglob("*")):
            if file.is_file() and of_wheel(file.relative_to(folder)):
                entry = tar.gettarinfo(file, str(file.relative_to(folder)))
                entry.uid = entry.gid = entry.mtime = 0
                entry.uname = entry.gname = ""
                entry.mode = 0o755 if entry.mode & 0o100 else 0o644
                with file.open("rb") as opened:
                    tar.addfile(entry, opened)
    return raw.getvalue()


def of_wheel(file: Path) -> bool:
    """Whether a file among installed packages is a wheel's own, and is packed. Programs begin with the path
    of their checkout's Python, which also changes the list of a package's files."""
    first = file.parts[0]
    if first.endswith(".dist-info"):
        return file.name.startswith(OF_DISTRIBUTIONS)
    return first != "bin" and not first.startswith(".") and "__pycache__" not in file.parts


def parts(tar: bytes) -> list[bytes]:
    """The tar in PARTS pieces, in order, each compressed by itself: one after the other they are unpacked to
    the whole, also where another version of zlib compressed some of them. Raises ClusterError where a
    ConfigMap can't take one."""
    size = -(-len(tar) // PARTS)
    pieces = [gzip.compress(tar[at * size : (at + 1) * size], LEVEL, mtime=0) for at in range(PARTS)]
    if (most := max(map(len, pieces))) > PART_BYTES:
        raise ClusterError(
            f"a part of the proxy's packages has {most} bytes, and a ConfigMap takes {PART_BYTES}: raise "
            "PARTS in components/kubernetes/files.py"
        )
    return pieces


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
