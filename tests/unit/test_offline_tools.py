"""The builder of Pulumi's command line and plugins: what it runs, and how it installs the plugins."""

import importlib.metadata
import re
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from common import StepFailed
from components.pins import COMMAND_PLUGIN, DOCKER_PLUGIN, KUBERNETES_PLUGIN, PULUMI
from offline import steps, tools

BUILDS = [
    tools.CLI,
    tools.LANGUAGE_HOST,
    tools.ACTIONLINT,
    tools.VMALERT_TOOL,
    tools.DOCKERD,
    tools.DOCKER_PROXY,
    tools.KUBERNETES,
    tools.COREDNS,
    tools.NETWORK_POLICIES,
    *tools.PLUGINS.values(),
    *tools.CLUSTER_PLUGINS.values(),
]


@pytest.fixture
def built(tmp_path: Path) -> tools.Tools:
    """Two plugin folders that look as if they had been built."""
    plugins = {}
    for name, build in tools.PLUGINS.items():
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True)
        (folder / build.program).write_text("a program")
        (folder / "ORIGIN").write_text(tools.ORIGIN)
        plugins[name] = folder
    return tools.Tools(bin=tmp_path / "bin", plugins=plugins)


def go_module(build: tools.GoBuild) -> str:
    """The go.mod of a build."""
    return (tools.SOURCES / build.source / "go.mod").read_text()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.program)
def test_every_build_has_its_modules_pinned(build: tools.GoBuild) -> None:
    assert go_module(build)
    assert (tools.SOURCES / build.source / "go.sum").read_text()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.program)
def test_no_build_asks_for_a_newer_go_than_the_message_does(build: tools.GoBuild) -> None:
    line = re.search(r"^go (\d+)\.(\d+)", go_module(build), re.MULTILINE)
    assert line is not None
    assert (int(line[1]), int(line[2])) <= tools.GO


def test_the_command_line_is_built_at_the_version_of_the_sdk() -> None:
    required = go_module(tools.CLI)
    assert f"github.com/pulumi/pulumi/pkg/v3 v{PULUMI} " in required
    assert f"github.com/pulumi/pulumi/sdk/v3 v{PULUMI} " in required
    assert set(tools.CLI.stamps.values()) == {f"v{PULUMI}"}


@pytest.mark.parametrize(
    ("package", "version"),
    [("pulumi", PULUMI), ("pulumi-command", COMMAND_PLUGIN), ("pulumi-docker", DOCKER_PLUGIN)],
)
def test_engine_and_plugins_are_of_the_version_of_their_sdk(package: str, version: str) -> None:
    assert importlib.metadata.version(package) == version


def test_plugins_are_named_and_stamped_as_the_published_sdks_ask_for_them() -> None:
    assert {name: build.stamps["main.version"] for name, build in tools.PLUGINS.items()} == {
        f"resource-command-v{COMMAND_PLUGIN}": COMMAND_PLUGIN,
        f"resource-docker-v{DOCKER_PLUGIN}": DOCKER_PLUGIN,
    }


def test_the_plugin_for_clusters_is_stamped_with_the_version_that_is_asked_for() -> None:
    ((name, build),) = tools.CLUSTER_PLUGINS.items()
    assert name == f"resource-kubernetes-v{KUBERNETES_PLUGIN}"
    assert list(build.stamps.values()) == [KUBERNETES_PLUGIN]
    assert f"pulumi-kubernetes/sdk/v4 v{KUBERNETES_PLUGIN}" in go_module(build)


@pytest.mark.parametrize("cluster", [False, True])
def test_what_only_a_cluster_needs_is_built_for_one_only(
    cluster: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = list[str]()

    def build_one(build: tools.GoBuild, go: str) -> Path:
        built.append(build.program)
        return tmp_path

    monkeypatch.setattr(tools, "go_version", lambda: "go1.26.0")
    monkeypatch.setattr(tools, "build_one", build_one)
    monkeypatch.setattr(tools, "_bin", lambda cli, host: tmp_path)
    found = tools.build(cluster=cluster)
    assert ("pulumi-resource-kubernetes" in built) is cluster
    assert set(found.plugins) == {*tools.PLUGINS, *(tools.CLUSTER_PLUGINS if cluster else ())}


def test_a_cluster_is_built_once_each_of_its_programs_and_its_plugin_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path))
    monkeypatch.setattr(tools, "go_version", lambda: "go1.26.0")
    monkeypatch.setattr(tools, "run", lambda *_, **__: None)
    monkeypatch.setattr(tools, "_whole", lambda build, source, log: nullcontext(source))
    for build in (*tools.CLUSTER, *tools.CLUSTER_PLUGINS.values()):
        assert not tools.is_cluster_built()
        tools.build_one(build, "go1.26.0")
    assert tools.is_cluster_built()
    monkeypatch.setattr(tools, "go_version", lambda: "go1.27.0")
    assert not tools.is_cluster_built(), "another Go builds other programs"


