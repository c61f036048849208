"""The step that tells the proxies, by the switch, who may pass."""

from dataclasses import dataclass

import pulumi
from pulumi_command import local

from components import facts, naming, plan
from components.docker_host import DockerHost


@dataclass(frozen=True, kw_only=True)
class KeysArgs:
    """`document` holds the keys' digests (secret), `tenants` who has one; `switch` is a container's name.

    `seen` is what is said of the keys that are known on the host now.
    """

    document: pulumi.Input[str]
    tenants: tuple[str, ...]
    host: DockerHost
    switch: pulumi.Input[str]
    seen: pulumi.Input[str]


class Keys(pulumi.ComponentResource):
    """A key that is added, changed or removed runs this again and touches nothing else."""

    step: local.Command

    def __init__(self, name: str, args: KeysArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Keys", name, None, opts)
        host = args.host
        self.step = host.step(
            naming.child(name, "step"),
            self,
            plan.KEYS,
            {
                "SWITCH": args.switch,
                "SEEN": args.seen,  # read at every preview, so an edit by hand shows and is put right
                "TENANTS": facts.tenants(args.tenants),  # so a review says what in the secret changes
            },
            stdin=pulumi.Output.secret(args.document),
        )
        self.register_outputs({})
