"""Stand-in hosts for the emulator's instances: what AWS does when an instance runs, on one Linux machine.

Each running instance becomes a set of namespaces (mounts, network, processes) with Debian's openssh-server
and a Docker engine of its own: a newer one than Debian's, as AWS's images have, which takes no client older
than Docker 25. It boots with its real user data; its data volume is a real disk image, its public address a
real one on a small internet, and the security group really filters. Without a route to an internet gateway
it has no address there, and its agent no connection. What is only pretended stands in `bin/`: systemd,
cloud-init, the GPU, CloudWatch's agent. Needs root.
"""

import base64
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from offline.tools import build_docker_engine
from tests.support.aws.emulator import ADDRESSES, Emulator
from tests.support.aws.host.images import save
from tools import debian

HERE = Path(__file__).parent
ROOT_ONLY = "only root can make namespaces, loop devices and mounts"
INTERNET, CLIENT = "changeover-test-net", "changeover-test-client"
LOCK = Path("/run/changeover-test-net.lock")
PROGRAMS = {
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "containerd": "containerd",
    "runc": "runc",
    "docker-init": "docker.io",
    "ps": "procps",
    "ip": "iproute2",
    "ss": "iproute2",
    "iptables": "iptables",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "openssl": "openssl",
}
"""Program → Debian package: what the stand-in host is made of."""
HERE_ADDRESS = ADDRESSES.format(number=1)
"""This machine's own, on the small internet."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGS = "logs.{region}.amazonaws.com"
"""What Docker's log driver `awslogs` sends to: on the small internet too, with a certificate of its own."""
SSM_CORE = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"


