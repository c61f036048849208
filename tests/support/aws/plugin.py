"""A Pulumi plugin `aws` for tests, over an emulator of the AWS API. A test double; it can't reach Amazon.

Strict where the published plugin is: unknown properties, wrong types and missing ones are errors, and so is
what it or AWS would refuse, by `rules.py`. What a change replaces follows `resources.py`, which follows the
official documentation of each property.
"""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import empty_pb2, json_format, struct_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN

from components import pins
from tests.support.aws import functions, rules, schema
from tests.support.aws.resources import KINDS, ResourceKind, merged
from tests.support.aws.schema import Json

VERSION = pins.AWS_PLUGIN
DEFAULTS = "__defaults"
"""The inputs that the plugin has chosen and not the program, as the published plugin keeps them."""
Change = tuple[str, Any, Any]


def plain(struct: struct_pb2.Struct) -> Json:
    """A gRPC struct as data; whole numbers are int."""

    def whole(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else value

    return dict(whole(json_format.MessageToDict(struct)))


def packed(data: Json) -> struct_pb2.Struct:
    """Data as a gRPC struct."""
    struct = struct_pb2.Struct()
    json_format.ParseDict(data, struct)
    return struct


def changes(path: str, old: Any, new: Any) -> Iterator[Change]:
    """Where two values differ: path, old (None: it was not there), new (None: it is gone)."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{path}.{key}" if key.replace("_", "").isalnum() else f"{path}[{json.dumps(key)}]"
            yield from changes(place, old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list):
        for number in range(max(len(old), len(new))):
            before = old[number] if number < len(old) else None
            after = new[number] if number < len(new) else None
            yield from changes(f"{path}[{number}]", before, after)
    else:
        yield path, old, new


def differences(old: Json, new: Json) -> list[Change]:
    """The changes of each property, in the order of their names."""
    names = sorted((old.keys() | new.keys()) - {DEFAULTS})
    return [change for name in names for change in changes(name, old.get(name), new.get(name))]


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """What the engine asks."""

    def __init__(self) -> None:
        self.region = ""

    def _kind(self, urn: str, context: grpc.ServicerContext) -> tuple[str, ResourceKind]:
        token = urn.split("::")[2].rsplit("$", 1)[-1]
        if token not in KINDS:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the test plugin has no resource {token}")
        return token, KINDS[token]

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def Attach(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def CheckConfig(self, request: Any, context: Any) -> Any:
        given = {key: value for key, value in plain(request.news).items() if key != "version"}
        # nested values of a provider's configuration travel as JSON text
        told = {key: _unjson(value) for key, value in given.items()}
        return provider_pb2.CheckResponse(
            inputs=request.news, failures=_failures(schema.problems(schema.provider(), told))
        )

    def DiffConfig(self, request: Any, context: Any) -> Any:
        changed = differences(plain(request.olds), plain(request.news))
        return _diff([(path, old, new, path == "region") for path, old, new in changed], False)

    def Configure(self, request: Any, context: Any) -> Any:
        self.region = str(plain(request.args).get("region", ""))
        # without acceptSecrets the engine keeps secret whose input was, as with the published plugin
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Check(self, request: Any, context: Any) -> Any:
        token, kind = self._kind(request.urn, context)
        old, new = plain(request.olds), plain(request.news)
        failures = schema.problems(schema.resource(token), new)
        failures += [
            (path, "has no row in tests/support/aws/rules.py") for path in rules.without_row(token, new)
        ]
        name, chosen = kind.autoname, []
        if name and name not in new and f"{name}Prefix" not in new:
            made = name in old.get(DEFAULTS, []) and old.get(name)
            seed = random.Random(request.randomSeed or None)
            new[name] = made or f"{request.urn.rsplit('::', 1)[1]}-{seed.getrandbits(28):07x}"
            chosen = [name]
        failures += rules.problems(token, new)
        if chosen:
            new[DEFAULTS] = chosen
        return provider_pb2.CheckResponse(inputs=packed(new), failures=_failures(failures))

    def Diff(self, request: Any, context: Any) -> Any:
        token, kind = self._kind(request.urn, context)
        old, new = plain(request.old_inputs), plain(request.news)
        ignored = tuple(request.ignoreChanges)
        found = [
            (path, before, after, rules.replaces(token, path, new))
            for path, before, after in differences(old, new)
            if not path.startswith(ignored or ("\0",)) and not rules.no_change(token, path, before, after)
        ]
        replaced = any(replaces for *_, replaces in found)
        name = kind.autoname
        given = bool(name) and name not in new.get(DEFAULTS, []) and old.get(name) == new.get(name)
        return _diff(found, replaced and given)

    def Create(self, request: Any, context: Any) -> Any:
        token, kind = self._kind(request.urn, context)
        inputs = plain(request.properties)
        if request.preview:
            unknown = dict.fromkeys(schema.resource(token).outputs - inputs.keys(), UNKNOWN)
            return provider_pb2.CreateResponse(properties=packed(inputs | unknown))
        with _said(context, f"creating {token}"):
            made = kind.create(self.region, inputs)
            return provider_pb2.CreateResponse(
                id=made, properties=packed(self._state(token, kind, made, inputs))
            )

    def Read(self, request: Any, context: Any) -> Any:
        token, kind = self._kind(request.urn, context)
        inputs, old = plain(request.inputs), plain(request.properties)
        with _said(context, f"reading {token} {request.id}"):
            live = kind.read(self.region, request.id, inputs or old)
        if live is None:
            return provider_pb2.ReadResponse()
        seen = {key: value for key, value in live.items() if key in schema.resource(token).types}
        known = {key: merged(value, seen[key]) if key in seen else value for key, value in inputs.items()}
        return provider_pb2.ReadResponse(
            id=request.id,
            inputs=packed(known if inputs else seen),
            properties=packed(self._filled(token, request.id, live, known)),
        )

    def Update(self, request: Any, context: Any) -> Any:
        token, kind = self._kind(request.urn, context)
        old, new = plain(request.old_inputs), plain(request.news)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=packed(plain(request.olds) | new))
        with _said(context, f"updating {token} {request.id}"):
            kind.update(self.region, request.id, old, new)
            return provider_pb2.UpdateResponse(properties=packed(self._state(token, kind, request.id, new)))

    def Delete(self, request: Any, context: Any) -> Any:
        token, kind = self._kind(request.urn, context)
        with _said(context, f"deleting {token} {request.id}"):
            kind.delete(self.region, request.id, plain(request.properties))
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> Any:
        asked = functions.FUNCTIONS.get(request.tok)
        if asked is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the test plugin has no function {request.tok}")
            raise AssertionError  # abort has raised
        args = plain(request.args)
        told = schema.function(request.tok)
        if wrong := schema.problems(told, args):
            return provider_pb2.InvokeResponse(failures=_failures(wrong))
        with _said(context, f"invoking {request.tok}"):
            answer = asked(self.region, args)
        answer = {**args, "region": self.region, **answer}
        return provider_pb2.InvokeResponse(
            **{"return": packed({key: value for key, value in answer.items() if key in told.outputs})}
        )

    def _state(self, token: str, kind: ResourceKind, made: str, inputs: Json) -> Json:
        live = kind.read(self.region, made, inputs)
        if live is None:
            raise RuntimeError(f"{made} is not there right after it was made")
        return self._filled(token, made, live, inputs)

    def _filled(self, token: str, made: str, live: Json, inputs: Json) -> Json:
        outputs = schema.resource(token).outputs
        if unknown := live.keys() - outputs:
            raise RuntimeError(f"the test plugin reads what {token} does not have: {sorted(unknown)}")
        both = {key: merged(inputs[key], value) if key in inputs else value for key, value in live.items()}
        more: Json = {"region": self.region} if "region" in outputs else {}
        if "tagsAll" in outputs:
            more["tagsAll"] = both.get("tags", {})
        return {**inputs, **more, **both, "id": made}  # as the published plugin's bridge keeps it


class _said:
    """Turns an exception into the error that the engine shows."""

    def __init__(self, context: Any, doing: str) -> None:
        self.context, self.doing = context, doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception):
            self.context.abort(grpc.StatusCode.UNKNOWN, f"{self.doing}: {error}")


def _unjson(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(("{", "[", "true", "false")):
        return value
    return json.loads(value)


def _failures(found: list[tuple[str, str]]) -> list[Any]:
    return [provider_pb2.CheckFailure(property=name, reason=f"{name} {reason}") for name, reason in found]


def _diff(found: list[tuple[str, Any, Any, bool]], delete_first: bool) -> Any:
    kinds = provider_pb2.PropertyDiff.Kind
    detailed = {}
    for path, old, new, replaces in found:
        word = "ADD" if old is None else "DELETE" if new is None else "UPDATE"
        kind = kinds.Value(f"{word}_REPLACE" if replaces else word)
        detailed[path] = provider_pb2.PropertyDiff(kind=kind, inputDiff=True)
    both = provider_pb2.DiffResponse.DiffChanges
    return provider_pb2.DiffResponse(
        changes=both.Value("DIFF_SOME" if found else "DIFF_NONE"),
        diffs=sorted({path.split(".")[0].split("[")[0] for path, *_ in found}),
        replaces=sorted({path for path, _, _, replaces in found if replaces}),
        detailedDiff=detailed,
        hasDetailedDiff=True,
        deleteBeforeReplace=delete_first,
    )


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 1 << 28)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Plugin(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
