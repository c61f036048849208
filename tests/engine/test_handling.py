"""What people do to a change, and clients to the endpoint, that nobody planned: under load.

Ctrl-C once and twice, a cancel under way, ten flips without a pause, one resource alone, a destroy in the
middle; bodies of exactly the limit, and many heads that come slowly.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.stack import fast_project
from tests.support.load import LoadGenerator, Outcome
from tests.support.project import CommandFailed, Project, docker, pid_of
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

MAX_MIB = 1


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    settings = {"maxRequestMiB": MAX_MIB, "context": 4096}  # an answer ends at the context
    with fast_project(tmp_path_factory.mktemp("project"), "handling", **settings) as project:
        yield project


def kind(project: Project) -> str:
    return str(json.loads(project.switch("status", "--json"))["active"]["kind"])


def other(engine: str) -> str:
    return "ollama" if engine == "vllm" else "vllm"


def load_on(project: Project, *, clients: int = 2, tokens: int = 8) -> LoadGenerator:
    outputs = project.outputs()
    return LoadGenerator(outputs["endpoint"], outputs["model"], clients=clients, max_tokens=(tokens, 96))


def problems(load: LoadGenerator) -> list[Outcome]:
    """What failed or was cut of answers so long that there may be no whole one to compare a stream with."""
    return [each for each in load.outcomes if each.problem]


@contextmanager
def slowly(project: Project) -> Iterator[LoadGenerator]:
    """One client whose answers take some 20 s: a drain waits for them."""
    outputs = project.outputs()
    with LoadGenerator(outputs["endpoint"], outputs["model"], clients=1, max_tokens=(4000,)) as slow:
        wait(lambda: "requests  1 in flight" in project.switch("status"), 60)
        yield slow


def draining(project: Project, log: Path) -> subprocess.Popen[bytes]:
    """`pulumi up` in the background, once it holds and waits for an answer that takes a while."""
    update = project.start("up", "--yes", "--skip-preview", log=log)

    def held() -> bool:
        assert update.poll() is None, log.read_text()
        status = json.loads(project.switch("status", "--json"))
        return bool(status["under_way"] and status["under_way"]["phase"] == "draining")

    wait(held, 120, "it does not drain")
    return update


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.long), 2])
def test_ctrl_c_gives_the_change_up_at_once_and_says_so(project: Project, tmp_path: Path, times: int) -> None:
    serves, log = project.live(), tmp_path / "log"
    project.configure(engine=other(kind(project)), cutover="hold")
    with slowly(project) as slow, load_on(project) as load:
        update = draining(project, log)
        for _ in range(times):
            os.kill(update.pid, signal.SIGINT)
            time.sleep(0.5)
        assert update.wait(60) != 0
        # nobody waits for a lease, which would be for longer than the answer that the change waits for
        given_up = "given up as asked"
        wait(lambda: project.settled() and given_up in project.switch("status"), 60, "it is not given up")
        load.wait_for_answers(6)
    assert not load.bad and not problems(slow), f"{load.summary()} {slow.summary()}"
    assert project.live() == serves
    said = log.read_text()
    if times == 1:  # the second makes Pulumi end without another word of its steps
        assert "Interrupted: the change is given up, and what served before is brought back now" in said
        assert "Requests wait until then, and are answered." in said
        assert "it has to load again, which takes 300 s at most." in said
    project.pulumi("cancel", "--yes")
    project.up()
    assert project.live() != serves and project.changes() == {}


@pytest.mark.parametrize("changed", [True, pytest.param(False, marks=pytest.mark.long)])
def test_an_update_that_is_cancelled_and_another_one_lose_nothing_say_what_happens_and_converge(
    project: Project, tmp_path: Path, changed: bool
) -> None:
    """The other one wants another change, and waits for the first, or the same one, and takes its place."""
    wanted, log = other(kind(project)), tmp_path / "first"
    project.configure(engine=wanted, cutover="hold", context=4096)
    with slowly(project) as slow, load_on(project) as load:
        first = draining(project, log)
        project.pulumi("cancel", "--yes")
        if changed:
            project.configure(context=4090)
        said = project.up()
        first.wait(300)
        wait(project.settled, 60)
        load.wait_for_answers(6)
    assert not load.bad and not problems(slow), f"{load.summary()} {slow.summary()}"
    if changed:
        assert f"waiting for another change: a change to {wanted} " in said and "is under way" in said, said
    else:
        assert "Another `pulumi up` has taken the place of this one" in log.read_text(), log.read_text()
    project.up()
    assert kind(project) == wanted and project.changes() == {}


@pytest.mark.long
def test_ten_flips_without_a_pause(project: Project) -> None:
    with load_on(project, clients=4) as load:
        load.wait_for_answers(12)
        for number in range(10):
            engine = other(kind(project))
            project.configure(engine=engine, cutover="overlap" if number % 3 == 2 else "hold")
            project.up()
            assert kind(project) == engine
        load.wait_for_answers(12)
    assert not load.bad, load.summary()
    assert project.changes() == {}


@pytest.mark.long
def test_one_resource_alone_is_no_half_change(project: Project) -> None:
    """`--target` of the step that prepares: it is made ready, nobody commits it, and it is taken back."""
    serves = project.live()
    state = json.loads(project.pulumi("stack", "export"))["deployment"]["resources"]
    (prepare,) = [each["urn"] for each in state if each["urn"].endswith("::prepare-step")]
    project.configure(engine=other(kind(project)), cutover="hold")
    with load_on(project) as load:
        load.wait_for_answers(6)
        try:
            project.up("--target", prepare)
        except CommandFailed as error:
            assert "target" in str(error)
        wait(lambda: project.settled() and project.live() == serves, 180, "it is not taken back")
        load.wait_for_answers(6)
        project.up()
        load.wait_for_answers(6)
    assert not load.bad, load.summary()
    assert project.live() != serves and project.changes() == {}


def asked(project: Project, size: int) -> int:
    """The status of a request with a body of so many bytes."""
    at = urlsplit(project.outputs()["endpoint"])
    body = b'{"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "'
    end = b'"}]}'
    body += b"x" * ((size - len(body) - len(end)) % 2)
    body += b"x1" * ((size - len(body) - len(end)) // 2) + end  # without a long run, which would be refused
    assert len(body) == size
    connection = http.client.HTTPConnection(str(at.hostname), at.port or 0, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(project: Project) -> None:
    limit = MAX_MIB * 2**20
    assert [asked(project, limit + more) for more in (-1, 0, 1)] == [200, 200, 413]


def test_two_hundred_heads_that_come_slowly_keep_nobody_out(project: Project) -> None:
    at = urlsplit(project.outputs()["endpoint"])
    with ExitStack() as slow, load_on(project, clients=4) as load:
        clients = [
            slow.enter_context(socket.create_connection((str(at.hostname), at.port or 0), 30))
            for _ in range(200)
        ]
        for part in (b"POST /v1/chat/completions HTTP/1.1\r\n", b"Host: x\r\n", b"X-Slow: 1\r\n"):
            for client in clients:
                client.sendall(part)
            load.wait_for_answers(20)
    assert not load.bad, load.summary()


@pytest.mark.long
def test_a_connection_whose_head_is_not_whole_after_a_minute_is_ended(project: Project) -> None:
    at = urlsplit(project.outputs()["endpoint"])
    with load_on(project) as load, socket.create_connection((str(at.hostname), at.port or 0), 90) as client:
        began = time.monotonic()
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        said = client.recv(1000)
        assert 55 < time.monotonic() - began < 75 and said == b"", said
        load.wait_for_answers(6)
    assert not load.bad, load.summary()


CUT, REMOVE = "os.truncate(f, os.stat(f).st_size // 2)", "os.remove(f)"


def damage(project: Project, how: str, *files: str) -> None:
    """Takes the second half of the journal's files away, or all of it, and kills the switch."""
    (switch,) = project.containers("switch")
    started = docker("inspect", "-f", "{{.State.StartedAt}}", switch)
    each = f"import os, sys; [{how} for f in sys.argv[1:]]"
    docker("exec", switch, "python3", "-c", each, *(f"/journal/{file}" for file in files))
    kill(switch)
    wait(lambda: docker("inspect", "-f", "{{.State.StartedAt}}", switch) != started, 60)
    wait(lambda: answers(project), 60, "the switch is not back")


