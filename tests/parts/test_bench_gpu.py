"""What can be known of the measurements on a GPU without one: what is packed and written, and the steps."""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import run as gpu_run
from bench.gpu.fatbin import CONTAINER, CUBIN, ENTRY, MAGIC, PTX, containers, needed, pruned
from bench.gpu.prepare import LIMIT, about, pack
from bench.gpu.run import Card, Place, Run, StepError, before, card_of, everything, limit, now
from bench.gpu.shape import (
    Q4_K,
    Q6_K,
    SPECIAL,
    Shape,
    byte_tokens,
    for_ollama,
    for_vllm,
    more_bits,
    tensors,
    tokens,
)
from common import ROOT, StepFailed
from components.catalogue import GIB, MODELS
from components.engines import EngineSpec
from components.gpu_memory import engine_sum
from tests.support.project import free_port

SMALL = Shape(hidden=256, inner=512, layers=2, heads=4, kv_heads=2, vocabulary=600, context=9000)


def container(*entries: tuple[int, int, bytes]) -> bytes:
    raw = b"".join(
        ENTRY.pack(kind, 257, ENTRY.size, len(code), 0, 0, 0, 0, compute) + code
        for kind, compute, code in entries
    )
    return CONTAINER.pack(MAGIC, 1, CONTAINER.size, len(raw)) + raw


def test_what_other_cards_load_is_zeroed_where_it_stands() -> None:
    library = (
        b"ELF"
        + container((CUBIN, 75, b"turing"), (CUBIN, 90, b"hopper"), (PTX, 80, b"text"))
        + b"between"
        + container((CUBIN, 75, b"alone"))
        + struct.pack("<I", MAGIC)
    )
    changed, served = pruned(library, 90)
    assert len(changed) == len(library) and served == 1
    assert b"hopper" in changed and b"between" in changed
    assert not any(word in changed for word in (b"turing", b"text", b"alone"))
    for turing in (b"turing", b"alone"):
        assert turing in pruned(library, 75)[0]
    assert [len(each) for each in containers(changed)] == [3, 1], "the card still finds its way in it"


@pytest.mark.parametrize(
    ("compute", "kept"), [(75, "a"), (80, "b"), (86, "b"), (89, "c"), (90, "d"), (70, "")]
)
def test_a_card_gets_its_own_code_or_its_generations_or_text_that_it_can_compile(
    compute: int, kept: str
) -> None:
    codes = ((CUBIN, 75, b"a"), (CUBIN, 80, b"b"), (CUBIN, 89, b"c"), (PTX, 80, b"d"), (CUBIN, 100, b"e"))
    library = container(*codes)
    (entries,) = containers(library)
    assert b"".join(library[each.start : each.end] for each in needed(entries, compute)) == kept.encode()


def test_what_would_not_travel_is_refused_with_what_each_part_takes(tmp_path: Path) -> None:
    large = tmp_path / "vllm.tar.xz"
    with large.open("wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(StepFailed, match=r"64\.0 MiB are more than the 64 .*: vllm\.tar\.xz 64\.0 MiB"):
        about(90, [large])


def test_what_is_packed_is_the_same_bytes_each_time_and_without_what_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "site/__pycache__").mkdir(parents=True)
    (folder / "site/a.py").write_text("pass")
    (folder / "site/__pycache__/a.pyc").write_text("old")
    first = pack(folder, "one", tmp_path).read_bytes()
    os.utime(folder / "site/a.py", (1, 1))
    assert pack(folder, "one", tmp_path).read_bytes() == first
    run = Run(Place(tmp_path, tmp_path / "work"), tmp_path / "out")
    run.out.mkdir()
    gpu_run.unpack(run)
    assert (run.place.site / "a.py").exists() and not (run.place.site / "__pycache__").exists()


