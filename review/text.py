"""The review as Markdown, for a reader who has one minute. Pure: the same events give the same text."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from review import policies
from review.events import SECRET, STACK_TYPE, UNKNOWN_TEXT, Change, Preview
from switch.answers import NONE, Live, is_edited, live_in

NAMES = {"ollama": "Ollama", "vllm": "vLLM"}
LONGEST_FULL = 40_000
"""Characters of the folded preview: a comment on a pull request takes 65,536 in all."""
LONGEST_VALUE = 2_000
ENGINE = re.compile(r"\b(ollama|vllm)-[0-9a-f]{8}\b")
"""An engine's name in the names of its resources: kind and content."""
GONE, MADE = ("replaced", "deleted"), ("replaced", "created")
MAIL = "aws:sns/topicSubscription:TopicSubscription"
LIMITS = {"cpuSet", "cpuShares", "memory", "memorySwap"}
PARTS = {"RemoteImage": "image", "Command": "weights", "Container": "container"}
RUNS, FORGOTTEN = "run again", "forgotten by Pulumi, kept by Docker"
ORDER = (
    "created",
    "changed",
    RUNS,
    "replaced, the new one first",
    "replaced, the old one first",
    "left over",
    "deleted",
    FORGOTTEN,
)


ADVICE = "What its traffic says: "


def render(preview: Preview, advice: str = "") -> str:
    """The review of one preview; `advice` is a line about the stack's traffic, empty for none."""
    stack = preview.stack
    if not preview.changes and not preview.drift and preview.outputs_before == preview.outputs_after:
        return f"`{stack}`: no changes.\n"
    parts = [f"{sentence(preview)}."]
    if advice:
        parts.append(f"{ADVICE}{advice}.")
    if warned := warnings(preview):
        parts.append("**Look at this first:**\n\n" + _bullets(warned))
    if found := drift(preview):
        parts.append("**Changed behind Pulumi's back** (this update puts it right):\n\n" + _bullets(found))
    if stays := lasting(preview):
        parts.append("**Changed behind Pulumi's back** (no update puts it right):\n\n" + _bullets(stays))
    if moves(preview):
        parts.append("Mode and memory:\n\n```\n" + "\n".join(_cutover(preview)) + "\n```")
    parts += [f"Before anything serves: {line}." for line in _notes(preview, "first fetch: ")]
    parts.append(f"Price: {_price(preview)}")
    if preview.changes:
        parts.append("What happens to what:\n\n" + _table(preview))
    for kind, diff in engine_diffs(preview):
        parts.append(f"What {NAMES[kind]} is started with:\n\n```diff\n{diff}\n```")
    for title, diff in text_diffs(preview):
        parts.append(f"{title}:\n\n```diff\n{diff}\n```")
    if full := _full(preview):
        parts.append(f"<details><summary>The full preview</summary>\n\n```diff\n{full}\n```\n\n</details>")
    return "\n\n".join(parts) + "\n"


def advice_in(text: str) -> str:
    """The line of advice that a review has; empty: none."""
    found = re.search(rf"^{ADVICE}(.*)\.$", text, re.MULTILINE)
    return found[1] if found else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def is_flip(preview: Preview) -> bool:
    """Whether the engine that serves changes."""
    before = preview.outputs_before.get("engine")
    return before is not None and before != preview.outputs_after.get("engine")


def moves(preview: Preview) -> bool:
    """Whether what serves moves to another container: the other engine, or the same with other settings."""
    return any(
        change.name == "prepare-step" and _at(change.before, "ENGINE") != _at(change.after, "ENGINE")
        for change in preview.changes
    )


def _changes_engine(preview: Preview) -> bool:
    """Whether what serves moves because it is another engine by content. Under the same name the container is
    made anew with what it stands on, such as an instance that is meant to be replaced."""
    for change in preview.changes:
        if change.name == "prepare-step":
            sides = [ENGINE.search(str(_at(side, "ENGINE"))) for side in (change.before, change.after)]
            names = {found[0] for found in sides if found}
            return len(names) == 2
    return False


