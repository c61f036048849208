"""What only a GPU can tell of both engines, in one go and without a network.

Run, on the machine with the GPU: `python3 bench/gpu/run.py`. It needs an NVIDIA card (it says which),
Python 3.12 with PyTorch 2.11 for CUDA 13, and what `python -m bench.gpu.prepare` has written. It takes less
than 12 minutes, for these steps in this order:

1. vLLM starts as this program sets it for a T4's memory, and passes the switch's gate;
2. what it takes of the card beside weights and KV cache, at rest and while it serves;
3. the longest `logprobs`, `prompt_logprobs` and `echo`;
4. the sweep of `bench.sweep`, of vLLM with these settings and with those of before, and of Ollama with 8, 4
   and 16 concurrent requests.

The model has the shape of Qwen2.5-Coder-7B and random weights: AWQ for vLLM, Q4_K_M for Ollama. Each step has
a time limit of its own, and adds what it finds to a file of JSON lines at once; its failure ends no other.

Not run on any GPU so far. Run without one, by its tests: the steps, their limits and their order, with the
test engine in the place of both engines. Attention is Triton's on every card, as on a T4, since the kernels
of newer cards would not travel; and vLLM is an older one than the program's own, see `prepare`.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.gpu.shape import MODELFILE, Shape, for_vllm  # noqa: E402  # first the path: this is run as a file
from components.catalogue import GIB, MIB, MODELS  # noqa: E402
from components.engines import PORT, EngineSpec, build  # noqa: E402
from components.gate import GATE_MAX_TOKENS, GATE_TIMEOUT, gate_prompt  # noqa: E402
from components.gpu_memory import (  # noqa: E402
    GPUS,
    MARGIN,
    EngineKind,
    Gpu,
    Load,
    both,
    engine_sum,
    vllm_overhead,
)
from switch.gate import complete, sound, wholly_on_gpu  # noqa: E402

MODEL = MODELS["qwen-2.5-coder-7b"]
CONTEXT = 8192
HOST = "127.0.0.1"
TOTAL = 700.0
"""Seconds that all of it may take: below 12 minutes."""
BEFORE_MEMORY = int(7.36 * GIB)
"""How many bytes of a T4 vLLM had with the settings of before, for 4 concurrent requests."""
LEVELS = (1, 2, 4, 8, 16, 20, 32, 40, 64)
"""The numbers of users of the sweep of vLLM with the settings of now."""
FEWER = (1, 4, 8, 16, 40)
"""The numbers of users of the other sweeps."""
LOADED = (
    r"Model loading took .*",
    r"Graph capturing finished .*",
    r"torch\.compile .* took .*",
    r"GPU KV cache size: .*",
    r"Available KV cache memory: .*",
    r"Using .* backend.*",
)
"""Regular expressions of those lines of vLLM's log that are kept in the results."""


NO_CARD = "it needs the card, which was not found"


class StepError(Exception):
    """A step can't measure what it should. The text says why."""


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU, as its driver describes it. `total` is its memory in bytes, `compute` its capability
    times ten."""

    name: str
    total: int
    compute: int
    driver: str

    @property
    def gpu(self) -> Gpu:
        """The kind of GPU in `components.gpu_memory` that this card is, or one made of what the driver says,
        if it is none of them."""
        name = self.name.replace("Tesla ", "NVIDIA ")
        fits = [each for each in GPUS.values() if name.startswith(" ".join(each.name.split()[:2]))]
        if known := [each for each in fits if each.usable <= self.total]:
            return replace(max(known, key=lambda each: each.usable), compute=self.compute)
        usable = self.total - GIB // 2
        return Gpu(name=self.name, usable=usable, compute=self.compute, source="nvidia-smi, less 0.5 GiB")


def card_of(line: str) -> Card:
    """The card that a line of `nvidia-smi` describes: name, MiB, capability and driver."""
    name, total, compute, driver = (each.strip() for each in line.split(","))
    return Card(name, int(total) * MIB, round(float(compute) * 10), driver)


def find_card() -> Card:
    """The first card of this machine. Raises StepError if there is no driver."""
    if not shutil.which("nvidia-smi"):
        raise StepError("there is no NVIDIA driver here (no nvidia-smi)")
    query = "--query-gpu=name,memory.total,compute_cap,driver_version"
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True
    )
    return card_of(done.stdout.splitlines()[0])


def used() -> int | None:
    """How many bytes of the first card's memory are taken; None if there is no card."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ("--query-gpu=memory.used", "--format=csv,noheader,nounits")
    said = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=True).stdout
    return int(said.splitlines()[0]) * MIB


