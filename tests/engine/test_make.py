"""The README's commands as a newcomer types them, in a copy of the checkout with a stack of its own."""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import tools.port
from components.edge import LISTEN_PORT
from components.gpu_memory import EDGE_FILES
from components.pins import PULUMI, SWITCH
from tests.support import checkout as support
from tests.support.project import address_of, docker, wipe
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

STACK = "newcomer"
FILTERS = ("--filter", f"label=changeover.stack={STACK}")


def shell(checkout: Path, line: str, *, fails: bool = False) -> str:
    return support.shell(checkout, STACK, line, fails=fails)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    wipe(STACK)
    yield support.checkout(tmp_path_factory.mktemp("checkout"), STACK, context=1024)
    wipe(STACK)


def test_make_cli_sets_up_pulumi_and_deploys_nothing(checkout: Path) -> None:
    shell(checkout, "make cli")
    assert PULUMI in shell(checkout, "source .venv/bin/activate && pulumi version && pulumi stack ls")
    assert docker("ps", "--all", "--quiet", *FILTERS) == ""


def test_make_up_ends_with_an_answer_and_says_how_to_go_on(checkout: Path) -> None:
    text = shell(checkout, "make up")
    assert "Images: " in text
    assert "It answers: " in text
    assert "Ready after " in text
    assert "pulumi config set engine vllm && pulumi up" in text


def test_make_up_again_changes_nothing(checkout: Path) -> None:
    text = shell(checkout, "make up")
    assert "unchanged" in text
    assert "created" not in text
    assert "updated" not in text


def test_after_make_up_plain_pulumi_commands_work(checkout: Path) -> None:
    activate = "source .venv/bin/activate && "
    assert "unchanged" in shell(checkout, activate + "pulumi preview --expect-no-changes")
    outputs = json.loads(shell(checkout, activate + "pulumi stack output --json"))
    texts = {"routing", "gateway_config"}
    assert set(outputs) == {"endpoint", "engine", "model", "cutover", "certificate", *texts}
    assert "none-to-ollama: committed by hold" in outputs["certificate"]
    assert outputs["endpoint"].endswith("/v1")
    assert "wrong" in shell(
        checkout, activate + "pulumi config set engine wrong && pulumi preview", fails=True
    )
    shell(checkout, activate + "pulumi config set engine ollama && pulumi preview --expect-no-changes")


def test_the_curl_line_that_make_up_prints_works(checkout: Path) -> None:
    text = shell(checkout, "make up")
    curl = text[text.index("  curl ") : text.index("\n\nChange the engine")]
    answer = json.loads(shell(checkout, curl.replace("curl ", "curl -sS ", 1)))
    assert answer["choices"][0]["message"]["content"]


def test_proxy_and_switch_are_scraped_on_the_stacks_own_network(checkout: Path) -> None:
    ask = "import urllib.request as u; print(u.urlopen('http://{}/metrics', timeout=10).read().decode())"
    proxy = f"$(docker ps -q -f label=changeover.stack={STACK} -f label=changeover.role=proxy)"
    said = {
        at: shell(checkout, f'docker exec {proxy} python3 -c "{ask.format(at)}"')
        for at in ("proxy:8001", "switch:8002")
    }
    assert 'changeover_engine{kind="ollama"' in said["switch:8002"]
    assert "changeover_engine_gated 1" in said["switch:8002"]
    assert 'changeover_requests_total{endpoint="/v1/chat/completions"' in said["proxy:8001"]


def test_make_usage_counts_what_was_asked_as_table_and_as_csv(checkout: Path) -> None:
    said = shell(checkout, "CSV=usage.csv make usage")
    assert "completion" in said and "The log has every request since " in said
    head, *rows = (checkout / "usage.csv").read_text().splitlines()
    assert head.startswith("day,tenant,requests")
    requests = sum(int(row.split(",")[2]) for row in rows)
    log = shell(
        checkout,
        f"docker logs $(docker ps -q -f label=changeover.stack={STACK} -f label=changeover.role=proxy)",
    )
    assert requests == log.count('"tenant"') > 0


def test_make_status_shows_what_serves(checkout: Path) -> None:
    assert "engine    ollama" in shell(checkout, "make status")


