"""Writes what `bench.gpu.run` needs: vLLM and Ollama, for one kind of NVIDIA card.

Into `.changeover/gpu/`, in less than 64 MiB: vLLM's Python packages for Python 3.12, but for those that
PyTorch brings, and those that a text model doesn't use; vLLM's library with the machine code of this one kind
of card; and Ollama with its CUDA backend, which is compiled here by NVIDIA's compiler from the package
registry (with two cores more than an hour). Each part is a cached step: another time it is there at once.

    python -m bench.gpu.prepare --compute 90     # H100 and H200; a T4 is 75, an A10G 86, an L4 89

Nobody has loaded a library that was pruned like this on a card. For a capability of 9.0 vLLM's part is 57.6
MiB, packed in seven minutes on two cores: the two travel one after the other.
"""

import argparse
import hashlib
import json
import lzma
import os
import shutil
import sys
import tarfile
from pathlib import Path

from bench.gpu.fatbin import pruned
from common import ROOT, StepFailed, main_guard, say
from components.pins import OLLAMA
from offline.images import RECIPES
from offline.steps import cached, go_environment, key_of, need, run

HERE = Path(__file__).parent
OUT = ROOT / ".changeover/gpu"
PYTHON, PLATFORM = "3.12", "x86_64-manylinux_2_36"
LIMIT = 64 * 2**20
VLLM = "0.26.0"
"""The newest vLLM that requires PyTorch 2.11, which the machine with the GPU has."""

UNUSED = (
    "vllm/vllm_flash_attn/*.so",  # 450 MB of attention for newer cards; Triton's is used, as on a T4
    "vllm/_moe_C*",
    "vllm/_flashmla*",
    "vllm/_qutlass*",
    "vllm/third_party/deep_gemm",
    "vllm/third_party/fmha_sm100",
    "vllm/vllm-rs",
    "bin",
)
"""What of the packages a dense text model doesn't load."""

LIBRARIES = ("libggml-base.so", "libggml-cuda.so")
TOOLKIT = "nvidia/cu13"
OLLAMA_MODULE = "github.com/ollama/ollama"


def site(compute: int) -> Path:
    """vLLM and what it imports, without the machine code of other cards."""
    requirements = HERE / "vllm.txt"

    def make(folder: Path, log: Path) -> None:
        target = folder / "site"
        _install(requirements, target, log, PYTHON)
        for pattern in UNUSED:
            for each in target.glob(pattern):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        served = 0
        for library in target.glob("vllm/*.so"):
            content, number = pruned(library.read_bytes(), compute)
            library.unlink()  # it may be a link into uv's cache
            library.write_bytes(content)
            served += number
        if not served:
            raise StepFailed(f"vLLM {VLLM} has no kernels that a card of capability {compute / 10} can load")

    return cached(
        f"gpu/site-{compute}",
        key_of(requirements.read_bytes(), PYTHON, PLATFORM, *UNUSED, _own("fatbin.py")),
        make,
    )


def ollama(compute: int) -> Path:
    """Ollama and its CUDA backend, in the folders in which it looks for it."""
    toolkit = HERE / "cuda.txt"

    def make(folder: Path, log: Path) -> None:
        for program in ("cmake", "ninja", "gcc", "go"):
            need(program, {"ninja": "ninja-build", "go": "golang"}.get(program, program))
        recipe = RECIPES[OLLAMA.name]
        assert recipe.fill is not None
        binary = cached(f"images/{OLLAMA.name}", recipe.payload_key(), recipe.fill) / "usr/bin/ollama"
        place = folder / "ollama"
        (place / "bin").mkdir(parents=True)
        shutil.copy(binary, place / "bin/ollama")
        build = folder / "build"
        _install(toolkit, build / "toolkit", log, PYTHON)
        cuda = build / "toolkit" / TOOLKIT
        _as_installed(cuda, log)
        source = Path(go_environment()["GOMODCACHE"]) / f"{OLLAMA_MODULE}@v{OLLAMA.version}"
        stubs = f"-L{cuda / 'lib/stubs'}"
        run(
            [
                *("cmake", "-G", "Ninja", "-S", source, "-B", build / "ggml"),
                f"-DCMAKE_CUDA_ARCHITECTURES={compute}-virtual",
                *(f"-DCUDAToolkit_ROOT={cuda}", f"-DCMAKE_CUDA_FLAGS={stubs}"),
                f"-DCMAKE_LIBRARY_PATH={cuda / 'lib/stubs'}",
            ],
            log=log,
            env={"CUDACXX": str(cuda / "bin/nvcc")},
        )
        run(["ninja", "-C", build / "ggml", "-j", str(os.cpu_count() or 1), "ggml-cuda"], log=log)
        runner = place / "lib/ollama/cuda_v13"
        runner.mkdir(parents=True)
        for name in LIBRARIES:
            made = build / "ggml/lib/ollama" / name
            shutil.copy(made, runner / name)
            if name != LIBRARIES[-1]:
                shutil.copy(made, runner / f"{name}.0")  # what the other one asks for
        shutil.rmtree(build)

    return cached(f"gpu/ollama-{compute}", key_of(toolkit.read_bytes(), OLLAMA.version, _own()), make)


