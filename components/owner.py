"""A stack on a host belongs to one state: the state's id, and the guard that keeps other states out."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_command import local

from components import naming, plan
from components.docker_host import DockerHost
from components.facts import Variable
from switch.owner import OWNED


def identity(parent: pulumi.Resource) -> local.Command:
    """The state's id. What the stack has on its host depends on it, so that a destroy deletes it last."""
    return local.Command(
        naming.IDENTITY,
        create=plan.IDENTITY,
        add_previous_output_in_env=False,
        opts=pulumi.ResourceOptions(parent=parent),
    )


def heard(said: str) -> str:
    """What the host answered to its owner, with a warning where it did not record the owner."""
    if OWNED not in said:
        pulumi.warn(
            f"the host did not record whose the stack is; the next update tries again. {said.strip()}"
        )
    return said


@dataclass(frozen=True, kw_only=True)
class OwnerArgs:
    """`changes` is the count that the state keeps, `containers` the ids of switch, proxy and edge in it, and
    `after` all that the guard has to outlive."""

    host: DockerHost
    identity: local.Command
    changes: pulumi.Input[int]
    containers: Sequence[pulumi.Input[str]]
    after: Sequence[pulumi.Resource]


class Owner(pulumi.ComponentResource):
    """The guard against other states. It is created last, so `pulumi destroy` begins with it."""

    kept: pulumi.Output[str]
    """What the host said to its owner, in an update; nothing in a preview."""

    def __init__(self, name: str, args: OwnerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Owner", name, None, opts)
        host = args.host
        whose: dict[Variable, pulumi.Input[str]] = {
            "PROJECT": host.labels.project,
            "STACK": host.labels.stack,
            "OWNER": args.identity.stdout,
        }
        local.Command(
            naming.GUARD,
            create=plan.GUARD,
            delete=plan.DISOWN,
            interpreter=host.interpreter,
            environment=host.telling(whose),
            add_previous_output_in_env=False,
            opts=host.step_options(self, depends_on=list(args.after)),
        )
        # Outputs are there once Pulumi has written them down: so only what a state has kept is said.
        self.kept = pulumi.Output.from_input("")
        if not pulumi.runtime.is_dry_run():
            self.kept = host.look(
                plan.OWN,
                self,
                {
                    **whose,
                    "CHANGES": pulumi.Output.from_input(args.changes).apply(str),
                    "CONTAINERS": pulumi.Output.all(*args.containers).apply(" ".join),
                    "INSTEAD": host.instead,
                },
            ).apply(heard)
        self.register_outputs({})