def sentence(preview: Preview) -> str:
    """What this change is, in one sentence without its full stop."""
    stack, after = preview.stack, str(preview.outputs_after.get("engine"))
    name = NAMES.get(after, after)
    before = preview.outputs_before.get("engine")
    if before is None and any(change.op == "created" for change in preview.changes):
        return f"`{stack}` is deployed for the first time, with {name}"
    back = f"back with `make rollback STACK={stack}`"
    others = _others(preview)
    but = " but the gateway" if _replaced(preview, "gateway") else ""
    rest = "; ".join(others) if others else f"nothing is replaced{but}"
    if is_flip(preview):
        return (
            f"Engine of `{stack}`: {NAMES.get(str(before), before)} → {name}{_how(preview)}; {rest}; {back}"
        )
    if _taken_back(preview):
        # killed late, it has made the other engine active, and what serves now is not known in a preview
        begun = "what an update began and did not finish is taken back"
        return (
            f"`{stack}`: {begun}; where {name} does not serve already, it does again{_how(preview)}; {rest}"
        )
    if moves(preview):
        return f"Engine of `{stack}`: {name} stays, in another container{_how(preview)}; {rest}; {back}"
    replaced = _replaced(preview, "gateway") and not any(_other_gateway(preview))
    gateway = [_gateway(preview)] if replaced else []
    if (live := _live(preview)) and live in _containers(preview):
        found = ENGINE.search(live)
        serves = NAMES[found[1]] if found else f"`{live}`"
        said = [f"{serves} was made active by hand", f"{name} is made active again{_how(preview)}"]
        return f"`{stack}`: {'; '.join([*said, *gateway, *others])}"
    said = [*gateway, *others]
    if drift(preview):
        return f"`{stack}`: what was changed by hand is put right; {'; '.join(said or _steps(preview))}"
    if (stays := lasting(preview)) and not said:
        return (
            f"`{stack}`: {_many(len(stays), 'thing')} changed behind Pulumi's back that no update puts right"
        )
    return f"`{stack}`: {'; '.join(said or _steps(preview))}; the engine stays {name}; {back}"


def _steps(preview: Preview) -> list[str]:
    """Where nothing else changes: what runs again, and looks before it acts."""
    if all(change.type == policies.COMMAND for change in preview.changes):
        names = ", ".join(f"`{change.name}`" for change in preview.changes)
        return [f"only {names} run{'s' if len(preview.changes) == 1 else ''} again, which no request notices"]
    return [f"{_many(len(preview.changes), 'resource')} to update"]


def _containers(preview: Preview) -> list[str]:
    return [str(each.inputs.get("name")) for each in preview.resources if each.type == policies.CONTAINER]


def _taken_back(preview: Preview) -> bool:
    """Whether the engine is the one that was committed last, and only the first phase of another had run."""
    ends = [
        (_at(change.before, "ENGINE"), _at(change.after, "ENGINE"))
        for change in preview.changes
        if change.name == "commit-step"
    ]
    return moves(preview) and any(before == after for before, after in ends)


def _how(preview: Preview) -> str:
    """How the engine changes: mode, waiting, losses. Nothing where nothing serves meanwhile."""
    if _down(preview):
        return ""
    mode, after = preview.outputs_after.get("cutover"), preview.outputs_after.get("engine")
    expected = rf"^wait in a change to {after}: (\S+ s)"
    if mode == "overlap" and _crowded(preview):
        if preview.config.get("changeover:cutover") == "overlap":
            return ", which the switch refuses: `cutover` says overlap, and old and new do not fit at once"
        mode, expected = "hold", rf"^other settings of {after}: by hold.* wait: (\S+ s)"
        if is_flip(preview):
            expected = r"(?!)"  # the program has said none, since by its settings nobody would wait
    if mode == "overlap":
        waits = "nobody waits"
    else:
        found = re.search(expected, "\n".join(preview.notes), re.MULTILINE)
        waits = f"about {found[1]} of waiting" if found else "requests wait meanwhile"
    lost = "" if _replaced(preview, "edge") or any(_clients(preview)) else ", 0 requests lost expected"
    return f" by {mode}, {waits}{lost}"


