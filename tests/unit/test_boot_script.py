"""The boot script: its text is held by a golden file, and carries no secret."""

import hashlib
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from components.boot_script import FORMER_TEXTS, PATH, Boot, data_device, digest, render, user_data
from switch import files, owner
from switch.journal import Journal
from switch.machine import Active, State
from switch.route import RouteFile
from tests.support.simulated_host import OLD, OLD_GATEWAY, plan

GOLDEN = Path(__file__).parent / "golden" / "boot.sh"
BOOT = Boot(
    region="us-east-1",
    data_volume="vol-0123456789abcdef0",
    host_key_parameter="/changeover/prod/host-key",
    namespace="Changeover/prod",
)


def test_the_text_is_the_one_that_was_reviewed() -> None:
    assert render(BOOT) == GOLDEN.read_text()


def test_it_fits_into_user_data() -> None:
    assert len(user_data(BOOT).encode()) < 16 * 1024


def test_cloud_init_gets_the_script_to_the_letter_and_runs_it() -> None:
    document = yaml.safe_load(user_data(BOOT))
    (file,) = document["write_files"]
    assert file["content"] == render(BOOT)
    assert (file["path"], file["permissions"]) == (PATH, "0755")
    assert document["runcmd"] == [[PATH]]
    assert user_data(BOOT).startswith("#cloud-config\n")


def test_the_digest_is_that_of_the_script_whatever_the_volume() -> None:
    assert digest(BOOT) == digest(replace(BOOT, data_volume="vol-00000000000000000"))
    assert digest(BOOT) != digest(replace(BOOT, region="us-east-2"))


def test_a_volume_is_found_by_its_id_and_not_by_its_place() -> None:
    device = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    assert data_device("vol-0123456789abcdef0") == device


DOUBLE = """#!/bin/sh
echo "$(basename "$0") $*" >>"$LOG"
case "$(basename "$0")" in
  blkid) case "$*" in *value*) echo 11111111-2222 ;; *) exit "$BLKID" ;; esac ;;
esac
"""