def now(gpu: Gpu) -> Load:
    """The load with the settings of now, and with a T4's memory on whichever card it is."""
    there = min(GPUS["t4"].usable, gpu.usable) - MARGIN
    return Load(model=MODEL, context=CONTEXT, gpu=gpu, gpu_memory=there)


def before(gpu: Gpu) -> Load:
    """The load with the settings of before: 4 concurrent requests, and memory for both engines at once."""
    return Load(model=MODEL, context=CONTEXT, gpu=gpu, gpu_memory=BEFORE_MEMORY, parallel=both(4))


def command(spec: EngineSpec, place: "Place") -> tuple[list[str], dict[str, str]]:
    """Command and environment of an engine, as its container has them but for files and addresses."""
    if spec.kind == "ollama":
        own = {
            "OLLAMA_HOST": f"{HOST}:{PORT}",
            "OLLAMA_MODELS": str(place.store),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, cuda_libraries())),
        }
        return [str(place.ollama), "serve"], {**spec.environment, **own}
    more = ("--load-format", "dummy", "--attention-backend", "TRITON_ATTN", "--host", HOST)
    own = {
        "TRITON_CACHE_DIR": str(place.work / "triton"),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "PYTHONPATH": os.pathsep.join((str(place.site), str(ROOT))),
    }
    program = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(place.model)]
    return [*program, *spec.command[1:], *more], {**spec.environment, **own}


def cuda_libraries() -> list[Path]:
    """The folders with CUDA's libraries that came with PyTorch; Ollama's backend needs them."""
    places = [Path(each) / "nvidia/cu13/lib" for each in sys.path]
    return [each for each in places if each.is_dir()]


@dataclass(frozen=True)
class Place:
    """Where things are on this machine: `packed` is the folder that `bench.gpu.prepare` has written, and
    `work` the one into which it is unpacked."""

    packed: Path
    work: Path

    @property
    def site(self) -> Path:
        """The folder of vLLM's Python packages."""
        return self.work / "site"

    @property
    def model(self) -> Path:
        """The folder of the model's configuration and tokenizer, for vLLM."""
        return self.work / "model"

    @property
    def gguf(self) -> Path:
        """The file of the model, for Ollama."""
        return self.work / "model.gguf"

    @property
    def store(self) -> Path:
        """The folder in which Ollama keeps models."""
        return self.work / "ollama-models"

    @property
    def ollama(self) -> Path:
        """Ollama's program."""
        return self.work / "ollama/bin/ollama"


Command = Callable[[EngineSpec, Place], tuple[list[str], dict[str, str]]]


