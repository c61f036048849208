"""What was changed behind Pulumi's back, in words: by hand, by AWS, or by Docker. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from components import naming
from review import changes, cluster, policies
from review.events import Preview, ResourceChange, property_of
from switch.answers import NONE, LiveEngine, live_in

MAIL = "aws:sns/topicSubscription:TopicSubscription"


def drift(preview: Preview) -> list[str]:
    """What was changed behind Pulumi's back and an update puts right, each in words."""
    changed = [change for change in preview.drift if not _of_confirming(change)]
    return [*(_drifted(change) for change in changed if _repaired(preview, change)), *_by_hand(preview)]


def lasting(preview: Preview) -> list[str]:
    """What was changed behind Pulumi's back and no update puts right, each in words."""
    changed = [change for change in preview.drift if not _of_confirming(change)]
    return [_drifted(change) for change in changed if not _repaired(preview, change)]


def unconfirmed(preview: Preview) -> list[str]:
    """Mail subscriptions that AWS has removed because nobody confirmed them, each in words: that is no
    drift."""
    return [
        f"nobody has confirmed the subscription of {change.before.get('endpoint')} to the alarms, so AWS has "
        "dropped it, and no alarm reaches anybody. `pulumi up --refresh` sends another mail: follow the link "
        "in it"
        for change in preview.drift
        if change.op == "deleted" and _of_confirming(change)
    ]


def _of_confirming(change: ResourceChange) -> bool:
    """Whether a mail subscription was confirmed meanwhile, or AWS has removed one that nobody confirmed."""
    if change.type != MAIL:
        return False
    if change.op == "deleted":
        return change.before.get("pendingConfirmation") is True
    return {*change.paths} <= {"pendingConfirmation", "confirmationWasAuthenticated"}


def _repaired(preview: Preview, drifted: ResourceChange) -> bool:
    touched = any(
        (each.type, each.name) == (drifted.type, drifted.name) and not each.only_waits
        for each in preview.changes
    )
    return touched and not _is_limit(drifted)


def _is_limit(change: ResourceChange) -> bool:
    """A limit set by hand on a container that declares none: Docker changes limits and takes none away."""
    return (
        change.type == policies.CONTAINER
        and change.op == "changed"
        and {*change.paths} <= changes.LIMITS
        and not any(change.before.get(path) for path in change.paths)
    )


def _by_hand(preview: Preview) -> Iterator[str]:
    """Changes by hand that no provider reads back, and that the program itself looks for in every preview."""
    if (pods := cluster.pods_by_hand(preview)) is not None:
        yield f"the number of pods wanted was changed: now {pods[1]}; Pulumi left {pods[0]}"
    yield from cluster.told_by_hand(preview)
    if gone := cluster.lost(preview):
        names = ", ".join(f"`{each}`" for each in gone)
        yield f"code and packages that every new pod needs are gone: {names}"
    for change in preview.changes:
        if change.op == "created":
            continue
        if change.name == changes.COMMIT and (live := changes.serves_instead(preview)):
            yield _serves(live_in(live), changes.told(change, "ENGINE")[0])
        if not changes.was_edited(change):
            continue
        if change.name == changes.CONFIGURATION:
            yield "the edge's configuration was edited in place"
        elif change.name == changes.KEYS:
            yield "the API keys on the host were edited in place"
        elif changes.role(change) == naming.GATEWAY:
            yield f"the TOML in `{change.before.get('name', change.name)}` was edited in place"


def _serves(live: LiveEngine | None, left: Any) -> str:
    """What serves in place of the container that Pulumi left serving, in words."""
    if live is None:
        return f"the switch does not answer, so whether `{left}` serves is not known"
    serves = "none serves" if live.engine == NONE else f"`{live.engine}` serves"
    if live.damaged:
        at = f"the journal was damaged at {live.damaged}"
        return f"{at}: {serves}, although Pulumi left `{left}` serving; `make status` says what is known"
    return f"the active engine: {serves}, although Pulumi left `{left}` serving"


def _drifted(change: ResourceChange) -> str:
    if change.op == "deleted":
        container = change.type == policies.CONTAINER
        return (
            f"the container `{change.name}` is gone"
            if container
            else f"`{change.name}` ({change.kind}) is gone"
        )
    if changes.is_stopped(change):
        return f"the container `{change.name}` is stopped"
    words = []
    for name in sorted({property_of(path) for path in change.paths}):
        old, new = change.before.get(name), change.after.get(name)
        if change.type == policies.SECURITY_GROUP and name in ("ingress", "egress"):
            words += _opened(name, old or [], new or [])
        elif isinstance(old, list) and isinstance(new, list):
            more, fewer = [each for each in new if each not in old], [each for each in old if each not in new]
            words += [f"{name} also has {_short(each)}" for each in more]
            words += [f"{name} lacks {_short(each)}" for each in fewer]
        elif isinstance(old, dict) and isinstance(new, dict):
            keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            words += [
                f"{name}.{key} is {_short(new.get(key))} and was {_short(old.get(key))}" for key in keys
            ]
        else:
            words.append(f"{name} is {_short(new)} and was {_short(old)}")
    if _is_limit(change):
        words.append(
            "Docker cannot remove a limit, so remove the container and let an update create it again"
        )
    return f"`{change.name}` ({change.kind}): {'; '.join(words)}"


def _opened(way: str, old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> list[str]:
    """The difference between two sets of a security group's rules, by port and network."""
    before, after = set(_ports(old)), set(_ports(new))
    yes, no = (
        ("open to", "closed to") if way == "ingress" else ("allowed to reach", "no longer allowed to reach")
    )
    words = [f"{port} is {yes} {network}" for port, network in sorted(after - before)]
    return words + [f"{port} is {no} {network}" for port, network in sorted(before - after)]


def _ports(rules: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for rule in rules:
        first, last, protocol = rule["fromPort"], rule["toPort"], rule["protocol"]
        port = f"port {first}" if first == last else f"every port from {first} to {last}"
        if protocol == "-1":
            port = "every port"
        elif protocol != "tcp":
            port += f" of {protocol}"
        for kind in ("cidrBlocks", "ipv6CidrBlocks", "prefixListIds", "securityGroups"):
            for network in rule.get(kind) or []:
                yield port, f"{network} (everybody)" if network in policies.EVERYONE else network
        if rule.get("self"):
            yield port, "its own members"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = {key: each for key, each in value.items() if each not in (None, "", False, [])}
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"
