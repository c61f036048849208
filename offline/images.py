"""Container images for machines that reach package registries and no image registry.

Each image stands in for the public one of `components.pins` and has the same command line, so that one
container definition runs both. What goes into an image is a cached step; the image carries the content key of
all of it in a label, so that a stale image under the same tag is replaced, and one that Docker lost is loaded
from the cache again. Nothing here needs root where the Docker engine can be used without it.
"""

import ast
import fcntl
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from common import StepFailed, cache_root, main_guard, say, unpack
from components.pins import ALERTS, EDGE, GATEWAY, OLLAMA, STORE, SWITCH, VLLM_CPU, Image
from offline.image.cuda_stubs import write_stubs
from offline.steps import cached, go_environment, key_of, need, run

LABEL = "changeover.content"
SUITE = "bookworm"
PYTHON = "3.11"
HERE = Path(__file__).parent / "image"
SITE_PACKAGES = Path(f"usr/local/lib/python{PYTHON}/dist-packages")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BASE_PACKAGES = (
    "ca-certificates",
    "libgomp1",  # the C++ and OpenMP libraries, and NUMA, are for the engines
    "libnuma1",
    "libstdc++6",
    "python3",
    "wget",  # the public gateway image has it, and its health check is written with it
)
UV = Path(__file__).parents[1] / "tools" / "uv.txt"
"""The version of uv, with its hashes."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one image is made.

    `fill(folder, log)` puts into `folder` what goes over the base; `made_by` are the functions, and `inputs`
    the files under offline/image, that this depends on. `changes` are instructions of a Dockerfile.
    """

    pin: Image
    changes: tuple[str, ...]
    fill: Callable[[Path, Path], None] | None = None
    made_by: tuple[Callable[..., object], ...] = ()
    inputs: tuple[str, ...] = ()

    def payload_key(self) -> str:
        """The key of what goes over the base."""
        functions = [f for f in (self.fill, *self.made_by) if f is not None]
        return key_of(
            self.pin.version,
            platform.machine(),
            *map(_source, functions),
            *((HERE / name).read_bytes() for name in self.inputs),
        )

    def key(self) -> str:
        """The key of the whole image."""
        return key_of(_base_key(), self.payload_key(), *self.changes)


def build(names: Sequence[str] | None = None) -> dict[str, str]:
    """Make sure that the named images (all, if None) are in the Docker engine; name → reference.

    The names are those of `components.pins`. Raises StepFailed if an image can't be built or loaded.
    """
    need("docker", "docker.io")
    wanted = [RECIPES[name] for name in (RECIPES if names is None else names)]
    missing = [recipe for recipe in wanted if _loaded_key(recipe.pin.offline) != recipe.key()]
    for number, recipe in enumerate(missing, start=1):
        say(f"Images: {number} of {len(missing)}: {recipe.pin.offline}")
        _ensure(recipe)
    return {recipe.pin.name: recipe.pin.offline for recipe in wanted}


def parts(name: str) -> tuple[Path, Path | None]:
    """What an image is made of, built where it is missing: the archive of its base, and the folder that goes
    over it, if there is one. The name is one of `components.pins`. Raises StepFailed."""
    recipe = RECIPES[name]
    base = cached("images/base", _base_key(), _make_base) / "base.tar"
    if recipe.fill is None:
        return base, None
    return base, cached(f"images/{name}", recipe.payload_key(), recipe.fill)


def put_over(base: Path, payload: Path | None, out: IO[bytes]) -> None:
    """Writes an archive of what goes over the base, without the names that the base has."""
    with tarfile.open(base) as tar:
        present = {member.name.removeprefix("./") for member in tar}
    _put_over(present, payload, out)


def tiny_model() -> Path:
    """The folder with a small random model that both engines serve, in Hugging Face format."""
    script = HERE / "tiny_model.py"

    def make(folder: Path, log: Path) -> None:
        reference = build([VLLM_CPU.name])[VLLM_CPU.name]
        archive = folder / "model.tar"
        # Through a pipe, not a mount: Docker need not see this folder, and none of it will belong to root.
        with script.open("rb") as source, archive.open("wb") as out, log.open("ab") as errors:
            done = subprocess.run(
                ["docker", "run", "--rm", "-i", "--network=none", "--entrypoint=python3", reference, "-"],
                stdin=source,
                stdout=out,
                stderr=errors,
                check=False,
            )
        if done.returncode != 0:
            raise StepFailed(f"tiny_model.py exited {done.returncode}. The whole log: {log}")
        with tarfile.open(archive) as tar:
            unpack(tar, folder)
        archive.unlink()

    return cached("models/tiny", key_of(script.read_bytes(), VLLM_CPU.version), make)


