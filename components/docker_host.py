"""Where the Docker host is. A target makes one; nothing else knows which target it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_docker as docker
from pulumi_command import local

from components.facts import Variable, environment
from components.gpu_memory import Gpu
from components.labels import Labels

LOOPBACK = "127.0.0.1"
"""Where only the host itself can connect."""

LOGS = {"max-size": "10m", "max-file": "3"}
"""Docker's json-file log grows without bound otherwise."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The endpoint's certificate is for `name`, a domain or an address; `internal`: of the edge's own CA."""

    name: pulumi.Input[str]
    internal: bool


@dataclass(frozen=True, kw_only=True)
class DockerHost:
    """A Docker engine to deploy on.

    `address` is what `DOCKER_HOST` takes, `socket` the path of its socket on the host itself, and
    `bind` the address there on which the edge listens. `origin` says where the docker plugin comes
    from that deploys to it. `machine` is the resource whose end is the end of everything on the host.
    `interpreter` runs the steps' commands where they need more than a shell to reach the host, and
    `step_environment` is what it needs. `log_drivers` gives roles a log driver of Docker's, with its options.
    `instead` is the owner whose place this state may take there, `networks` the ids by role of those that it
    takes over, and `again` says, by name of a step, how often the volume that it fills was lost.
    """

    address: pulumi.Input[str]
    socket: str
    bind: str
    gpu: Gpu | None
    provider: docker.Provider
    labels: Labels
    origin: str
    machine: pulumi.Resource | None = None
    interpreter: Sequence[str] | None = None
    step_environment: Mapping[Variable, pulumi.Input[str]] = field(default_factory=dict)
    log_drivers: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    tls: Tls | None = None
    instead: str = ""
    networks: Mapping[str, str] = field(default_factory=dict)
    again: Mapping[str, str] = field(default_factory=dict)

    def log(self, role: str) -> dict[str, Any]:
        """The arguments of a container that say where its log goes."""
        driver, options = self.log_drivers.get(role, ("json-file", LOGS))
        return {"log_driver": driver, "log_opts": options}

    def telling(self, what: Mapping[Variable, pulumi.Input[str]]) -> dict[str, pulumi.Input[str]]:
        """The environment of a step that is told `what`: also what it needs to reach the host."""
        return environment({"DOCKER_HOST": self.address}, self.step_environment, what)

    def step(
        self,
        name: str,
        parent: pulumi.Resource,
        command: str,
        told: Mapping[Variable, pulumi.Input[str]],
        *,
        delete: str | None = None,
        stdin: pulumi.Input[str] | None = None,
        **options: Any,
    ) -> local.Command:
        """A step: `command` acts on the host, and again when what it is `told` or its `stdin` changes, or
        once the volume that it fills was lost. `options` are a resource's."""
        lost: dict[Variable, str] = {"AGAIN": self.again[name]} if name in self.again else {}
        return local.Command(
            name,
            create=command,
            update=command,
            delete=delete,
            interpreter=self.interpreter,
            stdin=stdin,
            environment=self.telling({**told, **lost}),
            add_previous_output_in_env=False,
            opts=self.step_options(parent, **options),
        )

    def look(
        self,
        command: str,
        parent: pulumi.Resource,
        told: Mapping[Variable, pulumi.Input[str]],
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> pulumi.Output[str]:
        """What `command` prints about the host, at every preview and once `after` is there. It changes
        nothing."""
        return local.run_output(
            command=command,
            interpreter=self.interpreter,
            environment=pulumi.Output.all(**self.telling(told)),
            add_previous_output_in_env=False,
            logging=local.Logging.NONE,
            opts=pulumi.InvokeOutputOptions(parent=parent, depends_on=list(after)),
        ).stdout

    def options(self, parent: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        """Options of a Docker resource on the host."""
        return self.step_options(parent, provider=self.provider, **more)

    def shared_options(self, parent: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        """Options of a network or volume, which containers of the host use.

        Pulumi 3.259 deletes what is `replace_with` a machine before the machine, in any order and whatever
        `deleted_with` says: a network or volume that is still in use fails that. A machine takes its network
        along, and its volumes are wanted by the next one.
        """
        return self.options(parent, retain_on_delete=self.machine is not None, **more)

    def step_options(self, parent: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        """Options of a step that acts on the host."""
        if self.machine is None:
            return pulumi.ResourceOptions(parent=parent, **more)
        return pulumi.ResourceOptions(
            parent=parent,
            deleted_with=self.machine,  # a machine that is gone takes everything on it along
            replace_with=[self.machine],  # its address may stay, and then nothing else shows the change
            **more,
        )
