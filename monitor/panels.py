"""What the pages show: each panel answers a question. Pure.

The expressions are PromQL, without what only the store's own language has: Grafana users may ask another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.watched import Watched

SPAN = "$span"
"""Stands in an expression for the window of a rate; who renders it knows how far two points are apart."""
GROWTH = "$growth"
"""Stands for the function that says by how much a counter has grown in a window. The store's own `increase`
takes a small value for growth where it does not know the value before it."""


@dataclass(frozen=True)
class Unit:
    """As the store's own page writes it beside a number, and as Grafana calls it."""

    text: str
    grafana: str


COUNT = Unit("", "short")
SECONDS = Unit("s", "s")
GIB = Unit("GiB", "suffix: GiB")
MIB_A_SECOND = Unit("MiB/s", "suffix: MiB/s")
SHARE = Unit("", "percentunit")
A_SECOND = Unit("/s", "suffix:/s")
WATTS = Unit("W", "watt")
CELSIUS = Unit("°C", "celsius")


@dataclass(frozen=True)
class Query:
    """An expression, and what its lines are called: `{{label}}` stands for a label's value."""

    expr: str
    alias: str


@dataclass(frozen=True)
class Panel:
    """`says` is what a reader has to know of it."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = COUNT
    says: str = ""


@dataclass(frozen=True)
class Page:
    """`name` is that of its file."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _zero(expr: str) -> str:
    """The expression, which is 0 where there is nothing to count yet."""
    return f"{expr} or vector(0)"


def _per_second(counter: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({counter}[{SPAN}]))"


def _quantile(share: float, histogram: str, by: str = "") -> str:
    keys = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({keys}) (rate({histogram}_bucket[{SPAN}])))"


def _quantiles(histogram: str) -> tuple[Query, ...]:
    return tuple(Query(_quantile(share, histogram), f"p{100 * share:g}") for share in (0.5, 0.95, 0.99))


REQUESTS = Panel(
    "Requests a second",
    (
        Query(_zero(_per_second("changeover_requests_total")), "ended"),
        Query(_zero(_per_second('changeover_requests_total{status=~"5.."}')), "errors (5xx)"),
        Query(_zero(_per_second("changeover_cut_total")), "answers cut"),
    ),
    A_SECOND,
)
IN_FLIGHT = Panel(
    "How many are at the engine, and how many wait?",
    (
        Query(_zero("sum(changeover_running)"), "at the engine"),
        Query(_zero("sum(changeover_waiting)"), "wait"),
    ),
)
FIRST_BYTE = Panel(
    "Until the first byte",
    _quantiles("changeover_first_byte_seconds"),
    SECONDS,
    "A request that was held counts from its arrival.",
)
TOKENS = Panel(
    "Tokens a second",
    (Query(_per_second("changeover_tokens_total", "kind"), "{{kind}}"),),
    A_SECOND,
    "As the engines report them, once an answer has ended.",
)
HELD = Panel(
    "A change, and a hold",
    (
        Query("changeover_change_duration_seconds", "under way for"),
        Query("changeover_held_duration_seconds", "held for"),
    ),
    SECONDS,
    "Both are 0 while nothing changes.",
)


def _overview() -> Page:
    return Page(
        "1-overview",
        "Is it well?",
        (
            Panel(
                "What serves",
                (
                    Query("changeover_engine", "{{kind}}: {{model}}"),
                    Query("changeover_engine_gated", "gated"),
                ),
                says="1 means yes. `gated` is 0 while the engine loads, and during a change.",
            ),
            Panel("Alerts that fire", (Query(_zero('count(ALERTS{alertstate="firing"})'), "alerts"),)),
            IN_FLIGHT,
            HELD,
            REQUESTS,
            FIRST_BYTE,
            TOKENS,
            Panel("What answers its scrapes", (Query("sum by (job) (up)", "{{job}}"),)),
        ),
    )


