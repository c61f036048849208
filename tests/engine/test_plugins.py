"""Which plugins Pulumi asks the network for, and which of what it gets are taken."""

import hashlib
import io
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common import StepFailed
from components import pins
from tests.engine.test_command_plugin import Stack
from tools import environment, vendor
from tools.review import events_of

PROGRAM = "pulumi-resource-command"
SKIP = "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL"
AUTOMATIC = "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"
OVERRIDES = "PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES"


@pytest.fixture
def asked() -> Iterator[tuple[list[str], dict[str, str]]]:
    """The paths that a place which has no plugin was asked for, and variables that make Pulumi ask it."""
    with vendor_with(b"") as found:
        yield found


@contextmanager
def vendor_with(archive: bytes) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The same of a place that answers with this archive; without one it has none."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            if not archive:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield (
        paths,
        {
            OVERRIDES: f".*=http://127.0.0.1:{server.server_address[1]}",
            AUTOMATIC: "false",
        },
    )
    server.shutdown()
    server.server_close()


def test_a_stack_without_aws_asks_for_no_plugin_for_aws(
    tmp_path: Path, asked: tuple[list[str], dict[str, str]]
) -> None:
    environment.install_tools()
    stack = Stack(tmp_path)
    stack.declare(a={"create": "echo one"})
    paths, elsewhere = asked
    stack.environment |= elsewhere
    assert stack.run("preview").returncode == 0
    assert paths == []
    del stack.environment[SKIP]
    assert stack.run("preview").returncode == 0
    assert any("resource-aws" in path for path in paths), "without it Pulumi does: the variable is what helps"


def test_a_plugin_as_its_vendor_packs_it_works_once_it_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.install_tools()
    stack = Stack(tmp_path)
    name = f"resource-command-v{pins.COMMAND_PLUGIN}"
    archive = packed(environment.PULUMI_HOME / "plugins" / name / PROGRAM)
    monkeypatch.setattr(environment, "PULUMI_HOME", tmp_path / "home")
    monkeypatch.setenv("CHANGEOVER_CACHE", str(tmp_path / "cache"))
    with vendor_with(archive) as (paths, elsewhere):
        pinned = pins.PulumiPlugin(
            version=pins.COMMAND_PLUGIN,
            url=elsewhere[OVERRIDES].partition("=")[2] + "/{version}-{machine}",
            archives={vendor.machine(): hashlib.sha256(archive).hexdigest()},
        )
        monkeypatch.setattr(pins, "PULUMI_PLUGINS", {"command": pinned, "docker": pinned})
        environment.install_plugins("local")
    assert paths == [f"/{pins.COMMAND_PLUGIN}-{vendor.machine()}"]
    move(stack, tmp_path / "home")
    stack.up(a={"create": "echo one"})
    assert stack.outputs()["a_stdout"] == "one"


def test_a_plugin_that_a_state_asks_for_is_not_fetched_until_pulumi_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.install_tools()
    stack = Stack(tmp_path)
    stack.up(a={"create": "echo one"})
    pinned, other = pins.COMMAND_PLUGIN, "1.2.0"
    archive = packed(environment.PULUMI_HOME / "plugins" / f"resource-command-v{pinned}" / PROGRAM)
    state = tmp_path / "state.json"
    state.write_text(stack.run("stack", "export").stdout.replace(f'"{pinned}"', f'"{other}"'))
    assert stack.run("stack", "import", "--file", str(state)).returncode == 0
    monkeypatch.setattr(environment, "_built", lambda: False)  # as with the vendor's CLI
    with vendor_with(archive) as (paths, elsewhere):
        stack.environment[OVERRIDES] = elsewhere[OVERRIDES]
        with pytest.raises(StepFailed, match=r"failed; nothing was changed") as failed:
            events_of("test", root=tmp_path, env=stack.environment)
        assert paths == []
        (told,) = re.findall(r"in front of the same command: (\S+)$", str(failed.value))
        home = tmp_path / "home"
        shutil.copytree(environment.PULUMI_HOME / "plugins", home / "plugins", symlinks=True)
        move(stack, home)
        name, _, value = told.partition("=")
        assert events_of("test", root=tmp_path, env={**stack.environment, name: value})
        assert len(paths) == 1


def move(stack: Stack, home: Path) -> None:
    """Has Pulumi look for plugins elsewhere, where it also keeps which stack is selected."""
    stack.environment["PULUMI_HOME"] = str(home)
    assert stack.run("stack", "select", "test").returncode == 0


def packed(program: Path) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        archive.add(program.resolve(), program.name)
    return whole.getvalue()
