"""Which plugins Pulumi asks the network for, with either language host: they list every package in .venv."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_command_plugin import Stack
from tools import environment

SKIP = "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL"


@pytest.fixture
def asked() -> Iterator[tuple[list[str], dict[str, str]]]:
    """The paths that a place which has no plugin was asked for, and variables that make Pulumi ask it."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield (
        paths,
        {
            "PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES": f".*=http://127.0.0.1:{server.server_address[1]}",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "false",
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
