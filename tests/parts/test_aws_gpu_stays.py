"""`gpu_stays.sh`: Docker has its cgroups itself, and a container keeps the GPU while systemd reloads."""

import json
import os
import subprocess
from pathlib import Path

from common import ROOT

SCRIPT = ROOT / "components/aws/gpu_stays.sh"
NVML = "Failed to initialize NVML: Unknown Error"


class Host:
    """Doubles of Docker, systemd and the driver: reloading takes the GPU where cgroups are systemd's."""

    def __init__(self, folder: Path, *, driver: str, runs: str = "", smi: str = "Tesla T4") -> None:
        self.folder = folder
        self.config = folder / "daemon.json"
        self.config.write_text(json.dumps({"data-root": "/data/docker", "exec-opts": ["kept=1"]}))
        (folder / "driver").write_text(driver)
        self.double(
            "docker",
            f'case "$1" in\n'
            f"  info) cat {folder}/driver ;;\n"
            f'  ps) echo "{runs}" ;;\n'
            f"  import) cat >{folder}/image.tar ;;\n"
            f'  exec) if [ -e {folder}/lost ] || [ -z "{smi}" ]; then echo "{NVML}"; exit 255; fi\n'
            f'    echo "{smi}" ;;\n'
            "esac",
        )
        self.double(
            "systemctl",
            f'case "$*" in\n'
            f"  daemon-reload) [ $(cat {folder}/driver) = cgroupfs ] || touch {folder}/lost ;;\n"
            f'  "restart docker") grep -q native.cgroupdriver=cgroupfs {self.config} && '
            f"printf cgroupfs >{folder}/driver ;;\n"
            "esac",
        )
        self.double("nvidia-smi", "exit 0")

    def double(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.folder}/asked\n{text}\n')
        file.chmod(0o755)

    def run(self, text: str = "") -> tuple[int, str]:
        text = (text or SCRIPT.read_text()).replace("/etc/docker/daemon.json", str(self.config))
        done = subprocess.run(
            ["sh", "-euc", text],
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def asked(self, word: str) -> list[str]:
        return [line for line in (self.folder / "asked").read_text().splitlines() if word in line]


def test_docker_is_restarted_with_cgroups_of_its_own_and_a_reload_takes_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, driver="systemd")
    assert host.run() == (0, "a container keeps Tesla T4 while systemd reloads\n")
    assert json.loads(host.config.read_text()) == {
        "data-root": "/data/docker",
        "exec-opts": ["kept=1", "native.cgroupdriver=cgroupfs"],
    }
    assert host.asked("systemctl") == ["systemctl restart docker", "systemctl daemon-reload"]
    assert host.asked("docker rm --force") and host.asked("docker rmi --force"), "nothing of it stays"
    assert host.run()[0] == 0
    assert len(host.asked("restart docker")) == 1, "once is enough"


def test_under_containers_that_run_docker_is_not_restarted_and_nothing_reloads(tmp_path: Path) -> None:
    host = Host(tmp_path, driver="systemd", runs="0a1b2c")
    code, said = host.run()
    assert code == 0
    assert "from the next start of Docker on" in said and "sudo systemctl restart docker" in said
    assert host.asked("systemctl") == []
    assert "native.cgroupdriver=cgroupfs" in host.config.read_text()


def test_a_gpu_that_a_reload_takes_fails_at_once_with_the_drivers_words(tmp_path: Path) -> None:
    """As with cgroups of systemd's; here the way round it is taken out of the script."""
    host = Host(tmp_path, driver="systemd")
    code, said = host.run(SCRIPT.read_text().replace("!= cgroupfs", "= nothing"))
    assert code == 9
    assert said == f"a container that had Tesla T4 has lost it after systemctl daemon-reload: {NVML}\n"


def test_what_can_not_be_proven_is_said_and_holds_up_no_host(tmp_path: Path) -> None:
    host = Host(tmp_path, driver="cgroupfs", smi="")
    code, said = host.run()
    assert code == 0
    assert said.startswith(
        "not proven: nvidia-smi does not run in a container made from the host's own files"
    )
    assert host.asked("daemon-reload") == []


def test_the_image_is_made_of_the_hosts_own_files_with_a_shell_that_runs(tmp_path: Path) -> None:
    host = Host(tmp_path, driver="cgroupfs")
    host.run()
    names = subprocess.run(
        ["tar", "-tf", tmp_path / "image.tar"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"bin/sh", "bin/sleep", "usr/bin/env", "etc/debian_version"} <= set(names)
    assert [each for each in names if "libc.so" in each]
    assert [each for each in names if "ld-linux" in each]
