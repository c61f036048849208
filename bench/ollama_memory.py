"""What Ollama takes of a GPU, against the sum of `components.gpu_memory`.

Run: `python -m bench.ollama_memory 4096x4`. It needs an NVIDIA GPU that nothing else uses (of several, the
first), an `ollama` binary, and the model in its store under its name in the catalogue, as after
`ollama cp qwen2.5-coder:7b qwen-2.5-coder-7b`.

The table is in GiB and seconds. With `--edge`, memory of the GPU is held to find how little may be free
before Ollama puts a part of the model on the CPU, which it does in silence. Each start goes through the
switch's own gate.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.stack import machine, table
from common import main_guard
from components.catalogue import GIB, MODELS
from components.engines import ollama
from components.gate import GATE_MAX_TOKENS, GATE_TIMEOUT
from components.gpu_memory import GPUS, Load, both, engine_sum
from switch import gpu
from switch.gate import Answer, complete, wholly_on_gpu

HOST, PORT, CHAT = "127.0.0.1", 18400, "/v1/chat/completions"
RESOLUTION = 32 * 2**20
"""How exactly the least free memory is found, in bytes."""
COLUMNS = (
    *("model, context × parallel", "weights", "KV cache", "overhead", "sum"),
    *("file", "size", "size_vram", "taken", "at most", "host RAM", "ready s", "freed s"),
)


class Held:
    """Memory of the first GPU that this process holds, by plain allocations of CUDA's driver."""

    PAGE = 2 * 2**20
    """Bytes. Allocations are multiples of it."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.blocks: list[ctypes.c_uint64] = []
        context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        self.ask("cuInit", 0)
        self.ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.ask("cuCtxSetCurrent", context)
        self.ask("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        self.total = total.value

    def ask(self, function: str, *arguments: Any) -> None:
        """Calls a function of CUDA's driver. Raises SystemExit if it fails."""
        if code := getattr(self.cuda, function)(*arguments):
            raise SystemExit(f"{function} of libcuda.so.1 failed with {code}")

    def leave(self, free: int) -> None:
        """Holds so much memory that `free` bytes are left for others, as the driver counts them."""
        while self.blocks:
            self.ask("cuMemFree_v2", self.blocks.pop())
        while (size := (_free() - free) // self.PAGE * self.PAGE) > 0:
            self.blocks.append(ctypes.c_uint64())
            self.ask("cuMemAlloc_v2", ctypes.byref(self.blocks[-1]), ctypes.c_size_t(size))


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What was seen of one start of Ollama, in bytes and seconds.

    `file` is the size of the model's file, `size` and `on_gpu` what Ollama says of the loaded model, `taken`
    the memory of the GPU that is gone when it is ready, `most` the same after a request on each slot, and
    `host` the RAM. `freed` is how long the GPU's memory took to come back after its end.
    """

    gate: Answer
    file: int
    size: int
    on_gpu: int
    taken: int
    most: int
    host: int
    ready: float
    freed: float


def requests(load: Load) -> int:
    """How many concurrent requests Ollama works on under this load."""
    return engine_sum("ollama", load).requests


@contextmanager
def serving(load: Load, binary: str, store: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ollama as a stack would start it, but for its address and its store, until the block ends. It writes
    its output to `log`."""
    spec = ollama(load)
    own = {"OLLAMA_HOST": f"{HOST}:{PORT}", "OLLAMA_MODELS": str(store), "CUDA_VISIBLE_DEVICES": "0"}
    environment = {**os.environ, **spec.environment, **own}
    with subprocess.Popen([binary, "serve"], env=environment, stdout=log, stderr=log) as server:
        try:
            yield server
        finally:
            server.terminate()


def start(load: Load, binary: str, store: Path, log: IO[bytes]) -> Footprint:
    """Starts Ollama, takes it through the gate, sends a longer request on each slot, and ends it.

    Raises SystemExit if it ends before it gives a completion, or if `store` does not have the model.
    """
    before, ram = _free(), _available()
    with serving(load, binary, store, log) as server:
        began = time.monotonic()
        answer = Answer(False, loading=True)
        while answer.loading and server.poll() is None:
            time.sleep(0.05)
            answer = complete(
                *(HOST, PORT, CHAT, load.model.name),
                stream=True,
                max_tokens=GATE_MAX_TOKENS,
                timeout=GATE_TIMEOUT,
                patience=600,
            )
        if server.poll() is not None:
            raise SystemExit(f"Ollama ended before it gave a completion. Its log: {log.name}")
        ready, taken = time.monotonic() - began, before - _free()
        gate = wholly_on_gpu(answer, HOST, PORT) if answer.ok else answer
        loaded = next(iter(_get("/api/ps")["models"]), {"size": 0, "size_vram": 0})
        stored = {each["name"].partition(":")[0]: each["size"] for each in _get("/api/tags")["models"]}
        if load.model.name not in stored:
            raise SystemExit(f"{store} has no model {load.model.name}: {answer.text}")
        if gate.ok:  # on the CPU it would take minutes
            with ThreadPoolExecutor(requests(load)) as slots:
                failed = [error for error in slots.map(_request, [load] * requests(load)) if error]
            gate = Answer(False, failed[0]) if failed else gate
        most, host = before - _free(), ram - _available()
        ended = time.monotonic()
    while _free() < before - RESOLUTION and time.monotonic() - ended < 60:
        time.sleep(0.05)
    freed = time.monotonic() - ended
    sizes = {"file": stored[load.model.name], "size": loaded["size"], "on_gpu": loaded["size_vram"]}
    return Footprint(gate=gate, **sizes, taken=taken, most=most, host=host, ready=ready, freed=freed)


def edge(load: Load, binary: str, store: Path, log: IO[bytes], held: Held) -> int:
    """The least free memory of the GPU with which the gate passes, in bytes, rounded up to `RESOLUTION`.

    The search begins at the sum that the program has computed.
    """

    def passes(free: int) -> bool:
        held.leave(free)
        there = _free()
        gate = start(load, binary, store, log).gate
        said = "all is on the GPU" if gate.ok else gate.text
        print(f"{_words(load)}, {_gib(there)} GiB free: {said}", file=sys.stderr, flush=True)
        return gate.ok

    low = high = engine_sum("ollama", load).total
    step = GIB // 4
    if passes(high):
        while passes(low := high - step):
            high, step = low, step * 2
    else:
        while not passes(high := low + step):
            low, step = high, step * 2
    while high - low > RESOLUTION:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _free() -> int:
    return gpu.memory()[0][0]


def _available() -> int:
    """RAM that the host could still give, in bytes: what it keeps of files that were read counts as free."""
    rows = Path("/proc/meminfo").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("MemAvailable")) * 1024


