"""Three machines and what controls them: namespaces in which Kubernetes' own programs run, with Debian's
containerd. Needs root.

Whoever uses the cluster is on its network, too: `enter` runs a program there, and `on_network` has a thread
of this process open its connections there. There is one cluster at a time, and another waits for its end.
"""

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from common import ROOT, cache_root
from components.kubernetes import rights
from components.kubernetes.pods import NODE
from offline.tools import build_cluster
from tests.support.cluster import configuration, images
from tests.support.cluster.configuration import CONTROL, SERVICES, Control
from tools import debian

HERE = Path(__file__).parent
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ipset": "ipset",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "openssl": "openssl",
    f"{configuration.CNI_PROGRAMS}/ptp": "containernetworking-plugins",
}
"""Program → Debian package."""
KUBERNETES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
CGROUPS = Path("/sys/fs/cgroup")
GROUP = "changeover-test-cluster"
"""A cgroup of every kind, in which all pods are."""
CONTROLS = "control"
CLONE_NEWNET = 0x40000000
KERNEL = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
LEGACY = "/usr/sbin/xtables-legacy-multi"
"""What keeps NetworkPolicies writes back a whole table as it has read it, and would undo what kube-proxy has
changed meanwhile (a real cluster with both is at that risk): with these tables, which the kernel goes through
beside the other ones, both have their own."""
POLICIES = "KUBE-ROUTER-FORWARD"
"""The chain by which they are kept."""
BRIDGE = "machines"
NAMESPACE = "changeover"
START_SECONDS = 120


