"""What NVIDIA's GPUs do while something is measured: how busy, at what power, with how much memory."""

import shutil
import statistics
import subprocess
from collections.abc import Iterable
from types import TracebackType

QUERY = ("index", "utilization.gpu", "power.draw", "memory.used")
MILLISECONDS = 500


def summary(lines: Iterable[str]) -> dict[str, float]:
    """Means of `busy` (percent) and `power` (watts) over time, and the most `memory` (MiB), from the lines of
    `nvidia-smi`; of several GPUs the mean, and the sums. What a GPU doesn't say is missing.

    Busy means that some kernel ran: decoding is bound by the memory's bandwidth, so that an engine that does
    twice as much may be no busier. Its power says more.
    """
    seen: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        index, *values = (each.strip() for each in line.split(","))
        for name, value in zip(("busy", "power", "memory"), values, strict=False):
            if value.replace(".", "", 1).isdecimal():  # else such as [N/A]
                seen.setdefault(name, {}).setdefault(index, []).append(float(value))
    found = {}
    if busy := seen.get("busy"):
        found["busy"] = statistics.fmean(statistics.fmean(each) for each in busy.values())
    if power := seen.get("power"):
        found["power"] = sum(statistics.fmean(each) for each in power.values())
    if memory := seen.get("memory"):
        found["memory"] = sum(max(each) for each in memory.values())
    return found


class Meter:
    """Used as a context manager around what is measured; `found` afterwards, empty where there is no GPU."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Meter":
        if program := shutil.which("nvidia-smi"):
            query = (f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
            self._process = subprocess.Popen(
                [program, *query, f"--loop-ms={MILLISECONDS}"], stdout=subprocess.PIPE, text=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.terminate()
            out, _ = self._process.communicate()
            self.found = summary(out.splitlines())