def _as_installed(cuda: Path, log: Path) -> None:
    """Gives NVIDIA's packages the names of an installed toolkit, and a driver to link against."""
    for name in ("libcublas", "libcublasLt", "libcudart"):
        (cuda / f"lib/{name}.so").symlink_to(f"{name}.so.13")
    (cuda / "lib64").symlink_to("lib")
    stubs, empty = cuda / "lib/stubs", cuda / "empty.c"
    stubs.mkdir()
    empty.write_text("")
    run(["gcc", "-shared", empty, "-Wl,-soname,libcuda.so.1", "-o", stubs / "libcuda.so"], log=log)


def _own(name: str = "prepare.py") -> str:
    return (HERE / name).read_text()


def _install(requirements: Path, target: Path, log: Path, python: str) -> None:
    """Packages by their hashes, for the machine with the GPU. Another version of vLLM: `uv pip compile
    --generate-hashes --no-header --no-annotate --python-version 3.12`, less what PyTorch brings and what
    `UNUSED` speaks of."""
    uv = Path(sys.executable).with_name("uv")
    run(
        [
            *(uv, "pip", "install", f"--target={target}", f"--python-version={python}"),
            *(f"--python-platform={PLATFORM}", "--only-binary=:all:", "--no-deps", "--require-hashes"),
            f"--requirements={requirements}",
        ],
        log=log,
        env={"UV_LINK_MODE": "copy"},
    )


def pack(folder: Path, name: str, out: Path) -> Path:
    """An archive of a folder's content, packed as small as xz does."""

    def member(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Nothing that is made again or only for people, and the same bytes whenever it is packed."""
        if info.name.endswith((".pyc", "/RECORD", "/tests", "/LICENSE")) or "__pycache__" in info.name:
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    file = out / f"{name}.tar.xz"
    filters = [
        {"id": lzma.FILTER_X86},
        {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 * 2**20},
    ]
    with (
        lzma.open(file, "w", format=lzma.FORMAT_XZ, filters=filters) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for each in sorted(folder.iterdir()):
            archive.add(each, arcname=each.name, filter=member)
    return file


def about(compute: int, files: list[Path]) -> dict[str, object]:
    """What was prepared. Raises StepFailed where it is too large to travel."""
    sizes = {each.name: each.stat().st_size for each in files}
    if (total := sum(sizes.values())) > LIMIT:
        each = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sizes.items())
        raise StepFailed(
            f"{total / 2**20:.1f} MiB are more than the {LIMIT // 2**20} MiB that can be carried: {each} "
            "MiB. Prepare two parts that are carried one after the other: --without ollama --out A, and "
            "--without vllm --out B"
        )
    digests = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
    return {
        "compute": compute,
        "vllm": VLLM,
        "ollama": OLLAMA.version,
        "python": PYTHON,
        "sizes": sizes,
        "sha256": digests,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--compute", type=int, default=90, help="the card's capability times ten (default: 90)"
    )
    parser.add_argument("--without", choices=("vllm", "ollama"), help="leave this one out")
    parser.add_argument("--out", type=Path, default=OUT, help="(default: .changeover/gpu)")
    options = parser.parse_args()
    out = options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    files = []
    for name, make in (("vllm", site), ("ollama", ollama)):
        if name != options.without:
            folder = make(options.compute)
            say(f"  {name}: packing")
            files.append(pack(folder, name, out))
            say(f"  {name}: {files[-1].stat().st_size / 2**20:.1f} MiB")
    (out / "payload.json").write_text(json.dumps(about(options.compute, files), indent=2) + "\n")
    say(f"{out} is ready. On the machine with the GPU: python3 bench/gpu/run.py")


if __name__ == "__main__":
    main_guard(main)
