"""The alerts: when somebody should look, and what to type then. Pure.

None of them fires in an ordinary change of the engine: what a change does to a number is left out of each
expression, or waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from monitor.watched import Watched
from proxy.route import NOBODY

CRITICAL: Literal["critical"] = "critical"
"""Somebody gets no answer."""
WARNING: Literal["warning"] = "warning"
"""Somebody will get none if it goes on, or waits for longer than need be."""

UNCHANGED = "changeover_change_duration_seconds == 0"
"""No change of the engine is under way."""

NO_LONGER_THAN = 2
"""How many times as long as expected a hold may be: what is expected is an estimate for most models."""
SLACK_SECONDS = 30
"""How many seconds a hold may last beyond `NO_LONGER_THAN` times what is expected."""
BUDGET_SHARE = 0.7
"""From this share of the hold budget on the first who waits will soon get 503."""
FIRST_BYTE_SECONDS = 30
HOT_CELSIUS = 85
"""A choice. The card's own limits are in `nvidia-smi -q -d TEMPERATURE`."""
FULL_BYTES = 256 * 2**20
"""Free of a GPU below which the next allocation fails. The sums leave more."""
DISK_BYTES = 5 * 2**30
"""Free of a disk below which a change of the engine may be refused soon; or less than a twentieth of it."""


@dataclass(frozen=True)
class Alert:
    """It fires once `expr` has been true for `seconds`. `says` and `do` are for the person who is called;
    `{{ $value }}` and `{{ $labels.name }}` stand for what was found."""

    name: str
    expr: str
    seconds: int
    severity: Literal["critical", "warning"]
    says: str
    do: str


def alerts(watched: Watched) -> Sequence[Alert]:
    """The alerts of a stack."""
    status = f"make status STACK={watched.stack}"
    return (
        *_requests(status),
        *_changes(watched, status),
        *_parts(status),
        *(_vllm(status) if watched.vllm else ()),
        *(_gpu(status) if watched.gpu else ()),
        *_host(watched),
    )


def _requests(status: str) -> Sequence[Alert]:
    # After a gap of the window and 5 minutes `increase` takes a small value for growth. Clients that ask for
    # the models again and again, that have no key, or that give up waiting (0), say nothing of the engine.
    answered = f'changeover_requests_total{{engine!="{NOBODY}",status!="0"}}'
    errors = 'sum(increase_prometheus(changeover_requests_total{status=~"5.."}[5m]))'
    every = f"(sum(increase_prometheus({answered}[5m])) or vector(0))"
    first = "sum by (le) (increase_prometheus(changeover_first_byte_seconds_bucket[10m]))"
    quantile = f"histogram_quantile(0.95, {first})"
    return (
        Alert(
            "Errors",
            f"{errors} >= 3 and {errors} > 0.05 * {every}",
            60,
            CRITICAL,
            "{{ $value | humanize }} requests of the last 5 minutes failed (5xx), more than one in twenty.",
            status,
        ),
        Alert(
            "AnswersCut",
            "sum(increase_prometheus(changeover_cut_total[5m])) > 0",
            0,
            WARNING,
            "{{ $value | humanize }} answers that had begun were cut off in the last 5 minutes.",
            status,
        ),
        Alert(
            "HeldWithoutChange",
            f"changeover_held_duration_seconds > 60 and {UNCHANGED}",
            0,
            CRITICAL,
            "Requests have been waiting for {{ $value | humanizeDuration }}, and no change of the engine is "
            "under way.",
            status,
        ),
        Alert(
            "NothingFinishes",
            # A long answer is no fault: bytes come from its engine. After 5 minutes the proxy gives up what
            # had no first byte, which counts as ended.
            f"sum(changeover_running) > 0 unless sum(increase_prometheus({answered}[2m])) > 0 "
            "unless min(changeover_engine_silent_seconds) < 60",
            60,
            CRITICAL,
            "{{ $value | humanize }} requests are at the engine: none was answered in 2 minutes, and no byte "
            "came.",
            f"{status}; the switch restarts an engine that has hung for 8 minutes",
        ),
        Alert(
            "SlowFirstByte",
            # what was held in a change is in the histogram, too
            f"{quantile} > {FIRST_BYTE_SECONDS} unless on() "
            "max_over_time(changeover_held_duration_seconds[15m]) > 0",
            300,
            WARNING,
            "One request in twenty waits for its first byte for more than {{ $value | humanizeDuration }}.",
            "make watch shows whether `parallel` is too small or there are too many users",
        ),
    )