def _change() -> Page:
    return Page(
        "2-change",
        "A change of the engine",
        (
            HELD,
            Panel("Its phase", (Query("changeover_change_phase", "to {{kind}}: {{phase}}"),)),
            IN_FLIGHT,
            FIRST_BYTE,
            Panel(
                "The last change, step by step",
                (Query("changeover_last_change_step_seconds", "{{phase}}"),),
                SECONDS,
            ),
            Panel(
                "The last change",
                (
                    Query("changeover_last_change_held_seconds", "held, in seconds"),
                    Query("changeover_last_change_failed", "1: it failed"),
                ),
            ),
            Panel("Changes of what serves", (Query("changeover_commits_total", "since the stack was made"),)),
            Panel(
                "Hung or crashed, and brought back",
                (Query(_zero("sum by (what) (changeover_given_up_total)"), "{{what}}"),),
            ),
        ),
    )


def _tenants() -> Page:
    day = f"{GROWTH}(changeover_tokens_total[1d])"
    return Page(
        "3-tenants",
        "Who uses it?",
        (
            Panel(
                "Requests a second, by tenant",
                (Query(_per_second("changeover_requests_total", "tenant"), "{{tenant}}"),),
                A_SECOND,
                "Only a tenant that a key names is counted by name, so that nobody can make up thousands.",
            ),
            Panel(
                "Tokens a second, by tenant",
                (Query(_per_second("changeover_tokens_total", "tenant"), "{{tenant}}"),),
                A_SECOND,
            ),
            Panel(
                "Share of the tokens of 24 hours",
                (
                    Query(
                        f"sum by (tenant) ({day}) / ignoring(tenant) group_left sum({day})",
                        "{{tenant}}",
                    ),
                ),
                SHARE,
                "`make usage` has them to the token, by day.",
            ),
            Panel(
                "Errors a second, by tenant",
                (
                    Query(
                        _zero(_per_second('changeover_requests_total{status=~"5.."}', "tenant")), "{{tenant}}"
                    ),
                ),
                A_SECOND,
            ),
            Panel(
                "Clients that hang up, a second",
                (Query(_zero(_per_second("changeover_hung_up_total", "tenant")), "{{tenant}}"),),
                A_SECOND,
            ),
            Panel(
                "Requests a second, by endpoint",
                (Query(_per_second("changeover_requests_total", "endpoint"), "{{endpoint}}"),),
                A_SECOND,
            ),
        ),
    )


def _latency() -> Page:
    return Page(
        "4-latency",
        "How long do they wait?",
        (
            FIRST_BYTE,
            Panel("The whole request", _quantiles("changeover_request_seconds"), SECONDS),
            Panel(
                "Before an engine is asked",
                _quantiles("changeover_held_seconds"),
                SECONDS,
                "In the queue, or since requests are held.",
            ),
            Panel(
                "Until the first byte, by engine (p95)",
                (Query(_quantile(0.95, "changeover_first_byte_seconds", "engine"), "{{engine}}"),),
                SECONDS,
            ),
        ),
    )


def _engine(watched: Watched) -> Page:
    panels = [
        Panel("At the engine", (Query(_zero("sum by (engine) (changeover_running)"), "{{engine}}"),)),
        Panel(
            "Since an engine's last byte",
            (Query("min by (engine) (changeover_engine_silent_seconds)", "{{engine}}"),),
            SECONDS,
        ),
    ]
    if watched.vllm:
        panels += [
            Panel(
                "vLLM: running, and queued",
                (
                    Query("vllm:num_requests_running", "at work"),
                    Query("vllm:num_requests_waiting", "waiting"),
                ),
            ),
            Panel("vLLM: KV cache", (Query("vllm:kv_cache_usage_perc", "in use"),), SHARE),
            Panel(
                "vLLM: requests preempted, and computed again",
                (Query(_per_second("vllm:num_preemptions_total"), "preemptions"),),
                A_SECOND,
                "The KV cache was too small for all running requests.",
            ),
            Panel(
                "vLLM: tokens a second",
                (
                    Query(_per_second("vllm:prompt_tokens_total"), "read"),
                    Query(_per_second("vllm:generation_tokens_total"), "written"),
                ),
                A_SECOND,
            ),
            Panel(
                "vLLM: time to the first token, and between tokens",
                (
                    Query(_quantile(0.95, "vllm:time_to_first_token_seconds"), "first token, p95"),
                    Query(_quantile(0.95, "vllm:inter_token_latency_seconds"), "next, p95"),
                    Query(_quantile(0.95, "vllm:request_queue_time_seconds"), "in its queue, p95"),
                ),
                SECONDS,
            ),
            Panel(
                "vLLM: prompts found in the prefix cache",
                (
                    Query(
                        f"{_per_second('vllm:prefix_cache_hits_total')} / "
                        f"{_per_second('vllm:prefix_cache_queries_total')}",
                        "share of their tokens",
                    ),
                ),
                SHARE,
            ),
        ]
    return Page("5-engine", "What does the engine do?", tuple(panels))


