"""How many users a card serves, by a report, how far a peak is from that, and what more would cost and give.

Pure. What no report has measured isn't said: of another card only what its memory holds is known.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.aws.settings import AwsSettings
from components.catalogue import GIB
from components.gpu_memory import GPUS, KINDS, EngineKind, engine_sum
from components.instance_types import (
    GPU_REGIONS,
    GPU_WORDS,
    HOURS_A_MONTH,
    PRICES_DATE,
    PRICES_REGION,
    InstanceType,
    cheapest,
    difference,
    hourly,
)
from components.naming import NAMES
from stacks.blueprint import blueprint_of
from stacks.settings import SYSTEM_GIB, Settings


def capacity(report: Mapping[str, Any], settings: Settings, peak: tuple[str, int]) -> list[str]:
    """What a card serves, in words, a line each. `peak` is its name and its number of concurrent requests."""
    stack = settings.stack
    ours = {spec.kind: spec.name for spec in blueprint_of(settings).specs}
    measured = report["engines"]
    theirs = {kind: each["name"] for kind, each in measured.items()}
    if any(theirs.get(kind) != name for kind, name in ours.items()):
        return [
            f"rendered/{stack}/report.md of {report['day']} is about other engines than the settings give "
            f"now. Measure again: make report STACK={stack}"
        ]
    limits = report["limits"]
    said = [
        f"On {report['card']}, measured on {report['day']}, "
        + ", ".join(f"{NAMES[kind]} serves {_users(measured[kind])}" for kind in KINDS if kind in measured)
        + f" at the same time, with the first token within {limits['first_p95']:g} s and "
        f"{limits['user']:g} tokens a second for 95 of 100, and no error."
    ]
    if peak[1] == 0:
        said.append("There was no request that could be compared with that.")
    else:
        many = f"{peak[1]} concurrent request{'' if peak[1] == 1 else 's'}"
        said += [
            f"{peak[0]} of {many} is {_distance(peak[1], measured[kind], NAMES[kind])}."
            for kind in KINDS
            if kind in measured
        ]
    if settings.aws:
        said += _instances(settings, settings.aws, measured)
    return said


def _users(engine: Mapping[str, Any]) -> str:
    many = f"{engine['users']} user{'' if engine['users'] == 1 else 's'}"
    return f"{many} or more" if engine["more"] else many


def _distance(peak: int, engine: Mapping[str, Any], name: str) -> str:
    users, does = int(engine["users"]), "was measured with" if engine["more"] else "serves"
    if peak == users:
        return f"exactly what {name} {does}"
    if peak > users:
        return f"{peak - users} more than {name} {does}"
    return f"{users - peak} fewer than {name} serves"


def _instances(settings: Settings, aws: AwsSettings, measured: Mapping[str, Any]) -> list[str]:
    """A second instance like this one, and the cheapest of each larger card."""
    now = hourly(aws.instance, volumes_gib=aws.volumes_gib)
    twice = " and ".join(
        f"{2 * measured[kind]['users']} with {NAMES[kind]}" for kind in KINDS if kind in measured
    )
    said = [
        f"A second {aws.instance.name} costs ${now:.3f} an hour, ${now * HOURS_A_MONTH:.0f} a month more. "
        f"Both together serve {twice}, if half of the clients use the second one's address: nothing here "
        "balances the load."
    ]
    for larger in _larger(aws):
        costs = difference(now, hourly(larger, volumes_gib=aws.volumes_gib))
        gives = "; ".join(_gives(kind, settings, larger) for kind in settings.kinds)
        said.append(
            f"A {larger.name} ({larger.gpus} {GPUS[larger.gpu].name}) costs {costs}. Its memory lets "
            f"{gives}. Nobody has measured here how fast it is."
        )
    said.append(f"Prices of {PRICES_REGION}, on demand, {PRICES_DATE}.")
    return said


def _larger(aws: AwsSettings) -> list[InstanceType]:
    """The cheapest type with each card that has more memory, or with more such cards where none has more."""
    now, ram = aws.instance, aws.instance.ram_gib
    cards = [key for key in GPU_WORDS if GPUS[key].usable > GPUS[now.gpu].usable]
    found = [cheapest(key, gpus=1, ram_gib=ram) for key in cards] or [
        cheapest(now.gpu, gpus=now.gpus + 1, ram_gib=ram)
    ]
    return [each for each in found if each and aws.region in GPU_REGIONS[each.family]]


def _gives(kind: EngineKind, settings: Settings, larger: InstanceType) -> str:
    load = settings.load
    gpu = replace(GPUS[larger.gpu], count=larger.gpus)
    other = replace(load, gpu=gpu, host_memory=(larger.ram_gib - SYSTEM_GIB) * GIB)
    return (
        f"{NAMES[kind]} work on {engine_sum(kind, other).requests} concurrent requests instead of "
        f"{engine_sum(kind, load).requests}"
    )
