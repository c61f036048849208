"""The second phase of a change: what was prepared becomes what is live, or is taken back."""

from dataclasses import dataclass

import pulumi
from pulumi_command import local

from components import naming
from components.docker_host import DockerHost
from components.facts import Variable
from components.plan import COMMIT, RELEASE, SHOW_LIVE
from switch.answers import certificate_in
from switch.owner import count
from switch.plan import Plan


@dataclass(frozen=True, kw_only=True)
class CommitArgs:
    """`engine`, `gateway` and `switch` are names of containers; `prepared` is the first phase's step.

    `gateway` is None where there is none.
    """

    plan: Plan
    host: DockerHost
    switch: pulumi.Input[str]
    engine: pulumi.Input[str]
    gateway: pulumi.Input[str] | None
    prepared: local.Command


class Commit(pulumi.ComponentResource):
    """Checks a completion through the new gateway, which is the release, then stops what is left of the old
    side."""

    step: local.Command
    certificate: pulumi.Output[str]
    changes: pulumi.Output[int]
    """How many changes the stack has had."""

    def __init__(self, name: str, args: CommitArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Commit", name, None, opts)
        told: dict[Variable, pulumi.Input[str]] = {"SWITCH": args.switch, "STACK": args.host.labels.stack}
        live = args.host.look(SHOW_LIVE, self, told, after=[args.prepared])
        self.step = args.host.step(
            naming.child(name, "step"),
            self,
            COMMIT,
            {
                **told,
                "ENGINE": args.engine,
                **({"GATEWAY": args.gateway} if args.gateway is not None else {}),
                # An input and no trigger: a trigger would replace the step and run its `delete`.
                # It is read at every preview, so an engine that was changed by hand shows as a diff.
                # Through the step's output it is unknown in the preview of a flip: what serves after
                # `prepare` is not what serves now, and a plan that kept that would refuse its own update.
                "LIVE": pulumi.Output.all(live, args.prepared.stdout).apply(lambda both: both[0]),
            },
            delete=RELEASE,
            stdin=pulumi.Output.all(args.engine, args.gateway).apply(
                lambda names: args.plan.leading_to(names[0], names[1] or "").text
            ),
            depends_on=[args.prepared],
            hide_diffs=["stdin"],  # the environment and the gateway's TOML show what changes in it
        )
        self.certificate = self.step.stdout.apply(certificate_in)
        self.changes = self.step.stdout.apply(lambda said: count(said) or 0)
        self.register_outputs({"certificate": self.certificate})
