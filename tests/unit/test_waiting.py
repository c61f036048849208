"""The waits are sums of what the switch really bounds, and say which of their parts were measured."""

import itertools
import re

from components import pins
from components.catalogue import MODELS
from components.cutover_mode import choose
from components.engines import SHUTDOWN_TIMEOUT
from components.gpu_memory import GPUS, KINDS, Load, both
from components.plan import STOP_GRACE
from components.waiting import Bounds, first_fetch, loading, wait

BOUNDS = Bounds(drain=120, load=300, completions=3)
TINY = Load(model=MODELS["tiny"], context=1024, parallel=both(1), gpu=None)
SEVEN = Load(model=MODELS["qwen-2.5-coder-7b"], context=8192, parallel=both(4), gpu=GPUS["t4"])


def test_a_measured_loading_is_taken_as_it_was_and_says_so() -> None:
    assert loading("vllm", TINY).seconds == 22.9
    assert "23 s loading (measured on 2 cores)" in wait("vllm", TINY, BOUNDS).expected_words


def test_any_other_is_start_and_weights_by_the_disks_rate_and_says_so() -> None:
    estimate = loading("vllm", SEVEN)
    assert estimate.seconds == 60 + 5_600_000_000 / 125_000_000
    assert estimate.source == "estimate: 60 s + 5.6 GB at 125 MB/s"


def test_the_words_add_up() -> None:
    each = wait("vllm", SEVEN, BOUNDS)
    assert each.expected_words.startswith(
        f"{each.expected:.0f} s = 10 s drain (estimate) + 1 s stopping ollama"
    )
    assert each.expected == 10 + 1 + loading("vllm", SEVEN).seconds + 4 + 5
    assert each.worst == 120 + 2 + 20 + 300 + 60 + 60 + 120 + 20 + 300 + 10
    assert each.worst_words.startswith("1012 s = 120 s drainSeconds + 2 s stopping")
    for bounds in (BOUNDS, Bounds(drain=1, load=2, completions=3)):
        total, _, parts = bounds.worst_words.partition(" s = ")
        assert int(total) == sum(int(number) for number in re.findall(r"\b(\d+) s\b", parts)) == bounds.worst


def test_a_drain_that_may_not_take_long_is_not_expected_to() -> None:
    assert wait("ollama", TINY, Bounds(drain=2, load=300, completions=3)).expected_words.startswith(
        "9 s = 2 s"
    )


def test_no_bound_can_grow_without_the_worst_wait_growing() -> None:
    for drain, load in itertools.product((1, 60, 600), (300, 3600)):
        base = Bounds(drain=drain, load=load, completions=1).worst
        assert Bounds(drain=drain + 1, load=load, completions=1).worst > base
        assert Bounds(drain=drain, load=load + 1, completions=1).worst > base


def test_the_cutover_tells_the_seconds_of_the_change_to_its_engine() -> None:
    for engine in ("ollama", "vllm"):
        cutover = choose("hold", engine, TINY, BOUNDS)
        assert cutover.expected == wait(engine, TINY, BOUNDS).expected
        assert cutover.worst == BOUNDS.worst


def test_vllm_has_ended_by_itself_before_docker_would_kill_it() -> None:
    assert STOP_GRACE >= SHUTDOWN_TIMEOUT + 15


def test_the_first_fetch_is_every_image_and_all_weights_at_the_rate_of_the_place() -> None:
    images = (pins.VLLM_CUDA, pins.OLLAMA)
    weights = sum(SEVEN.model.source_of(kind, SEVEN.quantization.get(kind)).size for kind in KINDS)
    both_of_them = first_fetch(images, KINDS, SEVEN)
    total = pins.VLLM_CUDA.size + pins.OLLAMA.size + weights
    assert both_of_them.seconds == total / 35_000_000
    minutes = -(-total // (35_000_000 * 60))
    assert both_of_them.words == (
        f"first fetch: {minutes} min = 15.3 GB of images + {weights / 1e9:.1f} GB of weights "
        "at 35 MB/s (estimate)"
    )
    assert first_fetch(images, [], TINY).words == (
        "first fetch: 21 min = 15.3 GB of images at 12.5 MB/s (estimate)"
    )
