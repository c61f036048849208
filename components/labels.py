"""Names and labels: they carry project and stack, so that two stacks can share a host. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Names and labels of one stack's things on the Docker host."""

    project: str
    stack: str

    @property
    def prefix(self) -> str:
        return f"{self.project}-{self.stack}"

    def name(self, thing: str) -> str:
        """The name of a thing on the host."""
        return f"{self.prefix}-{thing}"

    def of(self, role: str, **more: str) -> dict[str, str]:
        """The labels by which the switch and a person find a container of this stack."""
        return {
            "changeover.project": self.project,
            "changeover.stack": self.stack,
            "changeover.role": role,
            **{f"changeover.{key}": value for key, value in more.items()},
        }
