"""Stands in for the CUDA libraries under a torch that only computes on the CPU.

The registry's torch is built for CUDA and linked to 2.7 GB of libraries that nothing calls where
there is no GPU. In their place go libraries that have only the names: each function reports an error.
"""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

from offline.steps import run

REAL = frozenset(("libcudart.so.13", "libcupti.so.13", "libcuda.so.1"))
"""Not replaced: the first two are small and say at the start that there is no GPU; the third is a driver."""


def write_stubs(folder: Path, log: Path) -> None:
    """Write the libraries that those in `folder` (torch/lib) need, beside them."""
    needed: set[str] = set()
    nodes: dict[str, set[str]] = defaultdict(set)  # library → the symbol versions that it must define
    functions: dict[str, set[str]] = defaultdict(set)  # symbol version, empty if none → functions
    for library in sorted(folder.glob("*.so")):
        needed.update(re.findall(r"NEEDED.*\[(lib(?:cu|nv|nccl).*)\]", _text("readelf", "-dW", library)))
        versions = _text("readelf", "-VW", library)
        for name, block in re.findall(r"File: (\S+) .*\n((?:.*Name: .*\n)+)", versions):
            nodes[name].update(re.findall(r"Name: (\S+)", block))
        for line in _text("nm", "-D", "--format=posix", "--undefined-only", library).splitlines():
            function, _, version = line.split()[0].partition("@")
            if version or re.match("cu|nccl|nvshmem", function):
                functions[version].add(function)
    for name in sorted(needed - REAL):
        # What is asked for without a version may come from any library, so each of these gets all of it.
        _write_stub(folder / name, {version: functions[version] for version in nodes[name] or {""}}, log)


def _write_stub(library: Path, functions: dict[str, set[str]], log: Path) -> None:
    source, versions = library.with_name("stub.c"), library.with_name("stub.map")
    names = sorted(set().union(*functions.values()))
    source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
    versions.write_text("".join(f"{version} {{ *; }};\n" for version in functions if version))
    script = [f"-Wl,--version-script={versions}"] if versions.read_text() else []
    run(
        [
            "gcc",
            "-shared",
            "-fPIC",
            "-nostdlib",
            f"-Wl,-soname,{library.name}",
            *script,
            "-o",
            library,
            source,
        ],
        log=log,
    )
    source.unlink()
    versions.unlink()


def _text(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