def run(*words: str, check: bool = True, **more: Any) -> str:
    """A command's output. Raises RuntimeError with what it said when it fails, unless `check` is False."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return str(done.stdout)


class SimulatedMachine:
    """One instance's machine, from its first boot to its end."""

    def __init__(self, instance: str, folder: Path, number: int) -> None:
        self.instance, self.folder, self.number = instance, folder, number
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.devices: dict[str, str] = {}
        self.address = ""
        self.connected = False
        """Whether it reaches the internet, and is reached from there."""
        self.rules: list[tuple[str, int, str]] | None = None

    def start(self, environment: Mapping[str, str], archive: Path, internet: Mapping[str, Path]) -> None:
        """Start the namespaces; its root keeps what an earlier run of the same instance wrote.

        `internet` has the certificate of each name that the host finds at this machine's address.
        """
        if not self.folder.exists():
            (self.folder / "rw").mkdir(parents=True)
            run("mount", "-t", "tmpfs", "tmpfs", str(self.folder / "rw"))
            run("cp", "-r", str(HERE / "bin"), str(self.folder / "bin"))
            for program in build_docker_engine():
                (self.folder / "bin" / program.name).symlink_to(program)
        more = {"TEST_PYTHON": sys.executable, "INSTANCE": self.instance}
        text = "".join(f"{key}='{value}'\n" for key, value in {**environment, **more}.items())
        (self.folder / "emulator.env").write_text(text)
        with (self.folder / "init.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child"),
                    *("bash", str(HERE / "init.sh"), str(self.folder), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        deadline = time.monotonic() + 30
        while not (child := children.read_text().split()):
            time.sleep(0.02)
        self.pid = int(child[0])
        while self.process.poll() is None:
            if time.monotonic() < deadline and Path(f"/proc/{self.pid}/root/run/init").exists():
                break
            if time.monotonic() > deadline:
                raise RuntimeError("the stand-in host does not start")
            time.sleep(0.05)
        else:
            raise RuntimeError(f"the stand-in host did not start: {(self.folder / 'init.log').read_text()}")
        (self.root / "etc/registry-stand-in").write_text(f"{archive}\n")
        names = "".join(f"{HERE_ADDRESS} {name}\n" for name in internet)
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
        for name, certificate in internet.items():
            shutil.copy(certificate, self.root / "etc/ssl/certs" / f"{name}.pem")
        run(
            *("ip", "-n", INTERNET, "link", "add", f"host{self.number}", "type", "veth"),
            *("peer", "name", "eth0", "netns", str(self.pid)),
        )
        run("ip", "-n", INTERNET, "link", "set", f"host{self.number}", "master", "br0", "up")
        self.inside("ip", "link", "set", "eth0", "up")

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def inside(self, *words: str, **more: Any) -> str:
        """Run a command on the host, as root."""
        return run(*self.enter(*words), **more)

    def enter(self, *words: str) -> list[str]:
        """The command that runs another one on the host."""
        there = ["nsenter", f"--target={self.pid}", "--all", "--root"]
        return [*there, "sh", "-c", 'cd / && exec "$@"', "sh", *words]

    def first_boot(self, user_data: str, public_key: str) -> None:
        """What cloud-init does, in a thread of its own: the boot script waits for its volume."""
        home = self.root / "home/ubuntu/.ssh"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "authorized_keys").write_text(public_key + "\n")
        self.inside("chown", "--recursive", "ubuntu:", "/home/ubuntu/.ssh")
        threading.Thread(target=self._user_data, args=(user_data,), daemon=True).start()

    def _user_data(self, user_data: str) -> None:
        assert user_data.startswith("#cloud-config\n")
        config = yaml.safe_load(user_data)
        assert set(config) == {"write_files", "runcmd"}, config.keys()
        for file in config["write_files"]:
            place = self.root / file["path"].lstrip("/")
            place.write_text(file["content"])
            place.chmod(int(file["permissions"], 8))
        result = "done"
        with (self.root / "var/log/cloud-init-output.log").open("ab") as log:
            for words in config["runcmd"]:
                done = subprocess.run(
                    self.enter(*words),
                    env={"PATH": PATH, "HOME": "/root"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    check=False,
                )
                if done.returncode:
                    result = "error"
        if self.process is not None:
            (self.root / "run/first-boot").write_text(result)

    def later_boot(self) -> None:
        """A stopped instance that is started again: what systemd does, from /etc/fstab on."""
        self.inside("mount", "--all")
        self.inside("systemctl", "restart", "ssh")
        self.inside("systemctl", "start", "docker")
        (self.root / "run/first-boot").write_text("done")

    def attach(self, volume: str, image: Path) -> None:
        """Give it a disk under the name that Nitro instances give an EBS volume."""
        device = run("losetup", "--find", "--show", str(image)).strip()
        number = str(os.minor(Path(device).stat().st_rdev))
        node = f"/dev/nvme{len(self.devices) + 1}n1"
        self.inside("mknod", node, "b", "7", number)
        name = f"nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"
        self.inside("ln", "-s", node, f"/dev/disk/by-id/{name}")
        if uuid := run("blkid", "-p", "-s", "UUID", "-o", "value", device, check=False).strip():
            self.inside("ln", "-s", node, f"/dev/disk/by-uuid/{uuid}")
        self.devices[volume] = device

    def set_address(self, address: str) -> None:
        """Its only public address; an empty text takes it away."""
        self.inside("ip", "address", "flush", "dev", "eth0")
        if address:
            self.inside("ip", "address", "add", f"{address}/24", "dev", "eth0")
        self.address = address

    def set_rules(self, rules: list[tuple[str, int, str]]) -> None:
        """Let in what the security group lets in: protocol, port, network. It comes before Docker's own."""
        first = ("iptables", "--wait", "-t", "mangle")
        self.inside(*first, "-F", "PREROUTING")
        add = (*first, "-A", "PREROUTING", "-i", "eth0")
        self.inside(*add, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
        for protocol, port, network in rules:
            self.inside(*add, "-p", protocol, "--dport", str(port), "-s", network, "-j", "ACCEPT")
        self.inside(*add, "-j", "DROP")
        self.rules = rules

    def stop(self) -> None:
        """Power off."""
        assert self.process is not None
        process, self.process = self.process, None
        os.kill(self.pid, signal.SIGKILL)
        process.wait()
        for device in self.devices.values():
            run("losetup", "--detach", device)
        self.devices, self.address, self.connected, self.rules = {}, "", False, None

    def remove(self) -> None:
        if self.process is not None:
            self.stop()
        run("umount", str(self.folder / "rw"))


class Machines:
    """Follows the emulator's instances. A context manager around whatever makes and ends them."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator, self.folder = emulator, folder
        self.hosts: dict[str, SimulatedMachine] = {}
        self.agents = folder / "agents"
        self.agents.mkdir()
        (folder / "volumes").mkdir()
        self.archive = folder / "images.tar"
        self.error: Exception | None = None
        self._numbers = itertools.count(1)
        self._stop = threading.Event()

    def __enter__(self) -> "Machines":
        if os.geteuid() != 0:
            raise RuntimeError(ROOT_ONLY)
        debian.ensure(PROGRAMS, self.folder / "apt.log")
        save(self.archive)
        self._only_one()
        for name in (INTERNET, CLIENT):
            run("ip", "netns", "add", name)
        here = ("ip", "-n", INTERNET, "link")
        run(*here, "add", "br0", "type", "bridge")
        run(*here, "set", "br0", "up")
        run(*here, "add", "up0", "type", "veth", "peer", "name", "changeover0", "netns", str(os.getpid()))
        run(*here, "set", "up0", "master", "br0", "up")
        run("ip", "address", "add", f"{HERE_ADDRESS}/24", "dev", "changeover0")
        run("ip", "link", "set", "changeover0", "up")
        run(*here, "add", "up1", "type", "veth", "peer", "name", "eth0", "netns", CLIENT)
        run(*here, "set", "up1", "master", "br0", "up")
        run("ip", "-n", CLIENT, "address", "add", f"{ADDRESSES.format(number=2)}/24", "dev", "eth0")
        run("ip", "-n", CLIENT, "link", "set", "eth0", "up")
        name = LOGS.format(region=self.emulator.region)
        certificate, key = self.folder / "logs.pem", self.folder / "logs.key"
        words = (
            f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name}"
        )
        run("openssl", *words.split(), "-keyout", str(key), "-out", str(certificate))
        self.internet = {name: certificate}
        self._logs = self.emulator.serve_tls(HERE_ADDRESS, certificate, key)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for host in self.hosts.values():
            host.remove()
        self._logs.shutdown()
        self._logs.server_close()
        for name in (INTERNET, CLIENT):
            run("ip", "netns", "delete", name)
        self._lock.close()
        self.archive.unlink()
        shutil.rmtree(self.folder / "volumes")
        if self.error is not None:
            raise self.error

    def _only_one(self) -> None:
        """Waits for another run, since the names are the same, and removes what a killed one has left."""
        self._lock = LOCK.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for name in (INTERNET, CLIENT):
            run("ip", "netns", "delete", name, check=False)
        run("ip", "link", "delete", "changeover0", check=False)

    @property
    def environment(self) -> dict[str, str]:
        """What the deployer's `aws` needs."""
        return {"CHANGEOVER_TEST_AGENTS": str(self.agents)}

    def only(self) -> SimulatedMachine:
        """The one host that runs."""
        (host,) = [each for each in self.hosts.values() if each.process is not None]
        return host

    def client(self, *words: str) -> str:
        """Run a command in another network namespace, somewhere on the internet."""
        return run("ip", "netns", "exec", CLIENT, *words)

    def _follow(self) -> None:
        ec2 = self.emulator.client("ec2")
        while not self._stop.wait(1):  # each look takes some 50 ms from what is looked at
            try:
                self._turn(ec2)
            except Exception as error:
                self.error = error
                return

    def _turn(self, ec2: Any) -> None:
        reservations = ec2.describe_instances()["Reservations"]
        for each in [one for group in reservations for one in group["Instances"]]:
            try:
                self._follow_one(ec2, each)
            except Exception:
                if self._state(ec2, each["InstanceId"]) == "running":
                    raise  # else it was ended while it was being started

    @staticmethod
    def _state(ec2: Any, instance: str) -> str:
        (group,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
        return str(group["Instances"][0]["State"]["Name"])

    def _follow_one(self, ec2: Any, each: Mapping[str, Any]) -> None:
        host = self.hosts.get(each["InstanceId"])
        running = each["State"]["Name"] == "running"
        if running and "IamInstanceProfile" not in each:
            return  # the emulator gives it one in a moment
        if running and (host is None or host.process is None):
            host = self._start(ec2, each)
        elif not running and host is not None and host.process is not None:
            (self.agents / host.instance).unlink(missing_ok=True)
            host.stop()
        if running and host is not None:
            self._adjust(ec2, each, host)

    def _start(self, ec2: Any, instance: Mapping[str, Any]) -> SimulatedMachine:
        name = instance["InstanceId"]
        host = self.hosts.get(name)
        again = host is not None
        if host is None:
            host = SimulatedMachine(name, self.folder / name, next(self._numbers))
        host.start(self.emulator.environment, self.archive, self.internet)
        self.hosts[name] = host
        if again:
            self._adjust(ec2, instance, host)
            host.later_boot()
        else:
            told = ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")
            keys = ec2.describe_key_pairs(KeyNames=[instance["KeyName"]], IncludePublicKey=True)
            user_data = base64.b64decode(told["UserData"]["Value"]).decode()
            host.first_boot(user_data, keys["KeyPairs"][0]["PublicKey"])
        return host

    def _agent_may(self, instance: Mapping[str, Any]) -> bool:
        """Whether the instance's role lets its agent connect to Systems Manager."""
        iam = self.emulator.client("iam")
        profile = instance["IamInstanceProfile"]["Arn"].rsplit("/", 1)[1]
        (role,) = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        attached = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
        return SSM_CORE in [each["PolicyArn"] for each in attached]

    def _adjust(self, ec2: Any, instance: Mapping[str, Any], host: SimulatedMachine) -> None:
        for disk in instance["BlockDeviceMappings"]:
            volume = disk["Ebs"]["VolumeId"]
            if disk["DeviceName"] == instance["RootDeviceName"] or volume in host.devices:
                continue
            image = self.folder / "volumes" / volume
            size = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Size"]
            run("truncate", "--size", f"{size}G", str(image))  # keeps what is on it
            host.attach(volume, image)
        if (connected := self.emulator.on_internet(host.instance)) != host.connected:
            host.connected = connected
            agent = self.agents / host.instance
            if connected and self._agent_may(instance):
                agent.write_text(str(host.pid))
            else:
                agent.unlink(missing_ok=True)
        filters = [{"Name": "instance-id", "Values": [host.instance]}]
        addresses = [each["PublicIp"] for each in ec2.describe_addresses(Filters=filters)["Addresses"]]
        if (address := addresses[0] if addresses and connected else "") != host.address:
            host.set_address(address)
        groups = [each["GroupId"] for each in instance["NetworkInterfaces"][0]["Groups"]]
        found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": groups}])
        rules = sorted(
            (each["IpProtocol"], each["FromPort"], each["CidrIpv4"])
            for each in found["SecurityGroupRules"]
            if not each["IsEgress"]
        )
        if rules != host.rules:
            host.set_rules(rules)