def _crowded(preview: Preview) -> bool:
    """Whether what serves and what is to serve do not fit at once; the switch adds up the same."""
    for change in preview.changes:
        if change.name == "prepare-step":
            sides = [dict(memory(_at(each, "MEMORY"))) for each in (change.before, change.after)]
            return any(
                there is not None and sides[0].get(what, (0.0, None))[0] + need > there
                for what, (need, there) in sides[1].items()
            )
    return False


def memory(said: Any) -> Iterator[tuple[str, tuple[float, float | None]]]:
    """By memory what an engine takes of it and what there is, in GiB, as `components.plan` says it."""
    for what, need, there in re.findall(r"(GPU|RAM) ([\d.]+) of ([\d.]+|unknown) GiB", str(said)):
        yield what, (float(need), None if there == "unknown" else float(there))


def _down(preview: Preview) -> str:
    """Why nothing answers while this is applied; nothing where something does."""
    old_first = [change for change in preview.changes if change.op == "replaced" and not change.new_first]
    causes = [change for change in preview.changes if change.type == policies.INSTANCE and change.op in GONE]
    if not causes and any(_role(change) in ("engine", "gateway", "proxy") for change in old_first):
        causes = [change for change in old_first if change.paths] or old_first
    if not causes:
        return ""
    names = ", ".join(f"`{change.name}`" for change in causes)
    return f"the endpoint is down meanwhile: {names} is replaced, and what serves is deleted before that"


def _gateway(preview: Preview) -> str:
    (change,) = [each for each in preview.changes if _role(each) == "gateway" and each.op in MADE]
    if change.op == "created":
        return "the gateway is made anew, and until then requests wait"
    first = "that is started first, which no request notices" if change.new_first else "after it is deleted"
    return f"the gateway is replaced by a new one {first}"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' if count != 1 else ''}"


def _the(change: Change) -> str:
    role = _role(change)
    return f"the {role}" if role in ("gateway", "proxy", "edge", "switch") else f"container `{change.name}`"


def _role(change: Change) -> str:
    """`gateway`, `proxy`, `edge`, `switch` or `engine` for a container, else nothing."""
    if change.type != policies.CONTAINER:
        return ""
    labels = (change.after or change.before).get("labels") or []
    return next((each["value"] for each in labels if each["label"] == "changeover.role"), "")


def _replaced(preview: Preview, role: str) -> bool:
    return any(_role(change) == role and change.op in MADE for change in preview.changes)


def _others(preview: Preview) -> list[str]:
    """What happens besides a move of the engine and the gateway's part in it, in words."""
    said = [*_clients(preview), *_other_gateway(preview)]
    said += _weights(preview)
    if down := _down(preview):
        said.append(down)
    elif _replaced(preview, "edge"):
        until = (
            ", and until then requests are refused"
            if _gone(preview, "edge")
            else ", so requests are refused for some seconds"
        )
        said.append(f"the edge is made anew{until}")
    for change in preview.changes:
        if change.name == "edge-configuration" and change.op == "changed":
            said += _edge_configuration(change, again=not _replaced(preview, "edge"))
        elif change.name == "keys-step" and change.op == "changed":
            said += _keys(change) or _keys_again(change)
        elif change.type == policies.CONTAINER and change.op == "changed" and not {*change.paths} <= LIMITS:
            does = f"changes in place ({', '.join(change.paths)})"
            if set(change.paths) == {"mustRun"}:
                does = "is started again"
            said.append(f"{_the(change)} {does}, which no request notices")
    if _replaced(preview, "switch") and not down:
        said.append("the switch is made anew, which no request notices")
    if _replaced(preview, "proxy") and not down:
        if _gone(preview, "proxy"):
            said.append("the proxy is made anew, and until then requests wait, for half a minute at most")
        elif "routing" not in preview.outputs_before:  # an older version made the stack
            said.append("a proxy is added, which every request goes through from then on")
        else:
            said.append("the proxy is made anew, and the one before it ends what it has begun")
    active = str(preview.outputs_after.get("engine"))
    for kind in ("ollama", "vllm"):
        ops = {
            c.op
            for c in preview.changes
            if _role(c) == "engine" and c.name.rpartition("-")[0].endswith(kind)
            if c.op != "changed"  # in place, in the same container
        }
        if ops and (kind != active or not moves(preview)):
            verb = {"created": "is added", "deleted": "is removed (its image and weights stay)"}.get(
                "".join(ops), "gets another container"
            )
            said.append(f"{NAMES[kind]}, the standby, {verb}")
    for change in preview.changes:
        if policies.keeps(change) and change.op in GONE:
            what = "is Pulumi's no longer, and Docker keeps it" if change.retained else f"is {change.op}"
            said.append(f"{change.kind.lower()} `{change.name}` {what}")
    return said