def test_the_shape_is_that_of_the_catalogues_7b() -> None:
    shape, model = Shape(), MODELS["qwen-2.5-coder-7b"]
    ours = (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head, shape.vocabulary)
    theirs = (model.hidden, model.layers, model.attention_heads, model.kv_heads, model.head_dim)
    assert ours == (*theirs, model.vocabulary)
    values = [sizes[0] * (sizes[1] if len(sizes) > 1 else 1) for _, sizes, _ in tensors(shape)]
    assert sum(values) == model.parameters


def test_its_file_is_as_large_as_a_published_q4_k_m_of_7b() -> None:
    size = sum(
        sizes[0] * (sizes[1] if len(sizes) > 1 else 1) // kind.values * kind.size
        for _, sizes, kind in tensors(Shape())
    )
    published = MODELS["qwen-2.5-coder-7b"].source_of("ollama", "q4_k_m").size
    assert abs(size / published - 1) < 0.01
    assert [more_bits(layer, 28) for layer in (0, 2, 3, 5, 24, 25)] == [True, True, False, True, True, True]
    assert [struct.calcsize(f"{kind.size}x") for kind in (Q4_K, Q6_K)] == [144, 210]


def test_each_token_is_there_once_and_each_byte_has_one() -> None:
    every = tokens(SMALL)
    assert len(every) == len(set(every)) == SMALL.vocabulary
    assert every[-len(SPECIAL) :] == list(SPECIAL)
    assert len(set(byte_tokens())) == 256 and byte_tokens()[ord(" ")] == "Ġ"


