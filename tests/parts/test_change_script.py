"""`change.sh` with a host that somebody else has: what comes from there is text in plain files, no more.
And what is said where the script is killed, as by Ctrl-C."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from common import ROOT
from switch.answers import GO_ON, WAIT
from tests.support.simulated_host import NEW, SECONDS, plan

DOCKER = """#!/bin/sh
# a test double of Docker's CLI and of the switch behind it
case "$*" in
  *certificate*--tar*)
    echo again >>{folder}/asked
    [ "$(wc -l <{folder}/asked)" -gt "${{STALLS:-0}}" ] || {{ echo "certificate: no answer"; exit 69; }}
    cat {folder}/sent.tar
    ;;
  *certificate*) echo "certificate: the short form" ;;
esac
"""
NAME = "20261129T014200Z-0a1b2c"


def member(
    name: str, text: str = "", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[str, str, bytes, str]:
    return name, text, kind, link


def said_of(folder: Path, *members: tuple[str, str, bytes, str]) -> str:
    """What is said of a change whose certificate comes as a tar with these members."""
    with tarfile.open(folder / "sent.tar", "w") as tar:
        for name, text, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    (folder / "docker").write_text(DOCKER.format(folder=folder))
    (folder / "docker").chmod(0o755)
    (folder / "outside").write_text("nobody else's")
    here = folder / "here"
    here.mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", ROOT / "components" / "change.sh", "commit"],
        input="{}",
        cwd=here,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SWITCH": "switch", "STACK": "dev"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "outside").read_text() == "nobody else's"
    return done.stdout


def changed(folder: Path, *members: tuple[str, str, bytes, str]) -> tuple[str, dict[str, str]]:
    """What is said of such a change, and what is there then."""
    said = said_of(folder, *members)
    there = folder / "here" / "certificates" / "dev"
    assert not [each for each in there.iterdir() if each.is_symlink() or not each.is_file()]
    return said, {each.name: each.read_text() for each in there.iterdir()}


def test_where_a_certificate_can_not_be_kept_it_is_said_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "certificates").write_text("no folder")
    assert "certificate: the short form" in said_of(tmp_path, member(f"{NAME}.md", "# a change\n"))


def test_a_change_leaves_its_certificate_in_two_files(tmp_path: Path) -> None:
    said, there = changed(tmp_path, member(f"{NAME}.json", "{}\n"), member(f"{NAME}.md", "# a change\n"))
    assert "certificate: the short form" in said
    assert there == {f"{NAME}.json": "{}\n", f"{NAME}.md": "# a change\n"}


def test_the_files_of_a_certificate_are_asked_for_again_where_no_answer_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (member(f"{NAME}.json", "{}\n"), member(f"{NAME}.md", "# a change\n"))
    monkeypatch.setenv("STALLS", "3")
    said, there = changed(tmp_path, *files)
    assert there == {f"{NAME}.json": "{}\n", f"{NAME}.md": "# a change\n"} and "fetched" not in said
    monkeypatch.setenv("STALLS", "1000")
    shutil.rmtree(tmp_path / "here")
    said, there = changed(tmp_path, *files)
    assert not there and "could not be fetched. They are in the volume of the switch's journal" in said


@pytest.mark.parametrize(
    "name",
    [
        "$(shell touch pwned).md",
        "`touch pwned`.md",
        "x;touch pwned.md",
        "a b.md",
        "../../../outside",
        "../../../outside.md",
        "/tmp/outside.md",
        "folder/a.md",
        "-a.md",
        ".md",
        "a.md\n",
        "two\nlines.md",
        "a.sh",
    ],
)
def test_a_name_that_is_not_plain_is_left_out(tmp_path: Path, name: str) -> None:
    _, there = changed(tmp_path, member(name, "another's"), member(f"{NAME}.md", "# a change\n"))
    assert there == {f"{NAME}.md": "# a change\n"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.parametrize("target", ["/proc/self/environ", "../../../outside"])
def test_a_link_is_left_out(tmp_path: Path, kind: bytes, target: str) -> None:
    _, there = changed(
        tmp_path,
        member("x.md", kind=kind, link=target),
        member("x.md", "through it"),
        member("y.md", "# a change\n"),
    )
    assert there == {"x.md": "through it", "y.md": "# a change\n"}
    _, there = changed(tmp_path, member("z.md", kind=kind, link=target))
    assert "z.md" not in there


def test_a_folder_or_a_device_is_left_out(tmp_path: Path) -> None:
    kinds = {"a.md": tarfile.DIRTYPE, "b.md": tarfile.FIFOTYPE, "c.md": tarfile.CHRTYPE}
    _, there = changed(tmp_path, *(member(name, kind=kind) for name, kind in kinds.items()))
    assert there == {}


def test_nothing_is_written_through_a_link_that_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "here" / "certificates" / "dev"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.md").symlink_to(tmp_path / "outside")
    _, there = changed(tmp_path, member(f"{NAME}.md", "# a change\n"))
    assert there == {f"{NAME}.md": "# a change\n"}


FOLLOWED = """#!/bin/sh
# a test double of Docker's CLI and of the switch behind it, whose change goes on
case "$*" in
  *" prepare "*) echo "$*" >{folder}/asked ;;
  *" abandon "*--change*) echo "$*" >>{folder}/abandoned; {knows} && echo "{says}" || exit 2 ;;
  *" abandon "*) echo "$*" >>{folder}/abandoned; echo "{says}" ;;
  *" held") echo "{held}" ;;
  *" follow "*) touch {folder}/follows; sleep 60 ;;