def test_embedded_files_of_another_module_lie_beside_a_copy_of_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, module = tmp_path / "source", tmp_path / "module"
    (module / "cmd").mkdir(parents=True)
    (module / "cmd/schema.json").write_text("{}")
    source.mkdir()
    (source / "main.go").write_text("package main")
    build = tools.GoBuild(source="source", package=".", program="it", embeds={"m": ("cmd/schema.json",)})
    monkeypatch.setattr(tools, "run", lambda *_, **__: None)
    told = subprocess.CompletedProcess([], 0, f"{module}\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)
    with tools._whole(build, source, tmp_path / "log") as here:
        assert {file.name for file in here.iterdir()} == {"main.go", "schema.json"}
    assert {file.name for file in source.iterdir()} == {"main.go"}


def test_a_build_names_its_output_and_every_version_it_stamps() -> None:
    words = tools.CLI.command(Path("folder"))
    assert words[:2] == ["go", "build"]
    assert words[words.index("-o") + 1] == "folder/pulumi"
    assert words[-1] == tools.CLI.package
    stamps = words[words.index("-ldflags") + 1]
    assert f"-X github.com/pulumi/pulumi/pkg/v3/version.Version=v{PULUMI}" in stamps


def test_install_makes_real_folders_whose_files_are_links_to_the_cache(
    built: tools.Tools, tmp_path: Path
) -> None:
    tools.install(built, tmp_path / "home")
    for name, folder in built.plugins.items():
        place = tmp_path / "home" / "plugins" / name
        assert place.is_dir()
        assert not place.is_symlink()
        assert {file.name: file.resolve() for file in place.iterdir()} == {
            file.name: file for file in folder.iterdir()
        }
        assert (place / "ORIGIN").read_text() == "built from package registries\n"


def test_a_second_install_leaves_everything_as_it_is(built: tools.Tools, tmp_path: Path) -> None:
    home = tmp_path / "home"
    tools.install(built, home)
    before = {file: file.lstat().st_ino for file in sorted(home.rglob("*"))}
    tools.install(built, home)
    assert {file: file.lstat().st_ino for file in sorted(home.rglob("*"))} == before


def test_install_replaces_a_plugin_that_comes_from_elsewhere(built: tools.Tools, tmp_path: Path) -> None:
    place = tmp_path / "home" / "plugins" / f"resource-docker-v{DOCKER_PLUGIN}"
    place.mkdir(parents=True)
    (place / "pulumi-resource-docker").write_text("the published one")
    (place / "PulumiPlugin.yaml").write_text("runtime: go")
    tools.install(built, tmp_path / "home")
    assert {file.name for file in place.iterdir()} == {"ORIGIN", "pulumi-resource-docker"}
    assert (place / "pulumi-resource-docker").read_text() == "a program"


def test_install_removes_what_an_interrupted_download_left(built: tools.Tools, tmp_path: Path) -> None:
    plugins = tmp_path / "home" / "plugins"
    plugins.mkdir(parents=True)
    name = f"resource-docker-v{DOCKER_PLUGIN}"
    for leftover in (".partial", ".lock"):
        (plugins / f"{name}{leftover}").touch()
    tools.install(built, tmp_path / "home")
    assert {file.name for file in plugins.iterdir()} == set(tools.PLUGINS)


def test_a_missing_go_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(StepFailed, match=r"`go` is missing.* Install Go 1\.26 or newer"):
        tools.go_version()


@pytest.mark.parametrize("told", ["go1.19.8", "devel", ""])
def test_a_go_that_is_too_old_or_does_not_tell_is_an_error(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/go")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, told, ""))
    with pytest.raises(StepFailed, match=r"`go` is too old: .* Install Go 1\.26 or newer"):
        tools.go_version()


def test_nothing_is_written_outside_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path))
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    seen = tools._environment()
    assert Path(seen["GOMODCACHE"]).is_relative_to(tmp_path)
    assert Path(seen["GOCACHE"]).is_relative_to(tmp_path)
    assert seen["GOTOOLCHAIN"] == "local"
    assert "vendor" not in seen["GOFLAGS"]


def test_two_that_place_plugins_at_once_do_not_break_each_other(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    for name in ("ORIGIN", "pulumi-resource-it"):
        (built / name).write_text(name)
    there = tools.Tools(bin=tmp_path, plugins={f"resource-it-v{number}": built for number in range(9)})
    for number in range(20):
        home = tmp_path / f"home-{number}"
        with ThreadPoolExecutor(max_workers=2) as pool:
            for done in [pool.submit(tools.install, there, home) for _ in range(2)]:
                done.result()
        assert sorted(each.name for each in (home / "plugins").iterdir()) == sorted(there.plugins)
        for name in there.plugins:
            assert tools._links(home / "plugins" / name) == {each.name: each for each in built.iterdir()}


def test_two_that_want_the_same_step_build_it_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path))
    begun, built = threading.Event(), list[Path]()

    def build(folder: Path, log: Path) -> None:
        begun.set()
        time.sleep(0.2)
        (folder / "program").write_text("a program")
        built.append(folder)

    with ThreadPoolExecutor(max_workers=2) as pool:
        first = pool.submit(steps.cached, "step", "key", build)
        assert begun.wait(10)
        second = pool.submit(steps.cached, "step", "key", build)
    assert first.result() == second.result() and len(built) == 1
    assert (first.result() / "program").read_text() == "a program"


def test_a_step_that_fails_leaves_nothing_that_is_taken_for_its_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path))

    def half(folder: Path, log: Path) -> None:
        (folder / "half").touch()
        steps.run(["false"], log=log)

    with pytest.raises(StepFailed, match=r"step could not be built\. `false …` exited 1"):
        steps.cached("step", "key", half)
    place = steps.cached("step", "key", lambda folder, log: (folder / "whole").touch())
    assert [each.name for each in place.iterdir()] == ["whole"]