def _gone(preview: Preview, role: str) -> bool:
    """Whether a container of this role is gone or stopped that this update makes or starts again."""
    names = {each.name for each in preview.changes if _role(each) == role}
    return any(each.op == "deleted" or _stopped(each) for each in preview.drift if each.name in names)


def _stopped(drifted: Change) -> bool:
    return drifted.before.get("mustRun") is True and drifted.after.get("mustRun") is False


def _clients(preview: Preview) -> Iterator[str]:
    """What the endpoint's users have to change."""
    keep = ", and get 404 until they do (`pulumi config set name {before}` keeps the name)"
    for key, what, until in (("endpoint", "use the address", ""), ("model", "ask for the model", keep)):
        before, after = preview.outputs_before.get(key), preview.outputs_after.get(key)
        if before and after not in (before, UNKNOWN_TEXT):
            yield f"clients have to {what} `{after}`, which was `{before}`{until.format(before=before)}"


def _weights(preview: Preview) -> list[str]:
    """Which engines get other weights, where clients don't see it: a label names them as MODEL-DIGEST."""
    if preview.outputs_before.get("model") != preview.outputs_after.get("model"):
        return []
    said = []
    for old, new in _successors(preview):
        before, after = (str(_label(each, "weights") or "") for each in (old.before, new.after))
        models = [folder.rpartition("-")[0] for folder in (before, after)]
        if not all(models) or before == after:
            continue
        if models[0] != models[1]:
            return [f"the model changes, {models[0]} → {models[1]}"]
        said.append(f"{NAMES[str(_label(new.after, 'engine'))]} gets other weights of {models[1]}")
    return said


def _other_gateway(preview: Preview) -> Iterator[str]:
    """What a change of the setting `gateway` does, where a stack is there already."""
    sides = (preview.outputs_before, preview.outputs_after)
    before, after = ("gateway_config" in side for side in sides)
    if after and not before and preview.outputs_before:
        yield "a gateway is added, and the proxies ask it which engine is to answer"
    if before and not after:
        yield "the gateway is taken away, and the proxies ask the engine themselves"


def _edge_configuration(change: Change, *, again: bool) -> Iterator[str]:
    """What changes in the edge's configuration, in words; `again`: say so if it is given what it had."""
    if _at(change.before, "CADDYFILE") != _at(change.after, "CADDYFILE"):
        yield "the edge reloads another configuration, which can cut a request that has just arrived"
    elif again:
        yield "the edge gets its configuration again"


def _keys(change: Change) -> list[str]:
    """What an update does to API keys, of which only the tenants can be seen."""
    if "stdin" not in change.paths or change.op != "changed":
        return []
    sides = [_at(side, "TENANTS") for side in (change.before, change.after)]
    old, new = ({name for name in str(side).split(", ") if name} for side in sides)
    if new and not old:
        names = ", ".join(f"`{name}`" for name in sorted(new))
        return [f"the endpoint gets its first API key ({names}), and without one requests are refused"]
    if old and not new:
        return ["the last API key is removed, and whoever reaches the endpoint can use it"]
    said = [f"tenant `{name}` gets an API key" for name in sorted(new - old)]
    said += [f"tenant `{name}` loses its API key" for name in sorted(old - new)]
    return said or ["an API key changes, and the old one is refused"]


