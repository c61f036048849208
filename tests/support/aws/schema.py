"""What properties a resource or function of `aws` has, read from the published SDK's own classes.

The wire's names (`cidrBlock`), which of them a program must give, and their types: so an unknown or wrongly
typed property is an error here without a list of our own.
"""

import importlib
import inspect
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from types import UnionType
from typing import Any, ParamSpec, Union, get_args, get_origin

from pulumi import _types
from pulumi.runtime.rpc import UNKNOWN

Json = dict[str, Any]
Parameters = ParamSpec("Parameters")


_IMPORTING = threading.RLock()
"""The SDK's modules import each other as they are first used: two threads at it can wait for each other."""


class UnknownToken(Exception):
    """A resource type or function that the SDK does not have."""


@dataclass(frozen=True)
class Schema:
    """`types` maps the inputs to their annotations; `outputs` are all properties of a made resource."""

    types: Mapping[str, Any]
    required: frozenset[str]
    outputs: frozenset[str]


def kept(read: Callable[Parameters, Schema]) -> Callable[Parameters, Schema]:
    """`read`, each schema once, and by one thread at a time."""
    cached: Callable[Parameters, Schema] = cache(read)  # type: ignore[assignment]

    @wraps(read)
    def locked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Schema:
        with _IMPORTING:
            return cached(*args, **kwargs)

    return locked


@kept
def resource(token: str) -> Schema:
    """The schema of a resource such as `aws:ec2/vpc:Vpc`. Raises UnknownToken."""
    module, name = _module(token)
    try:
        args, state = getattr(module, f"{name}Args"), getattr(module, f"_{name}State")
    except AttributeError:
        raise UnknownToken(f"{token}: the SDK has no such resource") from None
    return Schema(_types_of(args), _required(args), frozenset(_names(state).values()))


@kept
def provider() -> Schema:
    """The provider's own configuration."""
    args = importlib.import_module("pulumi_aws.provider").ProviderArgs
    return Schema(_types_of(args), frozenset(), frozenset())


@kept
def function(token: str) -> Schema:
    """The schema of a function such as `aws:ssm/getParameter:getParameter`. Raises UnknownToken."""
    module, name = _module(token)
    made = getattr(module, _snake(name), None)
    if made is None:
        raise UnknownToken(f"{token}: the SDK has no such function")
    names = [name for name in inspect.signature(made).parameters if name != "opts"]
    result = getattr(module, f"{name[0].upper()}{name[1:]}Result")
    outputs = [each for each in inspect.signature(result.__init__).parameters if each != "self"]
    return Schema({_camel(each): Any for each in names}, frozenset(), frozenset(map(_camel, outputs)))


def problems(schema: Schema, given: Json) -> list[tuple[str, str]]:
    """What is wrong with these inputs: pairs of the property and the reason."""
    found = [(name, "is required and missing") for name in sorted(schema.required - given.keys())]
    for name, value in given.items():
        if name not in schema.types:
            found.append((name, "is unknown"))
        else:
            found += _wrong(name, value, schema.types[name])
    return found


def _wrong(path: str, value: Any, wanted: Any) -> list[tuple[str, str]]:
    if value == UNKNOWN or value is None or wanted is Any:
        return []
    options = _options(wanted)
    if any(option is Any for option in options):
        return []
    nested = [option for option in options if _types.is_input_type(option)]
    if nested and isinstance(value, dict):
        args = nested[0]
        return [
            (f"{path}.{name}", reason)
            for name, reason in problems(Schema(_types_of(args), _required(args), frozenset()), value)
        ]
    for option in options:
        origin, inner = get_origin(option), get_args(option)
        if isinstance(value, dict) and origin is not None and issubclass(origin, Mapping):
            return [each for key, item in value.items() for each in _wrong(f"{path}.{key}", item, inner[1])]
        if isinstance(value, list) and origin is not None and issubclass(origin, Sequence):
            return [
                each
                for number, item in enumerate(value)
                for each in _wrong(f"{path}[{number}]", item, inner[0])
            ]
        if isinstance(option, type) and not _types.is_input_type(option) and _is(value, option):
            return []
    return [(path, f"is {type(value).__name__}, not what the SDK declares")]


def _is(value: Any, wanted: type) -> bool:
    if isinstance(value, bool) or wanted is bool:
        return wanted is bool and isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float)
    return isinstance(value, wanted) or (issubclass(wanted, str) and isinstance(value, str))


def _options(wanted: Any) -> list[Any]:
    """The plain types of an annotation, without what only carries them (Output, Awaitable)."""
    if get_origin(wanted) in (Union, UnionType):
        parts = [part for option in get_args(wanted) for part in _options(option)]
        return [part for part in parts if part is not type(None)]
    name = getattr(get_origin(wanted) or wanted, "__name__", "")
    return [] if name in ("Output", "Awaitable") else [wanted]


def _module(token: str) -> tuple[Any, str]:
    package, path, name = token.split(":")
    if package != "aws":
        raise UnknownToken(f"{token}: not of the package aws")
    words = [word for word in path.split("/") if word != "index"]
    try:
        return importlib.import_module(".".join(["pulumi_aws", *map(_snake, words)])), name
    except ImportError:
        raise UnknownToken(f"{token}: the SDK has no such module") from None


def _types_of(args: type) -> dict[str, Any]:
    hints = _types.input_type_types(args)
    return {name: hints.get(name, Any) for name in _names(args).values()}


def _names(args: type) -> dict[str, str]:
    return dict(_types.input_type_py_to_pulumi_names(args))


def _required(args: type) -> frozenset[str]:
    parameters = inspect.signature(args.__init__).parameters  # type: ignore[misc]
    names = _names(args)
    return frozenset(
        names[name]
        for name, parameter in parameters.items()
        if name in names and parameter.default is inspect.Parameter.empty
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
