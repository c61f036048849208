"""What the Pulumi engine says of a preview, as plain data. Pure.

`pulumi preview --json` with PULUMI_ENABLE_STREAMING_JSON_PREVIEW=true writes one event a line. The engine
has already put `[secret]` where a secret was. Read on engine 3.259.0.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components import naming
from components.facts import Exported, Foreseen

STACK_TYPE = "pulumi:pulumi:Stack"
SECRET = "[secret]"
SECRET_SIGNATURE = "4dabf18193072939515e22adb298388d"
"""Pulumi's key of the object in which a secret is wrapped."""
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""Pulumi's own placeholder of a text that is known only after the update."""
UNKNOWN_TEXT = "(known afterwards)"
COMPONENT = "changeover:"
"""Begins the types of our components, which are nothing but what is in them."""
LATE = (
    naming.child(naming.PROXY, "files"),
    f"-{naming.PROXY}",
    naming.child(naming.PROXY, "ready"),
    naming.child(naming.KEYS, "step"),
    naming.child(naming.PREPARE, "step"),
    f"-{naming.GATEWAY}",
    naming.child(naming.COMMIT, "step"),
    f"-{naming.EDGE}",
    naming.child(naming.EDGE, "configuration"),
    naming.child(naming.EDGE, "clients"),
)
"""How the names end of what comes last in an update, in order."""
SETTLED = ("same", "read", "refresh", "read-discard", "discard-replaced", "remove-pending-replace")


def property_of(path: str) -> str:
    """The property that a path of a difference, such as `tags.Name` or `ingress[1]`, begins with."""
    return re.split(r"[.\[]", path)[0]


class PreviewFailed(Exception):
    """The preview did not end well; the text is what the engine said."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource as it will be. `type` is Pulumi's token, `inputs` what the program declares."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    protect: bool = False


@dataclass(frozen=True, kw_only=True)
class ResourceChange:
    """What happens to one resource: `created`, `changed`, `replaced`, `deleted`, or `left over`.

    The last is what an update that failed had replaced already and not deleted yet.

    `paths` are the properties that differ. `new_first`: a replacement that exists before the old one goes.
    `retained`: Pulumi forgets it and leaves it where it is. `unready` is what its provider misses of a
    resource that stays: the update waits until it is there, also where nothing of it changes.
    """

    op: str
    type: str
    name: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    paths: tuple[str, ...] = ()
    new_first: bool = False
    retained: bool = False
    unready: tuple[str, ...] = ()

    @property
    def only_waits(self) -> bool:
        """Whether the update does nothing with it but wait."""
        return bool(self.unready) and not self.paths

    @property
    def kind(self) -> str:
        """The type in one word: `Container`."""
        return self.type.rsplit(":", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Preview:
    """One preview: what changes, what was changed behind Pulumi's back, and what will be there.

    `notes` and `warned` are what the program said itself, and `foreseen` is what follows from the settings.
    """

    stack: str
    config: Mapping[str, str]
    changes: tuple[ResourceChange, ...]
    drift: tuple[ResourceChange, ...]
    resources: tuple[Resource, ...]
    outputs_before: Mapping[str, Any]
    outputs_after: Mapping[str, Any]
    notes: tuple[str, ...]
    warned: tuple[str, ...]
    foreseen: Foreseen = field(default_factory=Foreseen)

    def output(self, name: Exported) -> tuple[Any, Any]:
        """An output of the stack before and after; None where it has none."""
        return self.outputs_before.get(name), self.outputs_after.get(name)

    def lines(self, beginning: str = "") -> list[str]:
        """The lines of the notes that begin so."""
        lines = (line for note in self.notes for line in note.splitlines())
        return [line for line in lines if line.startswith(beginning)]


def parse(lines: Iterable[str]) -> Preview:
    """The preview in a stream of JSON events. Raises PreviewFailed with the engine's own words."""
    events = [json.loads(line) for line in lines if line.strip()]
    text = json.dumps(events).replace(UNKNOWN, UNKNOWN_TEXT)
    for name in _new_names(events):
        # a name's random end differs from preview to preview
        text = text.replace(name, name[:-7] + "NEW")
    return _preview(json.loads(text))


def _new_names(events: list[dict[str, Any]]) -> set[str]:
    names = set()
    for event in events:
        meta = event.get("resourcePreEvent", {}).get("metadata", {})
        if meta.get("op") in ("create", "create-replacement", "replace"):
            name = str(((meta.get("new") or {}).get("inputs") or {}).get("name", ""))
            if re.fullmatch(re.escape(_name(meta)) + "-[0-9a-f]{7}", name):
                names.add(name)
    return names


def _name(meta: Mapping[str, Any]) -> str:
    return str(meta["urn"]).rsplit("::", 1)[1]


def _order(meta: Mapping[str, Any]) -> tuple[int, str, str]:
    name = _name(meta)
    late = next((n for n, ending in enumerate(LATE, 1) if name.endswith(ending)), 0)
    return late, str(meta["type"]), name