def answers(project: Project) -> bool:
    try:
        return json.loads(project.switch("status", "--json"))["journal"] is not None
    except CommandFailed:
        return False


def kill(name: str) -> None:
    os.kill(pid_of(name), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "files"),
    [
        pytest.param(CUT, ("state.json",), marks=pytest.mark.long, id="newest-cut"),
        pytest.param(CUT, ("state.json", "state.old"), id="both-cut"),
        pytest.param(REMOVE, ("state.json",), id="newest-gone"),
        pytest.param(REMOVE, ("state.json", "state.old"), marks=pytest.mark.long, id="both-gone"),
    ],
)
def test_a_journal_cut_short_or_gone_is_said_and_the_next_up_makes_it_right(
    project: Project, how: str, files: tuple[str, ...]
) -> None:
    serves = project.live()
    with load_on(project) as load:
        load.wait_for_answers(6)
        damage(project, how, *files)
        load.wait_for_answers(6)
        said = project.switch("status")
        assert "journal   was damaged" in said and serves in said and "not known: " in said, said
        assert "serves    nothing" not in said and project.live() == serves
        with pytest.raises(CommandFailed):
            project.switch("gc")
        assert project.changes() == {"commit-step": "update"}
        project.up()
        load.wait_for_answers(6)
    assert not load.bad, load.summary()
    assert "damaged" not in project.switch("status") and project.live() == serves
    assert project.changes() == {}
    assert "kept   weights" in project.switch("gc")


def test_an_engine_that_is_killed_after_the_journal_was_cut_short_is_revived(project: Project) -> None:
    serves = project.live()
    damage(project, CUT, "state.json")
    started = docker("inspect", "-f", "{{.State.StartedAt}}", serves)
    docker("kill", serves)  # Docker itself does not start what was killed by its own command
    wait(lambda: docker("inspect", "-f", "{{.State.StartedAt}}", serves) != started, 60, "it is not started")
    wait(project.settled, 60, "it is not gated")
    with load_on(project) as load:
        load.wait_for_answers(load.round)
    assert not load.bad, load.summary()
    assert project.live() == serves
    project.up()


def test_a_destroy_in_the_middle_of_a_flip_takes_everything_away(project: Project, tmp_path: Path) -> None:
    state = json.loads(project.pulumi("stack", "export"))["deployment"]["resources"]
    known = {each.get("outputs", {}).get("name") for each in state}
    # a gateway of an update that was cancelled is nobody's until the commits after it
    nobodys = set(project.everything()) - known
    project.configure(engine=other(kind(project)), cutover="hold")
    with slowly(project):
        update = draining(project, tmp_path / "log")
        with pytest.raises(CommandFailed, match="lock"):
            project.pulumi("destroy", "--yes")
        project.pulumi("cancel", "--yes")
        os.kill(update.pid, signal.SIGINT)
        update.wait(120)
        project.pulumi("destroy", "--yes")
    assert set(project.everything()) <= nobodys
