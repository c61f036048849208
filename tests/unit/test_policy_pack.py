"""The policy pack. The language host that can be built here starts none; Pulumi's own starts it as here."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.api_keys import document
from policy.pack import validate
from review.events import UNKNOWN

PACK = Path(__file__).parent.parent.parent / "policy"
EDGE = [{"label": "changeover.role", "value": "edge"}]
PORT = [{"external": 443.0, "ip": "0.0.0.0"}]


class DictView(Mapping[str, Any]):
    """The view of pulumi_policy 1.21.0 on a dict: what is not known yet can't be looked at."""

    def __init__(self, target: dict[str, Any]) -> None:
        self.target = {key: view(each) for key, each in target.items()}

    def __getitem__(self, key: str) -> Any:
        return self.target if key == "__target" else _known(self.target[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.target)

    def __len__(self) -> int:
        return len(self.target)


class ListView(Sequence[Any]):
    """The same on a list."""

    def __init__(self, target: list[Any]) -> None:
        self.target = [view(each) for each in target]

    def __getitem__(self, key: Any) -> Any:
        return self.target if key == "__target" else _known(self.target[key])

    def __len__(self) -> int:
        return len(self.target)


def view(value: Any) -> Any:
    if isinstance(value, dict):
        return DictView(value)
    return ListView(value) if isinstance(value, list) else value


def _known(value: Any) -> Any:
    if value == UNKNOWN:
        raise ValueError("can't be known during preview")
    return value


@dataclass
class Options:
    protect: bool = False


@dataclass
class Declared:
    """A resource in the shape of pulumi_policy 1.21.0."""

    resource_type: str
    name: str
    given: dict[str, Any]
    opts: Options = field(default_factory=Options)

    @property
    def props(self) -> DictView:
        return DictView(self.given)

    @property
    def urn(self) -> str:
        return f"urn:pulumi:prod::changeover::{self.resource_type}::{self.name}"


@dataclass
class Arguments:
    resources: list[Declared]


def violations(*resources: Declared) -> list[str]:
    found: list[str] = []
    validate(Arguments(list(resources)), lambda said, urn: found.append(said))
    return found


def image(reference: str) -> Declared:
    return Declared("docker:index/remoteImage:RemoteImage", "image", {"name": reference})


def edge(keys: str) -> list[Declared]:
    return [
        Declared("docker:index/container:Container", "edge", {"labels": EDGE, "ports": PORT}),
        Declared("command:local:Command", "keys-step", {"stdin": keys}),
    ]


def test_a_stack_that_keeps_the_policies_is_quiet() -> None:
    assert (
        violations(image("caddy:2.11.9"), *edge(document({"acme": "0123456789abcdef"}, never_open=True)))
        == []
    )


def test_each_violation_says_what_why_and_what_to_do() -> None:
    (said,) = violations(image("caddy"))
    assert said == (
        "images are pinned: image (caddy). What was reviewed would not be what runs tomorrow. "
        "Give it a version in components/pins.py."
    )


def test_an_open_endpoint_without_a_key_is_found() -> None:
    (said,) = violations(*edge(document({}, never_open=True)))
    assert said.startswith("an API key on every endpoint that is not on loopback")


def test_prod_is_known_by_its_urn_and_has_to_be_protected() -> None:
    volume = Declared("aws:ebs/volume:Volume", "data", {"encrypted": True})
    (said,) = violations(volume)
    assert said.startswith("prod is protected: data")
    volume.opts.protect = True
    assert violations(volume) == []


def test_what_is_not_known_in_a_preview_keeps_nothing_from_being_checked() -> None:
    networks = [{"name": UNKNOWN, "aliases": ["engine", UNKNOWN]}]
    open_engine = {"image": UNKNOWN, "networksAdvanced": networks, "ports": PORT}
    said = violations(Declared("docker:index/container:Container", "engine", open_engine), *edge(UNKNOWN))
    assert [each.split(":")[0] for each in said] == ["only the edge publishes a port"]


SDK = """
from types import SimpleNamespace
EnforcementLevel = SimpleNamespace(MANDATORY="mandatory")
StackValidationPolicy = dict
def PolicyPack(name, enforcement_level, policies):
    print(name, enforcement_level, *[each["name"] for each in policies])
"""
"""In place of `pulumi_policy`, which is the pack's own package."""


def test_pulumi_finds_the_pack_where_it_looks_for_one(tmp_path: Path) -> None:
    assert "main" not in yaml.safe_load((PACK / "PulumiPolicy.yaml").read_text()), "it runs __main__.py only"
    (tmp_path / "pulumi_policy.py").write_text(SDK)
    run = f"import runpy; runpy.run_path({str(PACK)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=PACK,
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "changeover mandatory changeover\n", done.stderr