def mount_data(folder: Path, *, blkid: int) -> tuple[int, list[str]]:
    """Run the script's own `mount_data` with doubles for the tools; returns exit status and their calls."""
    tools = folder / "bin"
    tools.mkdir()
    for name in ("blkid", "mkfs.ext4", "mount", "systemctl", "resize2fs", "mountpoint", "test"):
        (tools / name).write_text(DOUBLE)
        (tools / name).chmod(0o755)
    (tools / "mountpoint").write_text("#!/bin/sh\nexit 1\n")
    fstab = folder / "fstab"
    fstab.touch()
    script = (
        render(BOOT)
        .replace("/etc/fstab", str(fstab))
        .replace("DATA_MOUNT=/data", f"DATA_MOUNT={folder}/data")
        .replace('retry 600 test -b "$DATA_DEVICE"', ":")
    )
    assert script.endswith("\nmain\n")
    log = folder / "log"
    log.touch()
    done = subprocess.run(
        ["bash", "-c", script.removesuffix("main\n") + "mount_data\n"],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(log), "BLKID": str(blkid)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [*log.read_text().splitlines(), *fstab.read_text().splitlines()]


def test_what_ran_on_a_former_instance_is_forgotten_and_its_records_are_kept(tmp_path: Path) -> None:
    tools, volumes = tmp_path / "bin", tmp_path / "data/docker/volumes"
    tools.mkdir()
    journal, live = (volumes / f"changeover-prod-{name}/_data" for name in ("journal", "live"))
    (journal / "certificates").mkdir(parents=True)
    live.mkdir(parents=True)
    now = plan(OLD, gateway=OLD_GATEWAY)
    files.write(journal / owner.FILE, "{}")
    files.write(journal / "certificates" / "one.json", "{}")
    files.write(live / "keys.json", "{}")
    route = RouteFile(live, lambda: 1.0)
    for number in range(2):
        state = State(active=Active(now, "run 0", 1.0), commits=number)
        Journal(journal).write(state)
        route.lay_out(state)
        route.publish()
    assert (journal / "state.old").exists() and route.there and route.there.engine
    log = tmp_path / "log"
    double = f'#!/bin/sh\necho "$*" >>{log}\n[ "$1" != ps ] || printf "a1\\nb2\\n"\n'
    (tools / "docker").write_text(double)
    (tools / "docker").chmod(0o755)
    script = render(BOOT).replace("DATA_MOUNT=/data", f"DATA_MOUNT={tmp_path}/data").removesuffix("main\n")
    done = subprocess.run(
        ["bash", "-c", script + "forget_former_host\n"],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == ["ps --all --quiet", "rm --force a1 b2", "network prune --force"]
    left = {file.name for file in volumes.rglob("*") if file.is_file()}
    assert left == {"one.json", owner.FILE, "keys.json"}
    assert Journal(journal).read(9.0, RouteFile(live, lambda: 1.0).there) == State()


def test_the_agent_is_installed_in_spite_of_a_lock_and_looks_at_the_gpu_often() -> None:
    assert "retry 600 dpkg -i /tmp/agent.deb" in render(BOOT)
    start = render(BOOT).index("$agent/etc/changeover.json <<END\n")
    text = render(BOOT)[start:].partition("<<END\n")[2].partition("\nEND\n")[0]
    told = json.loads(text.replace("\\$", "$"))
    assert told["metrics"]["metrics_collected"]["nvidia_gpu"]["metrics_collection_interval"] == 10


def test_an_instance_that_a_former_script_made_keeps_it_to_the_letter() -> None:
    made = [digest(replace(BOOT, former=former)) for former in range(1, FORMER_TEXTS + 1)]
    assert made == ["ea972a69d094", "ecd148ea451c"], "its instances would be replaced"
    assert "latest/amazon-cloudwatch-agent.deb" not in render(BOOT)


@pytest.mark.parametrize("right", [True, False])
def test_an_agent_that_is_not_the_pinned_one_is_not_installed(tmp_path: Path, right: bool) -> None:
    deb, tools, log = tmp_path / "agent.deb", tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    log.touch()
    (tools / "curl").write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; printf package >"$2"\n')
    for name in ("dpkg", "ctl"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n')
    for file in tools.iterdir():
        file.chmod(0o755)
    script = render(BOOT).removesuffix("main\n").replace("/tmp/agent.deb", str(deb))
    script = script.replace("local agent=/opt/aws/amazon-cloudwatch-agent", f"local agent={tmp_path}/agent")
    # what comes after it writes to the machine's own folders
    script = script.partition("  mkdir -p $agent/etc\n")[0] + "}\nwatch\n"
    if right:
        script = re.sub(r"[0-9a-f]{64}", hashlib.sha256(b"package").hexdigest(), script)
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is right, done.stderr
    assert log.read_text() == (f"dpkg -i {deb}\n" if right else "")
    assert right or "did NOT match" in done.stderr


def test_sshd_takes_as_many_connections_at_once_as_a_deployment_opens() -> None:
    start = render(BOOT).index("/etc/ssh/sshd_config.d/10-changeover.conf <<'END'")
    assert "\nMaxStartups 100\n" in render(BOOT)[start:].partition("\nEND\n")[0] + "\n"


@pytest.mark.parametrize(("engine", "value"), [("healthy", "1"), ("starting", "0")])
def test_the_probe_that_cron_runs_tells_cloudwatch_whether_the_endpoint_is_up(
    tmp_path: Path, engine: str, value: str
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    doubles = {
        "docker": f'case "$*" in *health=*) [ {engine} = healthy ] || exit 0 ;; esac\necho a1',
        "curl": 'case "$*" in *token) echo secret ;; *"token: secret"*instance-id) echo i-1 ;; esac',
        "aws": f'echo "$*" >{tmp_path}/told',
    }
    for name, text in doubles.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    script = render(BOOT)
    start = script.index("  cat >/usr/local/bin/changeover-probe <<END\n")
    written = script[start : script.index("\nEND\n", start) + len("\nEND\n")]
    probe = tmp_path / "changeover-probe"
    writing = script.removesuffix("main\n") + written.replace("/usr/local/bin/changeover-probe", str(probe))
    subprocess.run(["bash", "-c", writing], check=True)
    # the doubles take the place of the folder in which the AMI has `aws`, which is not on cron's own PATH
    probe.write_text(probe.read_text().replace("/usr/local/bin", str(tools)))
    subprocess.run(["sh", probe], env={"PATH": "/usr/bin:/bin"}, check=True)
    told = (tmp_path / "told").read_text()
    assert "--namespace Changeover/prod --metric-name EndpointUp" in told
    assert f"--value {value} --dimensions InstanceId=i-1" in told


def test_an_empty_volume_is_formatted_and_mounted_by_uuid(tmp_path: Path) -> None:
    code, calls = mount_data(tmp_path, blkid=2)
    assert code == 0
    assert f"mkfs.ext4 -q -L changeover-data {data_device(BOOT.data_volume)}" in calls
    assert any(line.startswith("UUID=11111111-2222 ") for line in calls)


def test_a_volume_that_holds_something_is_never_formatted(tmp_path: Path) -> None:
    code, calls = mount_data(tmp_path, blkid=0)
    assert code == 0
    assert not [call for call in calls if call.startswith("mkfs")]


@pytest.mark.parametrize("blkid", [4, 8])
def test_a_volume_that_cannot_be_read_is_left_alone(tmp_path: Path, blkid: int) -> None:
    code, calls = mount_data(tmp_path, blkid=blkid)
    assert code != 0
    assert not [call for call in calls if call.startswith("mkfs")]