def _keys_again(change: Change) -> list[str]:
    edited = _edited(_at(change.before, "SEEN"), _at(change.after, "SEEN"))
    return ["the proxies are told of the API keys again"] if edited else []


def _cutover(preview: Preview) -> list[str]:
    """Mode, sums and waits, as the program itself says them."""
    for note in preview.notes:
        lines = note.splitlines()
        if modes := [n for n, line in enumerate(lines) if line.startswith("mode: ")]:
            return lines[modes[0] :]
    return []


def _tools(preview: Preview) -> list[str]:
    """Where only one of the engines finds the model's calls of tools, as the program says it."""
    return [f"calls of {line}" for line in _notes(preview, "tools: only ")]


def _notes(preview: Preview, beginning: str) -> list[str]:
    """What the program says in lines that begin so."""
    lines = [line for note in preview.notes for line in note.splitlines()]
    return [line for line in lines if line.startswith(beginning)]


def _price(preview: Preview) -> str:
    before, after = (side.get("cost") for side in (preview.outputs_before, preview.outputs_after))
    if before is None and after is None:
        return "none of its own, the Docker engine is this machine's."
    if before == after:
        return f"{after}; before and after the same."
    return f"{before or 'nothing'} → {after or 'nothing'}."


def warnings(preview: Preview) -> list[str]:
    """What a reviewer must not miss: data or machine replaced, secrets, image pins, broken policies."""
    found = [*preview.warned, *_clients(preview)]
    if is_flip(preview):
        found += _tools(preview)
    if down := _down(preview):
        found.append(down)
    for change in preview.changes:
        if policies.keeps(change) and change.op in GONE:
            why = ", ".join(change.paths) or "it is no longer declared"
            said = f"`{change.name}` ({change.kind}) is {change.op}: {why}"
            if change.retained:
                said = (
                    f"`{change.name}` ({change.kind}) is no longer Pulumi's: {why}. "
                    "Docker keeps it and its data, and what used it begins with an empty one"
                )
            found.append(said)
        if change.name == "keys-step":
            found += _keys(change)
        elif change.op == "changed":
            paths = [path for path in change.paths if change.before.get(_property(path)) == SECRET]
            if paths:
                found.append(f"a secret of `{change.name}` changes ({', '.join(paths)})")
    found += _image_pins(preview)
    return found + [f"policy broken, so `make apply` refuses it: {each.words}" for each in broken(preview)]


def _image_pins(preview: Preview) -> list[str]:
    old, new = set(), set()
    for change in preview.changes:
        if change.type == policies.IMAGE:
            old.add(str(change.before.get("name", "")))
            new.add(str(change.after.get("name", "")))
    gone, come = sorted(old - new - {""}), sorted(new - old - {""})
    return [f"an image pin changes: {', '.join(gone)} → {', '.join(come)}"] if gone and come else []


def broken(preview: Preview) -> list[policies.Broken]:
    """Every policy that the previewed stack would break."""
    return [
        *policies.check(preview.resources, stack=preview.stack, keys=has_keys(preview)),
        *policies.a_flip_replaces_no_instance_and_no_volume(
            preview.changes, is_flip(preview) or _changes_engine(preview)
        ),
    ]


def has_keys(preview: Preview) -> bool:
    """Whether the previewed settings have an API key; a setting of which only `[secret]` is seen has."""
    return preview.config.get("changeover:apiKeys", "{}") not in ("{}", "")


def drift(preview: Preview) -> list[str]:
    """What was changed behind Pulumi's back and an update puts right, each in words."""
    changed = [change for change in preview.drift if not _of_confirming(change)]
    return [*(_drifted(change) for change in changed if _repaired(preview, change)), *_by_hand(preview)]