def _gpu() -> Page:
    return Page(
        "6-gpu",
        "What does the GPU do?",
        (
            Panel(
                "Busy",
                (Query("changeover_gpu_utilization_ratio", "GPU {{gpu}}"),),
                SHARE,
                "The share of time in which some kernel ran: a decode that waits for memory is busy, too.",
            ),
            Panel(
                "Memory",
                (
                    Query("changeover_gpu_memory_used_bytes / 2^30", "GPU {{gpu}}, in use"),
                    Query("changeover_gpu_memory_bytes / 2^30", "GPU {{gpu}}, all"),
                ),
                GIB,
            ),
            Panel("Power", (Query("changeover_gpu_power_watts", "GPU {{gpu}}"),), WATTS),
            Panel("Temperature", (Query("changeover_gpu_temperature_celsius", "GPU {{gpu}}"),), CELSIUS),
            Panel(
                "Ollama's model on the GPU",
                (Query("changeover_model_gpu_ratio", "share of its memory"),),
                SHARE,
                "vLLM keeps its model nowhere else, and does not report it.",
            ),
        ),
    )


def _host() -> Page:
    cpu = "changeover_host_cpu_seconds_total"
    return Page(
        "7-host",
        "What does the host do?",
        (
            Panel(
                "CPUs",
                (
                    Query(
                        f'sum(rate({cpu}{{mode="busy"}}[{SPAN}])) / sum(rate({cpu}[{SPAN}]))',
                        "share that is busy",
                    ),
                ),
                SHARE,
            ),
            Panel("Load", (Query("changeover_host_load1", "processes running or waiting"),)),
            Panel(
                "Memory",
                (
                    Query("changeover_host_memory_bytes / 2^30", "all"),
                    Query("changeover_host_memory_available_bytes / 2^30", "available to programs"),
                    Query("changeover_host_swap_used_bytes / 2^30", "in swap"),
                ),
                GIB,
            ),
            Panel("Free on the disks", (Query("changeover_disk_free_bytes / 2^30", "{{volume}}"),), GIB),
            Panel(
                "Disks",
                (
                    Query(
                        _zero(f"sum by (disk) (rate(changeover_host_disk_read_bytes_total[{SPAN}])) / 2^20"),
                        "{{disk}}, read",
                    ),
                    Query(
                        _zero(
                            f"sum by (disk) (rate(changeover_host_disk_written_bytes_total[{SPAN}])) / 2^20"
                        ),
                        "{{disk}}, written",
                    ),
                ),
                MIB_A_SECOND,
            ),
            Panel(
                "Killed for lack of memory",
                (Query("changeover_host_oom_kills_total", "since the host was started"),),
            ),
        ),
    )


def _gateway() -> Page:
    return Page(
        "8-gateway",
        "What does the gateway do?",
        (
            Panel(
                "Requests to the gateway a second",
                (Query(_zero(_per_second("tensorzero_requests_total", "instance")), "{{instance}}"),),
                A_SECOND,
                "It is only asked which engine to use: the bodies of the requests do not pass through it.",
            ),
        ),
    )


def pages(watched: Watched) -> Sequence[Page]:
    """The pages of a stack, in the order in which they are shown."""
    return (
        _overview(),
        _change(),
        _tenants(),
        _latency(),
        _engine(watched),
        *([_gpu()] if watched.gpu else []),
        _host(),
        *([_gateway()] if watched.gateway else []),
    )
