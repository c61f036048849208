"""`ready.sh` waits for a host, gives up in time, and says what the failing check itself said."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.test_aws_settings import ROOT

GOOD = {
    "true": "",
    "cloud-init": "\nstatus: done",
    "sudo resize2fs": "nothing to do",
    "sudo": "the boot script's last words",
    "nvidia-smi": "580.95.05, Tesla T4",
    "docker version": "29.1.0",
    "docker info": '{"nvidia":{"path":"nvidia-container-runtime"},"runc":{}}',
}


def ready(
    folder: Path, failing: str = "", *, hanging: str = "", seconds: int = 2, **answers: str
) -> tuple[int, str, str]:
    """Run the script against a double of `ssh`; returns exit status and what it printed."""
    said = {**GOOD, **{key.replace("_", " "): value for key, value in answers.items()}}
    cases = "\n".join(
        f"  '{name}'*) cat <<'END'\n{text}\nEND\n    exit {255 if name == failing else 0} ;;"
        for name, text in said.items()
    )
    program = folder / "ssh"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = ubuntu@i-1 ] || exit 99\n'
        # a time limit is the host's business: it is kept where a program there hangs
        f'limit=$(echo "$2" | sed -nE "s/^timeout ([0-9]+) .*/\\1/p")\n'
        f'command=$(echo "$2" | sed -E "s/^timeout [0-9]+ //")\n'
        f'echo "$command" >>{folder}/asked\n'
        f'case "$command" in "{hanging or "nothing"}"*) exec timeout "$limit" sleep 60 ;; esac\n'
        f'case "$command" in\n{cases}\nesac\nexit 98\n'
    )
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / "components" / "aws" / "ready.sh"],
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "DOCKER_HOST": "ssh://ubuntu@i-1",
            "GPU": "Tesla T4",
            "GPUS": "1",
            "DRIVER": "580",
            "DATA_MOUNT": "/data",
            "DEADLINE": str(seconds),
            "PAUSE": "0.2",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_host_that_is_ready_passes_every_check(tmp_path: Path) -> None:
    code, out, err = ready(tmp_path)
    assert (code, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "SSH",
        "cloud-init",
        "The GPU",
        "Docker",
        "Docker's NVIDIA runtime",
        "The data volume's file system",
    ]


def test_the_file_system_follows_its_volume(tmp_path: Path) -> None:
    ready(tmp_path)
    last = (tmp_path / "asked").read_text().splitlines()[-1]
    assert last == 'sudo resize2fs "$(findmnt -no SOURCE /data)"'
    code, _, err = ready(tmp_path, failing="sudo resize2fs", sudo_resize2fs="no such device")
    assert code == 1
    assert "The data volume's file system is not ready on ubuntu@i-1; it said:\nno such device" in err


def test_ssh_is_waited_for_until_the_deadline_and_its_words_are_the_error(tmp_path: Path) -> None:
    code, _, err = ready(tmp_path, failing="true", true="Connection refused")
    assert code == 1
    assert "SSH is not ready on ubuntu@i-1; it said:\nConnection refused" in err


def test_the_deadline_ends_a_check_that_hangs_as_well(tmp_path: Path) -> None:
    begun = time.monotonic()
    code, _, err = ready(tmp_path, hanging="cloud-init")
    assert code == 1
    assert "cloud-init is not ready on ubuntu@i-1" in err
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"cloud-init": "\nstatus: error"}, "the boot script's last words"),
        ({"nvidia-smi": "580.95.05, NVIDIA L4"}, "expected: 1 times Tesla T4"),
        ({"nvidia-smi": "580.95.05, Tesla T4\n580.95.05, Tesla T4"}, "expected: 1 times Tesla T4"),
        ({"nvidia-smi": "570.10.01, Tesla T4"}, "need driver 580 or newer"),
    ],
)
def test_what_waiting_cannot_mend_fails_at_once(
    tmp_path: Path, answers: dict[str, str], expected: str
) -> None:
    code, _, err = ready(tmp_path, seconds=600, **answers)
    assert code == 1
    assert expected in err


def test_docker_without_the_nvidia_runtime_is_not_ready(tmp_path: Path) -> None:
    code, _, err = ready(tmp_path, docker_info='{"runc":{}}')
    assert code == 1
    assert "Docker's NVIDIA runtime is not ready on ubuntu@i-1; it said:\n" in err
    assert '{"runc":{}}' in err