def _get(path: str, body: object = None) -> Any:
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{HOST}:{PORT}{path}", raw, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def _request(load: Load) -> str:
    """What went wrong with a prompt of an eighth of the context. Ollama computes 512 tokens at once."""
    ask = [{"role": "user", "content": "word " * (load.context // 8)}]
    try:
        _get(CHAT, {"model": load.model.name, "max_tokens": GATE_MAX_TOKENS, "messages": ask})
    except OSError as error:
        return f"a longer request failed: {error}"
    return ""


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _words(load: Load) -> str:
    return f"{load.model.name}, {load.context} × {requests(load)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sizes", nargs="+", metavar="CONTEXTxPARALLEL", help="such as 4096x4")
    parser.add_argument("--model", choices=MODELS, default="qwen-2.5-coder-7b")
    parser.add_argument("--ollama", default="ollama", metavar="FILE", help="(default: ollama)")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path.home() / ".ollama/models",
        help="its OLLAMA_MODELS (default: ~/.ollama/models)",
    )
    parser.add_argument("--free", type=float, metavar="GIB", help="leave so much free, as on a smaller GPU")
    parser.add_argument("--edge", action="store_true", help="find the least free memory as well")
    options = parser.parse_args()
    held, rows, edges = Held(), [], []
    with tempfile.NamedTemporaryFile(prefix="ollama-", suffix=".log", delete=False) as log:
        place = (options.ollama, options.store, log.file)
        for context, parallel in (map(int, size.split("x")) for size in options.sizes):
            load = Load(model=MODELS[options.model], context=context, parallel=both(parallel), gpu=GPUS["t4"])
            need = engine_sum("ollama", load)
            held.leave(int(options.free * GIB) if options.free else held.total)
            seen = start(load, *place)
            sums = (need.weights, need.kv_cache, need.overhead, need.total)
            sizes = (seen.file, seen.size, seen.on_gpu, seen.taken, seen.most, seen.host)
            rows.append([_words(load), *map(_gib, (*sums, *sizes)), seen.ready, seen.freed])
            if not seen.gate.ok:
                print(f"{_words(load)}: {seen.gate.text}", file=sys.stderr, flush=True)
            elif options.edge:
                least = edge(load, *place, held)
                edges.append([_words(load), *map(_gib, (need.total, least, need.total - least))])
    name = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    print(f"{name.split(' (')[0]}, {_gib(gpu.memory()[0][1])} GiB, of which CUDA sees {_gib(held.total)}")
    print(f"{machine()}; GiB; Ollama's log: {log.name}\n\n{table(COLUMNS, rows)}")
    if edges:
        print(f"\n{table(('model, context × parallel', 'sum', 'least free', 'to spare'), edges)}")


if __name__ == "__main__":
    main_guard(main)