def _preview(events: list[dict[str, Any]]) -> Preview:
    config: dict[str, str] = {}
    notes: list[str] = []
    warned: list[str] = []
    errors: list[str] = []
    steps: dict[str, list[dict[str, Any]]] = {}
    drift: list[ResourceChange] = []
    outputs: dict[str, Mapping[str, Any]] = {"old": {}, "new": {}}
    done = False
    for event in events:
        if "preludeEvent" in event:
            config = event["preludeEvent"]["config"] or {}
        elif "diagnosticEvent" in event:
            said = event["diagnosticEvent"]
            if said["severity"] == "info":
                notes.append(said["message"].strip())
            elif said["severity"] == "warning":
                warned.append(said["message"].strip())
            elif said["severity"] == "error" and not done:
                errors.append(said["message"].strip())
        elif "resourcePreEvent" in event:
            meta = event["resourcePreEvent"]["metadata"]
            if meta["op"] != "refresh":
                steps.setdefault(meta["urn"], []).append(meta)
        elif "resOutputsEvent" in event:
            meta = event["resOutputsEvent"]["metadata"]
            if meta["type"] == STACK_TYPE and meta["op"] not in ("refresh", "delete"):
                outputs = {side: (meta.get(side) or {}).get("outputs") or {} for side in ("old", "new")}
            elif meta["op"] == "refresh" and (changed := _drifted(meta)):
                drift.append(changed)
        elif "summaryEvent" in event:
            # The engine says of a plugin that it crashed if it then takes over 5 s to end, on a busy machine.
            done = event["summaryEvent"].get("result") != "failed"
            if not done:
                errors.append("the preview failed")
    if errors:
        raise PreviewFailed("\n".join(errors))
    stack = next(iter(steps), "urn:pulumi:?::").split(":")[2]
    # what can be done side by side comes in any order, and two previews of one change must read the same
    steps = dict(sorted(steps.items(), key=lambda step: _order(step[1][0])))
    changes = [_change(of_one) for of_one in steps.values() if of_one[0]["type"] != STACK_TYPE]
    return Preview(
        stack=stack,
        config=config,
        changes=tuple(change for change in changes if change is not None),
        drift=tuple(sorted(drift, key=lambda change: (change.type, change.name))),
        resources=tuple(
            Resource(
                type=meta["type"],
                name=_name(meta),
                inputs=(meta["new"].get("inputs") or {}),
                protect=bool(meta["new"].get("protect")),
            )
            for of_one in steps.values()
            for meta in [next((each for each in of_one if each.get("new") is not None), None)]
            if meta is not None and meta["op"] != "delete"
        ),
        outputs_before=outputs["old"],
        outputs_after=outputs["new"],
        notes=tuple(notes),
        warned=tuple(sorted(set(warned))),
    )


def _state(meta: Mapping[str, Any], side: str, part: str) -> Mapping[str, Any]:
    return dict(_readable((meta.get(side) or {}).get(part) or {}))


def _readable(value: Any) -> Any:
    """Without what only Pulumi reads; a wrapped secret is `[secret]`."""
    if isinstance(value, dict):
        if SECRET_SIGNATURE in value:
            return SECRET
        return {key: _readable(each) for key, each in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [_readable(each) for each in value]
    return value


def _change(steps: list[dict[str, Any]]) -> ResourceChange | None:
    ops = [step["op"] for step in steps]
    if all(op in SETTLED for op in ops):
        return None
    step = next(step for step in steps if step["op"] not in SETTLED)
    op = {"create": "created", "update": "changed", "delete": "deleted"}.get(step["op"], "replaced")
    if op == "replaced" and not {"create-replacement", "replace"} & set(ops):
        op = "left over"
    logical = next((each for each in steps if each.get("new") is not None), step)
    return ResourceChange(
        op=op,
        type=step["type"],
        name=_name(step),
        before=_state(logical, "old", "inputs"),
        after=_state(logical, "new", "inputs"),
        paths=tuple(sorted(logical.get("detailedDiff") or logical.get("diffs") or ())),
        unready=tuple((logical.get("old") or {}).get("initErrors") or ()) if op == "changed" else (),
        new_first="create-replacement" in ops
        and ("delete-replaced" not in ops or ops.index("create-replacement") < ops.index("delete-replaced")),
        retained=bool((step.get("old") or {}).get("retainOnDelete")),
    )


def _drifted(meta: Mapping[str, Any]) -> ResourceChange | None:
    paths = tuple(sorted(meta.get("detailedDiff") or meta.get("diffs") or ()))
    gone = meta.get("new") is None
    if not paths and not gone:
        return None
    return ResourceChange(
        op="deleted" if gone else "changed",
        type=meta["type"],
        name=_name(meta),
        before=_state(meta, "old", "outputs"),
        after=_state(meta, "new", "outputs"),
        paths=paths,
    )
