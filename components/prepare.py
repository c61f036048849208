"""The first phase of a change: the switch makes the wanted engine ready, or says why it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pulumi
from pulumi_command import local

from components import naming
from components.docker_host import DockerHost
from components.plan import PREPARE, memory
from switch.plan import Plan


@dataclass(frozen=True, kw_only=True)
class PrepareArgs:
    """`engine` and `switch` are names of containers; `after` is what must be on the host first.

    `no_flip` is why the engine that serves must not change to the other one; empty: it may.
    """

    plan: Plan
    host: DockerHost
    switch: pulumi.Input[str]
    engine: pulumi.Input[str]
    after: Sequence[pulumi.Resource]
    no_flip: str = ""


class Prepare(pulumi.ComponentResource):
    """Follows the switch until the engine has passed its gate. Fails with the old engine serving."""

    step: local.Command

    def __init__(self, name: str, args: PrepareArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Prepare", name, None, opts)
        plan = replace(args.plan, no_flip=args.no_flip)
        self.step = args.host.step(
            naming.child(name, "step"),
            self,
            PREPARE,
            {
                "SWITCH": args.switch,
                "ENGINE": args.engine,
                "CUTOVER": plan.cutover,
                "MEMORY": memory(plan),
                "ROUTING": plan.routing,  # a flip shows one line of it, with a gateway and without
                "STACK": args.host.labels.stack,
            },
            stdin=pulumi.Output.from_input(args.engine).apply(lambda engine: plan.leading_to(engine).text),
            depends_on=list(args.after),
            hide_diffs=["stdin"],  # the environment and the gateway's TOML show what changes in it
        )
        self.register_outputs({})