def test_both_engines_files_are_whole(tmp_path: Path) -> None:
    for_vllm(SMALL, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["quantization_config"]["group_size"] == 128
    tokenizer = json.loads((tmp_path / "model/tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"]["Ġ"] == tokens(SMALL).index("Ġ")
    for_ollama(SMALL, tmp_path / "model.gguf")
    raw = (tmp_path / "model.gguf").read_bytes()
    magic, version, count, _ = struct.unpack_from("<4sIQQ", raw)
    assert (magic, version, count) == (b"GGUF", 3, len(list(tensors(SMALL))))
    assert len(raw) % 32 == 0
    with pytest.raises(ValueError, match="rows of 300"):
        for_ollama(Shape(hidden=300, heads=4, kv_heads=2, layers=1, vocabulary=600), tmp_path / "no.gguf")


def test_a_card_is_known_by_its_name_or_taken_as_it_is() -> None:
    t4 = card_of("Tesla T4, 15360, 7.5, 580.95").gpu
    assert (t4.name, t4.compute) == ("NVIDIA T4", 75)
    assert card_of("NVIDIA A100-SXM4-80GB, 81920, 8.0, 580").gpu.name in ("NVIDIA A100 80 GB", "NVIDIA GPU")
    other = card_of("NVIDIA RTX 6000, 49152, 8.9, 590").gpu
    assert other.usable == 48 * GIB - GIB // 2 and other.compute == 89


@pytest.mark.parametrize("line", ["Tesla T4, 15360, 7.5, 580", "NVIDIA H200, 143771, 9.0, 580"])
def test_the_settings_are_a_t4s_on_whichever_card(line: str) -> None:
    gpu = card_of(line).gpu
    after, earlier = (engine_sum("vllm", load(gpu)) for load in (now, before))
    assert 40 <= after.requests <= 64 and earlier.requests == 4
    assert after.total <= 13.56 * GIB and earlier.total <= 7.36 * GIB


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Run:
    """A run whose engines are the test engine, on a card that isn't there."""
    monkeypatch.setattr(gpu_run, "PORT", port := free_port())

    def command(spec: EngineSpec, place: Place) -> tuple[list[str], dict[str, str]]:
        own = {"FAST_PORT": str(port), "FAST_NAMES": spec.served, **environment}
        return [sys.executable, str(ROOT / "tests/support/fast_engine.py")], own

    def card(run: Run) -> None:
        run.card = Card("Tesla T4", 15360 * 2**20, 75, "580")

    monkeypatch.setattr(gpu_run, "card", card)
    monkeypatch.setattr(gpu_run, "wholly_on_gpu", lambda answer, *_: answer)
    packed = tmp_path / "packed"
    (tmp_path / "folder/site").mkdir(parents=True)
    packed.mkdir()
    pack(tmp_path / "folder", "vllm", packed)
    place = Place(packed, tmp_path / "work")
    place.ollama.parent.mkdir(parents=True)
    place.ollama.write_text("#!/bin/sh\ntest -s $(sed -n 's/^FROM //p' $4)\n")
    place.ollama.chmod(0o755)
    return Run(place, tmp_path / "out", shape=SMALL, levels=(1, 4), command=command)


def found(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.out / "results.jsonl").read_text().splitlines()]


def test_all_steps_are_taken_in_their_order_and_each_keeps_what_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake(tmp_path, monkeypatch)
    assert everything(run) == 0, found(run)
    lines = found(run)
    assert [line["step"] for line in lines if line.get("done")] == [
        *("card", "unpack", "model", "vllm-start", "vllm-gate", "vllm-longest", "vllm-sweep"),
        *("vllm-before-start", "vllm-before-sweep", "ollama-8", "ollama-4", "ollama-16"),
    ]
    levels = [(line["engine"], line["way"], line["users"]) for line in lines if "users" in line]
    assert levels == [
        *(("vllm", "now", 1), ("vllm", "now", 4), ("vllm", "before", 1), ("vllm", "before", 4)),
        *(("ollama", f"{n} at a time", users) for n in (8, 4, 16) for users in (1, 4)),
    ]
    asked = {line["asked"]: line["status"] for line in lines if "asked" in line}
    assert asked == dict.fromkeys(("prompt_logprobs", "echo", "logprobs", "top_logprobs"), 200)
    assert run.engine is None, "nothing is left running"


def test_a_step_that_fails_says_why_with_the_engines_log_and_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake(tmp_path, monkeypatch, FAST_MODE="exits")
    assert everything(run) == 9
    errors = {str(line["step"]): line for line in found(run) if "error" in line}
    assert errors["vllm-start"]["error"] == "vllm ended with status 3"
    assert "out of something" in str(errors["vllm-start"]["log"])
    assert errors["vllm-gate"]["error"] == "no engine serves"
    assert errors["ollama-16"]["error"] == "ollama ended with status 3"
    assert found(run)[-1]["failed"] == list(errors)


def test_it_runs_with_pythons_own_modules_alone(tmp_path: Path) -> None:
    """On the machine with the GPU nothing else is there until it is unpacked."""
    program, out = str(ROOT / "bench/gpu/run.py"), tmp_path / "out"
    words = ["--packed", str(tmp_path / "none"), "--work", str(tmp_path / "work"), "--out", str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-B", program, *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line.get("done")], "without a card nothing is written, either"
    assert "Run: python -m bench.gpu.prepare" in next(
        line["error"] for line in lines if line["step"] == "unpack"
    )


def test_a_step_has_its_limit_and_the_whole_has_one_too(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(StepError, match="more than 0 s"), limit(0.1):
        time.sleep(10)
    assert time.monotonic() - began < 5
    run = Run(Place(tmp_path, tmp_path), tmp_path, total=3)
    run.take("late", 60, lambda run: None)
    assert run.failed == ["late"] and found(run)[0]["error"] == "no time is left for it"


def test_without_a_card_it_is_said_and_nothing_that_needs_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    run = Run(Place(tmp_path, tmp_path), tmp_path)
    run.take("card", 5, gpu_run.card)
    run.take("vllm-start", 5, gpu_run.start_now)
    first, second = found(run)
    assert first["error"] == "there is no NVIDIA driver here (no nvidia-smi)"
    assert second["error"] == "it needs the card, which was not found"
