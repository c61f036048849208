"""How weights come to a node: once, whole, and the same whenever it starts."""

import subprocess
from pathlib import Path

import pytest

from components.shell import program

FOLDER, DIGEST = "tiny-0a1b2c3d", "0a1b2c3d"


class Node:
    """A node's folder of weights, in place of /weights."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER
        self.complete = self.folder / ".complete"
        self.weights = self.folder / "source" / "model.safetensors"

    def run(self, name: str, timeout: float = 20, **told: str) -> subprocess.CompletedProcess[str]:
        text = program(f"kubernetes/{name}").replace("/weights", str(self.root))
        # like a real one, it takes a file that is there for what it would fetch
        script = (
            f"mkdir -p {self.folder}/source; [ -e {self.weights} ] || printf weights >{self.weights}; "
            f"echo fetched >>{self.root}/log"
        )
        path = f"{self.root}/bin:/usr/bin:/bin"
        environment = {"FOLDER": FOLDER, "DIGEST": DIGEST, "NEED": "1", "SCRIPT": script, "SENT": ""}
        return subprocess.run(
            ["/bin/sh", "-c", text],
            env={**environment, **told, "PATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def disk(self, free: int) -> None:
        """So many KiB are free from now on."""
        df = self.root / "bin" / "df"
        df.parent.mkdir()
        df.write_text(f"#!/bin/sh\necho Filesystem Blocks Used Available\necho disk 9999 1 {free} 1% /\n")
        df.chmod(0o755)

    @property
    def fetched(self) -> int:
        log = self.root / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_weights_are_fetched_once_and_then_are_here(node: Node) -> None:
    assert "are here now" in node.run("fetch").stdout
    assert node.run("fetch").stdout == f"the weights {FOLDER} are here\n"
    done = node.run("here")
    assert (done.returncode, done.stdout) == (0, "") and node.fetched == 1


def test_a_file_that_has_changed_is_fetched_again_when_the_node_starts(node: Node) -> None:
    node.run("fetch")
    node.weights.write_text("weighty")
    assert "are not what they were when they came" in node.run("fetch").stdout
    assert node.fetched == 2 and node.weights.read_text() == "weights"


def test_a_file_that_is_missing_is_too(node: Node) -> None:
    node.run("fetch")
    node.weights.unlink()
    assert node.run("fetch").returncode == 0 and node.weights.read_text() == "weights"


def is_there(node: Node, *more: str) -> bool:
    """What the node's pod says of it every few seconds."""
    return node.run("there", PLACES=" ".join([f"{FOLDER}={DIGEST}", *more])).returncode == 0


def test_a_node_is_ready_as_long_as_every_file_is_there_with_its_size(node: Node) -> None:
    assert not is_there(node), "nothing has come"
    node.run("fetch")
    assert is_there(node)
    assert not is_there(node, "vllm/other-0a1b2c3d=0a1b2c3d"), "the weights of each engine"
    assert node.run("there", PLACES=f"{FOLDER}=ffffffff").returncode != 0
    (node.folder / "source" / "more").write_text("somebody's own")
    assert is_there(node)
    node.weights.write_text("weigh")
    assert not is_there(node)
    node.weights.unlink()
    assert not is_there(node)
    assert node.run("fetch").returncode == 0 and node.fetched == 2 and is_there(node)
    node.complete.unlink()
    assert not is_there(node)


def test_a_node_without_any_of_its_files_is_not_ready(node: Node) -> None:
    node.run("fetch")
    kept = {each.name: each.read_text() for each in node.folder.iterdir() if each.is_file()}
    assert sorted(kept) == [".complete", ".sizes", ".sums"]
    (node.folder / ".sizes").write_text("")
    assert not is_there(node)
    (node.folder / ".sizes").unlink()
    assert not is_there(node)


def test_a_node_whose_weights_came_with_a_version_before_has_their_sizes_after_its_next_start(
    node: Node,
) -> None:
    node.run("fetch")
    (node.folder / ".sizes").unlink()
    assert node.run("fetch").stdout == f"the weights {FOLDER} are here\n"
    assert is_there(node) and node.fetched == 1
    assert ".sizes" not in (node.folder / ".sums").read_text()


def test_names_with_spaces_and_what_a_pattern_would_mean_are_names(node: Node) -> None:
    node.run("fetch", SCRIPT=f"mkdir -p {node.folder}; cd {node.folder}; echo 1 >'a b'; echo 2 >'[c].*'")
    assert is_there(node)
    (node.folder / "[c].*").rename(node.folder / "c.txt")
    assert not is_there(node)


def test_weights_that_are_damaged_and_cannot_be_fetched_are_not_there(node: Node) -> None:
    node.run("fetch")
    node.weights.write_text("weighty")
    assert node.run("fetch", SCRIPT="exit 4").returncode == 4 and not node.complete.exists()


def test_what_was_fetched_in_part_is_waited_for(node: Node) -> None:
    done = node.run("fetch", SCRIPT=f"mkdir -p {node.folder}; exit 3")
    assert done.returncode == 3 and not node.complete.exists()
    with pytest.raises(subprocess.TimeoutExpired) as waits:
        node.run("here", timeout=1)
    assert b"does not have the weights" in (waits.value.stdout or b"")


def test_what_was_refused_is_fetched_again_by_another_pod_only(node: Node) -> None:
    refused = f"mkdir -p {node.folder}; echo fetched >>{node.root}/log; exit 65"
    for _ in range(3):  # as often as a node starts it again
        done = node.run("fetch", SCRIPT=refused)
        assert done.returncode != 0 and node.fetched == 1 and not node.complete.exists()
    assert "to fetch them again, delete the pod" in done.stdout
    (node.folder / ".refused").write_text("the pod before\n")
    assert node.run("fetch").returncode == 0 and node.fetched == 2
    assert node.run("fetch").stdout == f"the weights {FOLDER} are here\n"


def test_other_weights_of_the_same_folder_are_fetched(node: Node) -> None:
    node.run("fetch")
    node.run("fetch", DIGEST="ffffffff")
    assert node.fetched == 2 and node.run("here", DIGEST="ffffffff").returncode == 0


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(node: Node) -> None:
    done = node.run("fetch", NEED=str(2**50))
    assert done.returncode == 1 and f"need {2**50} KiB, and " in done.stdout and node.fetched == 0


def test_what_is_there_in_part_counts_for_what_is_needed(node: Node) -> None:
    node.run("fetch", SCRIPT="exit 3")
    (node.folder / "part").write_bytes(bytes(2**20))
    node.disk(1000)
    assert node.run("fetch", NEED="3000").returncode == 1 and node.fetched == 0
    assert node.run("fetch", NEED="2000").returncode == 0


def test_a_folder_that_is_sent_is_waited_for(node: Node) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as waits:
        node.run("fetch", timeout=1, SENT="yes")
    assert b"come from the machine on which" in (waits.value.stdout or b"") and node.fetched == 0
    node.weights.parent.mkdir()
    assert node.run("fetch", SENT="yes").returncode == 0 and node.fetched == 1


def test_what_waits_for_weights_ends_when_it_is_told_to(node: Node) -> None:
    """As the first process of a container it would hear only what it has asked for, and hold up its node."""
    text = program("kubernetes/here").replace("/weights", str(node.root))
    told = {"FOLDER": FOLDER, "DIGEST": DIGEST, "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(["/bin/sh", "-c", text], env=told, stdout=subprocess.PIPE, text=True) as waits:
        assert waits.stdout is not None
        assert waits.stdout.readline() == f"this node does not have the weights {FOLDER} yet\n"
        waits.terminate()
        assert waits.wait(3) == 143
