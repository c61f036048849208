"""What is free on the GPU, asked of the driver's own `nvidia-smi`, which NVIDIA's runtime mounts."""

import subprocess

MIB = 2**20
QUERY = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]


class GpuError(Exception):
    """The driver could not be asked, or its answer not be read."""


def memory() -> list[tuple[int, int]]:
    """Free and all memory of each GPU, in bytes. Raises GpuError."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"nvidia-smi can't be run: {error}") from error
    if done.returncode:
        raise GpuError(f"nvidia-smi failed: {(done.stdout + done.stderr).strip()}")
    try:
        rows = [line.split(",") for line in done.stdout.strip().splitlines()]
        found = [(int(free) * MIB, int(total) * MIB) for free, total in rows]
    except ValueError as error:
        raise GpuError(f"nvidia-smi said {done.stdout.strip()!r}") from error
    if not found:
        raise GpuError("nvidia-smi shows no GPU")
    return found
