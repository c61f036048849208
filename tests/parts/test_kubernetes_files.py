"""What the pods run of our own comes to the cluster once, and is what it is called by."""

import base64
import gzip
import hashlib
import io
import itertools
import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.kubernetes import files
from components.kubernetes.files import PART_BYTES, PARTS, Files, mounted, names, packed, parts
from components.kubernetes.kubectl import ClusterError, Missing, kubectl
from components.kubernetes.objects import objects
from components.kubernetes.pods import WHEELS
from components.labels import Labels
from components.proxy import LOCK
from stacks.cluster import cluster
from tests.support.objects import plan

LABELS = Labels(project="changeover", stack="fleet")


class Cluster:
    """ConfigMaps by name."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Any]] = {}
        self.fetched = 0
        self.using = list[dict[str, Any]]()

    def run(self, words: Sequence[str], stdin: str) -> str:
        match list(words):
            case ["get", "configmap", name, "--output", "name"]:
                if name not in self.there:
                    raise Missing(f'Error from server (NotFound): configmaps "{name}" not found')
                return f"configmap/{name}"
            case ["create", "--filename", "-"]:
                made = json.loads(stdin)
                assert made["metadata"]["name"] not in self.there
                self.there[made["metadata"]["name"]] = made
                return ""
            case ["get", "configmaps", "--selector", told, "--output", "name"]:
                assert told.endswith("changeover.stack=fleet,changeover.role=code")
                return "".join(f"configmap/{each}\n" for each in self.there)
            case ["get", "configmaps", "--selector", _, *_]:
                named = [{"metadata": {"name": each}} for each in self.there]
                return json.dumps({"items": named})
            case ["get", "pods,deployments,daemonsets", "--selector", told, *_]:
                assert told == "changeover.project=changeover,changeover.stack=fleet"
                return json.dumps({"items": self.using})
            case ["delete", "configmaps", *names]:
                for each in names:
                    del self.there[each]
                return ""
        raise AssertionError(words)

    def fetch(self, folder: Path) -> None:
        """What `uv` puts there for the checkout in whose folder this is: a program begins with the path of
        its Python, and the list of a package's files has that program's sum."""
        self.fetched += 1
        program = f"#!{folder.parent}/.venv/bin/python3\n"
        for name, text in {
            ".lock": "",
            "bin/idna": program,
            "idna-3.dist-info/METADATA": "Version: 3",
            "idna-3.dist-info/RECORD": f"../bin/idna,{hashlib.sha256(program.encode()).hexdigest()}",
            "idna-3.dist-info/INSTALLER": "uv",
            "idna-3.dist-info/licenses/LICENSE": "Do as you like.",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        (folder / "aiohttp").mkdir()
        (folder / "aiohttp" / "__init__.py").write_text("version = 3")
        (folder / "aiohttp" / "fast.so").write_bytes(bytes(range(256)) * 40)
        (folder / "aiohttp" / "fast.so").chmod(0o755)
        (folder / "aiohttp" / "__pycache__").mkdir()
        (folder / "aiohttp" / "__pycache__" / "x.pyc").write_text("of whoever ran it")

    def bring(self, folder: Path) -> list[str]:
        return Files(LABELS, "llm", self.run, self.fetch).bring(names(), folder / "wheels")

    def data(self, name: str) -> bytes:
        ((_, value),) = self.there[name]["binaryData"].items()
        return base64.b64decode(value)


def test_all_that_is_mounted_is_there_after_it_and_once_only(tmp_path: Path) -> None:
    at, wanted = Cluster(), names()
    made = at.bring(tmp_path)
    args = cluster(plan("t4"), LABELS, wanted.code, wanted.packages)
    mounted = {f"fleet-{package}-{digest}" for package, digest in args.code.items()}
    mounted |= {f"fleet-packages-{each}" for each in args.packages}
    assert set(at.there) == mounted == {f"fleet-{each}" for each in made} and len(made) == 2 + PARTS
    assert all(each["immutable"] and each["metadata"]["namespace"] == "llm" for each in at.there.values())
    assert at.bring(tmp_path) == [] and at.fetched == 1


def test_what_nothing_uses_is_taken_away_and_what_serves_is_not(tmp_path: Path) -> None:
    at = Cluster()
    at.bring(tmp_path)
    wanted, there = set(at.there), ("fleet-proxy-1", "fleet-switch-1", "fleet-switch-2", "fleet-switch-3")
    at.there |= {name: {} for name in there}
    of_pod = {"volumes": [{"configMap": {"name": "fleet-switch-1"}}, {"emptyDir": {}}]}
    of_others = {"volumes": [{"projected": {"sources": [{"configMap": {"name": "fleet-switch-2"}}]}}]}
    at.using = [{"spec": of_pod}, {"spec": {"template": {"spec": of_others}}}, {"spec": {"containers": []}}]
    tidy = Files(LABELS, "llm", at.run, at.fetch).tidy
    assert tidy(names()) == ["fleet-proxy-1", "fleet-switch-3"]
    assert set(at.there) == wanted | {"fleet-switch-1", "fleet-switch-2"} and tidy(names()) == []


def test_what_is_mounted_is_found_in_the_objects_as_they_are_made() -> None:
    args = cluster(plan("t4"), LABELS, names().code, names().packages)
    of_pods = [each for each in objects(args) if each["kind"] in ("Deployment", "DaemonSet")]
    named = {f"fleet-{package}-{digest}" for package, digest in args.code.items()}
    assert mounted(of_pods) >= named | {f"fleet-packages-{each}" for each in args.packages}


def test_what_is_missing_is_made_and_packages_that_are_here_are_not_fetched_again(tmp_path: Path) -> None:
    at = Cluster()
    at.bring(tmp_path)
    before = dict(at.there)
    gone = f"fleet-packages-{names().packages[2]}"
    files = Files(LABELS, "llm", at.run)
    assert files.gone(names()) == []
    del at.there[gone]
    assert files.gone(names()) == [gone]
    assert at.bring(tmp_path) == [gone.removeprefix("fleet-")]
    assert at.there == before and at.fetched == 1


PACKED = {"aiohttp/__init__.py", "aiohttp/fast.so", "idna-3.dist-info/METADATA"} | {
    "idna-3.dist-info/licenses/LICENSE"
}


def unpacked(there: Mapping[str, Mapping[str, Any]], at: Path) -> dict[str, Path]:
    """The files that a proxy has of these ConfigMaps, unpacked within `at` as its pod does it."""
    folder, out = at / "packages", at / "out"
    folder.mkdir(parents=True)
    out.mkdir()
    for name, made in there.items():
        if name.startswith("fleet-packages-"):
            ((file, value),) = made["binaryData"].items()
            (folder / file).write_bytes(base64.b64decode(value))
    (pod,) = (
        each["spec"]["template"]["spec"]
        for each in objects_of("t4")
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "t4-proxy"
    )
    _, _, command = pod["initContainers"][0]["command"]
    command = command.replace("/packages", str(folder)).replace(WHEELS, str(out))
    subprocess.run(["/bin/sh", "-c", command], check=True)
    return {str(file.relative_to(out)): file for file in out.rglob("*") if file.is_file()}


def test_the_parts_are_unpacked_to_the_packages_as_the_pod_does_it(tmp_path: Path) -> None:
    at = Cluster()
    at.bring(tmp_path)
    found = unpacked(at.there, tmp_path)
    assert set(found) == PACKED
    assert found["aiohttp/fast.so"].read_bytes() == bytes(range(256)) * 40
    assert found["aiohttp/fast.so"].stat().st_mode & stat.S_IXUSR


def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cluster, Cluster]:
    """The clusters of two checkouts, each of which has brought all: paths, and a zlib, of their own."""
    one, other = Cluster(), Cluster()
    one.bring(tmp_path / "one")
    monkeypatch.setattr(files, "LEVEL", 1)
    other.bring(tmp_path / "elsewhere")
    assert one.there.keys() == other.there.keys() and one.there != other.there
    return one, other


@pytest.mark.parametrize("gone", range(PARTS))
def test_a_part_that_another_checkout_makes_anew_leaves_the_packages_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    one, other = both(tmp_path, monkeypatch)
    name = f"fleet-packages-{names().packages[gone]}"
    before = dict(one.there)
    del one.there[name]
    assert one.bring(tmp_path / "elsewhere") == [name.removeprefix("fleet-")]
    assert one.there == before | {name: other.there[name]}
    assert set(unpacked(one.there, tmp_path)) == PACKED


@pytest.mark.parametrize("killed", range(2 + PARTS))
def test_packages_are_whole_where_another_checkout_ends_what_one_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """One is killed once it has made so many ConfigMaps."""
    one, other = both(tmp_path, monkeypatch)
    one.there = dict(itertools.islice(one.there.items(), killed))
    before = dict(one.there)
    one.bring(tmp_path / "elsewhere")
    assert one.there == other.there | before
    assert set(unpacked(one.there, tmp_path)) == PACKED


def test_parts_that_an_earlier_version_has_made_are_none_of_these_and_stay_while_they_are_mounted(
    tmp_path: Path,
) -> None:
    """They were pieces of one archive that was compressed as a whole."""
    at = Cluster()
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:8]
    old = [f"fleet-packages-{lock}-{number}" for number in range(PARTS)]
    at.there = {name: {} for name in old}
    assert len(at.bring(tmp_path)) == 2 + PARTS
    sources = [{"configMap": {"name": name}} for name in old]
    at.using = [{"spec": {"volumes": [{"projected": {"sources": sources}}]}}]
    tidy = Files(LABELS, "llm", at.run, at.fetch).tidy
    assert tidy(names()) == []
    at.using = []
    assert tidy(names()) == old


def objects_of(stack: str) -> list[dict[str, Any]]:
    return objects(cluster(plan(stack), Labels(project="changeover", stack=stack)))


def test_the_code_runs_from_its_zip_as_the_pods_run_it(tmp_path: Path) -> None:
    at = Cluster()
    at.bring(tmp_path)
    for package, digest in names().code.items():
        raw = at.data(f"fleet-{package}-{digest}")
        assert zipfile.ZipFile(io.BytesIO(raw)).testzip() is None and len(raw) < PART_BYTES
        (tmp_path / f"{package}.zip").write_bytes(raw)
    run = [sys.executable, "-m", "switch.pod", str(tmp_path / "nothing.json")]
    done = subprocess.run(
        run, env={"PYTHONPATH": str(tmp_path / "switch.zip")}, capture_output=True, text=True, cwd=tmp_path
    )
    assert "FileNotFoundError" in done.stderr and "nothing.json" in done.stderr, "it has begun"


def test_the_same_wheels_are_the_same_bytes_and_others_are_not(tmp_path: Path) -> None:
    at = Cluster()
    one, two = tmp_path / "one" / "wheels", tmp_path / "two" / "wheels"
    for folder in (one, two):
        folder.mkdir(parents=True)
        at.fetch(folder)
    assert (one / "bin" / "idna").read_text() != (two / "bin" / "idna").read_text()
    os.link(one / "aiohttp" / "fast.so", tmp_path / "cached")  # as `uv` does it with what it keeps
    assert packed(one) == packed(two)
    with tarfile.open(fileobj=io.BytesIO(packed(one))) as tar:
        assert {entry.uid for entry in tar} == {0}
    (two / "aiohttp" / "__init__.py").write_text("version = 4")
    assert packed(one) != packed(two)


@pytest.mark.parametrize("size", [0, 1, PARTS - 1, PARTS, PARTS + 1, PARTS * PART_BYTES])
def test_parts_put_together_are_the_whole(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    pieces = parts(data)
    assert gzip.decompress(b"".join(pieces)) == data and len(pieces) == PARTS
    assert max(map(len, pieces)) <= PART_BYTES


def test_packages_that_no_config_maps_take_are_refused() -> None:
    with pytest.raises(ClusterError, match="raise PARTS"):
        parts(os.urandom(PARTS * PART_BYTES + 1))


def test_packages_that_can_not_be_fetched_change_nothing(tmp_path: Path) -> None:
    at = Cluster()

    def fails(folder: Path) -> None:
        raise ClusterError("no registry")

    its = replace(Files(LABELS, "llm", at.run), fetch=fails)
    with pytest.raises(ClusterError):
        its.bring(names(), tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists() and not any("packages" in name for name in at.there)


KUBECTL = """#!/bin/sh
# a test double: kubectl, which says what it was asked for, and fails as it is told
echo "$*"
cat
[ ! -e fails ] || { cat fails >&2; exit 1; }
"""


def test_kubectl_is_asked_in_the_namespace_and_by_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    assert kubectl("llm", "")(["get", "pods"], "in").splitlines() == [
        "--namespace llm --request-timeout 20s get pods",
        "in",
    ]
    assert "--namespace llm --context prod " in kubectl("llm", "prod")(["get", "pods"], "")
    (tmp_path / "fails").write_text('Error from server (NotFound): pods "x" not found')
    with pytest.raises(Missing):
        kubectl("llm", "")(["get", "pods", "x"], "")
    (tmp_path / "fails").write_text("Unable to connect to the server")
    with pytest.raises(ClusterError, match="Unable to connect"):
        kubectl("llm", "")(["get", "pods"], "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="there is no `kubectl`"):
        kubectl("llm", "")(["get", "pods"], "")


def test_the_step_is_told_whose_files_they_are_by_its_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"PROJECT": "changeover", "STACK": "fleet", "NAMESPACE": "llm", "CONTEXT": ""}
    asked = list[list[str]]()

    def run(words: Sequence[str], stdin: str) -> str:
        asked.append([*words[:3]])
        return '{"items": [], "metadata": {}}'

    monkeypatch.setattr(files, "kubectl", lambda namespace, context: run)
    assert files.main(told) == 0
    assert "All files are on the cluster." in capsys.readouterr().out
    kept = asked.index(["patch", "configmap", "fleet-live"])
    code = [at for at, words in enumerate(asked) if words[2].startswith("fleet-proxy-")]
    assert code and kept < min(code), "other code has the proxies replaced, with their logs"


def test_the_first_update_of_a_stack_finds_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"PROJECT": "changeover", "STACK": "fleet", "NAMESPACE": "llm", "CONTEXT": ""}

    def run(words: Sequence[str], stdin: str) -> str:
        if words[2] == "fleet-live":
            raise Missing('Error from server (NotFound): configmaps "fleet-live" not found')
        return '{"items": []}'

    monkeypatch.setattr(files, "kubectl", lambda namespace, context: run)
    assert files.main(told) == 0


def test_what_is_no_resource_of_pulumi_goes_with_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"PROJECT": "changeover", "STACK": "fleet", "NAMESPACE": "llm", "CONTEXT": ""}
    asked = list[list[str]]()

    def run(words: Sequence[str], stdin: str) -> str:
        asked.append([*words])
        return ""

    monkeypatch.setattr(files, "kubectl", lambda namespace, context: run)
    assert files.main(told, ["remove"]) == 0
    of_code = "changeover.project=changeover,changeover.stack=fleet,changeover.role=code"
    assert asked == [
        ["delete", "configmaps", "--selector", of_code],
        ["delete", "lease", "fleet-flip", "--ignore-not-found"],
    ]