def test_make_watch_prints_one_frame_where_there_is_no_terminal(checkout: Path) -> None:
    said = shell(checkout, "make watch")
    for words in (f"stack {STACK}", "serves   ollama  tiny", "at the engine  0", "CPUs", "log of the switch"):
        assert words in said, (words, said)


def test_make_watch_follows_in_a_terminal_resizes_and_ends_with_q(checkout: Path) -> None:
    (switch,) = docker(
        "ps", *FILTERS, "--filter", "label=changeover.role=switch", "--format", "{{.Names}}"
    ).split()
    mine, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    watching = subprocess.Popen(
        ["make", "watch", f"STACK={STACK}"],
        cwd=checkout,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(its)
    seen = ""

    def shows(words: str) -> bool:
        nonlocal seen
        while select.select([mine], [], [], 0.2)[0]:
            seen += os.read(mine, 65536).decode(errors="replace")
        return words in seen

    try:
        wait(lambda: shows("at the engine"), 60, "it shows nothing")
        assert "observe" in docker("top", switch)
        seen = ""
        fcntl.ioctl(mine, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))

        def as_wide() -> bool:
            return shows("─" * 30) and "─" * 60 not in seen.rpartition("changeover")[2]

        with contextlib.suppress(AssertionError):
            wait(as_wide, 30)
        assert as_wide(), f"no new size: {seen[-2000:]!r}"
        os.write(mine, b"q")
        with contextlib.suppress(OSError):  # the terminal has gone with the last who had it
            wait(lambda: shows("never") or watching.poll() is not None, 30, "it does not end")
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        os.close(mine)
    wait(lambda: "observe" not in docker("top", switch), 30, "who asked has gone, and it goes on")


