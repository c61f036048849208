"""`change.sh` with a host that somebody else has: what comes from there is text in plain files, no more."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.unit.test_aws_settings import ROOT

DOCKER = """#!/bin/sh
# a test double of Docker's CLI and of the switch behind it
case "$*" in
  *certificate*--tar*) cat {folder}/sent.tar ;;
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
