"""The vendor's CLI and plugins: what is downloaded is what is pinned, or nothing stays of it."""

import dataclasses
import errno
import hashlib
import importlib.metadata
import io
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import offline.clients
import offline.tools
from common import StepFailed
from components import pins
from tools import docker_engine, environment, up, vendor

ANSWER = """#!/bin/sh
echo v{version}
"""
Serve = Callable[..., list[str]]
"""Takes an archive, or what gives one for a path."""


def packed(version: str = pins.PULUMI) -> bytes:
    """An archive as the vendor's is laid out, with a CLI that says its version."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name in ("pulumi", "pulumi-language-python", "pulumi-language-python-exec"):
            text = ANSWER.format(version=version).encode()
            entry = tarfile.TarInfo(f"pulumi/{name}")
            entry.size, entry.mode = len(text), 0o755
            archive.addfile(entry, io.BytesIO(text))
    return whole.getvalue()


ARCHIVE = packed()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which the archive of this machine is pinned as `ARCHIVE`."""
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path / "cache"))
    pinned = {vendor.archive_name(): hashlib.sha256(ARCHIVE).hexdigest()}
    monkeypatch.setattr(pins, "PULUMI_ARCHIVES", pinned)
    return tmp_path / "cache"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Has the vendor answer with `body`, or with its first `sent` bytes, and then be `silent`.

    Returns the paths that are asked for.
    """
    servers: list[ThreadingHTTPServer] = []
    end = threading.Event()

    def serve(
        body: bytes | Callable[[str], bytes] = ARCHIVE,
        *,
        status: int = 200,
        sent: int | None = None,
        silent: bool = False,
    ) -> list[str]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                answer = body if isinstance(body, bytes) else body(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer[:sent])
                if silent:
                    end.wait()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setattr(vendor, "URL", f"http://127.0.0.1:{servers[-1].server_address[1]}/sdk")
        return asked

    yield serve
    end.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh checkout on a machine that has no Pulumi."""
    monkeypatch.setattr(environment, "BIN", tmp_path / "checkout" / "bin")
    monkeypatch.setattr(environment, "PULUMI_HOME", tmp_path / "checkout" / "pulumi")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    return tmp_path / "checkout"


def nothing_is_left(cache: Path) -> bool:
    return not [file for file in cache.rglob("*") if file != cache / "pulumi-vendor"]


def test_every_archive_that_is_pinned_is_of_the_version_that_is_pinned() -> None:
    assert set(pins.PULUMI_ARCHIVES) == {
        f"pulumi-v{pins.PULUMI}-{system}-{machine}.tar.gz"
        for system in ("linux", "darwin")
        for machine in ("x64", "arm64")
    }, "a new version needs its archives' sums"
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in pins.PULUMI_ARCHIVES.values())
    assert len(set(pins.PULUMI_ARCHIVES.values())) == 4


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "linux-x64"),
        ("Linux", "aarch64", "linux-arm64"),
        ("Darwin", "arm64", "darwin-arm64"),
        ("Darwin", "x86_64", "darwin-x64"),
    ],
)
def test_the_archive_of_a_machine_is_pinned(
    system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert vendor.archive_name() == f"pulumi-v{pins.PULUMI}-{name}.tar.gz"
    assert vendor.archive_name() in pins.PULUMI_ARCHIVES


def test_the_vendor_is_asked_over_tls() -> None:
    assert vendor.URL.startswith("https://")


def test_a_fresh_checkout_gets_the_vendors_cli_and_downloads_it_once(
    cache: Path, checkout: Path, serve: Serve
) -> None:
    asked = serve()
    environment.install_tools()
    assert {file.name for file in (checkout / "bin").iterdir()} == {
        "pulumi",
        "pulumi-language-python",
        "pulumi-language-python-exec",
    }
    assert (checkout / "bin" / "pulumi").resolve().is_relative_to(cache)
    shutil.rmtree(checkout)
    environment.install_tools()
    assert environment._version(checkout / "bin" / "pulumi") == f"v{pins.PULUMI}"
    assert asked == [f"/sdk/{vendor.archive_name()}"]
    assert [file.name for file in (cache / "pulumi-vendor").iterdir()] == [
        hashlib.sha256(ARCHIVE).hexdigest()[:12]
    ], "the archive itself is not kept"


def test_another_archive_is_refused_and_nothing_of_it_is_left(
    cache: Path, checkout: Path, serve: Serve
) -> None:
    serve(packed("3.259.1"))
    with pytest.raises(StepFailed, match=r"is not the archive that .* names, and was thrown away"):
        environment.install_tools()
    assert nothing_is_left(cache)
    assert not list((checkout / "bin").iterdir())


@pytest.mark.parametrize("sent", [0, 100])
def test_a_download_that_breaks_off_is_said_and_nothing_of_it_is_left(
    cache: Path, serve: Serve, sent: int
) -> None:
    serve(sent=sent)
    with pytest.raises(StepFailed, match=r"broke off after 0 MB .* Run the command again"):
        vendor.download()
    assert nothing_is_left(cache)


def test_a_vendor_that_falls_silent_is_not_waited_for_for_ever(
    cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor, "SILENCE_SECONDS", 0.2)
    serve(sent=100, silent=True)
    with pytest.raises(StepFailed, match=r"broke off after 0 MB \(timed out\)"):
        vendor.download()
    assert nothing_is_left(cache)


def refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor, "URL", "http://127.0.0.1:1/sdk")


