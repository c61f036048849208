"""Pulumi's mocks with a memory: what a program declares, with its options."""

import asyncio
import atexit
import json
from typing import Any

import pulumi
from pulumi.runtime import mocks, resource
from pulumi.runtime.proto import source_pb2

from components.kubernetes.stack import SEEN
from components.plan import LOOK, OWN, SHOW_LIVE

SECRET = "4dabf18193072939515e22adb298388d"
"""Pulumi's mark of a secret in a request."""

ANSWERS = {
    "aws:ssm/getParameter:getParameter": {"value": "ami-0fedcba9876543210"},
    "aws:route53/getZone:getZone": {"zoneId": "Z0123456789"},
}

SAID = {
    OWN: "this stack belongs now to the state 0a1b2c3d4e5f; changes: 3\n",
    SHOW_LIVE: "changeover-local-ollama-0000",
    SEEN: "t4-vllm-00000001-0a1b2c3d: 3",
    LOOK: "edge edited in place 0a1b\nkeys edited in place 2c3d\n",
}
"""What the commands say that are run at every preview."""


# Which lines of the program declare a resource: no mock asks for them, and they take a fifth of its time.
resource._get_stack_trace = lambda: source_pb2.StackTrace()

LOOP = asyncio.new_event_loop()
"""Pulumi's in all tests: one that nobody closes is an error of whichever test comes next."""

atexit.register(LOOP.close)


class Recorder(mocks.Mocks):
    """Records every resource; ids and computed outputs are made from names."""

    def __init__(self) -> None:
        self.resources: list[mocks.MockResourceArgs] = []
        self.calls: list[mocks.MockCallArgs] = []
        self.requests: list[Any] = []

    @classmethod
    def start(cls, stack: str) -> "Recorder":
        """A recorder that takes what is declared from now on."""
        # `asyncio.run` in another test leaves no event loop behind, and Pulumi goes on using one
        asyncio.set_event_loop(LOOP)
        recorder = cls()
        pulumi.runtime.set_mocks(
            recorder, project="changeover", stack=stack, preview=False, monitor=_Monitor(recorder)
        )
        return recorder

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.resources.append(args)
        outputs = dict(args.inputs)
        if args.typ == "docker:index/remoteImage:RemoteImage":
            outputs["imageId"] = f"sha256:{args.inputs['name']}"
        elif args.typ == "command:local:Command":
            outputs["stdout"] = "gateway answers\nchange 3 of this stack\ncertificate: to-vllm\n"
        elif args.typ == "aws:ec2/eip:Eip":
            outputs["publicIp"] = "198.51.100.7"
        elif "name" not in outputs:
            outputs["name"] = f"{args.name}-0a1b2c3"
        if args.typ.startswith("aws:"):
            outputs["arn"] = f"arn:{args.name}"
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]]]:
        self.calls.append(args)
        if args.token == "command:local:run":
            return {"stdout": SAID[str(args.args["command"])]}, []
        return ANSWERS[args.token], []

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Inputs by resource name of one kind of resource."""
        return {each.name: each.inputs for each in self.resources if each.typ.rsplit(":", 1)[1] == kind}

    def one(self, kind: str) -> dict[str, Any]:
        """Inputs of the only resource of its kind."""
        (inputs,) = self.of(kind).values()
        return inputs

    def options(self, kind: str, name: str) -> Any:
        """The request of one resource: its options are fields of it."""
        (found,) = [each for each in self.requests if each.type.endswith(f":{kind}") and each.name == name]
        return found

    def holders(self, text: str) -> list[str]:
        """Names of the resources whose inputs contain `text`, secret or not."""
        return [each.name for each in self.resources if text in json.dumps(each.inputs)]


class _Monitor(mocks.MockMonitor):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.recorder = recorder

    def RegisterResource(self, request: Any) -> Any:
        self.recorder.requests.append(request)
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]