esac
"""


def killed(folder: Path, verb: str, says: str = WAIT, held: str = WAIT, knows: bool = True) -> str:
    """What is said after the script was killed while it followed a change. `says` is what the switch answers
    where it is told to give the change up, and `held` where it is asked whether requests wait. `knows`:
    whether it knows that a change that is given up may be named.
    """
    double = FOLLOWED.format(folder=folder, says=says, held=held, knows=str(knows).lower())
    (folder / "docker").write_text(double)
    (folder / "docker").chmod(0o755)
    more = {"PATH": f"{folder}:{os.environ['PATH']}", "SWITCH": "switch", "STACK": "dev", "ENGINE": NEW}
    with (folder / "log").open("wb") as log:
        script = subprocess.Popen(
            ["sh", ROOT / "components" / "change.sh", verb],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **more},
            start_new_session=True,
        )
    assert script.stdin
    script.stdin.write(plan().text.encode())
    script.stdin.close()
    end = time.monotonic() + 60
    try:
        while not (folder / "follows").exists():
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        script.kill()
        script.wait()
        while "`make status STACK=dev`" not in (said := (folder / "log").read_text()):
            assert time.monotonic() < end, said
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)  # what it has left behind, and the double
    return " ".join(said.split())


@pytest.mark.parametrize(
    ("says", "knows"),
    [(WAIT, True), (WAIT, False), ("", False)],
    ids=["now", "by a switch of the version before", "by one of an earlier version"],
)
def test_ctrl_c_while_an_engine_is_made_ready_gives_the_change_up_and_says_how_long_requests_wait(
    tmp_path: Path, says: str, knows: bool
) -> None:
    said = killed(tmp_path, "prepare", says, knows=knows)
    given_up = [
        line.partition(" switch abandon ")[2] for line in (tmp_path / "abandoned").read_text().splitlines()
    ]
    change = (tmp_path / "asked").read_text().split()[-1]
    assert given_up == [f"--engine {NEW} --change {change}", *([] if knows else [f"--engine {NEW}"])]
    assert "the change is given up, and what served before is brought back now" in said
    assert "Requests wait until then, and are answered." in said
    assert f"it has to load again, which takes {SECONDS.load} s at most." in said


def test_ctrl_c_while_an_engine_is_made_ready_beside_another_says_that_no_request_waits(
    tmp_path: Path,
) -> None:
    said = killed(tmp_path, "prepare", GO_ON)
    assert (
        "the change is given up, and what had begun of it is taken back now. No request waits for it." in said
    )
    assert "load" not in said


@pytest.mark.parametrize("held", [WAIT, "commit: the switch gives no answer"])
def test_ctrl_c_in_a_commit_says_that_requests_stay_held_and_for_how_long(tmp_path: Path, held: str) -> None:
    said = killed(tmp_path, "commit", held=held)
    assert not (tmp_path / "abandoned").exists(), "what is being committed can only be left to its lease"
    seconds = SECONDS.lease_following + SECONDS.lease_prepared
    assert (
        "nobody follows the change any more. Requests that are held stay so for as long as the switch" in said
    )
    assert f"which is {seconds} s at most, and until what served before is back." in said
    assert f"it has to load again, which takes {SECONDS.load} s at most." in said
    assert "If the change is committed by then, it stays." in said


@pytest.mark.parametrize(("verb", "says"), [("commit", ""), ("prepare", "the switch gives no answer")])
def test_ctrl_c_where_only_the_lease_ends_a_change_says_that_no_request_waits_where_none_does(
    tmp_path: Path, verb: str, says: str
) -> None:
    said = killed(tmp_path, verb, says, GO_ON)
    seconds = SECONDS.lease_following + SECONDS.lease_prepared
    assert "nobody follows the change any more. No request waits for it, and it is taken back once" in said
    assert f"which is {seconds} s at most. If it is committed by then, it stays." in said
    assert "load" not in said


def test_ctrl_c_where_another_has_taken_the_change_over_says_that_it_is_left_to_that_one(
    tmp_path: Path,
) -> None:
    said = killed(tmp_path, "prepare", says=f"refused: the change to {NEW} is another 'pulumi up''s")
    assert "the change that is under way is another `pulumi up`'s, and is left to it." in said
    assert "Requests" not in said


def test_ctrl_c_where_no_change_had_begun_says_so(tmp_path: Path) -> None:
    said = killed(tmp_path, "prepare", says=f"refused: no change to {NEW} is under way")
    assert "Interrupted: no change had begun." in said and "Requests" not in said