def forwarder(port: int) -> int:
    """The process of Docker's that takes connections to a published port."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if words[0].endswith(b"docker-proxy") and str(port).encode() in words:
            return int(process.name)
    raise AssertionError(f"nothing forwards port {port}")


def test_a_port_with_more_connections_than_docker_can_open_is_said_and_make_up_cures_it(
    checkout: Path,
) -> None:
    endpoint = json.loads(shell(checkout, "source .venv/bin/activate && pulumi stack output --json"))[
        "endpoint"
    ]
    port = urlsplit(endpoint).port or 0
    resource.prlimit(forwarder(port), resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.ExitStack() as idle:
        for _ in range(64):
            with contextlib.suppress(OSError):
                idle.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        wait(lambda: tools.port.silence(endpoint) != "", 60, "the port still answers")
    # those who were idle have gone, and it stays so
    cure = f"docker restart changeover-{STACK}-edge-"
    status = shell(checkout, "make status", fails=True)
    assert "engine    ollama" in status and f"port 127.0.0.1:{port} does not answer" in status
    assert cure in status
    drift = shell(checkout, "make drift", fails=True)
    assert f"port 127.0.0.1:{port} does not answer" in drift and cure in drift
    assert "no drift" not in drift
    text = shell(checkout, "make up")
    assert "It is started again." in text and "It answers: " in text
    assert "does not answer" not in shell(checkout, "make status")
    assert "no drift" in shell(checkout, "make drift")


def test_an_edge_with_all_the_connections_that_it_takes_is_said_and_not_started_again(checkout: Path) -> None:
    (edge,) = docker(
        "ps", *FILTERS, "--filter", "label=changeover.role=edge", "--format", "{{.Names}}"
    ).split()
    outputs = json.loads(shell(checkout, "source .venv/bin/activate && pulumi stack output --json"))
    endpoint = outputs["endpoint"]
    port = urlsplit(endpoint).port or 0
    began = docker("inspect", "-f", "{{.State.StartedAt}}", edge)
    address = address_of(edge)  # Docker's forwarder opens up to six files for a connection, and has its limit
    with contextlib.ExitStack() as idle:
        for _ in range(EDGE_FILES + 20):
            idle.enter_context(socket.create_connection((address, LISTEN_PORT), 5))
        status = shell(checkout, "make status", fails=True)
        assert f"port 127.0.0.1:{port} does not answer" in status
        assert f"{edge} has 3,0" in status and "which is all that it takes" in status
        assert f"docker restart {edge}" in status
        cure = f".venv/bin/python -c \"from tools import port; port.cure('{STACK}')\""  # what `make up` does
        assert f"Note: port 127.0.0.1:{port} does not answer" in shell(checkout, cure)
    wait(lambda: tools.port.silence(endpoint) == "", 60, "the port still does not answer")
    assert "does not answer" not in shell(checkout, "make status")
    assert docker("inspect", "-f", "{{.State.StartedAt}}", edge) == began


def test_an_edge_that_is_stopped_or_gone_is_said_by_status(checkout: Path) -> None:
    (edge,) = docker(
        "ps", *FILTERS, "--filter", "label=changeover.role=edge", "--format", "{{.Names}}"
    ).split()
    docker("stop", edge)
    assert f"the edge {edge} is stopped. Run: docker start {edge}" in shell(
        checkout, "make status", fails=True
    )
    docker("start", edge)
    shell(checkout, "make status")


def test_make_gc_asks_and_frees_what_nobody_needs_and_nothing_else(checkout: Path) -> None:
    assert "nothing to free" in shell(checkout, "make gc")
    switch = docker(
        "ps", *FILTERS, "--filter", "label=changeover.role=switch", "--format", "{{.Names}}"
    ).strip()
    left = "/weights/vllm/left-over-00000000"
    docker("exec", switch, "sh", "-c", f"mkdir {left} && echo weights >{left}/file")
    text = shell(checkout, "make gc", fails=True)
    assert "can go weights vllm/left-over-00000000" in text
    assert "nothing was freed: there is no terminal, so nobody can be asked" in text
    assert "freed  weights vllm/left-over-00000000" in shell(checkout, "YES=1 make gc")
    text = shell(checkout, "make gc")
    assert "nothing to free" in text and "kept   weights ollama/tiny-" in text


def test_make_down_changes_nothing_while_an_update_runs_or_was_killed(checkout: Path) -> None:
    def there() -> str:
        return docker("ps", "--all", "--no-trunc", *FILTERS, "--format", "{{.ID}} {{.Names}} {{.State}}")

    before = there()
    locks = checkout / ".changeover" / "state" / ".pulumi" / "locks"
    line = "source .venv/bin/activate && exec pulumi up --yes --skip-preview"
    with support.start(checkout, STACK, line) as update:
        try:
            wait(lambda: [*locks.rglob("*.json")] != [] or update.poll() is not None, 30)
            os.kill(update.pid, signal.SIGSTOP)
            text = shell(checkout, "make down", fails=True)
            assert f"an update of the stack `{STACK}` runs, or was killed; nothing was removed" in text
        finally:
            update.kill()
    assert f"pulumi cancel --stack {STACK}, and then" in shell(checkout, "make down", fails=True)
    assert there() == before
    shell(checkout, f"source .venv/bin/activate && pulumi cancel --yes --stack {STACK}")
    shell(checkout, "make status")


def test_clean_all_refuses_while_a_stack_exists(checkout: Path) -> None:
    assert "make down" in shell(checkout, "make clean-all", fails=True)


def test_make_down_keeps_the_weights_until_asked(checkout: Path) -> None:
    page, network = f"{STACK}-page", f"changeover-{STACK}"
    docker("run", "-d", "--name", page, f"--network={network}-clients", SWITCH.offline, "sleep", "600")
    try:
        ask = "import urllib.request as u; print(u.urlopen('http://edge:8080/v1/models').read().decode())"
        assert '"tiny"' in docker("exec", page, "python3", "-c", ask)
        docker("network", "connect", network, page)
        text = shell(checkout, "make down")
    finally:
        docker("rm", "-f", page)
    for each in (network, f"{network}-clients"):
        assert f"attached to the network {each}: {page}." in text
    assert "weights" in text
    assert docker("ps", "--all", "--quiet", *FILTERS) == ""
    assert docker("network", "ls", "--quiet", *FILTERS) == ""
    assert docker("volume", "ls", "--quiet", *FILTERS) != ""
    shell(checkout, "WEIGHTS=delete make down")
    assert docker("volume", "ls", "--quiet", *FILTERS) == ""
