"""`ready.sh` waits for a host, gives up in time, and says what the failing check itself said."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from switch.machine import State
from switch.route import RouteFile
from tests.unit.test_switch_route import ACTIVE, write

GOOD = {
    "true": "",
    "cloud-init": "\nstatus: done",
    "sudo resize2fs": "nothing to do",
    'sudo sh -euc "cd': "",
    'sudo sh -euc "file=/etc/ssh': "",
    'sudo sh -euc "$(cat)"': "a container keeps Tesla T4 while systemd reloads",
    "sudo": "the boot script's last words",
    "nvidia-smi": "580.95.05, Tesla T4",
    "docker version": "29.1.0",
    "docker info": '{"nvidia":{"path":"nvidia-container-runtime"},"runc":{}}',
}
STAYS = 'sudo sh -euc "$(cat)"'


def _status(name: str) -> int:
    """With which this check fails: its own, or that of an ssh that got nowhere."""
    return 9 if name == STAYS else 255


def ready(
    folder: Path, failing: str = "", *, hanging: str = "", seconds: int = 2, **answers: str
) -> tuple[int, str, str]:
    """Run the script against a double of `ssh`; returns exit status and what it printed."""
    said = {**GOOD, **{key.replace("_", " "): value for key, value in answers.items()}}
    cases = "\n".join(
        f"  '{name}'*) cat <<'END'\n{text}\nEND\n    exit {_status(name) if name == failing else 0} ;;"
        for name, text in said.items()
    )
    program = folder / "ssh"
    program.write_text(
        f'#!/bin/sh\n[ "$*" != "-O exit ubuntu@i-1" ] || {{ echo "hung up" >>{folder}/asked; exit; }}\n'
        f'[ "$1" = ubuntu@i-1 ] || exit 99\n'
        # a time limit is the host's business: it is kept where a program there hangs
        f'limit=$(echo "$2" | sed -nE "s/^timeout ([0-9]+) .*/\\1/p")\n'
        f'command=$(echo "$2" | sed -E "s/^timeout [0-9]+ //")\n'
        f'echo "$command" >>{folder}/asked\n'
        f'case "$command" in "{hanging or "nothing"}"*) exec timeout "$limit" sleep 60 ;; esac\n'
        f'case "$command" in *changeover-probe*) cat >{folder}/probe ;; esac\n'
        f"case $command in *'$(cat)'*) cat >{folder}/stays ;; esac\n"
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
            "REGION": "us-east-1",
            "NAMESPACE": "Changeover/prod",
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
        "SSH's limit of sessions",
        "The GPU",
        "Docker",
        "Docker's NVIDIA runtime",
        "The GPU in a container",
        "The data volume's file system",
        "The probe of the endpoint's alarm",
    ]


def test_the_shared_connection_is_opened_anew_once_its_user_may_use_docker(tmp_path: Path) -> None:
    ready(tmp_path)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked.index("cloud-init status --wait") < asked.index("hung up")
    assert not [each for each in asked[: asked.index("hung up")] if "docker" in each or "nvidia" in each]


def test_one_connection_may_carry_a_hundred_sessions(tmp_path: Path) -> None:
    """sshd's own limit is 10; each command beyond it would be a connection of its own."""
    ready(tmp_path)
    asked = (tmp_path / "asked").read_text()
    assert "file=/etc/ssh/sshd_config.d/20-changeover.conf\n" in asked
    assert (
        "grep -qs MaxSessions \\$file || { echo MaxSessions 100 >\\$file; systemctl restart ssh; }" in asked
    )


def test_the_file_system_follows_its_volume(tmp_path: Path) -> None:
    ready(tmp_path)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert 'sudo resize2fs "$(findmnt -no SOURCE /data)"' in asked
    code, _, err = ready(tmp_path, failing="sudo resize2fs", sudo_resize2fs="no such device")
    assert code == 1
    assert "The data volume's file system is not ready on ubuntu@i-1. Its last answer:\nno such device" in err