def lasting(preview: Preview) -> list[str]:
    """What was changed behind Pulumi's back and no update puts right, each in words."""
    changed = [change for change in preview.drift if not _of_confirming(change)]
    return [_drifted(change) for change in changed if not _repaired(preview, change)]


def unconfirmed(preview: Preview) -> list[str]:
    """Mail subscriptions that nobody confirmed, so that AWS has taken them away, each in words: no drift."""
    return [
        f"nobody has confirmed the alarms' mail to {change.before.get('endpoint')}, so AWS has forgotten it, "
        "and no alarm reaches anybody. `pulumi up --refresh` sends another mail: follow the link in it"
        for change in preview.drift
        if change.op == "deleted" and _of_confirming(change)
    ]


def _of_confirming(change: Change) -> bool:
    """Whether somebody has confirmed a mail subscription since, or AWS taken one away that nobody did."""
    if change.type != MAIL:
        return False
    if change.op == "deleted":
        return change.before.get("pendingConfirmation") is True
    return {*change.paths} <= {"pendingConfirmation", "confirmationWasAuthenticated"}


def _repaired(preview: Preview, drifted: Change) -> bool:
    touched = any((each.type, each.name) == (drifted.type, drifted.name) for each in preview.changes)
    return touched and not _is_limit(drifted)


def _is_limit(change: Change) -> bool:
    """A limit set by hand on a container that declares none: Docker changes limits and takes none away."""
    return (
        change.type == policies.CONTAINER
        and change.op == "changed"
        and {*change.paths} <= LIMITS
        and not any(change.before.get(path) for path in change.paths)
    )


def _live(preview: Preview) -> str:
    """What the switch says of the active engine where Pulumi left another; else nothing."""
    for change in preview.changes:
        if change.name == "commit-step" and change.op != "created":
            live = _at(change.after, "LIVE")
            if live not in (_at(change.before, "LIVE"), UNKNOWN_TEXT):
                return str(live)
    return ""


def _by_hand(preview: Preview) -> Iterator[str]:
    """What no provider reads back, and the program itself looks at in every preview."""
    for change in preview.changes:
        if change.op == "created":
            continue
        if change.name == "commit-step" and (live := _live(preview)):
            yield _serves(live_in(live), _at(change.before, "ENGINE"))
        if change.name == "edge-configuration" and _edited(
            _at(change.before, "SEEN"), _at(change.after, "SEEN")
        ):
            yield "the edge's configuration was edited in place"
        if change.name == "keys-step" and _edited(_at(change.before, "SEEN"), _at(change.after, "SEEN")):
            yield "the API keys on the host were edited in place"
        if _role(change) == "gateway" and _edited(
            *(_label(side, "config") for side in (change.before, change.after))
        ):
            yield f"the TOML in `{change.before.get('name', change.name)}` was edited in place"


def _serves(live: Live | None, left: Any) -> str:
    """What serves in place of the container that Pulumi left serving, in words."""
    if live is None:
        return f"the switch does not answer, so whether `{left}` serves is not known"
    serves = "none serves" if live.engine == NONE else f"`{live.engine}` serves"
    if live.damaged:
        at = f"the journal was damaged at {live.damaged}"
        return f"{at}: {serves}, and Pulumi left `{left}` serving; `make status` says what is known"
    return f"the active engine: {serves}, and Pulumi left `{left}` serving"


def _edited(before: Any, after: Any) -> bool:
    return before != after and is_edited(after)


def _label(inputs: Mapping[str, Any], name: str) -> Any:
    labels = inputs.get("labels") or []
    return next((each["value"] for each in labels if each["label"] == f"changeover.{name}"), None)


