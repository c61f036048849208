"""What a change is and what it costs, in the sentence with which its review begins. Pure."""

from collections.abc import Iterator

from components import naming
from components.facts import POD_BY_POD
from components.labels import labels_in
from components.naming import NAMES
from review import changes, cluster, policies
from review.drift import drift, lasting
from review.events import UNKNOWN_TEXT, Preview, ResourceChange


def sentence(preview: Preview) -> str:
    """What this change is, in one sentence without its full stop."""
    stack, (before, engine) = preview.stack, preview.output("engine")
    name = NAMES.get(str(engine), str(engine))
    if before is None and any(change.op == "created" for change in preview.changes):
        return f"`{stack}` is deployed for the first time, with {name}"
    back = f"back with `make rollback STACK={stack}`"
    others = _others(preview)
    but = " but the gateway" if changes.replaced(preview, naming.GATEWAY) else ""
    rest = "; ".join(others) if others else f"nothing is replaced{but}"
    if changes.is_flip(preview):
        return (
            f"Engine of `{stack}`: {NAMES.get(str(before), before)} → {name}{_how(preview)}; {rest}; {back}"
        )
    if changes.is_taken_back(preview):
        # killed late, it has made the other engine active, and what serves now is not known in a preview
        begun = "the change that an update left unfinished is undone"
        return (
            f"`{stack}`: {begun}; if {name} does not serve already, it is brought back{_how(preview)}; {rest}"
        )
    if changes.moves(preview):
        return (
            f"Engine of `{stack}`: {name} stays and moves to another container{_how(preview)}; {rest}; {back}"
        )
    said = others
    if changes.replaced(preview, naming.GATEWAY) and not changes.gateway_setting(preview):
        said = [_gateway(preview), *others]
    live = changes.serves_instead(preview)
    if live in {each.inputs.get("name") for each in preview.resources if each.type == policies.CONTAINER}:
        found = naming.engine_in(live)
        serves = NAMES[found[0]] if found else f"`{live}`"
        said = [f"{serves} was made active by hand", f"{name} is made active again{_how(preview)}", *said]
        return f"`{stack}`: {'; '.join(said)}"
    if drift(preview):
        return f"`{stack}`: what was changed by hand is put right; {'; '.join(said or _steps(preview))}"
    if (stays := lasting(preview)) and not said:
        return (
            f"`{stack}`: {_many(len(stays), 'thing')} changed behind Pulumi's back that no update puts right"
        )
    return f"`{stack}`: {'; '.join(said or _steps(preview))}; the engine stays {name}; {back}"


def _steps(preview: Preview) -> list[str]:
    """What runs again where nothing else changes: steps that look before they act."""
    there = [change for change in preview.changes if not change.only_waits]
    if not there:
        return ["nothing changes; the update waits for what is not ready"]
    if all(change.type == policies.COMMAND for change in there):
        names = ", ".join(f"`{change.name}`" for change in there)
        return [f"only {names} run{'s' if len(there) == 1 else ''} again, which no request notices"]
    return [f"{_many(len(there), 'resource')} to update"]


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' if count != 1 else ''}"


def _how(preview: Preview) -> str:
    """How the engine changes: mode, waiting, losses. Empty where nothing serves meanwhile."""
    if changes.deleted_first(preview):
        return ""
    if preview.output("cutover")[1] == POD_BY_POD:
        return f", {POD_BY_POD}, and no request waits as long as those that come fit the hosts that are left"
    mode, engine = (preview.output(name)[1] for name in ("cutover", "engine"))
    same, known = False, True
    if mode == "overlap" and changes.is_crowded(preview):
        if preview.config.get("changeover:cutover") == "overlap":
            return (
                ", which the switch refuses: `cutover` is overlap, and the old and the new engine do not fit "
                "at once"
            )
        mode, same = "hold", True
        known = not changes.is_flip(preview)  # by its settings nobody would wait, so the program says none
    waits = "no request waits"
    if mode != "overlap":
        its = preview.foreseen.same_waits if same else preview.foreseen.waits
        found = its.get(str(engine)) if known else None
        waits = f"requests wait about {found:.0f} s" if found is not None else "requests wait meanwhile"
    refused = changes.replaced(preview, naming.EDGE) or clients(preview)
    return f" by {mode}, {waits}{'' if refused else ', none is expected to be lost'}"


def down(preview: Preview) -> list[str]:
    """The note that nothing answers while this is applied, and why; empty where something does."""
    names = ", ".join(f"`{change.name}`" for change in changes.deleted_first(preview))
    why = f"the endpoint is down meanwhile, since {names} is replaced and what serves is deleted first"
    return [why] if names else []


def clients(preview: Preview) -> list[str]:
    """What the endpoint's users have to change."""
    said = []
    (url_before, url), (before, model) = preview.output("endpoint"), preview.output("model")
    if url_before and url not in (url_before, UNKNOWN_TEXT):
        said.append(f"clients have to use the address `{url}` instead of `{url_before}`")
    if before and model not in (before, UNKNOWN_TEXT):
        said.append(
            f"clients have to ask for the model `{model}` instead of `{before}`, and get 404 until they do "
            f"(`pulumi config set name {before}` keeps the name)"
        )
    return said