@dataclass
class Run:
    """One run of all steps, and what it has found.

    `engine` is the process that serves, `spec` what it was started from, `at_rest` how many bytes of the card
    were taken before it, and `making` the process that writes Ollama's file. `total` is how many seconds the
    run may take, of which `began` is the beginning; `failed` are the names of the steps that failed.
    """

    place: Place
    out: Path
    shape: Shape = field(default_factory=Shape)
    command: Command = command
    levels: Sequence[int] = LEVELS
    card: Card | None = None
    began: float = field(default_factory=time.monotonic)
    total: float = TOTAL
    step: str = ""
    failed: list[str] = field(default_factory=list)
    engine: subprocess.Popen[bytes] | None = None
    spec: EngineSpec | None = None
    at_rest: int | None = None
    making: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The file of the output of what this step has started."""
        return self.out / f"{self.step}.log"

    @property
    def gpu(self) -> Gpu:
        """The kind of the card. Raises StepError if there is none."""
        if self.card is None:
            raise StepError(NO_CARD)
        return self.card.gpu

    def keep(self, **found: object) -> None:
        """Adds a line of JSON to the results, with the step and the seconds since the beginning, and prints
        it."""
        line = {"step": self.step, "at": round(time.monotonic() - self.began, 1), **found}
        with (self.out / "results.jsonl").open("a") as results:
            results.write(json.dumps(line) + "\n")
        print(json.dumps(line)[:400], flush=True)

    def take(self, name: str, seconds: float, action: Callable[["Run"], None]) -> None:
        """Carries out one step, in no more than `seconds` and what is left of the whole time.

        If it fails, that is kept among the results, and the next step can begin.
        """
        self.step = name
        left = self.total - (time.monotonic() - self.began)
        if left < 5:
            self.failed.append(name)
            self.keep(error="no time is left for it")
            return
        began = time.monotonic()
        try:
            with limit(min(seconds, left)):
                action(self)
            self.keep(done=True, seconds=round(time.monotonic() - began, 1))
        except Exception as error:
            self.failed.append(name)
            said = str(error) or type(error).__name__
            where = "" if isinstance(error, StepError) else traceback.format_exc(limit=-2)
            tail = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
            self.keep(error=said, where=where, log=tail, seconds=round(time.monotonic() - began, 1))

    def start(self, kind: EngineKind, load: Load) -> None:
        """Starts an engine and waits until it answers; keeps how long that took, and how much memory is
        taken.

        Raises StepError if it ends, or gives a bad answer.
        """
        self.stop()
        self.spec = build(kind, load)
        self.at_rest = used()
        words, environment = self.command(self.spec, self.place)
        with self.log.open("wb") as log:
            self.engine = subprocess.Popen(
                words,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                cwd=self.place.work,
                start_new_session=True,
            )
        began = time.monotonic()
        if kind == "ollama":
            self._create()
        while True:
            answer = self.ask(stream=True)
            if self.engine.poll() is not None:
                raise StepError(f"{kind} ended with status {self.engine.returncode}")
            if answer.ok:
                break
            if not answer.loading:
                raise StepError(f"{kind}: {answer.text}")
            time.sleep(0.2)
        memory = engine_sum(kind, load)
        log_lines = self.log.read_text(errors="replace").splitlines()
        kept = [found.group() for line in log_lines for each in LOADED if (found := re.search(each, line))]
        self.keep(
            engine=kind,
            ready=round(time.monotonic() - began, 1),
            requests=memory.requests,
            sum={"weights": memory.weights, "kv_cache": memory.kv_cache, "overhead": memory.overhead},
            taken=self.taken(),
            command=words,
            log=kept,
        )

    def _create(self) -> None:
        """Gives Ollama the model, once; the file may still be on its way."""
        if self.making and self.making.wait():
            raise StepError(f"the GGUF file could not be written; see {self.out / 'gguf.log'}")
        file = self.place.work / "Modelfile"
        file.write_text(MODELFILE.format(file=self.place.gguf))
        environment = {**os.environ, "OLLAMA_HOST": f"{HOST}:{PORT}"}
        create = [str(self.place.ollama), "create", MODEL.name, "-f", str(file)]
        for _ in range(100):
            done = subprocess.run(create, env=environment, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.3)
        raise StepError(f"ollama create: {done.stderr[-500:]}")

    def ask(self, *, stream: bool) -> Any:
        """One completion of the switch's gate from what serves."""
        return complete(
            *(HOST, PORT, "/v1/chat/completions", MODEL.name),
            stream=stream,
            max_tokens=GATE_MAX_TOKENS,
            timeout=GATE_TIMEOUT,
            patience=300,
        )

    def taken(self) -> int | None:
        """How many bytes of the card the engine has taken; None if there is no card."""
        there = used()
        return None if there is None or self.at_rest is None else there - self.at_rest

    def stop(self) -> None:
        """Ends what serves, and waits until its memory is free, for 20 s at most."""
        if self.engine is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.engine.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.engine.wait(20)
        with contextlib.suppress(ProcessLookupError):  # vLLM's worker can outlive its server
            os.killpg(self.engine.pid, signal.SIGKILL)
        self.engine.wait()
        self.engine = None
        end = time.monotonic() + 20
        while (self.taken() or 0) > GIB // 4 and time.monotonic() < end:
            time.sleep(0.2)

    def serving(self) -> EngineSpec:
        """What the engine that serves was started from. Raises StepError if none serves."""
        if self.engine is None or self.spec is None or self.engine.poll() is not None:
            raise StepError("no engine serves")
        return self.spec


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises StepError in a block that takes longer than so many seconds, whatever it waits for."""

    def end(*_: object) -> None:
        raise StepError(f"it took more than {seconds:.0f} s")

    old = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def card(run: Run) -> None:
    """Finds the card, and keeps what it is. Raises StepError if what was prepared is for another kind."""
    run.card = find_card()
    gpu, prepared = run.card.gpu, json.loads((run.place.packed / "payload.json").read_text())
    run.keep(
        card=run.card.name,
        memory=run.card.total,
        usable=gpu.usable,
        compute=run.card.compute,
        driver=run.card.driver,
        python=sys.version.split()[0],
        prepared=prepared,
    )
    if prepared["compute"] != run.card.compute:
        raise StepError(
            f"what was prepared is for capability {prepared['compute'] / 10}, and this card has "
            f"{run.card.compute / 10}. Run where it was made: python -m bench.gpu.prepare --compute "
            f"{run.card.compute}"
        )


def unpack(run: Run) -> None:
    """Unpacks what was carried here. xz is slow, so each archive has a process of its own."""
    run.place.work.mkdir(parents=True, exist_ok=True)
    code = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')"
    found = sorted(run.place.packed.glob("*.tar.xz"))
    if not found:
        raise StepError(f"{run.place.packed} has no archive. Run: python -m bench.gpu.prepare")
    going = [subprocess.Popen([sys.executable, "-c", code, str(one), str(run.place.work)]) for one in found]
    if any(status for status in [one.wait() for one in going]):
        raise StepError("an archive could not be unpacked")
    sys.path.append(str(run.place.site))
    run.keep(archives={each.name: each.stat().st_size for each in found})


def model(run: Run) -> None:
    """Writes the model's files for vLLM, and begins to write the one for Ollama, which takes 4.4 GiB and a
    while."""
    if run.card is None:
        raise StepError(NO_CARD)
    for_vllm(run.shape, run.place.model)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; "
        f"from bench.gpu.shape import Shape, for_ollama; for_ollama({run.shape!r}, Path(sys.argv[1]))"
    )
    with (run.out / "gguf.log").open("wb") as log:
        run.making = subprocess.Popen(
            [sys.executable, "-c", code, str(run.place.gguf)], stdout=log, stderr=log
        )


def start_now(run: Run) -> None:
    """Starts vLLM with the settings of now."""
    run.start("vllm", now(run.gpu))


def start_before(run: Run) -> None:
    """Starts vLLM with the settings of before."""
    run.start("vllm", before(run.gpu))


def gate(run: Run) -> None:
    """Takes what serves through the switch's gate: three completions and a long prompt.

    The model's weights are random, so it is not asked to follow an instruction.
    """
    spec, load = run.serving(), now(run.gpu)
    for number in range(3):
        answer = run.ask(stream=number % 2 == 0)
        if not answer.ok:
            raise StepError(answer.text)
    answer = sound(
        *(HOST, PORT, spec.served),
        prompt_tokens=gate_prompt(load),
        sense=False,
        max_tokens=GATE_MAX_TOKENS,
        timeout=GATE_TIMEOUT,
    )
    if answer.ok and spec.kind == "ollama":
        answer = wholly_on_gpu(answer, HOST, PORT)
    if not answer.ok:
        raise StepError(answer.text)
    run.keep(gate="passed", prompt_tokens=answer.prompt_tokens, taken=run.taken(), **overhead(run, load))


def overhead(run: Run, load: Load) -> dict[str, object]:
    """How many bytes of the card vLLM takes beside weights and KV cache, and how many the program expects."""
    taken, memory = run.taken(), engine_sum("vllm", load)
    if taken is None:
        return {}
    return {
        "beside": taken - memory.weights - memory.kv_cache,
        "estimate": vllm_overhead(MODEL, memory.requests),
    }


def longest(run: Run) -> None:
    """Asks for the largest answers that a client can ask for, one after another.

    Keeps for each its size in bytes, how long it took, what the card and the host did, and whether the engine
    still serves.
    """
    from measure.meter import Meter

    run.serving()
    long_prompt = [256 + n % 1000 for n in range(CONTEXT - 16)]
    asks: dict[str, tuple[str, Mapping[str, object]]] = {
        "prompt_logprobs": (
            "/v1/completions",
            {"prompt": long_prompt, "max_tokens": 1, "prompt_logprobs": 20},
        ),
        "echo": (
            "/v1/completions",
            {"prompt": long_prompt, "max_tokens": 1, "echo": True, "logprobs": 20},
        ),
        "logprobs": (
            "/v1/completions",
            {"prompt": long_prompt[:16], "max_tokens": 2048, "logprobs": 20},
        ),
        "top_logprobs": (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "Hi."}],
                "max_tokens": 2048,
                "logprobs": True,
                "top_logprobs": 20,
            },
        ),
    }
    for name, (path, body) in asks.items():
        began = time.monotonic()
        with Meter() as meter:
            status, size = post(path, {"model": MODEL.name, "temperature": 0, **body})
        after = run.ask(stream=False)
        seconds = round(time.monotonic() - began, 1)
        run.keep(
            asked=name,
            status=status,
            bytes=size,
            seconds=seconds,
            gpu=meter.found,
            taken=run.taken(),
            serves_after="yes" if after.ok else after.text,
        )


def post(path: str, body: Mapping[str, object]) -> tuple[int, int]:
    """Status and length, in bytes, of the answer to a request."""
    import http.client

    connection = http.client.HTTPConnection(HOST, PORT, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    finally:
        connection.close()


def sweep(run: Run, name: str, levels: Sequence[int]) -> None:
    """Sweeps what serves over so many users (`levels`), by the name `name`; each level is kept as soon as it
    has been measured."""
    from measure.client import here  # needs what travelled
    from measure.sweep import Sweep

    spec = run.serving()
    asked = Sweep(
        ask=here,
        model=spec.served,
        levels=levels,
        tokens=64,
        prompt=512,
        each=1,
        least=4,
        seconds=15,
        say=lambda line: None,
        keep=lambda level: run.keep(**level),
    )
    url = f"http://{HOST}:{PORT}"
    asked.engine(spec.kind, {name: url}, parallel=spec.parallel, card=run.card.name if run.card else "none")
    if spec.kind == "vllm" and run.card:
        run.keep(taken=run.taken(), **overhead(run, now(run.gpu) if name == "now" else before(run.gpu)))


def ollama(run: Run, requests: int, levels: Sequence[int]) -> None:
    """Starts Ollama for so many concurrent requests, keeps whether all of it is on the card, and sweeps
    it."""
    run.start("ollama", replace(now(run.gpu), gpu_memory=None, parallel=both(requests)))
    split = wholly_on_gpu(run.ask(stream=False), HOST, PORT)
    run.keep(wholly_on_gpu="yes" if split.ok else split.text)
    sweep(run, f"{requests} at a time", levels)


def steps(run: Run) -> list[tuple[str, float, Callable[[Run], None]]]:
    """The steps, the most important first: name, time limit in seconds, and what is done."""
    few = [each for each in FEWER if each in run.levels] or list(run.levels)
    found: list[tuple[str, float, Callable[[Run], None]]] = [
        ("card", 15, card),
        ("unpack", 90, unpack),
        ("model", 30, model),
        ("vllm-start", 200, start_now),
        ("vllm-gate", 60, gate),
        ("vllm-longest", 75, longest),
        ("vllm-sweep", 120, lambda run: sweep(run, "now", run.levels)),
        ("vllm-before-start", 120, start_before),
        ("vllm-before-sweep", 60, lambda run: sweep(run, "before", few)),
    ]
    for requests in (8, 4, 16):

        def one(run: Run, requests: int = requests) -> None:
            ollama(run, requests, few)

        found.append((f"ollama-{requests}", 110 if requests == 8 else 70, one))
    return found


def everything(run: Run) -> int:
    """Carries out all steps, one after another; returns how many failed."""
    run.out.mkdir(parents=True, exist_ok=True)
    try:
        for name, seconds, action in steps(run):
            run.take(name, seconds, action)
    finally:
        run.step = "end"
        run.stop()
        if run.making and run.making.poll() is None:
            run.making.kill()
            run.making.wait()
    run.keep(failed=run.failed, seconds=round(time.monotonic() - run.began, 1))
    return len(run.failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--packed",
        type=Path,
        default=ROOT / ".changeover/gpu",
        help="what was prepared (default: .changeover/gpu)",
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/changeover-gpu"), help="20 GiB of disk")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")), help="(default: $OUT)"
    )
    options = parser.parse_args()
    run = Run(Place(options.packed.resolve(), options.work.resolve()), options.out.resolve())
    raise SystemExit(1 if everything(run) else 0)


if __name__ == "__main__":
    main()