def _drifted(change: Change) -> str:
    if change.op == "deleted":
        container = change.type == policies.CONTAINER
        return (
            f"the container `{change.name}` is gone"
            if container
            else f"`{change.name}` ({change.kind}) is gone"
        )
    if _stopped(change):
        return f"the container `{change.name}` is stopped"
    words = []
    for name in sorted({_property(path) for path in change.paths}):
        old, new = change.before.get(name), change.after.get(name)
        if change.type == policies.SECURITY_GROUP and name in ("ingress", "egress"):
            words += _opened(name, old or [], new or [])
        elif isinstance(old, list) and isinstance(new, list):
            more, fewer = [each for each in new if each not in old], [each for each in old if each not in new]
            words += [f"{name} has {_short(each)} more" for each in more]
            words += [f"{name} lacks {_short(each)}" for each in fewer]
        elif isinstance(old, dict) and isinstance(new, dict):
            keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            words += [
                f"{name}.{key} is {_short(new.get(key))} and was {_short(old.get(key))}" for key in keys
            ]
        else:
            words.append(f"{name} is {_short(new)} and was {_short(old)}")
    if _is_limit(change):
        words.append("Docker takes no limit away, so remove the container and let an update make it anew")
    return f"`{change.name}` ({change.kind}): {'; '.join(words)}"


