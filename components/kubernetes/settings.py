"""What a person decides about a stack on Kubernetes, checked. Pure; `stacks.kubernetes_settings` reads it."""

from dataclasses import dataclass

HOSTS_MAXIMUM = 100
"""Pods with an engine. Every proxy asks each of them how it is, several times a second."""

LONGEST_STACK = 30
"""Characters of a stack's name: the names of Services have 63 at most, and a pod's name is cut to as many
where it becomes the name of its host."""


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """The checked settings of a stack on Kubernetes.

    `hosts` pods serve, and `at_once` of them may be away in a flip. `context` is one of the kubeconfig, empty
    for the current one.
    """

    hosts: int
    at_once: int
    context: str
    namespace: str

    @property
    def left(self) -> int:
        """How many pods serve at least while a flip is under way."""
        return self.hosts - self.at_once