def _changes(watched: Watched, status: str) -> Sequence[Alert]:
    bounds = {
        kind: round(seconds * NO_LONGER_THAN + SLACK_SECONDS) for kind, seconds in watched.expected.items()
    }
    longer = " or ".join(
        f"(changeover_held_duration_seconds > {seconds} and on (instance) "
        f'changeover_change_phase{{kind="{kind}"}})'
        for kind, seconds in sorted(bounds.items())
    )
    budget = watched.hold_budget * BUDGET_SHARE
    return (
        Alert(
            "HoldLongerThanExpected",
            longer,
            0,
            WARNING,
            "A change has held requests for {{ $value | humanizeDuration }}, much longer than expected.",
            status,
        ),
        Alert(
            "HoldNearItsBudget",
            f"changeover_held_duration_seconds > {budget:g}",
            0,
            CRITICAL,
            "Requests have been waiting for {{ $value | humanizeDuration }}; "
            f"after {watched.hold_budget} s they get 503.",
            status,
        ),
        Alert(
            "ChangeFailed",
            "changeover_last_change_failed == 1 and time() - changeover_last_change_timestamp_seconds < 3600",
            0,
            WARNING,
            "The last change of the engine failed within the last hour. The old engine serves.",
            "the engine's last lines are in the message of `pulumi up`, and in the certificate",
        ),
    )


def _parts(status: str) -> Sequence[Alert]:
    return (
        Alert(
            "NoGatedEngine",
            f"changeover_engine_gated == 0 and {UNCHANGED}",
            120,
            CRITICAL,
            "No engine has passed its gate, and no change is under way: nobody gets an answer.",
            status,
        ),
        Alert(
            "SwitchInTrouble",
            "changeover_trouble == 1",
            60,
            CRITICAL,
            "The switch can't bring the engine back, or can't write its journal.",
            status,
        ),
        Alert(
            "Silent",
            "changeover_silent == 1",
            30,
            WARNING,
            "{{ $labels.container }} does not answer.",
            f"{status}; a container that hangs is restarted automatically",
        ),
        Alert(
            "JournalDamaged",
            "changeover_journal_damaged == 1",
            0,
            WARNING,
            "The switch's journal was damaged; the engine goes on serving.",
            "pulumi up",
        ),
        Alert(
            "TargetDown",
            # vLLM answers nothing while it loads
            'up{job!="vllm"} == 0 or (up{job="vllm"} == 0 and on () changeover_engine_gated == 1 '
            f"and on () {UNCHANGED})",
            120,
            WARNING,
            "{{ $labels.job }} ({{ $labels.instance }}) does not answer scrapes.",
            status,
        ),
        Alert(
            "NoProxy",
            'absent(up{job="proxy"} == 1)',
            60,
            CRITICAL,
            "No proxy answers: nobody gets an answer.",
            status,
        ),
        Alert(
            "NoSwitch",
            'absent(up{job="switch"} == 1)',
            120,
            WARNING,
            "The switch does not answer: an engine that ends is not brought back.",
            status,
        ),
    )


def _vllm(status: str) -> Sequence[Alert]:
    return (
        Alert(
            "VllmAdmitsNothing",
            "vllm:num_requests_waiting > 0 and vllm:num_requests_running == 0",
            120,
            CRITICAL,
            "vLLM has {{ $value | humanize }} requests in its queue and works on none.",
            f"{status}; a change to the other engine and back restarts it",
        ),
        Alert(
            "KvCacheFull",
            "vllm:kv_cache_usage_perc > 0.95",
            300,
            WARNING,
            "vLLM's KV cache is full: requests are preempted and computed again.",
            "make `parallel.vllm` or `context` smaller",
        ),
    )


def _gpu(status: str) -> Sequence[Alert]:
    return (
        Alert(
            "ModelLeftGpu",
            "changeover_model_gpu_ratio < 1",
            60,
            WARNING,
            "Only {{ $value | humanizePercentage }} of Ollama's model is on the GPU; the rest is slow.",
            "make `parallel.ollama` or `context` smaller, or restart the engine's container",
        ),
        Alert(
            "GpuLost",
            "changeover_gpu_lost == 1",
            60,
            CRITICAL,
            "The GPU's driver does not answer.",
            f"{status} shows the driver's message",
        ),
        Alert(
            "GpuHot",
            f"changeover_gpu_temperature_celsius > {HOT_CELSIUS}",
            300,
            WARNING,
            "GPU {{ $labels.gpu }} is at {{ $value | humanize }} °C.",
            "check the host's cooling",
        ),
        Alert(
            "GpuFull",
            f"changeover_gpu_memory_bytes - changeover_gpu_memory_used_bytes < {FULL_BYTES}",
            300,
            WARNING,
            "Only {{ $value | humanize1024 }}B are free on GPU {{ $labels.gpu }}.",
            "make `gpuMemoryMiB` smaller",
        ),
    )


def _host(watched: Watched) -> Sequence[Alert]:
    return (
        Alert(
            "DiskNearlyFull",
            f"changeover_disk_free_bytes < {DISK_BYTES} or changeover_disk_free_bytes < "
            "0.05 * changeover_disk_bytes",
            300,
            WARNING,
            "Only {{ $value | humanize1024 }}B are free on the disk of {{ $labels.volume }}.",
            f"make gc STACK={watched.stack}",
        ),
        Alert(
            "MemoryNearlyFull",
            "changeover_host_memory_available_bytes < 0.05 * changeover_host_memory_bytes",
            300,
            WARNING,
            "Only {{ $value | humanize1024 }}B of the host's RAM are left for programs.",
            "see what else runs there: docker stats",
        ),
    )
