"""Pulumi's command line, its Python language host and its plugins, built from package registries.

On an open network all of this is downloaded from Pulumi; here it is compiled from the sources that the
registries serve. The folders under `offline/go/` pin every module of each build.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common import StepFailed, main_guard, say
from components.pins import COMMAND_PLUGIN, DOCKER_PLUGIN, KUBERNETES_PLUGIN, PULUMI
from offline.steps import cached, go_environment, key_of, place_of, run

SOURCES = Path(__file__).resolve().parent / "go"

ORIGIN = "built from package registries\n"
"""Says in each plugin folder that it is not the published build: one stack needs one and the same build."""

GO = (1, 26)
"""The oldest Go release line that these builds were made with; go.mod files ask for no more."""


@dataclass(frozen=True, kw_only=True)
class GoBuild:
    """One program, built by the module in `offline/go/<source>`."""

    source: str
    package: str
    program: str
    stamps: Mapping[str, str] = field(default_factory=dict)
    """Go variables and the version that the linker puts into them."""
    embeds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Module → files of it that are compiled in. Go embeds files of the program's own module only, so they
    are copied beside its source."""

    def command(self, folder: Path) -> list[str]:
        """The command line that builds the program into `folder`."""
        stamps = "".join(f" -X {variable}={value}" for variable, value in self.stamps.items())
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w{stamps}"]
        return ["go", "build", *flags, "-o", str(folder / self.program), self.package]


CLI = GoBuild(
    source="pulumi",
    package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
    program="pulumi",
    stamps={
        "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version": f"v{PULUMI}",
        "github.com/pulumi/pulumi/pkg/v3/version.Version": f"v{PULUMI}",
    },
)
LANGUAGE_HOST = GoBuild(
    source="language-python",
    package="github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python",
    program="pulumi-language-python",
    # Newer hosts are modules of their own, which are not served; this one works with the newer engine.
    stamps={"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version": "v3.75.0"},
)
ACTIONLINT = GoBuild(
    source="actionlint", package="github.com/rhysd/actionlint/cmd/actionlint", program="actionlint"
)
"""Checks the workflows. No part of what is deployed."""
VMALERT_TOOL = GoBuild(
    source="vmalert-tool",
    package="github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert-tool",
    program="vmalert-tool",
)
"""Tries the monitor's alerts on made-up time series. No part of what is deployed."""
DOCKERD = GoBuild(
    source="docker-engine",
    package="github.com/docker/docker/cmd/dockerd",
    program="dockerd",
    stamps={"github.com/docker/docker/dockerversion.Version": "28.5.2"},
)
"""Docker's engine, for the tests' stand-in hosts. No part of what is deployed. Version 29 gives each
container a time namespace, which Debian's runc does not know."""
DOCKER_PROXY = GoBuild(
    source="docker-engine", package="github.com/docker/docker/cmd/docker-proxy", program="docker-proxy"
)
"""What Docker's engine starts for a published port."""
KUBERNETES = GoBuild(
    source="kubernetes",
    package=".",
    program="kubernetes",
    stamps={
        "k8s.io/component-base/version.gitVersion": "v1.35.4",
        "k8s.io/component-base/version.gitMajor": "1",
        "k8s.io/component-base/version.gitMinor": "35",
    },
)
"""All programs of Kubernetes and etcd, for the tests' clusters. No part of what is deployed."""
COREDNS = GoBuild(source="coredns", package=".", program="coredns")
"""Answers names in the tests' clusters. No part of what is deployed."""
NETWORK_POLICIES = GoBuild(source="network-policies", package=".", program="network-policies")
"""Keeps NetworkPolicies on the nodes of the tests' clusters. No part of what is deployed."""
CLUSTER = (KUBERNETES, COREDNS, NETWORK_POLICIES)
PLUGINS = {
    f"resource-command-v{COMMAND_PLUGIN}": GoBuild(
        source="command",
        package=".",
        program="pulumi-resource-command",
        stamps={"main.version": COMMAND_PLUGIN},
    ),
    f"resource-docker-v{DOCKER_PLUGIN}": GoBuild(
        source="docker",
        package=".",
        program="pulumi-resource-docker",
        stamps={"main.version": DOCKER_PLUGIN},
    ),
}
CLUSTER_PLUGINS = {
    f"resource-kubernetes-v{KUBERNETES_PLUGIN}": GoBuild(
        source="kubernetes-plugin",
        package=".",
        program="pulumi-resource-kubernetes",
        stamps={
            "github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/version.Version": KUBERNETES_PLUGIN,
        },
        embeds={
            "github.com/pulumi/pulumi-kubernetes/provider/v4": (
                "cmd/pulumi-resource-kubernetes/schema.json",
                "cmd/pulumi-resource-kubernetes/terraform-mapping.json",
            )
        },
    ),
}
"""What a stack on a cluster needs besides. It takes 8 minutes, and nobody else waits for it."""


@dataclass(frozen=True)
class Tools:
    """What was built: `bin` belongs on PATH, `plugins` maps a plugin's folder name to its folder."""

    bin: Path
    plugins: Mapping[str, Path]


def build(*, cluster: bool = False) -> Tools:
    """Build what is missing, two programs at a time; with `cluster` what a stack on a cluster needs, too.

    Raises StepFailed if something can't be built.
    """
    go = go_version()
    with ThreadPoolExecutor(max_workers=2) as pool:
        # The longest first, so that the others fill the second place beside it.
        wanted = {**(CLUSTER_PLUGINS if cluster else {}), **PLUGINS}
        cli = pool.submit(build_one, CLI, go)
        plugins = {name: pool.submit(build_one, plugin, go) for name, plugin in wanted.items()}
        host = pool.submit(build_one, LANGUAGE_HOST, go)
        try:
            return Tools(
                bin=_bin(cli.result(), host.result()),
                plugins={name: plugin.result() for name, plugin in plugins.items()},
            )
        except StepFailed:
            pool.shutdown(cancel_futures=True)
            raise


