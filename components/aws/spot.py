"""Persistent spot requests, which outlive their instance unless somebody cancels them. Pure.

What runs is `spot.sh`. It finds a stack's requests by the key of their instances: AWS gives neither a request
nor an instance that it starts by itself the stack's tags.
"""

from collections.abc import Sequence

from components.labels import Labels

KEY_DIGEST = 12
"""Characters of what tells one key of the deployer from another, in its name."""


def key_name(labels: Labels, digest: str) -> str:
    """The EC2 key pair of the stack's instances. Another key has another name."""
    return f"{labels.name('deployer')}-{digest}"


def any_key(labels: Labels) -> str:
    """A pattern of AWS's filters for every key that the stack has had, and no other stack's."""
    return key_name(labels, "?" * KEY_DIGEST)


def cancel_own(region: str, instance: str) -> str:
    """A command line that cancels the request of an instance."""
    return f"exec sh components/aws/spot.sh own {region} {instance}"


def cancel_these(region: str, ids: Sequence[str]) -> str:
    """A command line that cancels requests and ends instances, by their ids."""
    return " ".join(["exec sh components/aws/spot.sh these", region, *sorted(ids)])


def cancel_all(region: str, labels: Labels) -> str:
    """A command line that cancels whatever requests the stack has, and ends their instances."""
    return f"exec sh components/aws/spot.sh all {region} '{any_key(labels)}'"