def _ensure(recipe: Recipe) -> None:
    lock_path = cache_root() / "images" / f"{recipe.pin.name}.load.lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _loaded_key(recipe.pin.offline) != recipe.key():  # another process may have loaded it meanwhile
            base, payload = parts(recipe.pin.name)
            _load(recipe, base, payload)
            if payload:
                _prune(payload)


def _prune(payload: Path) -> None:
    """Remove the payloads that this one supersedes: one of them can take gigabytes."""
    for other in payload.parent.iterdir():
        if other.is_dir() and other != payload and other.suffix != ".building":
            shutil.rmtree(other)


def _loaded_key(reference: str) -> str | None:
    """The content key of the image in the Docker engine; None if there is no such image."""
    shown = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", reference],
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode == 0:
        return (json.loads(shown.stdout) or {}).get(LABEL)
    if "no such image" not in shown.stderr.lower():
        raise StepFailed(f"The Docker engine does not answer: {shown.stderr.strip()}")
    return None


def _load(recipe: Recipe, base: Path, payload: Path | None) -> None:
    """Stream base and payload into the Docker engine as one layer: nothing is written twice."""
    reference = recipe.pin.offline
    old = _image_id(reference)
    started = time.monotonic()
    say(f"  {reference}: loading into Docker")
    changes = [f"ENV PATH={PATH}", *recipe.changes, f"LABEL {LABEL}={recipe.key()}"]
    command = ["docker", "import", *(word for change in changes for word in ("--change", change))]
    with subprocess.Popen(
        [*command, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as importing:
        assert importing.stdin is not None and importing.stdout is not None and importing.stderr is not None
        try:
            with importing.stdin as out:
                # Docker refuses a name that comes twice, be it a folder's.
                _put_over(_copy_members(base, out), payload, out)
        except BrokenPipeError:
            pass
        loaded = importing.stdout.read().decode(errors="replace").strip()
        errors = importing.stderr.read().decode(errors="replace").strip()
    if importing.returncode != 0:
        raise StepFailed(f"Docker did not load the image {reference}: {errors}")
    # The name comes last: Docker also takes an archive whose end is missing, of somebody who was killed.
    tagged = subprocess.run(["docker", "tag", loaded, reference], capture_output=True, text=True, check=False)
    if tagged.returncode != 0:
        raise StepFailed(f"Docker did not load the image {reference}: {tagged.stderr.strip()}")
    if old and old != _image_id(reference):
        subprocess.run(["docker", "image", "rm", old], capture_output=True, check=False)
    say(f"  {reference}: loaded in {time.monotonic() - started:.0f} s")


def _image_id(reference: str) -> str:
    """The identity of the image that bears this reference; empty if none does."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", reference]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _copy_members(archive: Path, out: IO[bytes]) -> set[str]:
    """Copy a tar archive without the zero blocks at its end, so that more can follow; the names in it."""
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    last = members[-1]
    blocks = -(-last.size // tarfile.BLOCKSIZE) if last.isreg() else 0
    left = last.offset_data + blocks * tarfile.BLOCKSIZE
    with archive.open("rb") as source:
        while left:
            chunk = source.read(min(left, 1 << 20))
            out.write(chunk)
            left -= len(chunk)
    return {member.name.removeprefix("./") for member in members}


def _put_over(present: Collection[str], payload: Path | None, out: IO[bytes]) -> None:
    """Writes what is in `payload` as an archive, without the names that are there already."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as over:
        for path, name in _members(payload):
            if name not in present:
                over.add(path, arcname=name, recursive=False, filter=_as_root)


def _members(payload: Path | None) -> list[tuple[Path, str]]:
    """Everything in a payload with its name in the image, each folder before what is in it."""
    return [(path, str(path.relative_to(payload))) for path in sorted(payload.rglob("*"))] if payload else []


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Files in an image belong to root and can be read by all, whoever built it under whatever umask."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode |= 0o555 if member.mode & 0o100 else 0o444
    return member


def _source(function: Callable[..., object]) -> str:
    """A function's code without comments and layout, so that neither makes a result stale."""
    return ast.unparse(ast.parse(inspect.getsource(function)))


def _base_key() -> str:
    return key_of(SUITE, platform.machine(), _source(_make_base), _source(_bootstrap), *BASE_PACKAGES)


def _make_base(folder: Path, log: Path) -> None:
    """Debian with Python, as an archive: its files' owners could not be kept in a folder without root."""
    _bootstrap(
        folder / "base.tar",
        log,
        "--variant=essential",
        f"--include={','.join(BASE_PACKAGES)}",
        '--customize-hook=ln -s python3 "$1/usr/bin/python"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=force-unsafe-io",
        "--skip=output/dev",
    )


def _bootstrap(archive: Path, log: Path, *options: str) -> None:
    """mmdebstrap from the mirrors that this machine's apt uses for the suite, or else from its default."""
    need("mmdebstrap", "mmdebstrap")
    shown = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    targets = [line.split("|") for line in shown.stdout.splitlines()]
    mirrors = [deb for origin, codename, deb in targets if origin == "Debian" and codename.startswith(SUITE)]
    mode = "root" if os.geteuid() == 0 else "unshare"
    if mode == "unshare":
        need("newuidmap", "uidmap")
    run(["mmdebstrap", f"--mode={mode}", *options, SUITE, archive, *mirrors], log=log)


def _go_build(name: str, package: str, binary: Path, log: Path, *, env: dict[str, str], ldflags: str) -> None:
    """Build a command of a Go module that offline/image/go/<name> pins."""
    need("go", "golang-go")
    binary.parent.mkdir(parents=True, exist_ok=True)
    run(
        ["go", "build", "-trimpath", "-ldflags", f"-s -w {ldflags}", "-o", binary, package],
        log=log,
        cwd=HERE / "go" / name,
        env={**go_environment(), **env},
    )


def _fill_caddy(folder: Path, log: Path) -> None:
    _go_build(
        "caddy",
        "github.com/caddyserver/caddy/v2/cmd/caddy",
        folder / "usr/bin/caddy",
        log,
        env={"CGO_ENABLED": "0"},
        ldflags=f"-X=github.com/caddyserver/caddy/v2.CustomVersion=v{EDGE.version}",
    )
    for name in ("config/caddy", "data/caddy", "etc/caddy", "srv"):
        (folder / name).mkdir(parents=True)


def _fill_store(folder: Path, log: Path) -> None:
    _victoria("victoria-metrics", STORE, folder, log)


def _fill_alerts(folder: Path, log: Path) -> None:
    _victoria("vmalert", ALERTS, folder, log)


def _victoria(program: str, pin: Image, folder: Path, log: Path) -> None:
    """A program of VictoriaMetrics, where its public image has it."""
    _go_build(
        "victoria",
        f"github.com/VictoriaMetrics/VictoriaMetrics/app/{program}",
        folder / f"{program}-prod",
        log,
        env={"CGO_ENABLED": "0"},
        ldflags=f"-X=github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version={program}-v{pin.version}",
    )


def _fill_ollama(folder: Path, log: Path) -> None:
    """Ollama with its plain CPU backend. Its module lacks the C headers that its repository vendors."""
    for compiler in ("gcc", "g++"):
        need(compiler, compiler)
    with tempfile.TemporaryDirectory() as temporary:
        headers = Path(temporary)
        archive = headers / "headers.tar"
        _bootstrap(archive, log, "--variant=extract", "--include=nlohmann-json3-dev,libstb-dev")
        with tarfile.open(archive) as tar:
            wanted = ("./usr/include/nlohmann", "./usr/include/stb")
            unpack(tar, headers, [m for m in tar.getmembers() if m.name.startswith(wanted)])
        # The source distribution of the Python package holds the one-file C library that Ollama includes.
        _sdist("miniaudio.txt", headers, log)
        with tarfile.open(next(headers.glob("miniaudio-*.tar.gz"))) as tar:
            header = next(m for m in tar.getmembers() if m.name.endswith("/miniaudio.h"))
            header.name = "miniaudio/miniaudio.h"
            tar.extract(header, headers, filter="data")
        include = headers / "usr/include"
        _go_build(
            "ollama",
            "github.com/ollama/ollama",
            folder / "usr/bin/ollama",
            log,
            env={"CGO_ENABLED": "1", "CGO_CPPFLAGS": f"-I{include} -I{include}/stb -I{headers}"},
            ldflags=f"-X=github.com/ollama/ollama/version.Version={OLLAMA.version}",
        )


def _fill_gateway(folder: Path, log: Path) -> None:
    _install("tensorzero.txt", folder, log)
    front = folder / SITE_PACKAGES / "gateway_front.py"
    shutil.copyfile(HERE / "gateway_front.py", front)
    _compile(folder, log)
    _script(
        folder / "usr/local/bin/gateway", "from gateway_front import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    (folder / "app").mkdir()


def _fill_vllm(folder: Path, log: Path) -> None:
    for tool, package in (("gcc", "gcc"), ("nm", "binutils"), ("readelf", "binutils")):
        need(tool, package)
    _install("vllm-cpu.txt", folder, log)
    write_stubs(folder / SITE_PACKAGES / "torch/lib", log)
    # vLLM looks itself up under its own name, and takes its platform from that version.
    metadata = folder / SITE_PACKAGES / f"vllm-{VLLM_CPU.version}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_CPU.version}+cpu\n")
    # What vLLM would find out about Qwen2 by importing itself once more in a process of its own, 8 s at each
    # first start of a container. It checks the hash in it, so an outdated one costs those seconds, no more.
    known = folder / "root/.cache/vllm/modelinfos/vllm-model_executor-models-qwen2-Qwen2ForCausalLM.json"
    known.parent.mkdir(parents=True)
    shutil.copyfile(HERE / "vllm-modelinfo.json", known)
    _compile(folder, log)
    _script(
        folder / "usr/local/bin/vllm",
        "from vllm.entrypoints.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
    )


def _script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/python3\nimport sys\n{body}")
    path.chmod(0o755)


def _install(requirements: str, folder: Path, log: Path) -> None:
    """Install pinned Python packages, by hash, for the image's Python, whatever this machine's Python is.

    Another version of one: write it into the file, and `uv pip compile --no-deps --generate-hashes
    --no-header --no-annotate --python-version 3.11 FILE -o FILE`.
    """
    run(
        [
            _uv(),
            "pip",
            "install",
            f"--target={folder / SITE_PACKAGES}",
            f"--python-version={PYTHON}",
            f"--python-platform={platform.machine()}-manylinux_2_36",
            "--only-binary=:all:",
            "--no-deps",
            "--require-hashes",
            f"--requirements={HERE / requirements}",
        ],
        log=log,
        env=_uv_env(),
    )


def _sdist(requirements: str, folder: Path, log: Path) -> None:
    """Download the source distribution of a pinned Python package into `folder`, by hash.

    pip asks it for its metadata, and so runs what builds it, which is pinned by hash as well.
    """
    venv = folder / "venv"
    run([sys.executable, "-m", "venv", venv], log=log)
    by_hash = ["--require-hashes", "--no-deps"]
    tools = ["--only-binary=:all:", f"--requirements={HERE / 'sdist.txt'}"]
    run(
        [_uv(), "pip", "install", f"--python={venv / 'bin/python'}", *by_hash, *tools], log=log, env=_uv_env()
    )
    wanted = [f"--requirement={HERE / requirements}", "--no-binary=:all:", "--no-build-isolation"]
    run([venv / "bin/pip", "download", *by_hash, *wanted, f"--dest={folder}"], log=log)


def _compile(folder: Path, log: Path) -> None:
    """Compile the Python files with the image's Python; else each new container would, when it starts."""
    reference = build([SWITCH.name])[SWITCH.name]
    script = (
        "mkdir /tmp/c && cd /tmp/c && tar -x"
        " && { python3 -m compileall -qq -j0 --invalidation-mode unchecked-hash -s /tmp/c -p / . >&2 || :; }"
        " && find . -name '*.pyc' -print0 | tar -c --null -T -"
    )
    command = ["docker", "run", "--rm", "-i", "--network=none", reference, "sh", "-c", script]
    compiled = folder / "compiled.tar"
    with (
        log.open("ab") as errors,
        compiled.open("wb") as results,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=results, stderr=errors) as running,
    ):
        assert running.stdin is not None
        with running.stdin as out, tarfile.open(fileobj=out, mode="w|") as tar:
            for path in sorted((folder / SITE_PACKAGES).rglob("*.py")):
                tar.add(path, arcname=str(path.relative_to(folder)))
    if running.returncode != 0:
        raise StepFailed(f"Compiling exited {running.returncode}. The whole log: {log}")
    with tarfile.open(compiled) as tar:
        unpack(tar, folder)
    compiled.unlink()


def _uv_env() -> dict[str, str]:
    """uv's cache on the file system of the results, so that it links files instead of copying them."""
    return {"UV_CACHE_DIR": str(cache_root() / "uv"), "UV_LINK_MODE": "hardlink"}


def _uv() -> Path:
    """uv: the one of the project's virtual environment, or on PATH, or a private one."""
    beside = Path(sys.executable).with_name("uv")
    if beside.exists():
        return beside
    if found := shutil.which("uv"):
        return Path(found)

    def make(folder: Path, log: Path) -> None:
        run([sys.executable, "-m", "venv", folder / "venv"], log=log)
        pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--require-hashes", "--no-deps"]
        run([*pip, "-r", UV], log=log)

    return cached("uv-program", key_of(UV.read_bytes(), sys.version), make) / "venv/bin/uv"


RECIPES = {
    recipe.pin.name: recipe
    for recipe in (
        Recipe(pin=SWITCH, changes=('CMD ["python3"]',)),
        Recipe(
            pin=EDGE,
            changes=(
                'CMD ["caddy","run","--config","/etc/caddy/Caddyfile","--adapter","caddyfile"]',
                "ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data",
                "WORKDIR /srv",
                "EXPOSE 80 443 2019",
            ),
            fill=_fill_caddy,
            made_by=(_go_build,),
            inputs=("go/caddy/go.mod", "go/caddy/go.sum"),
        ),
        Recipe(
            pin=GATEWAY,
            changes=('ENTRYPOINT ["gateway"]', "WORKDIR /app", "EXPOSE 3000", "USER nobody"),
            fill=_fill_gateway,
            made_by=(_install, _compile, _script),
            inputs=("tensorzero.txt", "gateway_front.py"),
        ),
        Recipe(
            pin=OLLAMA,
            changes=(
                'ENTRYPOINT ["/bin/ollama"]',
                'CMD ["serve"]',
                "ENV OLLAMA_HOST=0.0.0.0:11434",
                "EXPOSE 11434",
            ),
            fill=_fill_ollama,
            made_by=(_go_build, _bootstrap, _sdist),
            inputs=("go/ollama/go.mod", "go/ollama/go.sum", "miniaudio.txt", "sdist.txt"),
        ),
        Recipe(
            pin=STORE,
            changes=('ENTRYPOINT ["/victoria-metrics-prod"]', "EXPOSE 8428"),
            fill=_fill_store,
            made_by=(_go_build, _victoria),
            inputs=("go/victoria/go.mod", "go/victoria/go.sum"),
        ),
        Recipe(
            pin=ALERTS,
            changes=('ENTRYPOINT ["/vmalert-prod"]', "EXPOSE 8880"),
            fill=_fill_alerts,
            made_by=(_go_build, _victoria),
            inputs=("go/victoria/go.mod", "go/victoria/go.sum"),
        ),
        Recipe(
            pin=VLLM_CPU,
            changes=(
                'ENTRYPOINT ["vllm","serve"]',
                # The first request with logprobs compiles the function that counts a token's rank, and
                # without a C++ compiler the engine dies of it. Not compiled, it counts the same.
                "ENV TORCH_COMPILE_DISABLE=1",
                "EXPOSE 8000",
            ),
            fill=_fill_vllm,
            made_by=(_install, _compile, _script),
            inputs=("vllm-cpu.txt", "vllm-modelinfo.json", "cuda_stubs.py"),
        ),
    )
}


def _main() -> None:
    for name, reference in build(sys.argv[1:] or None).items():
        say(f"{name}: {reference}")
    if len(sys.argv) == 1:
        say(f"model: {tiny_model()}")


if __name__ == "__main__":
    main_guard(_main)
