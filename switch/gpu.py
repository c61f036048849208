"""What is free on the GPU, asked of the driver's own `nvidia-smi`, which NVIDIA's runtime mounts."""

import subprocess

MIB = 2**20


class GpuError(Exception):
    """The driver could not be asked, or its answer not be read."""


LOST = "Failed to initialize NVML"


def meaning(said: str) -> str:
    """What an error of NVIDIA's driver in a container means, in words; empty: nothing that is known."""
    if LOST not in said:
        return ""
    return (
        "Containers on this host have lost the GPU, which the driver still has. Where systemd manages "
        "Docker's cgroups, every `systemctl daemon-reload` does that, and updates of packages run it. "
        "`docker restart` gives a container the GPU back. To prevent it, let Docker manage its own cgroups "
        '("exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json)'
    )


def memory() -> list[tuple[int, int]]:
    """Free and all memory of each GPU, in bytes. Raises GpuError."""
    said = _ask("memory.free", "memory.total")
    try:
        return [(int(free) * MIB, int(total) * MIB) for free, total in said]
    except ValueError as error:
        raise GpuError(f"nvidia-smi said {said!r}") from error


USE = ("utilization.gpu", "memory.free", "memory.used", "memory.total", "power.draw", "temperature.gpu")


def use() -> list[dict[str, float | None]]:
    """How busy each GPU is (%), its memory in bytes, its power (W) and temperature (°C), None where the card
    does not tell it. Raises GpuError."""
    found = []
    for row in _ask(*USE):
        busy, *memory, watts, celsius = (_number(each) for each in row)
        free, used, size = (each and each * MIB for each in memory)
        found.append(
            {"busy": busy, "free": free, "used": used, "size": size, "watts": watts, "celsius": celsius}
        )
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # such as `[N/A]`


def _ask(*what: str) -> list[list[str]]:
    """A row for each GPU. Raises GpuError."""
    query = ["nvidia-smi", f"--query-gpu={','.join(what)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"nvidia-smi can't be run: {error}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise GpuError(". ".join(filter(None, [f"nvidia-smi failed: {said}", meaning(said)])))
    rows = [[each.strip() for each in line.split(",")] for line in done.stdout.strip().splitlines()]
    if not rows:
        raise GpuError("nvidia-smi shows no GPU")
    if any(len(row) != len(what) for row in rows):
        raise GpuError(f"nvidia-smi said {done.stdout.strip()!r}")
    return rows