def build_docker_engine() -> tuple[Path, Path]:
    """The programs of a newer Docker engine than Debian's. Raises StepFailed."""
    go = go_version()
    return build_one(DOCKERD, go) / DOCKERD.program, build_one(DOCKER_PROXY, go) / DOCKER_PROXY.program


def build_cluster() -> tuple[Path, Path, Path]:
    """The programs of a test's cluster: Kubernetes' with etcd, CoreDNS, and what keeps NetworkPolicies.

    Raises StepFailed.
    """
    go = go_version()
    kubernetes, names, policies = (build_one(each, go) / each.program for each in CLUSTER)
    return kubernetes, names, policies


def is_cluster_built() -> bool:
    """Whether the programs of a test's cluster, and the plugin for it, need not be built any more."""
    go = go_version()
    return all(
        place_of(each.program, _key(each, go)).is_dir() for each in (*CLUSTER, *CLUSTER_PLUGINS.values())
    )


def install(tools: Tools, home: Path) -> None:
    """Place the plugins into `home`/plugins, where the engine looks for them when PULUMI_HOME is `home`.

    The engine takes real folders only, so each is one, with links to the files in the cache. It ignores
    a plugin beside which an interrupted download has left its `.partial` or `.lock`.
    """
    places = home / "plugins"
    places.mkdir(parents=True, exist_ok=True)
    for name, built in tools.plugins.items():
        place, lock = places / name, places / f"{name}.lock"
        wanted = {file.name: file for file in built.iterdir()}
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # the engine's own, while it downloads a plugin
            if _links(place) != wanted:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                for file in wanted.values():
                    (place / file.name).symlink_to(file)
            (places / f"{name}.partial").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def go_version() -> str:
    """The version of the Go on PATH, such as `go1.26.8`; raise StepFailed if it is missing or too old."""
    wanted = ".".join(map(str, GO))
    advice = (
        f"Install Go {wanted} or newer (`go version` shows what is on PATH), then run the same command again."
    )
    if shutil.which("go") is None:
        raise StepFailed(f"`go` is missing, which compiles Pulumi and its plugins. {advice}")
    told = subprocess.run(
        ["go", "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=False
    ).stdout.strip()
    number = re.match(r"go(\d+)\.(\d+)", told)
    if number is None or (int(number[1]), int(number[2])) < GO:
        raise StepFailed(f"`go` is too old: {told or 'its version is unknown'}. {advice}")
    return told


def _environment() -> dict[str, str]:
    return {**os.environ, **go_environment(), "CGO_ENABLED": "0"}


def build_one(build: GoBuild, go: str) -> Path:
    """The folder with one built program and its ORIGIN."""
    source = SOURCES / build.source

    def compile_(folder: Path, log: Path) -> None:
        with _whole(build, source, log) as here:
            run(build.command(folder), log=log, cwd=here, env=_environment())
        (folder / "ORIGIN").write_text(ORIGIN)

    return cached(build.program, _key(build, go), compile_)


def _key(build: GoBuild, go: str) -> str:
    source = SOURCES / build.source
    files = sorted(file for file in source.rglob("*") if file.is_file())
    content = [part for file in files for part in (str(file.relative_to(source)), file.read_bytes())]
    return key_of(go, *build.command(Path("folder")), *content)


@contextmanager
def _whole(build: GoBuild, source: Path, log: Path) -> Iterator[Path]:
    """The folder to build in: the source itself, or a copy with the files of other modules that it embeds."""
    if not build.embeds:
        yield source
        return
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary) / source.name
        shutil.copytree(source, here)
        for module, files in build.embeds.items():
            run(["go", "mod", "download", module], log=log, cwd=here, env=_environment())
            folder = subprocess.run(
                ["go", "list", "-m", "-f", "{{.Dir}}", module],
                cwd=here,
                env=_environment(),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout.strip()
            for file in files:
                shutil.copyfile(Path(folder) / file, here / Path(file).name)
        yield here


def _bin(cli: Path, host: Path) -> Path:
    """One folder for PATH: the command line, the language host, and the script that it runs programs with."""

    def gather(folder: Path, log: Path) -> None:
        for program in (cli / CLI.program, host / LANGUAGE_HOST.program):
            os.link(program, folder / program.name)
        # The script has to fit the SDK that the program imports, not the host.
        sdk = _environment()["GOMODCACHE"] + f"/github.com/pulumi/pulumi/sdk/v3@v{PULUMI}"
        run(
            ["go", "mod", "download", f"github.com/pulumi/pulumi/sdk/v3@v{PULUMI}"],
            log=log,
            cwd=SOURCES / CLI.source,
            env=_environment(),
        )
        script = folder / "pulumi-language-python-exec"
        shutil.copyfile(f"{sdk}/python/cmd/{script.name}", script)
        script.chmod(0o755)

    return cached("pulumi-bin", key_of(cli.name, host.name), gather)


def _links(place: Path) -> dict[str, Path]:
    """What the links in an installed plugin's folder point to, by name; nothing if there is no folder."""
    if not place.is_dir():
        return {}
    return {file.name: file.readlink() for file in place.iterdir() if file.is_symlink()}


def _show() -> None:
    tools = build()
    say(f"bin: {tools.bin}")
    for name, folder in tools.plugins.items():
        say(f"{name}: {folder}")


if __name__ == "__main__":
    main_guard(_show)