class Machine:
    """Namespaces with programs in them. What they write is in `folder`."""

    def __init__(self, name: str, folder: Path, programs: Path) -> None:
        self.name, self.folder, self.programs = name, folder, programs
        folder.mkdir(parents=True)
        with (folder / "machine.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),  # it ends with the tests, however these end
                    *("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child"),
                    *("bash", str(HERE / "machine.sh"), str(folder), name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started = list[subprocess.Popen[bytes]]()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait(lambda: bool(self._ended() or children.read_text().split()), 30, "the machine begins")
        self.pid = int(children.read_text().split()[0])
        wait(lambda: self._ended() or Path(f"/proc/{self.pid}/root/run/init").exists(), 30, "the machine")

    def _ended(self) -> bool:
        if self.process.poll() is None:
            return False
        raise RuntimeError(f"{self.name} did not start: {(self.folder / 'machine.log').read_text()}")

    def enter(self, *words: str, first: Path | None = None) -> list[str]:
        """The command that runs another one on this machine, which finds the programs in `first` before all
        others."""
        there = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--uts", "--wd=/"]
        path = f"PATH={self.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        path = path if first is None else path.replace("=", f"={first}:", 1)
        return [*there, "env", "-i", path, "HOME=/root", "TMPDIR=/run/tmp", *words]

    def run(self, *words: str) -> str:
        return run(*self.enter(*words))

    def start(self, *words: str, first: Path | None = None) -> None:
        """A program that goes on until the machine ends; what it writes is in `log` of the folder."""
        with (self.folder / "log" / f"{words[0]}.log").open("ab") as log:
            command = self.enter(*words, first=first)
            self._started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def stop(self) -> None:
        """Its power is off: everything on it ends at once."""
        os.kill(self.pid, signal.SIGKILL)
        for process in (self.process, *self._started):
            process.wait()


class Cluster:
    """A context manager around whatever uses the cluster. Its nodes have the images of the test engine, or of
    the `real` ones."""

    def __init__(self, nodes: int = 3, *, real: bool = False) -> None:
        self.count, self.real = nodes, real
        self.folder = cache_root() / "cluster"
        self.programs, self.tables = self.folder / "bin", self.folder / "tables"
        self.machines: dict[str, Machine] = {}
        self.began = time.monotonic()
        self.took = 0.0
        """Seconds until every node was ready."""

    def __enter__(self) -> "Cluster":
        if os.geteuid() != 0:
            raise RuntimeError("only root can make namespaces")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        debian.ensure(PROGRAMS, self.folder.parent / "apt.log")
        kubernetes, *others = build_cluster()
        store = images.store(real=self.real)
        self._lock: IO[str] = self.folder.with_suffix(".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._remove()  # what a killed run has left
        self._kernel = kernel()
        self.began = time.monotonic()
        self.programs.mkdir(parents=True)
        for name in (*KUBERNETES, "kubectl"):
            (self.programs / name).symlink_to(kubernetes)
        for program in others:
            (self.programs / program.name).symlink_to(program)
        self.tables.mkdir()
        for name in ("iptables", "iptables-save", "iptables-restore"):
            (self.tables / name).symlink_to(LEGACY)
        try:
            self._start(store)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all of it, and takes away its files. Raises RuntimeError where something is left of it, or was
        changed of this machine."""
        for machine in self.machines.values():
            machine.stop()
        self.machines.clear()
        self._remove()
        try:
            wait(lambda: not self._left(), 10, "the cluster leaves nothing")
        except TimeoutError:
            raise RuntimeError(f"the cluster has left: {self._left()}") from None
        finally:
            self._lock.close()

    def _left(self) -> list[str]:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        links = [
            line.split()[1].partition("@")[0].rstrip(":") for line in run("ip", "-o", "link").splitlines()
        ]
        nodes = {configuration.node(number) for number in range(1, self.count + 1)}
        return [
            *(f"{name} is {value}" for name, value in kernel().items() if value != self._kernel[name]),
            *(line for line in mounts if f"{self.folder}/" in line),
            *(line for line in run("ps", "-eo", "args").splitlines() if f"{self.folder}/" in line),
            *(f"the link {name}" for name in links if name == BRIDGE or name in nodes),
            *(
                line
                for words in (("iptables-save",), (LEGACY, "iptables-save"), ("ipset", "list", "-name"))
                for line in run(*words).splitlines()
                if "KUBE-" in line
            ),
            *(str(group) for group in self._groups() if group.exists()),
        ]

    def _remove(self) -> None:
        for group in self._groups():
            wait(partial(_gone, group), 30, f"{group} is empty")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise RuntimeError(f"{self.folder} can't be removed")

    def _groups(self) -> list[Path]:
        if (CGROUPS / "cgroup.controllers").exists():  # there is one kind for all
            return [CGROUPS / GROUP]
        return [each / GROUP for each in CGROUPS.iterdir() if (each / "cgroup.procs").exists()]

    # its start

    def _start(self, store: Path) -> None:
        self.machines[CONTROLS] = Machine(CONTROLS, self.folder / CONTROLS, self.programs)
        told = Control(folder=self.control.folder)
        self._configure(told)
        network = ("ip", "link")
        self.control.run(*network, "add", BRIDGE, "type", "bridge")
        self.control.run("ip", "address", "add", f"{CONTROL}/24", "dev", BRIDGE)
        self.control.run(*network, "set", BRIDGE, "up")
        self.control.start(*told.etcd())
        self.control.start(*told.api())
        for number in range(1, self.count + 1):
            self._add_node(number, store, told)
        # a client asks Services as a node's pods do, by a node's rules
        self.control.run("ip", "route", "add", f"{SERVICES}.0.0/16", "via", configuration.address(1))
        wait(self._answers, START_SECONDS, f"the API server answers: {self.control.folder / 'log'}")
        for words in (told.controllers(), told.scheduler(), told.names()):
            self.control.start(*words)
        for name, node in self.nodes.items():
            self._join(name, node, told)
        wait(self._ready, START_SECONDS, f"all nodes are ready: {self.folder}")
        for node in self.nodes.values():
            node.start(*configuration.policies(told.config("policies")), first=self.tables)
        wait(self._closed, START_SECONDS, f"all nodes keep NetworkPolicies: {self.folder}")
        self.kubectl("create", "namespace", NAMESPACE)
        self.took = time.monotonic() - self.began

    def _configure(self, told: Control) -> None:
        folder = told.folder
        (folder / "tokens.csv").write_text(configuration.tokens(self.count))
        for user in configuration.users(self.count):
            told.config(user).write_text(configuration.kubeconfig(user, told.certificate))
        run("openssl", "genrsa", "-out", str(told.key), "2048")
        (folder / "Corefile").write_text(configuration.corefile(told.config("names")))

    def _add_node(self, number: int, store: Path, told: Control) -> None:
        name, address = configuration.node(number), configuration.address(number)
        node = Machine(name, self.folder / name, self.programs)
        self.machines[name] = node
        there = ("peer", "name", "eth0", "netns", str(node.pid))
        here = ["nsenter", f"--target={self.control.pid}", "--net", "ip"]
        run(*here, "link", "add", name, "type", "veth", *there)
        run(*here, "link", "set", name, "master", BRIDGE, "up")
        run(*here, "route", "add", configuration.pods_of(number), "via", address)
        node.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        node.run("ip", "link", "set", "eth0", "up")
        for other in range(1, self.count + 1):
            if other != number:
                way = ("via", configuration.address(other))
                node.run("ip", "route", "add", configuration.pods_of(other), *way)
        for group in self._groups():
            (group / name).mkdir(parents=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, and then it takes no process
                for each in (group, group / name):
                    if (each / file).exists():
                        (each / file).write_text((each.parent / file).read_text())
        folder = node.folder
        (folder / "resolv.conf").write_text(f"nameserver {CONTROL}\n")
        (folder / "kubelet.json").write_text(
            configuration.kubelet(f"/{GROUP}/{name}", folder / "resolv.conf")
        )
        (folder / "kube-proxy.json").write_text(configuration.kube_proxy(told.config("proxy"), name))
        (folder / "networks").mkdir()
        (folder / "networks" / "pods.conflist").write_text(configuration.cni(number))
        (folder / "containerd.toml").write_text(configuration.containerd(folder / "networks"))
        images.copy(store / "containerd", folder / "lib" / "containerd")
        node.start("containerd", "--config", str(folder / "containerd.toml"))

    def _join(self, name: str, node: Machine, told: Control) -> None:
        socket = Path(f"/proc/{node.pid}/root{configuration.CONTAINERD}")
        wait(socket.exists, 30, f"containerd listens on {name}")
        address = configuration.address(int(name.removeprefix("node")))
        node.start(
            "kubelet",
            f"--config={node.folder / 'kubelet.json'}",
            f"--kubeconfig={told.config(name)}",
            f"--hostname-override={name}",
            f"--node-ip={address}",
        )
        node.start("kube-proxy", f"--config={node.folder / 'kube-proxy.json'}")

    def _answers(self) -> bool:
        with contextlib.suppress(RuntimeError):
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        return False

    def _ready(self) -> bool:
        found = self.get("nodes")["items"]
        ready = [
            node
            for node in found
            for each in node["status"].get("conditions") or []
            if (each["type"], each["status"]) == ("Ready", "True")
        ]
        return len(ready) == self.count

    def _closed(self) -> bool:
        return all(POLICIES in node.run(LEGACY, "iptables-save") for node in self.nodes.values())

    # its use

    @property
    def control(self) -> Machine:
        """On which what controls the cluster runs."""
        return self.machines[CONTROLS]

    @property
    def nodes(self) -> dict[str, Machine]:
        return {name: machine for name, machine in self.machines.items() if name != CONTROLS}

    @property
    def variables(self) -> Mapping[str, str]:
        """With which `kubectl` is found, and finds the cluster."""
        admin = Control(folder=self.control.folder).config(configuration.ADMIN)
        return {
            "KUBECONFIG": str(admin),
            "KUBECACHEDIR": str(self.folder / "kubectl"),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }

    def deployer(self) -> Path:
        """A kubeconfig of somebody who has the rights that the guide names, and no others."""
        here, account = ("--namespace", NAMESPACE), f"--serviceaccount={NAMESPACE}:{rights.ROLE}"
        self.kubectl(*here, "apply", "--filename", str(ROOT / rights.FILE))
        self.kubectl(*here, "create", "serviceaccount", rights.ROLE)
        self.kubectl(*here, "create", "rolebinding", rights.ROLE, f"--role={rights.ROLE}", account)
        self.kubectl("create", "clusterrolebinding", rights.ROLE, f"--clusterrole={rights.ROLE}", account)
        token = self.kubectl(*here, "create", "token", rights.ROLE, "--duration=8h").strip()
        control = Control(folder=self.control.folder)
        file = control.config(rights.ROLE)
        file.write_text(configuration.kubeconfig(token, control.certificate))
        return file

    def enter(self, *words: str) -> list[str]:
        """The command that runs another one on the cluster's network, and everywhere else as it is here."""
        return ["nsenter", f"--target={self.control.pid}", "--net", *words]

    def on_network(self, of: str = CONTROLS) -> None:
        """From now on this thread, and those that it starts, open their connections on the cluster's network,
        from what controls the cluster or from a node. A node reaches all ports of its own pods."""
        with Path(f"/proc/{self.machines[of].pid}/ns/net").open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def kubectl(self, *words: str, stdin: str = "") -> str:
        return run(
            *self.enter(str(self.programs / "kubectl"), *words),
            input=stdin,
            env={**os.environ, **self.variables},
        )

    def warnings(self, *words: str) -> list[str]:
        """What the API server warns of that `kubectl` is told to do."""
        done = subprocess.run(
            self.enter(str(self.programs / "kubectl"), *words),
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=True,
        )
        mark = "Warning: "
        return [line.removeprefix(mark) for line in done.stderr.splitlines() if line.startswith(mark)]

    def get(self, *words: str) -> Any:
        """In the namespace of the stacks, as far as it is in one."""
        return json.loads(self.kubectl("get", "--namespace", NAMESPACE, *words, "--output", "json"))

    def give(self, stack: str, *nodes: str) -> None:
        """These nodes, or all machines, are the stack's."""
        if names := nodes or tuple(self.nodes):
            self.kubectl("label", "node", *names, f"{NODE}={stack}", "--overwrite")


def kernel() -> dict[str, str]:
    """What the programs of a cluster would set of the kernel, which is this machine's, too."""
    return {name: Path("/proc/sys", name).read_text().strip() for name in KERNEL}


def wait(what: Callable[[], bool], seconds: float, whatever: str) -> None:
    until = time.monotonic() + seconds
    for attempt in itertools.count():
        if what():
            return
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s: {whatever}")
        time.sleep(min(0.5, 0.02 * 2 ** min(attempt, 5)))


def run(*words: str, **more: Any) -> str:
    """What a command prints. Raises RuntimeError with what it said where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return str(done.stdout)


def _gone(group: Path) -> bool:
    """Removes a cgroup with all that are in it, once no process is in them."""
    for each in sorted(group.rglob("*"), reverse=True):
        if each.is_dir():
            with contextlib.suppress(OSError):
                each.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()
