"""Names and labels: they carry project and stack, so that two stacks can share a host. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switch.shared import LABELS, label

__all__ = ["Labels", "label", "labels_in"]


def labels_in(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Our labels in the inputs of a container, network or volume, by their keys here: `role` and others."""
    there = {each["label"]: each["value"] for each in inputs.get("labels") or []}
    return {key.removeprefix(LABELS): value for key, value in there.items() if key.startswith(LABELS)}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Names and labels of one stack's things on the Docker host."""

    project: str
    stack: str

    @property
    def prefix(self) -> str:
        """How the names of all of the stack's things on the host begin."""
        return f"{self.project}-{self.stack}"

    def name(self, thing: str) -> str:
        """The name of a thing on the host."""
        return f"{self.prefix}-{thing}"

    def of(self, role: str, **more: str) -> dict[str, str]:
        """The labels by which the switch and a person find a container of this stack."""
        return {
            label(key): value
            for key, value in {"project": self.project, "stack": self.stack, "role": role, **more}.items()
        }
