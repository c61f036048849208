"""Which Deployment gets how many pods next, in a change from one engine to another across a cluster. Pure.

A look at the cluster goes in, and what is to be scaled comes out: nothing is remembered but what the cluster
itself says, so whoever looks next goes on, whatever was left behind. There are never more pods than hosts,
and never fewer that serve than may be left, but for those that fail by themselves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from components.kubernetes.settings import KubernetesSettings
from components.plan import REQUEST_SECONDS

START_SECONDS = 60
"""What a node may take beside the engine's own loading: containers to be made, a volume to be mounted."""

PLACE_SECONDS = REQUEST_SECONDS + START_SECONDS
"""So long a pod may wait for its place, which another one frees that ends its answers first."""


@dataclass(frozen=True, kw_only=True)
class PodSeen:
    """A pod as the cluster has it. `ready`: it may be asked. `ends`: it was told to.

    `waits` is for how many seconds it has been without a node, None once it has one; `unready` for how many
    it has been on one without being ready; `restarts` how often its engine was started again, and `served`
    whether it has been ready since then.
    """

    name: str
    ready: bool = False
    ends: bool = False
    waits: float | None = None
    unready: float = 0
    restarts: int = 0
    served: bool = False


@dataclass(frozen=True, kw_only=True)
class DeploymentSeen:
    """A Deployment with the pods that it is to have, and those that there are."""

    replicas: int
    pods: tuple[PodSeen, ...] = ()

    @property
    def serving(self) -> int:
        """How many of its pods serve and are to go on: one that was just taken away may not know it yet."""
        return min(self.replicas, sum(pod.ready and not pod.ends for pod in self.pods))


Seen = Mapping[str, DeploymentSeen]
"""Every Deployment of engines that there is, by its name."""


@dataclass(frozen=True)
class Scale:
    """This Deployment is to have so many pods from now on."""

    deployment: str
    replicas: int


def steps(seen: Seen, to: str, settings: KubernetesSettings, *, proven: bool) -> list[Scale]:
    """What is to be scaled now, in this order, so that in the end `to` has all pods.

    Unless it is `proven`, `to` gets one pod only until that one serves.
    """
    new, old = seen[to], {name: each for name, each in seen.items() if name != to}
    replicas = {name: each.replicas for name, each in old.items()}
    most = settings.hosts if proven or new.serving else 1
    spare = sum(each.serving for each in seen.values()) - settings.left
    wanted = max(0, most - new.replicas)  # so many more
    free = settings.hosts - new.replicas - sum(replicas.values())
    for name, each in sorted(old.items(), key=lambda item: (item[1].serving, item[0])):
        idle = max(0, each.replicas - each.serving)  # the cluster takes away what is not ready first
        take = min(each.replicas, max(0, wanted - free), idle + max(0, min(spare, each.serving)))
        if free < 0:  # more than there are hosts, after these became fewer
            take = max(take, min(each.replicas, -free))
        replicas[name] -= take
        spare -= max(0, take - idle)
        free += take
    result = [Scale(name, count) for name, count in sorted(replicas.items()) if count != old[name].replicas]
    count = min(settings.hosts, max(new.replicas, min(most, new.replicas + max(0, free))))
    if count != new.replicas:
        result.append(Scale(to, count))
    return result


def reached(seen: Seen, to: str, hosts: int) -> bool:
    """Whether `to` has all pods, they serve, and no other engine has one any more."""
    others = (each for name, each in seen.items() if name != to)
    return seen[to].replicas == seen[to].serving == hosts == len(seen[to].pods) and not any(
        each.replicas or each.pods for each in others
    )


def failed(seen: Seen, to: str, load: float, *, proven: bool) -> dict[str, str]:
    """The pods of `to` that will not serve, each with why, in words.

    `load` is in how many seconds an engine must have loaded and passed its gate. One that was started again
    is not waited for, unless it has served since then, or the engine is `proven`.
    """
    found = {}
    for pod in seen[to].pods:
        if pod.ends or pod.ready:
            continue
        if pod.restarts and not pod.served and not proven:
            found[pod.name] = "its engine ended, or failed its gate"
        elif pod.waits is not None and pod.waits > PLACE_SECONDS:
            found[pod.name] = f"no node had a place for it in {math.floor(pod.waits)} s"
        elif pod.waits is None and pod.unready > load + START_SECONDS:
            found[pod.name] = f"it was not ready after {math.floor(pod.unready)} s"
    return found
