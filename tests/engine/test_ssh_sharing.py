"""The rendered ssh_config with Debian's own `ssh` and `sshd`: many commands, one connection."""

import getpass
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import ssh_config
from components.aws.settings import LONGEST_STACK
from tests.support.project import free_port
from tools import keys

pytestmark = pytest.mark.engine

STACK = "s" * LONGEST_STACK
FOLDER = f".changeover/ssh/{STACK}"


class Server:
    """An sshd on the loopback address, and the deployer's files for it as the program writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "sshd.log"
        self.port = free_port()
        private, public = keys.make(folder, "host")
        ours = folder / FOLDER
        ours.mkdir(parents=True, mode=0o700)
        client, allowed = keys.make(folder, "client")
        for name, text in {
            "known_hosts": ssh_config.known_hosts(STACK, public),
            "client_key": client,
        }.items():
            (ours / name).write_text(text)
            (ours / name).chmod(0o600)
        (ours / "config").write_text(
            ssh_config.render(STACK, access="direct", region="us-east-1", folder=FOLDER)
        )
        (folder / "allowed").write_text(allowed)
        options = {
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "allowed",
            "PidFile": folder / "pid",
            "StrictModes": "no",
            "UsePAM": "no",
            "MaxStartups": "100",  # as the boot script sets it
        }
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        self.process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-E", self.log, "-p", str(self.port), *words]
        )
        assert private

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            "ssh",
            "-F",
            f"{FOLDER}/config",
            "-p",
            str(self.port),
            "-l",
            getpass.getuser(),
            "127.0.0.1",
        ]
        return subprocess.run(
            [*command[:-1], *words[:-1], command[-1], words[-1]],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def connections(self) -> int:
        return self.log.read_text().count("Accepted publickey")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    end = time.monotonic() + 30
    while server.ssh("true").returncode and time.monotonic() < end:
        time.sleep(0.2)
    assert server.process.poll() is None, server.log.read_text()
    yield server
    server.ssh("-O", "exit", "")
    server.process.terminate()
    server.process.wait()


def test_every_command_after_the_first_goes_through_its_connection(server: Server) -> None:
    assert [server.ssh("echo here").stdout for _ in range(5)] == ["here\n"] * 5
    assert server.connections() == 1
    assert (server.folder / FOLDER / "to-127.0.0.1").is_socket()


def test_more_at_once_than_the_server_lets_through_one_connection_all_get_through(server: Server) -> None:
    with ThreadPoolExecutor(24) as pool:
        done = list(pool.map(lambda _: server.ssh("sleep 3; echo here"), range(24)))
    assert [each.stdout for each in done] == ["here\n"] * 24
    assert 1 < server.connections() < 24, "sshd's own limit is 10 sessions for a connection"


def test_a_connection_that_has_ended_is_opened_anew(server: Server) -> None:
    assert server.ssh("-O", "exit", "").returncode == 0
    assert server.ssh("echo here").stdout == "here\n"
    assert server.connections() == 2


def test_the_first_command_waits_for_nobody(server: Server) -> None:
    """What stays behind for the next one holds none of its pipes."""
    server.ssh("-O", "exit", "")
    begun = time.monotonic()
    assert server.ssh("echo here").stdout == "here\n"
    assert time.monotonic() - begun < ssh_config.IDLE_SECONDS