def forbidden(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(b"not from here", status=403)


def unknown_machine(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")


@pytest.mark.parametrize("why", [refused, forbidden, unknown_machine])
def test_where_the_vendors_cli_cannot_be_had_it_is_built(
    cache: Path,
    checkout: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    why: Callable[[Serve, pytest.MonkeyPatch], None],
) -> None:
    why(serve, monkeypatch)
    built = checkout / "built"
    built.mkdir(parents=True)
    (built / "pulumi").touch()
    monkeypatch.setattr(offline.tools, "build", lambda *, cluster: offline.tools.Tools(bin=built, plugins={}))
    environment.install_tools()
    assert (checkout / "bin" / "pulumi").readlink() == built / "pulumi"
    said = capsys.readouterr().out
    assert "building CLI and plugins from package registries" in said and "take about 12 minutes" in said
    assert not cache.exists() or nothing_is_left(cache)


def test_only_plugins_that_a_program_asks_for_are_fetched() -> None:
    assert environment.variables()["PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL"] == "true"


def test_every_plugin_has_the_version_of_its_sdk_and_sums_of_its_own() -> None:
    for name in ("aws", "command", "docker"):
        assert importlib.metadata.version(f"pulumi-{name}") == pins.PULUMI_PLUGINS[name].version
    sums = [each for plugin in pins.PULUMI_PLUGINS.values() for each in plugin.archives.values()]
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in sums)
    assert len(set(sums)) == len(sums) == 14
    for name, plugin in pins.PULUMI_PLUGINS.items():
        assert {"linux-amd64", "linux-arm64", "darwin-arm64"} <= set(plugin.archives), name
        url = plugin.url.format(version="1.2.3", machine="linux-amd64")
        assert url.startswith("https://")
        assert url.endswith(f"/pulumi-resource-{name}-v1.2.3-linux-amd64.tar.gz")


PLUGIN = b"#!/bin/sh\n"


def packed_plugin(name: str) -> bytes:
    """An archive as the vendor's are laid out: the program, and what is said of it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for file in (f"pulumi-resource-{name}", "LICENSE"):
            entry = tarfile.TarInfo(file)
            entry.size, entry.mode = len(PLUGIN), 0o755
            archive.addfile(entry, io.BytesIO(PLUGIN))
    return whole.getvalue()


@pytest.fixture
def plugins(cache: Path, checkout: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A vendor that has all plugins as they are pinned, and two stacks beside `local`; returns the paths that
    are asked for."""
    targets = {"local": "docker", "cloud": "aws", "fleet": "kubernetes"}
    monkeypatch.setattr("tools.host._target", lambda stack, root: targets[stack])
    archives = {name: packed_plugin(name) for name in pins.PULUMI_PLUGINS}
    asked = serve(lambda path: archives[path.split("-")[2]])
    here = vendor.URL.removesuffix("/sdk")
    for name, archive in archives.items():
        plugin = pins.PulumiPlugin(
            version=pins.PULUMI_PLUGINS[name].version,
            url=here + "/pulumi-resource-" + name + "-v{version}-{machine}.tar.gz",
            archives={vendor.machine(): hashlib.sha256(archive).hexdigest()},
        )
        monkeypatch.setitem(pins.PULUMI_PLUGINS, name, plugin)
    return asked


def names(*plugins: str) -> list[str]:
    return [f"resource-{name}-v{pins.PULUMI_PLUGINS[name].version}" for name in sorted(plugins)]


def placed() -> list[str]:
    return sorted(file.name for file in (environment.PULUMI_HOME / "plugins").iterdir())


@pytest.mark.parametrize(("stack", "more"), [("local", []), ("cloud", ["aws"]), ("fleet", ["kubernetes"])])
def test_the_plugins_that_a_stack_needs_are_fetched_once(
    plugins: list[str], stack: str, more: list[str]
) -> None:
    for _ in range(2):
        environment.install_plugins(stack)
        assert placed() == names("command", "docker", *more)
    for name in names("command", "docker", *more):
        program = environment.PULUMI_HOME / "plugins" / name / f"pulumi-{name.rpartition('-v')[0]}"
        assert program.read_bytes() == PLUGIN and program.stat().st_mode & 0o111
    assert plugins == [
        f"/pulumi-{name}-{vendor.machine()}.tar.gz" for name in [*names("command", "docker"), *names(*more)]
    ]


@pytest.mark.parametrize(
    ("words", "fetched"),
    [
        (("preview", "--stack", "cloud"), ["aws", "command", "docker"]),
        (("destroy", "--yes", "--stack", "local"), ["command", "docker"]),
        (("stack", "ls", "--json"), []),
        (("stack", "export", "--stack", "cloud"), []),
    ],
)
def test_they_are_there_before_pulumi_needs_them(
    plugins: list[str], words: tuple[str, ...], fetched: list[str]
) -> None:
    environment.BIN.mkdir(parents=True)
    program = environment.BIN / "pulumi"
    program.write_text(f"#!/bin/sh\nls {environment.PULUMI_HOME}/plugins 2>/dev/null\nexit 0\n")
    program.chmod(0o755)
    assert environment.pulumi(*words, capture=True).split() == names(*fetched)


def test_a_plugin_that_pulumi_fetched_itself_gives_way_to_the_one_that_is_pinned(plugins: list[str]) -> None:
    (before,) = names("docker")
    place = environment.PULUMI_HOME / "plugins" / before
    place.mkdir(parents=True)
    (place / "pulumi-resource-docker").write_text("another")
    place.with_name(f"{before}.partial").touch()
    environment.install_plugins("local")
    assert (place / "pulumi-resource-docker").read_bytes() == PLUGIN
    assert placed() == names("command", "docker")


def test_another_plugin_is_refused_and_nothing_of_it_is_left(
    plugins: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = dataclasses.replace(pins.PULUMI_PLUGINS["command"], archives={vendor.machine(): "0" * 64})
    monkeypatch.setitem(pins.PULUMI_PLUGINS, "command", pinned)
    with pytest.raises(StepFailed, match=r"/pulumi-resource-command-\S+ is not the archive that"):
        environment.install_plugins("local")
    assert nothing_is_left(cache) and not environment.PULUMI_HOME.exists()


def test_a_plugin_that_cannot_be_had_ends_the_command_and_says_why(
    plugins: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dataclasses.replace(pins.PULUMI_PLUGINS["command"], url="http://127.0.0.1:1/{version}{machine}")
    monkeypatch.setitem(pins.PULUMI_PLUGINS, "command", away)
    with pytest.raises(StepFailed, match=r"can't be reached: .*refused.* Run the command again"):
        environment.install_plugins("local")
    assert nothing_is_left(cache)


def test_a_plugin_that_is_there_goes_on_where_its_vendor_cannot_be_reached(
    plugins: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = names("command")
    place = environment.PULUMI_HOME / "plugins" / name
    place.mkdir(parents=True)
    (place / "pulumi-resource-command").write_text("fetched by Pulumi, with another version of this project")
    away = dataclasses.replace(pins.PULUMI_PLUGINS["command"], url="http://127.0.0.1:1/{version}{machine}")
    monkeypatch.setitem(pins.PULUMI_PLUGINS, "command", away)
    environment.install_plugins("local")
    said = capsys.readouterr().out
    assert "the plugin for command is installed but unverified" in said and "refused" in said
    assert placed() == names("command", "docker") and not (place / "pulumi-resource-command").is_symlink()


def test_built_plugins_are_completed_for_a_stack_on_a_cluster_and_none_is_fetched(
    plugins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = list[str]()
    monkeypatch.setattr(environment, "_built", lambda: True)
    monkeypatch.setattr(environment, "install_tools", lambda: built.append("all"))
    for stack in ("local", "cloud", "fleet"):
        environment.install_plugins(stack)
    assert (built, plugins) == (["all"], [])
    (name,) = names("kubernetes")
    place = environment.PULUMI_HOME / "plugins" / name
    place.mkdir(parents=True)
    (place / "pulumi-resource-kubernetes").touch()
    environment.install_plugins("fleet")
    assert built == ["all"]


def test_a_full_disk_is_no_vendor_that_is_away(
    plugins: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vendor, "unpack", full)
    with pytest.raises(StepFailed, match=r"command-\S+ can't be kept in .*No space left"):
        environment.install_plugins("local")
    assert nothing_is_left(cache)


def test_where_no_sum_is_known_a_plugin_is_fetched_only_if_somebody_says_so(
    plugins: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = dataclasses.replace(pins.PULUMI_PLUGINS["docker"], archives={})
    monkeypatch.setitem(pins.PULUMI_PLUGINS, "docker", unknown)
    monkeypatch.delenv(environment.FETCHES_NONE, raising=False)
    why = f"plugin for docker is known for {vendor.machine()}"
    with pytest.raises(
        StepFailed, match=f"{why}, .* in front of the same command: {environment.FETCHES_NONE}=false"
    ):
        environment.install_plugins("local")
    monkeypatch.setenv(environment.FETCHES_NONE, "false")
    environment.install_plugins("local")
    assert f"{why}; Pulumi itself fetches it" in capsys.readouterr().out
    assert placed() == names("command")
    monkeypatch.delenv(environment.FETCHES_NONE)
    (name,) = names("docker")
    place = environment.PULUMI_HOME / "plugins" / name
    place.mkdir(parents=True)
    (place / "pulumi-resource-docker").touch()
    environment.install_plugins("local")
    assert f"is installed but unverified: no SHA-256 of Pulumi's {why}" in capsys.readouterr().out
    assert placed() == names("command", "docker")


@pytest.mark.parametrize("cluster", [False, True])
def test_the_tests_have_the_plugins_that_their_stacks_ask_for(
    plugins: list[str], monkeypatch: pytest.MonkeyPatch, cluster: bool
) -> None:
    for module, name in (
        (docker_engine, "ensure"),
        (environment, "set_up"),
        (up, "build_offline"),
        *((offline.tools, each) for each in ("build_docker_engine", "build_one", "go_version", "build")),
        (offline.tools, "build_cluster"),
        (offline.clients, "install"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    up.prepare_tests(cluster=cluster)
    assert placed() == names("command", "docker", *(["kubernetes"] if cluster else []))
