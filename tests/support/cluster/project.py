"""A copy of the project with a stack on a test's cluster."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import offline.images
import offline.tools
from bench.stack import pin_fast_engine
from common import ROOT
from components.kubernetes.files import fetch, names, packages
from components.kubernetes.kubectl import selector
from components.kubernetes.objects import name
from components.proxy import LOCK
from offline.steps import cached, key_of
from stacks.settings import PROJECT
from tests.support.cluster.cluster import NAMESPACE, Cluster
from tests.support.cluster.images import GOOD
from tests.support.load import LoadGenerator
from tests.support.project import PASSPHRASE, SOURCES, TEAM, CommandFailed, Project
from tools import environment
from tools.up import place_model

WAIT_SECONDS = 5.0
"""No answer takes so long where nobody waits: the test engine needs half a second for the longest one. Who
waits for a host waits for longer, since a pod takes some 8 s to take another one's place."""

TENANT, KEY = "tester", "0123456789abcdef0123456789abcdef"


class ClusterProject(Project):
    """As `Project`, with the test engine as both engines where the cluster has no others. Its folder is a
    checkout with the project's `make`."""

    sources = (
        *(*SOURCES, "tools", "review", "policy", "docs", "Makefile"),
        *("requirements.lock", "requirements-dev.lock", ".gitignore"),
    )

    user: Mapping[str, str] = {}
    """With which variables `kubectl` reaches the cluster as somebody else than who administers it."""

    def __init__(self, folder: Path, stack: str, cluster: Cluster, **settings: object) -> None:
        self.cluster = cluster
        own = folder / environment.HOME.name
        self.home = own / environment.PULUMI_HOME.name
        offline.tools.install(offline.tools.build(cluster=True), self.home)
        (own / environment.BIN.name).symlink_to(environment.BIN)
        (own / environment.PASSPHRASE.name).write_text(PASSPHRASE)
        chosen: dict[str, object] = {
            "engine": "ollama",
            "target": "kubernetes",
            "hosts": cluster.count,
            "namespace": NAMESPACE,
            "model": "tiny",
            "images": "offline",
            "context": 1024,
            "parallel": 4,
        }
        super().__init__(folder, stack, **{**chosen, **settings})
        if not cluster.real:
            self.pin()
        # the cluster's network is no other, and on it no package registry can be reached
        wheels = packages(names()).relative_to(ROOT)
        (folder / wheels.parent).mkdir(parents=True)
        (folder / wheels).symlink_to(_wheels())
        self.pulumi("config", "set", "--secret", "--path", f"apiKeys.{TENANT}", KEY)
        (folder / "rendered" / stack).mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        (folder / ".git" / "info" / "exclude").write_text("/state/\n")
        self.commit("The project, with a stack")
        cluster.give(stack)

    def pin(self, *, vllm: str = GOOD) -> None:
        """Which version of the test engine is vLLM."""
        place = self.folder / "components/pins.py"
        place.write_text((ROOT / "components/pins.py").read_text())
        pin_fast_engine(self.folder, GOOD, vllm=vllm)

    def command(self, *words: str) -> Sequence[str]:
        variables = {**self.cluster.variables, **self.user, "PULUMI_HOME": str(self.home)}
        variables["PATH"] = f"{self.cluster.programs}:{self.environment['PATH']}"
        return self.cluster.enter(
            "env", *(f"{key}={value}" for key, value in variables.items()), *super().command(*words)
        )

    def make(self, target: str, *, fails: int = 0, **more: str) -> str:
        """What `make` of the project prints; `fails` is the exit status that it must have."""
        told = {
            **self.for_tools,
            **self.cluster.variables,
            **self.user,
            **TEAM,
            **more,
        }
        # the packages are those of the checkout under test, so nothing is installed
        words = ("make", "-s", "-o", ".venv/.synced", target, f"STACK={self.stack}")
        return self._run(self.cluster.enter(*words), told, fails)

    def git(self, *words: str) -> str:
        return self._run(["git", *words], {**self.environment, **TEAM}, 0)

    def commit(self, message: str, **settings: object) -> None:
        """Changes settings, renders, and commits all."""
        self.configure(**settings)
        self.make("render")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def _run(self, words: Sequence[str], told: Mapping[str, str], fails: int) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != fails:
            raise CommandFailed(f"{' '.join(words)} exited {done.returncode}:\n{done.stdout}")
        return done.stdout

    @property
    def mine(self) -> str:
        """Selects what is the stack's."""
        return selector(PROJECT, self.stack)

    def pods(self, role: str) -> list[dict[str, Any]]:
        return list(self.cluster.get("pods", "--selector", selector(PROJECT, self.stack, role))["items"])

    @property
    def endpoint(self) -> str:
        """Its URL on the cluster's network, where nobody knows names."""
        spec = self.cluster.get("service", name(self.labels, "endpoint"))["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}/v1"

    def serving(self) -> dict[str, int]:
        """How many pods are ready of each engine, by its name."""
        found: dict[str, int] = {}
        for pod in self.pods("engine"):
            conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions") or []}
            if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
                engine = pod["metadata"]["labels"]["changeover.engine"]
                found[engine] = found.get(engine, 0) + 1
        return found

    def certificates(self) -> list[dict[str, Any]]:
        """Of its changes, the first one first."""
        files = sorted((self.folder / "certificates" / self.stack).glob("*.json"))
        return [json.loads(file.read_text()) for file in files]

    def end_plugins(self) -> None:
        """Ends what `pulumi` has started and, killed, left behind: the plugin for clusters goes on."""
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith(f"{self.home}/"):
                process.kill()


def _wheels() -> Path:
    """The proxy's packages, as an update fetches them."""
    return cached("cluster-wheels", key_of(LOCK.read_bytes()), lambda folder, _: fetch(folder))


class ClusterLoad(LoadGenerator):
    """A load on the cluster's network."""

    cluster: Cluster

    def __enter__(self) -> "ClusterLoad":
        super().__enter__()
        return self

    async def _run(self) -> None:
        self.cluster.on_network()
        await super()._run()


def load(project: ClusterProject, **more: Any) -> ClusterLoad:
    made = ClusterLoad(project.endpoint, "tiny", api_key=KEY, **more)
    made.cluster = project.cluster
    return made


@contextmanager
def on_cluster(
    folder: Path, stack: str, *, real: bool = False, as_deployer: bool = False, **settings: object
) -> Iterator[ClusterProject]:
    """A deployed stack on a cluster of its own, with the test engine or with the `real` ones. `as_deployer`:
    by somebody who has the rights of the guide and no others."""
    place_model(offline.images.tiny_model())
    with Cluster(real=real) as cluster:
        project = ClusterProject(folder, stack, cluster, **settings)
        if as_deployer:
            project.user = {"KUBECONFIG": str(cluster.deployer())}
        try:
            project.up()
            yield project
        finally:
            project.end_plugins()