def test_ssh_is_waited_for_until_the_deadline_and_its_words_are_the_error(tmp_path: Path) -> None:
    code, _, err = ready(tmp_path, failing="true", true="Connection refused")
    assert code == 1
    assert "SSH is not ready on ubuntu@i-1. Its last answer:\nConnection refused" in err


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
        ({"nvidia-smi": "580.95.05, NVIDIA L4"}, "expected: 1 x Tesla T4"),
        ({"nvidia-smi": "580.95.05, Tesla T4\n580.95.05, Tesla T4"}, "expected: 1 x Tesla T4"),
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
    assert "Docker's NVIDIA runtime is not ready on ubuntu@i-1. Its last answer:\n" in err
    assert '{"runc":{}}' in err


def put_there(folder: Path) -> Path:
    """The probe as `ready.sh` puts it on the host."""
    code, _, err = ready(folder)
    assert (code, err) == (0, "")
    return folder / "probe"


def test_shellcheck_finds_nothing_in_the_probe(tmp_path: Path) -> None:
    shellcheck = Path(sys.prefix) / "bin" / "shellcheck"
    done = subprocess.run([shellcheck, put_there(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("held", [None, 1764310000.0])
@pytest.mark.parametrize("missing", ["", "edge", "proxy", "switch", "engine"])
def test_the_probe_tells_cloudwatch_whether_the_endpoint_is_up(
    tmp_path: Path, missing: str, held: float | None
) -> None:
    """It looks for no gateway: where one is needed and doesn't run, requests wait."""
    folder, tools = tmp_path / "data/docker/volumes/changeover-prod-live/_data", tmp_path / "tools"
    folder.mkdir(parents=True)
    tools.mkdir()
    write(RouteFile(folder, lambda: 50.0), State(active=ACTIVE, held=held))
    doubles = {
        "docker": f'case "$*" in *role={missing or "nobody"}*) ;; *) echo a1 ;; esac',
        "curl": 'case "$*" in *token) echo secret ;; *"token: secret"*instance-id) echo i-1 ;; esac',
        "aws": f'echo "$*" >{tmp_path}/told',
    }
    for name, text in doubles.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    probe = put_there(tmp_path)
    # the doubles take the place of the folder in which the AMI has `aws`, which is not on cron's own PATH
    text = probe.read_text().replace("/usr/local/bin", str(tools))
    probe.write_text(text.replace("DATA_MOUNT=/data", f"DATA_MOUNT={tmp_path}/data"))
    subprocess.run(["sh", probe], env={"PATH": "/usr/bin:/bin"}, check=True)
    value = 0 if missing or held else 1
    told = (tmp_path / "told").read_text()
    assert "--namespace Changeover/prod --metric-name EndpointUp" in told
    assert f"--value {value} --dimensions InstanceId=i-1" in told


def test_readiness_wants_a_gpu_that_stays_and_brings_what_sees_to_it(tmp_path: Path) -> None:
    assert ready(tmp_path)[0] == 0
    assert (tmp_path / "stays").read_text() == (ROOT / "components/aws/gpu_stays.sh").read_text()
    (tmp_path / "lost").mkdir()
    code, _, err = ready(tmp_path / "lost", STAYS, seconds=600, **{STAYS: "a container has lost it: NVML"})
    assert code == 1
    assert (
        "The GPU in a container is not ready on ubuntu@i-1. Its last answer:\na container has lost it: NVML"
        in err
    )


def test_what_readiness_could_not_prove_is_said(tmp_path: Path) -> None:
    _, out, _ = ready(tmp_path)
    assert "keeps" not in out
    later: Any = {STAYS: "from the next start of Docker on: containers run"}
    _, out, _ = ready(tmp_path, **later)
    assert "The GPU in a container: ready\nfrom the next start of Docker on: containers run\n" in out
