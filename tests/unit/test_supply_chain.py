"""Where what is installed and pulled comes from: by hash wherever a hash can be known."""

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from common import ROOT
from components import pins
from stacks.blueprint import blueprint_of
from stacks.settings import from_files, stacks

SHIPPED = (
    *("advise", "components", "measure", "monitor", "offline"),
    *("parity", "review", "stacks", "switch", "tools", "traffic"),
)
"""Whose modules run in the virtual environment of somebody who tests nothing."""
ELSEWHERE = (ROOT / "measure" / "client.py", *(ROOT / "offline" / "image").glob("*.py"))
"""What of that runs in containers, which have packages of their own."""
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")
LOCKS = (
    *("requirements.lock", "requirements-dev.lock", "proxy/requirements.lock", "tools/uv.txt"),
    *("offline/client/requirements.txt", "offline/agent/requirements.txt", "policy/requirements.txt"),
)


def packages(lock: str) -> list[str]:
    """What a lock file says of each package: its name, version and hashes."""
    return re.split(r"^(?=[a-z])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_file_has_its_hashes(lock: str) -> None:
    assert packages(lock)
    for each in packages(lock):
        assert re.match(r"[\w.-]+(\[\w+\])?==\S+", each) and HASH.search(each), each


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_file_names_a_registry(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text()


def test_an_environment_for_tests_has_the_very_packages_of_one_for_use() -> None:
    assert set(packages("requirements.lock")) < set(packages("requirements-dev.lock"))


def test_the_packages_of_those_who_test_nothing_are_all_that_is_imported() -> None:
    distributions = packages_distributions()
    locked = {each.split("==")[0] for each in packages("requirements.lock")}
    files = [file for folder in SHIPPED for file in (ROOT / folder).rglob("*.py") if file not in ELSEWHERE]
    for file in [ROOT / "__main__.py", ROOT / "common.py", *files]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                brings = {
                    each.lower().replace("_", "-") for each in distributions.get(name.split(".")[0], [])
                }
                assert not brings or brings & locked, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("module", ["tools.touched", "tools.docker_engine"])
def test_what_runs_before_anything_is_installed_needs_no_package(module: str) -> None:
    """As in `.ci/run` and in the workflows."""
    command = [sys.executable, "-S", "-c", f"import {module}"]  # without what is in the virtual environment
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["client", "agent"])
def test_every_package_of_node_has_its_hash_and_names_no_registry(folder: str) -> None:
    packages = json.loads((ROOT / "offline" / folder / "package-lock.json").read_text())["packages"]
    (own, *others) = packages.items()
    assert own[0] == "" and others
    for name, each in others:
        assert each["integrity"].startswith("sha512-") and "resolved" not in each, name


def test_the_guide_to_clients_names_the_versions_that_are_tried() -> None:
    python = dict(
        re.findall(r"^([\w-]+)==(\S+)", (ROOT / "offline/client/requirements.txt").read_text(), re.M)
    )
    node = json.loads((ROOT / "offline/client/package.json").read_text())["dependencies"]
    rows = re.findall(
        r"^\| (`[^|]+), (Python|Node 24) \| ([^|]+) \|", (ROOT / "docs/clients.md").read_text(), re.M
    )
    assert len(rows) == 8
    for names, language, versions in rows:
        packages = re.findall(r"`([^`]+)`", names)
        known = python if language == "Python" else node
        assert [known[name] for name in packages] == versions.split(", "), names


def test_the_guide_to_coding_agents_names_the_versions_that_are_tried() -> None:
    (aider,) = (ROOT / "offline/agent/requirements.in").read_text().split()
    said = json.loads((ROOT / "offline/agent/package.json").read_text())
    known = {**said["dependencies"], **said["optionalDependencies"], **dict([aider.split("==")])}
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` ([\d.]+) \|", (ROOT / "docs/agents.md").read_text(), re.M)
    assert len(rows) == 5
    for package, version in rows:
        pinned = [each for name, each in known.items() if package.removesuffix("-ai") in name]
        assert pinned and all(version in each for each in pinned), (package, pinned)


def test_nothing_is_installed_into_the_virtual_environment_without_its_hash() -> None:
    for line in (ROOT / "Makefile").read_text().splitlines():
        if re.search(r"\bpip (install|sync)\b", line):
            assert "--require-hashes" in line, line


def test_every_image_has_a_digest_or_says_why_it_has_none() -> None:
    for pin in pins.ALL:
        assert ("@sha256:" in pin.public) is (pin.digest != pins.NOT_KNOWN), pin
        if "@" in pin.public:
            assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", pin.public)
    declared = [value for value in vars(pins).values() if isinstance(value, pins.Image)]
    assert sorted(each.name for each in declared) == sorted(each.name for each in pins.ALL)


def test_the_image_with_dockers_socket_has_a_digest() -> None:
    assert "@sha256:" in pins.SWITCH.public


@pytest.mark.parametrize("stack", stacks(ROOT))
def test_each_stack_pulls_what_the_pins_say(stack: str) -> None:
    blueprint = blueprint_of(from_files(stack, ROOT))
    if blueprint.settings.images == "public":
        assert blueprint.reference(pins.SWITCH) == pins.SWITCH.public


def test_what_docker_calls_an_image_that_was_pulled_by_its_digest() -> None:
    digest = "sha256:" + "0" * 64
    for public, pulled in (
        (f"registry:5000/a/b:1.0@{digest}", f"registry:5000/a/b@{digest}"),
        (f"python:3.11-slim@{digest}", f"python@{digest}"),
        ("caddy:2.11.9", "caddy:2.11.9"),
    ):
        image = pins.Image(name="x", version="1", public=public, reason="", digest="", size=0)
        assert image.pulled == pulled