def _opened(way: str, old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> list[str]:
    """The difference between two sets of a security group's rules, by port and network."""
    before, after = set(_ports(old)), set(_ports(new))
    yes, no = ("open to", "closed to") if way == "ingress" else ("reachable at", "no longer reachable at")
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


def _property(path: str) -> str:
    """The property that a path of a difference, such as `tags.Name` or `ingress[1]`, begins with."""
    return re.split(r"[.\[]", path)[0]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = {key: each for key, each in value.items() if each not in (None, "", False, [])}
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


def _at(inputs: Mapping[str, Any], variable: str) -> Any:
    """A variable of a step's environment."""
    return (inputs.get("environment") or {}).get(variable)


def _table(preview: Preview) -> str:
    groups: dict[str, list[str]] = {}
    engines: dict[tuple[str, str], list[str]] = {}
    for change in preview.changes:
        if change.type.startswith("changeover:"):
            continue
        op = change.op
        if op == "replaced":
            op = "replaced, the new one first" if change.new_first else "replaced, the old one first"
        elif op == "deleted" and change.retained:
            op = FORGOTTEN
        elif op == "changed" and change.type == policies.COMMAND:
            op = RUNS
        if (engine := ENGINE.search(change.name)) and op in ("created", "deleted"):
            engines.setdefault((op, engine[0]), []).append(PARTS.get(change.kind, change.kind))
        else:
            groups.setdefault(op, []).append(f"`{change.name}`" + (f" ({change.kind})" if op != RUNS else ""))
    for (op, engine_name), parts in engines.items():
        what = ", ".join(sorted(parts)) if op == "created" else "container; its image and weights stay"
        groups.setdefault(op, []).append(f"engine `{engine_name}` ({what})")
    touched = {change.name for change in preview.changes}
    same = sum(
        each.name not in touched and each.type != STACK_TYPE and not each.type.startswith("changeover:")
        for each in preview.resources
    )
    rows = [f"| {op} | {', '.join(groups[op])} |" for op in ORDER if op in groups]
    return "\n".join(["| what | resources |", "|---|---|", *rows, f"| unchanged | {same} |"])


def engine_diffs(preview: Preview) -> Iterator[tuple[str, str]]:
    """For each engine that takes the place of another of its kind: what it is started with, as a diff."""
    for old, new in _successors(preview):
        found = ENGINE.search(new.name) if _role(new) == "engine" else None
        diff = _diff(_started_with(old.before), _started_with(new.after), 0)
        if found and diff:
            yield found[1], diff


def _started_with(inputs: Mapping[str, Any]) -> list[str]:
    """An engine's variables and flags, each on a line."""
    flags = re.sub(r" (?=--?[a-z])", "\n", " ".join(map(str, inputs.get("command") or [])))
    return [*map(str, inputs.get("envs") or []), *flags.splitlines()]


def _successors(preview: Preview) -> list[tuple[Change, Change]]:
    """What is deleted, with what is created in its place: an engine's name says its content."""
    gone = {_stem(change): change for change in preview.changes if change.op == "deleted"}
    return [
        (gone[_stem(change)], change)
        for change in preview.changes
        if change.op == "created" and _stem(change) in gone
    ]


def text_diffs(preview: Preview) -> Iterator[tuple[str, str]]:
    """The lines that change of each rendered text, by its title, as a diff with two lines around them."""
    before, after = preview.outputs_before, preview.outputs_after
    texts = [
        ("The gateway's TOML", before.get("gateway_config"), after.get("gateway_config")),
        ("The proxies' routing", before.get("routing"), after.get("routing")),
    ]
    for each in preview.changes:
        if each.name == "edge-configuration":
            texts.append(
                ("The edge's Caddyfile", _at(each.before, "CADDYFILE"), _at(each.after, "CADDYFILE"))
            )
    for title, old, new in texts:
        was, will_be = str(old).splitlines(), str(new).splitlines()
        # of the Caddyfile an older version has said a digest, and a new address is known afterwards
        if min(len(was), len(will_be)) > 1 and (diff := _diff(was, will_be, 2)):
            yield title, diff


def _diff(old: list[str], new: list[str], around: int) -> str:
    lines = list(difflib.unified_diff(old, new, "now", "then", n=around, lineterm=""))[3:]
    return "\n".join(" …" if line.startswith("@@") else line for line in lines if around or line[0] != "@")


def _full(preview: Preview) -> str:
    """Every changed property. An engine that takes the place of another of its kind is compared with it."""
    pairs = {new.name: old for old, new in _successors(preview)}
    followed = {old.name for old in pairs.values()}
    parts = []
    fresh = not preview.outputs_before
    for change in preview.changes:
        if change.type.startswith("changeover:") or change.name in followed:
            continue
        old, title = change, f"# {change.op}: {change.type} {change.name}"
        if change.name in pairs:
            old = pairs[change.name]
            title += f" (beside it: what {old.name} was, which is deleted)"
        elif change.op in ("deleted", "left over") or fresh:
            parts.append(title)
            continue
        keys = {_property(path) for path in change.paths} if old is change else set()
        before = old.before if keys else _in_order_of(change.after, old.before)
        body = _diff(_lines(before, keys), _lines(change.after, keys), 1)
        parts.append(f"{title}\n{body}" if body else title)
    text = "\n".join(parts)
    if len(text) > LONGEST_FULL:
        text = text[:LONGEST_FULL] + f"\n… and more: make review STACK={preview.stack}"
    return text.replace("```", "'''")


def _in_order_of(pattern: Any, value: Any) -> Any:
    """The value, with lists in the order of the pattern's that hold the same: the provider sorts some."""
    if isinstance(pattern, dict) and isinstance(value, dict):
        return {key: _in_order_of(pattern.get(key), each) for key, each in value.items()}
    if isinstance(pattern, list) and isinstance(value, list):
        if len(pattern) == len(value) and all(each in value for each in pattern):
            return pattern
        return [_in_order_of(*both) for both in zip(pattern, value, strict=False)] + value[len(pattern) :]
    return value


def _stem(change: Change) -> tuple[str, str]:
    return change.type, ENGINE.sub(r"\1", change.name)


def _lines(inputs: Mapping[str, Any], keys: set[str]) -> list[str]:
    """The inputs as lines of text, only those of `keys` if there are any; what is long and new is counted.

    The plan that the steps have on stdin says in JSON what their environment and the TOML say.
    """
    chosen = {
        key: value
        for key, value in inputs.items()
        if (not keys or key in keys) and not (key == "stdin" and value != SECRET)
    }
    if not chosen:
        return []
    text = json.dumps(_cut(chosen) if not keys else chosen, indent=2, sort_keys=True, ensure_ascii=False)
    return text.replace("\\n", "\n    ").replace('\\"', '"').splitlines()


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return f"({len(value.splitlines())} lines)"
    return value
