"""What can go wrong around a change, under load: the real Pulumi engine, gateway, edge and Docker.

Both engines are the test engine, since nothing here is about how they load. The leases are shorter than they
are outside of tests, so that less time goes by in waiting for them; nothing else is changed.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.stack import remove_fast_engine, use_fast_engine
from components import pins
from tests.support.load import LoadGenerator, Outcome, bad
from tests.support.project import CommandFailed, Project, docker, kill_group, offline_settings, pid_of
from tests.support.switch_stack import wait

pytestmark = pytest.mark.engine

VERSION = "0.0.0-faults"
DISK_MIB = 160
"""Of the journal; more than a change wants to be free."""

WATCH = """
import json, os, sys, threading, time
threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
said = None
while True:
    try:
        t = json.load(open("/journal/state.json"))["transaction"]
    except FileNotFoundError:
        t = None
    now = f"{t['id']} {t['phase']}" if t else "none yet"
    if now != said:
        print(now, flush=True)
        said = now
    time.sleep(0.01)
"""
"""Says each phase of the switch's journal as soon as it is there, until its stdin ends."""


def patch(project: Project, file: str, old: str, new: str) -> None:
    """Replaces `old` by `new` in a file of the project's copy."""
    path = project.folder / file
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} in {file}"
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A stack whose switch has its journal on a disk of its own, which can be filled."""
    project = Project(tmp_path_factory.mktemp("project"), "faults", **offline_settings(context=4096))
    project.wipe()
    try:
        use_fast_engine(project.folder, VERSION)
        for file, name, seconds, less in (
            ("components/plan.py", "LEASE_FOLLOWING", 15, 6),
            ("components/plan.py", "LEASE_PREPARED", 60, 12),
            ("components/plan.py", "GATEWAY_ANSWERS", 60, 8),
            ("switch/plan.py", "answers: float", 45, 16),
        ):
            patch(project, file, f"{name} = {seconds}", f"{name} = {less}")
        name = 'name=host.labels.name("journal"),'
        disk = f'driver_opts={{"type": "tmpfs", "device": "tmpfs", "o": "size={DISK_MIB}m"}},'
        patch(project, "components/switch.py", name, f"{name} {disk}")
        project.up()
        # its content is gone once no container has it, as while a switch that was killed is started again
        marks = [f"--label={key}={value}" for key, value in project.labels.of("keeper").items()]
        journal = ["--volume", f"{project.labels.name('journal')}:/journal"]
        keeper = ["--name", project.labels.name("keeper"), *marks, *journal]
        docker("run", "--detach", *keeper, pins.SWITCH.offline, "sleep", "infinity")
        yield project
    finally:
        project.wipe()
        remove_fast_engine(VERSION)


@pytest.fixture
def load(project: Project) -> Iterator[LoadGenerator]:
    """Clients that ask all the time, and lose nothing until the end of the test."""
    with load_on(project) as load:
        load.wait_for_answers(6)
        yield load
        load.wait_for_answers(6)
    assert not lost(load), load.summary()


def load_on(project: Project) -> LoadGenerator:
    outputs = project.outputs()
    return LoadGenerator(outputs["endpoint"], outputs["model"], clients=3)


def lost(load: LoadGenerator) -> list[Outcome]:
    return bad(load.outcomes)


def other(engine: str) -> str:
    return "ollama" if engine == "vllm" else "vllm"


def engine_of(project: Project) -> str:
    """The kind of the engine that serves."""
    return str(json.loads(project.switch("status", "--json"))["active"]["kind"])


@contextmanager
def up_until(project: Project, phase: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`pulumi up` in the background, from when a phase of the switch begins; what is left of it is killed."""
    (switch,) = project.containers("switch")
    watch = ["docker", "exec", "-i", switch, "python3", "-c", WATCH]
    with subprocess.Popen(watch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdin and watcher.stdout
        before = watcher.stdout.readline().split()[0]
        update = project.start("up", "--yes", "--skip-preview", log=log)

        def end() -> None:
            update.wait()
            watcher.terminate()

        ended = threading.Thread(target=end)
        ended.start()
        try:
            now = ""
            while now != phase:
                line = watcher.stdout.readline()
                if not line and phase in ENDING:
                    break
                assert line, f"`pulumi up` ended before {phase}: {log.read_text()}"
                change, now = line.split()
                now = "" if change == before else now
            yield update
        finally:
            if update.poll() is None:
                kill_group(update)
            ended.join()


KILLS = [
    pytest.param("hold", "checking", 0.0, "old", "new", marks=pytest.mark.long),
    pytest.param("hold", "draining", 0.0, "old", "old", marks=pytest.mark.long),
    ("hold", "loading", 0.0, "old", "new"),
    pytest.param("hold", "prepared", 0.0, "old", "old", marks=pytest.mark.long),
    ("hold", "prepared", 0.8, "either", "new"),
    pytest.param("hold", "starting", 0.0, "either", "old", marks=pytest.mark.long),
    pytest.param("hold", "retiring", 0.0, "new", "new", marks=pytest.mark.long),
    pytest.param("hold", "committed", 0.0, "new", "old", marks=pytest.mark.long),
    pytest.param("overlap", "loading", 0.3, "old", "new", marks=pytest.mark.long),
    pytest.param("overlap", "prepared", 0.8, "either", "old", marks=pytest.mark.long),
    pytest.param("overlap", "starting", 0.0, "either", "new", marks=pytest.mark.long),
    ("overlap", "retiring", 0.0, "new", "old"),
]
"""Mode, phase of the switch, seconds after its beginning, which engine serves then, and whose value is next.

Pulumi makes the new gateway in `prepared`; once that answers, the switch goes on by itself.
"""

ENDING = ("retiring", "committed")
"""Phases that are so near the end that `pulumi up` may get there before it is killed."""


@pytest.mark.parametrize(("mode", "phase", "seconds", "serves", "then"), KILLS)
def test_pulumi_killed_at_any_moment_loses_nothing_and_the_next_up_converges(
    project: Project,
    load: LoadGenerator,
    tmp_path: Path,
    mode: str,
    phase: str,
    seconds: float,
    serves: str,
    then: str,
) -> None:
    engine, old = engine_of(project), project.live()
    project.configure(engine=other(engine), cutover=mode)
    with up_until(project, phase, tmp_path / "log") as update:
        time.sleep(seconds)
        assert update.poll() is None or phase in ENDING
    wait(project.settled, 120, "nothing serves again by itself")
    load.wait_for_answers(6)
    assert not lost(load), load.summary()
    assert serves == "either" or (project.live() == old) is (serves == "old")
    wanted = other(engine) if then == "new" else engine
    project.configure(engine=wanted)
    project.pulumi("cancel", "--yes")
    project.up()
    assert engine_of(project) == wanted
    assert project.changes() == {}
    assert not lost(load), load.summary()


@pytest.mark.parametrize("phase", [pytest.param("draining", marks=pytest.mark.long), "prepared"])
def test_the_old_setting_right_after_a_kill_is_what_serves(
    project: Project, load: LoadGenerator, tmp_path: Path, phase: str
) -> None:
    engine, old = engine_of(project), project.live()
    project.configure(engine=other(engine), cutover="hold")
    with up_until(project, phase, tmp_path / "log"):
        pass
    project.configure(engine=engine)
    project.pulumi("cancel", "--yes")
    project.up()  # whoever prepared it is gone, and what is left behind gives it up at once
    assert project.live() == old
    wait(project.settled, 60, "what served before is not back")
    assert project.changes() == {}


@contextmanager
def full_disk(project: Project) -> Iterator[None]:
    """No room on the disk of the journal."""
    into = ["docker", "exec", project.labels.name("keeper")]
    command = [*into, "dd", "if=/dev/zero", "of=/journal/filling", "bs=1M"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "No space left on device" in done.stderr
    try:
        yield
    finally:
        subprocess.run([*into, "rm", "/journal/filling"], check=True)


def test_a_disk_that_is_full_refuses_a_change_or_takes_it_back_and_is_named(
    project: Project, load: LoadGenerator, tmp_path: Path
) -> None:
    old = project.live()
    (switch,) = project.containers("switch")
    project.configure(engine=other(engine_of(project)), cutover="hold")
    with full_disk(project):
        with pytest.raises(CommandFailed) as refused:
            project.up()
        said = str(refused.value)
        assert "No space left on device" in said and "0 MiB are free on the Docker host's disk" in said, said
        assert "drained" not in said, said
        started = docker("inspect", "-f", "{{.State.StartedAt}}", switch)
        os.kill(pid_of(switch), signal.SIGKILL)
        wait(
            lambda: docker("inspect", "-f", "{{.State.StartedAt}}", switch) != started,
            120,
            "the switch is not back",
        )
        wait(lambda: ready(project), 120, "nothing serves once the switch is back")
        assert project.live() == old

    with up_until(project, "loading", tmp_path / "log") as update, full_disk(project):
        assert update.wait(300) != 0
        said = (tmp_path / "log").read_text()
        assert "failed: the switch can't write its journal (No space left on device)" in said, said
        assert "serves again, requests were held for" in said and "make gc" in said, said
        assert project.settled() and project.live() == old
        assert "can't write its journal" in project.switch("status")
        load.wait_for_answers(6)

    project.up()
    assert project.live() != old
    assert project.changes() == {}
    assert "can't write" not in project.switch("status")


def ready(project: Project) -> bool:
    """`settled`, where the switch may be away just now."""
    try:
        return project.settled()
    except CommandFailed:
        return False


WRONG = "http://nobody:8000/v1/"


@pytest.mark.parametrize("cutover", [pytest.param("hold", marks=pytest.mark.long), "overlap"])
def test_a_new_gateway_that_reaches_no_engine_is_taken_back(project: Project, cutover: str) -> None:
    old, engine = project.live(), engine_of(project)
    path = project.folder / "components/tensorzero.py"
    text = path.read_text()
    project.configure(engine=other(engine), cutover=cutover)
    patch(project, "components/tensorzero.py", '"api_base", provider.api_base', f'"api_base", {WRONG!r}')
    with load_on(project) as load:
        load.wait_for_answers(12)
        with pytest.raises(CommandFailed, match="the gateway gave no completion"):
            project.up()
        assert project.settled() and project.live() == old
        path.write_text(text)
        project.configure(engine=engine)
        project.up()
        load.wait_for_answers(6)
    assert project.live() == old
    assert project.changes() == {}
    assert not lost(load), load.summary()  # no client was ever sent there


def test_a_second_up_is_refused_while_the_first_goes_through(
    project: Project, load: LoadGenerator, tmp_path: Path
) -> None:
    engine = engine_of(project)
    project.configure(engine=other(engine), cutover="hold")
    outputs = project.outputs()
    # the first waits for an answer of some 15 seconds, the time that the second has to come
    with (
        LoadGenerator(outputs["endpoint"], outputs["model"], clients=1, max_tokens=(3000,)) as slow,
        up_until(project, "draining", tmp_path / "log") as update,
    ):
        with pytest.raises(CommandFailed, match="lock"):
            project.up()
        assert update.wait(300) == 0, (tmp_path / "log").read_text()
    assert not lost(slow), slow.summary()
    assert engine_of(project) == other(engine)
    assert project.changes() == {}


@pytest.mark.parametrize("role", ["engine", "gateway", "proxy"])
def test_what_is_killed_while_it_serves_comes_back_and_requests_wait_meanwhile(
    project: Project, role: str
) -> None:
    (name,) = project.containers(role, running=True)
    started = docker("inspect", "-f", "{{.State.StartedAt}}", name)
    with load_on(project) as load:
        load.wait_for_answers(12)
        os.kill(pid_of(name), signal.SIGKILL)
        killed = time.monotonic()
        wait(lambda: docker("inspect", "-f", "{{.State.StartedAt}}", name) != started, 120, "it is not back")
        wait(project.settled, 120, "it is not gated")
        load.wait_for_answers(12)
    # a stream that had begun is cut, only by what carries it; everything else waits, also what came before
    # the switch had heard of it
    assert role != "gateway" or not lost(load), load.summary()
    assert all(each.streamed and each.cut and each.began < killed for each in lost(load)), load.summary()
    assert project.changes() == {}


@pytest.mark.parametrize("role", ["engine", pytest.param("gateway", marks=pytest.mark.long)])
def test_a_flip_away_from_what_hangs_goes_through(project: Project, role: str) -> None:
    engine = engine_of(project)
    (name,) = project.containers(role, running=True)
    project.configure(engine=other(engine), cutover="hold")
    with load_on(project) as load:
        load.wait_for_answers(12)
        docker("pause", name)
        hung = time.monotonic()
        project.up()
        load.wait_for_answers(12)
    assert engine_of(project) == other(engine) and project.settled()
    assert role != "gateway" or not lost(load), load.summary()
    assert all(each.streamed and each.cut and each.began < hung + 1 for each in lost(load)), load.summary()
    assert f"({name}) hangs" in project.switch("status")
    assert project.changes() == {}


@pytest.mark.parametrize(
    "role", ["engine", "edge", *(pytest.param(each, marks=pytest.mark.long) for each in ("gateway", "proxy"))]
)
def test_what_is_taken_off_the_network_is_back_at_once_as_it_was(project: Project, role: str) -> None:
    (name,) = project.containers(role, running=True)
    network = project.labels.project + "-" + project.stack
    look = "{{json .NetworkSettings.Networks}}"
    before = json.loads(docker("inspect", "-f", look, name))[network]["Aliases"]
    with load_on(project) as load:
        load.wait_for_answers(12)
        docker("network", "disconnect", network, name)
        taken_off = time.monotonic()
        wait(lambda: network in json.loads(docker("inspect", "-f", look, name)), 60, "it is not back")
        back = time.monotonic()
        wait(project.settled, 60)
        load.wait_for_answers(12, 400)  # an edge notices a connection to nowhere after minutes
    print(f"{role}: off for {back - taken_off:.1f} s, {load.summary()}")
    assert json.loads(docker("inspect", "-f", look, name))[network]["Aliases"] == before
    losses = lost(load)
    if role == "edge":  # Docker publishes its port anew twice, which ends each connection that is there
        assert all(each.began < back + 1 for each in losses), load.summary()
        assert len(losses) <= 2 * load.clients, load.summary()
    else:  # what carries a stream loses it; everything else waits
        assert role != "gateway" or not losses, load.summary()
        assert all(each.streamed and each.cut and each.began < taken_off for each in losses), load.summary()
    project.pulumi("refresh", "--yes")
    assert project.changes() == {}