def keys(change: ResourceChange) -> list[str]:
    """What an update does to API keys."""
    sides = changes.key_changes(change)
    if sides is None:
        return []
    old, new = sides
    if new and not old:
        names = ", ".join(f"`{name}`" for name in sorted(new))
        return [
            f"the endpoint gets its first API key ({names}), and requests without a key are refused from "
            "then on"
        ]
    if old and not new:
        return ["the last API key is removed, and whoever reaches the endpoint can use it"]
    said = [f"tenant `{name}` gets an API key" for name in sorted(new - old)]
    said += [f"tenant `{name}` loses its API key" for name in sorted(old - new)]
    return said or ["an API key changes, and the old one is refused"]


def _gateway(preview: Preview) -> str:
    (change,) = changes.replaced(preview, naming.GATEWAY)
    if change.op == "created":
        return "the gateway is created again, and until then requests wait"
    first = "that is started first, which no request notices" if change.new_first else "after it is deleted"
    return f"the gateway is replaced by a new one {first}"


def _others(preview: Preview) -> list[str]:
    """What happens besides a move of the engine and the gateway's part in it, in words."""
    stops = down(preview)
    said = [*clients(preview), *_gateway_setting(preview), *_weights(preview), *cluster.said(preview), *stops]
    if not stops and changes.replaced(preview, naming.EDGE):
        gone = changes.is_gone(preview, naming.EDGE)
        until = "and until then requests are refused" if gone else "so requests are refused for some seconds"
        said.append(f"the edge is {'created again' if gone else 'replaced'}, {until}")
    edge_is_new = bool(changes.replaced(preview, naming.EDGE))
    for change in preview.changes:
        if change.op == "changed":
            said += _in_place(change, edge_is_new)
    if changes.replaced(preview, "switch") and not stops:
        said.append("the switch is replaced, which no request notices")
    if changes.replaced(preview, naming.PROXY) and not stops:
        if changes.is_gone(preview, naming.PROXY):
            said.append("the proxy is created again, and until then requests wait, for half a minute at most")
        elif "routing" not in preview.outputs_before:  # an older version made the stack
            said.append("a proxy is added, which every request goes through from then on")
        else:
            said.append("the proxy is replaced, and the old one finishes what it has begun")
    said += _standby(preview)
    for change in preview.changes:
        if policies.keeps(change) and change.op in changes.GONE:
            what = (
                "is no longer managed by Pulumi, and Docker keeps it"
                if change.retained
                else f"is {change.op}"
            )
            said.append(f"{change.kind.lower()} `{change.name}` {what}")
    return said


def _in_place(change: ResourceChange, edge_is_new: bool) -> Iterator[str]:
    """What changes in a step or in a container that stays."""
    if change.name == changes.CONFIGURATION:
        before, after = changes.told(change, "CADDYFILE")
        if before != after:
            yield "the edge loads a new configuration, which can cut a request that has just arrived"
        elif not edge_is_new:
            yield "the edge gets its configuration again"
    elif change.name == changes.KEYS:
        yield from keys(change)
        if not keys(change) and changes.was_edited(change):
            yield "the proxies get the API keys again"
    elif change.type == policies.CONTAINER and not {*change.paths} <= changes.LIMITS:
        what = changes.role(change)
        which = (
            f"the {what}" if what in ("gateway", "proxy", "edge", "switch") else f"container `{change.name}`"
        )
        does = f"changes in place ({', '.join(change.paths)})"
        if {*change.paths} == {"mustRun"}:
            does = "is started again"
        yield f"{which} {does}, which no request notices"


def _standby(preview: Preview) -> Iterator[str]:
    active = preview.output("engine")[1]
    ops: dict[str, set[str]] = {kind: set() for kind in NAMES}
    for change in preview.changes:
        found = naming.engine_in(change.name) if changes.role(change) == "engine" else None
        if found and change.op != "changed":  # in place, in the same container
            ops[found[0]].add(change.op)
    for kind, done in ops.items():
        if done and (kind != active or not changes.moves(preview)):
            verb = {"created": "is added", "deleted": "is removed (its image and weights stay)"}.get(
                "".join(done), "gets another container"
            )
            yield f"{NAMES[kind]}, the standby, {verb}"


def _weights(preview: Preview) -> list[str]:
    """Which engines get other weights, where clients don't see it."""
    before, after = preview.output("model")
    if before != after:
        return []
    said = []
    for old, new in changes.successors(preview):
        folders = [str(labels_in(each).get("weights") or "") for each in (old.before, new.after)]
        (was, _), (model, _) = map(naming.of_folder, folders)
        if not (was and model) or folders[0] == folders[1]:
            continue
        if was != model:
            return [f"the model changes, {was} → {model}"]
        said.append(f"{NAMES[labels_in(new.after)['engine']]} gets other weights of {model}")
    return said


def _gateway_setting(preview: Preview) -> list[str]:
    """What a change of the setting `gateway` does."""
    return {
        "added": ["a gateway is added, and the proxies ask it which engine is to answer"],
        "removed": ["the gateway is removed, and the proxies ask the engine directly"],
        "": [],
    }[changes.gateway_setting(preview)]
