"""What a preview shows of a stack: each fact with who writes it beside who reads it. Pure.

A person reads these words, and so do the review and the policies. A stack's state keeps the environments of
its steps, so another text in one is a change of every stack.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Value = TypeVar("Value")

Variable = (
    Literal["DOCKER_HOST", "CHANGEOVER_SSH_CONFIG"]  # how every step reaches its host
    | Literal["PROJECT", "STACK", "OWNER", "CHANGES", "CONTAINERS", "INSTEAD"]  # whose the stack is
    | Literal["SWITCH", "ENGINE", "CUTOVER", "MEMORY", "ROUTING", "GATEWAY", "LIVE"]  # the two phases
    | Literal["TENANTS", "SEEN"]  # the keys; and what is said of them, or of the edge, as it is now
    | Literal["EDGE", "EDGE_ID", "APPLY", "CADDYFILE", "NETWORK", "NETWORK_ID"]  # the edge
    | Literal["PROXY", "ASK", "LOCK", "ARCHIVE", "CODE", "PYTHON"]  # the proxy
    | Literal["IMAGE", "VOLUME", "LOGS", "CONFIG", "HISTORY", "CONTENT", "AGAIN"]  # volumes
    | Literal["WEIGHTS", "MOVING"]  # what is fetched, and what of it names another content tomorrow
    | Literal["GPU", "GPUS", "DRIVER", "INSTANCE_TYPE", "DATA_MOUNT", "DATA_GIB"]  # an instance
    | Literal["REGION", "NAMESPACE", "PROBE", "DEADLINE"]
    | Literal["CONTEXT", "HOSTS", "AT_ONCE", "NODES", "LOST"]  # a cluster
)
"""A key of a step's environment: the step's shell program reads it, or only who reads the preview."""


def environment(*told: Mapping[Variable, Value]) -> dict[str, Value]:
    """The environment of a step that is told all of this."""
    return {str(key): value for each in told for key, value in each.items()}


def variable(step: Mapping[str, Any], key: Variable) -> Any:
    """A variable in the inputs of a step; None where it has none, or none is known yet."""
    environment = step.get("environment")
    return environment.get(key) if isinstance(environment, dict) else None


Exported = Literal[
    "endpoint", "engine", "model", "cutover", "certificate", "routing", "gateway_config", "ca", "cost"
]
"""An output of the stack."""

MemoryKind = Literal["GPU", "RAM"]


def memory(needs: Mapping[MemoryKind, tuple[int, int]]) -> str:
    """What an engine takes of each memory, and what there is of it, both in bytes; 0: none, and not known."""
    return ", ".join(
        f"{what} {need / 2**30:.2f} of {f'{there / 2**30:.2f}' if there else 'unknown'} GiB"
        for what, (need, there) in needs.items()
        if need
    )


def memory_in(words: object) -> dict[MemoryKind, tuple[float, float | None]]:
    """What `memory` wrote, in GiB to two digits; None: not known. A step of an older version has no words."""
    found = re.findall(r"(GPU|RAM) ([\d.]+) of ([\d.]+|unknown) GiB", str(words))
    return {what: (float(need), None if there == "unknown" else float(there)) for what, need, there in found}


def tenants(names: Iterable[str]) -> str:
    """Who has an API key."""
    return ", ".join(names)


def tenants_in(words: object) -> set[str]:
    """Who has an API key, from what `tenants` wrote."""
    return {name for name in str(words or "").split(", ") if name}


def nodes(names: Iterable[str]) -> str:
    """The names of a stack's nodes on a cluster."""
    return ", ".join(sorted(names))


def nodes_in(words: object) -> set[str]:
    """The names of the nodes, from what `nodes` wrote."""
    return {name for name in str(words or "").split(", ") if name}


def lost(times: int, names: Iterable[str]) -> str:
    """The ConfigMaps with these names are gone from a cluster, and for so many times now some are."""
    return f"{times}: {', '.join(names)}"


def lost_in(words: object) -> tuple[int, list[str]]:
    """For how many times some are gone, and which, from what `lost` wrote; 0 and none: it wrote nothing."""
    times, _, names = str(words or "0: ").partition(": ")
    return int(times), [name for name in names.split(", ") if name]


def fleet(pods: str, others: Iterable[str]) -> str:
    """What there is to be on a cluster: how many pods of each engine, and what else was found that should not
    be so, each in words."""
    return "; ".join([pods, *others])


def fleet_in(words: object) -> tuple[str, list[str]]:
    """The pods and the others, from what `fleet` wrote."""
    pods, *others = str(words or "").split("; ")
    return pods, others


MODE, HOSTS, FIRST_FETCH = "mode: ", "hosts: ", "first fetch: "
"""How lines begin that the program says in a preview, and that a review has as they are."""


POD_BY_POD = "pod by pod"
"""How an engine changes on a cluster: the mode, where one host has `hold` or `overlap`."""


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What follows from a stack's settings alone for a change of it.

    `waits` are the seconds that a request is expected to wait in a change to an engine, by its kind; none
    where changes overlap. `same_waits` are those in a change of the settings of the engine that serves, where
    that is by hold, though a change of engine overlaps. `tools` is the line about the calls of tools where
    only one of the engines finds them, else nothing.
    """

    waits: Mapping[str, float] = field(default_factory=dict)
    same_waits: Mapping[str, float] = field(default_factory=dict)
    tools: str = ""
