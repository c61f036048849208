"""Records the previews whose reviews are golden files: real ones, of a stack that is deployed for it.

`python -m tests.support.reviews [PART]...` records them and writes what is to be read by eye; `render` writes
that again without recording. The engines are the test engine: what a preview says does not depend on them.
What is kept of the engine's events is what a review can be made from: properties that differ, and those that
policies look at.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bench.stack import remove_fast_engine, use_fast_engine
from common import ROOT
from review.events import SECRET, Preview, parse
from review.markdown import render
from stacks.blueprint import blueprint_of
from stacks.settings import declared, from_files, from_values
from tests.support.project import CommandFailed, Project, docker, free_port, offline_settings, patched

GOLDEN = ROOT / "tests" / "unit" / "golden" / "reviews"
KEPT = ("labels", "ports", "name")
UNREAD = ("changeover.project", "changeover.stack", "changeover.plugin")
LONGEST = 120
READ = ("routing", "engines = [", "reverse_proxy")
"""What is in texts that are kept whole."""
STACK = "reviewed"
VERSION = "0.0.0-recorded"


def trim(lines: list[str]) -> Iterator[dict[str, Any]]:
    """The events that a review is made from, without what it does not look at."""
    defaults = {f"changeover:{key}": str(each.get("default")) for key, each in declared(ROOT).items()}
    for event in map(json.loads, lines):
        if "preludeEvent" in event:
            config = event["preludeEvent"]["config"] or {}
            changed = {key: value for key, value in config.items() if value.lower() != defaults[key].lower()}
            yield {"preludeEvent": {"config": changed}}
        elif event.get("diagnosticEvent", {}).get("severity") in ("info", "warning", "error"):
            said = event["diagnosticEvent"]
            yield {"diagnosticEvent": {"severity": said["severity"], "message": said["message"]}}
        elif "resourcePreEvent" in event:
            meta = event["resourcePreEvent"]["metadata"]
            if meta["op"] != "refresh":
                yield {"resourcePreEvent": {"metadata": _metadata(meta, "inputs")}}
        elif "resOutputsEvent" in event:
            meta = event["resOutputsEvent"]["metadata"]
            differs = meta.get("detailedDiff") or meta.get("diffs") or not meta.get("new")
            if differs if meta["op"] == "refresh" else meta["type"] == "pulumi:pulumi:Stack":
                yield {"resOutputsEvent": {"metadata": _metadata(meta, "outputs")}}


def _metadata(meta: dict[str, Any], part: str) -> dict[str, Any]:
    old, new = ((meta.get(side) or {}).get(part) or {} for side in ("old", "new"))
    stack = meta["type"] == "pulumi:pulumi:Stack"
    keys = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} | set(KEPT)
    if "stdin" in (meta.get("detailedDiff") or meta.get("diffs") or ()):
        keys.add("environment")  # it says what in a secret changes
    if stack:
        keys = set() if part == "inputs" else old.keys() | new.keys()
    elif part == "outputs":
        paths = meta.get("detailedDiff") or meta.get("diffs") or []
        keys = {path.split(".")[0].split("[")[0] for path in paths}
    # the types of its parents are no part of what is read of a URN
    urn = "::".join([*meta["urn"].split("::")[:2], meta["type"], meta["urn"].split("::")[-1]])
    kept: dict[str, Any] = {"op": meta["op"], "type": meta["type"], "urn": urn}
    for key in ("detailedDiff", "diffs"):
        if meta.get(key):
            kept[key] = sorted(meta[key])
    for side, values in (("old", old), ("new", new)):
        if meta.get(side) and not (side == "old" and meta["op"] == "same" and not stack):
            chosen = {
                key: value if stack else _cut(value)
                for key, value in values.items()
                if key in keys and (key != "stdin" or isinstance(value, dict))  # a secret is an object
            }
            flags = {key: True for key in ("protect", "retainOnDelete") if meta[side].get(key)}
            kept[side] = {**({part: chosen} if chosen else {}), **flags}
    return kept


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    if isinstance(value, list):
        ours = [each for each in value if not (isinstance(each, dict) and each.get("label") in UNREAD)]
        return [_cut(each) for each in ours]
    if isinstance(value, str) and len(value) > LONGEST and not any(mark in value for mark in READ):
        return value[:LONGEST] + "…"
    return value


def events(project: Project) -> list[str]:
    """The engine's events of a preview, as the tool asks for them."""
    done = subprocess.run(
        project.command("preview", "--json", "--refresh"),
        cwd=project.folder,
        env={**project.environment, "PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(done.stdout[-3000:] + done.stderr)
    return [line for line in done.stdout.splitlines() if line.startswith("{")]


def seen_in(lines: Iterable[str]) -> Preview:
    """The preview in these events, with what follows from the settings that it was made with."""
    seen = parse(lines)
    values = {
        key.removeprefix("changeover:"): yaml.safe_load(value)
        for key, value in seen.config.items()
        if SECRET not in value
    }
    checked = from_values(seen.stack, values, ROOT, deploying=False)
    return replace(seen, foreseen=blueprint_of(checked).foreseen)


def record(project: Project, name: str) -> None:
    """Keep the preview of the project as it is now under `name`."""
    kept = list(trim(events(project)))
    lines = [json.dumps(event, ensure_ascii=False, sort_keys=True) for event in kept]
    (GOLDEN / f"{name}.events").write_text("\n".join(lines) + "\n")
    text = render(seen_in(lines))
    (GOLDEN / f"{name}.md").write_text(text)
    print(f"{name}: {text.splitlines()[0]}", flush=True)


@contextmanager
def image(reference: str, like: str) -> Iterator[None]:
    """Another name for an image that is here."""
    docker("tag", like, reference)
    try:
        yield
    finally:
        docker("rmi", reference)


def settings(project: Project) -> None:
    """Changes of settings, each from the same deployed stack."""
    plain: dict[str, dict[str, Any]] = {
        "nothing": {},
        "flip": {"engine": "vllm"},
        "flip-by-overlap": {"engine": "vllm", "hostMemoryGiB": 16},
        "flip-and-context": {"engine": "vllm", "context": 768},
        "context": {"context": 768},
        "parallel": {"parallel": 3},
        "port": {"port": free_port()},
        "no-standby": {"standby": False},
        "flags-of-the-standby": {"vllmFlags": ["--max-num-queued-reqs 32"]},
        "hold-budget": {"holdBudgetSeconds": 1200},
        "max-request": {"maxRequestMiB": 8},
        "gateway-none": {"gateway": "none"},
        "drain": {"drainSeconds": 100},
        "gate": {"gateCompletions": 2},
        "name": {"name": "house-model"},
    }
    before = project.settings_file.read_text()
    for name, changed in plain.items():
        project.configure(**changed)
        record(project, name)
        project.settings_file.write_text(before)


def programs(project: Project) -> None:
    """Changes of the program, some of which no reviewer should let pass."""
    offline = "changeover-offline"
    with (
        image(f"{offline}/tensorzero:2026.7.0", f"{offline}/tensorzero:2026.6.0"),
        patched(project, "components/pins.py", 'version="2026.6.0"', 'version="2026.7.0"'),
    ):
        record(project, "gateway-image")
    with (
        image(f"{offline}/caddy:latest", f"{offline}/caddy:2.11.9"),
        patched(project, "components/pins.py", 'version="2.11.9"', 'version="latest"'),
    ):
        record(project, "latest-image")
    ports = "gpus=spec.gpus,\n            ports=[docker.ContainerPortArgs(internal=8000, external=18999)],"
    with patched(project, "components/engine.py", "gpus=spec.gpus,", ports):
        record(project, "engine-port")
    with patched(project, "stacks/endpoint.py", 'naming.child(kind, "weights")', 'f"{kind}-store"'):
        record(project, "weights-renamed")
    with patched(project, "stacks/endpoint.py", 'driver="bridge"', 'driver="bridge", internal=True'):
        record(project, "network")
    with patched(project, "components/models.toml", 'revision = "2"', 'revision = "3"'):
        record(project, "other-weights")
    with patched(project, "switch/checks.py", '"""What has', '"""More. What has'):
        record(project, "switch-code")
    with patched(project, "proxy/__init__.py", '"""The', '"""More. The'):
        record(project, "proxy-code")


def repaired(project: Project, name: str) -> None:
    """Keep the preview under `name`, and put right what it shows."""
    record(project, name)
    project.pulumi("up", "--yes", "--skip-preview", "--refresh")
    assert not parse(events(project)).changes, f"{name}: the repair left a difference behind"


def only(project: Project, role: str) -> str:
    (name,) = project.containers(role)
    return name


def by_hand(project: Project) -> None:
    """What was changed behind Pulumi's back; each is put right afterwards."""
    docker("stop", only(project, "switch"))
    repaired(project, "switch-stopped")
    docker("stop", only(project, "edge"))
    repaired(project, "edge-stopped")
    docker("rm", "--force", only(project, "edge"))
    repaired(project, "edge-gone")
    change = "wget -q -O /dev/null --header 'Content-Type: application/json' --post-data '\"5m\"' "
    path = "http://localhost:2019/config/apps/http/grace_period"
    docker("exec", only(project, "edge"), "sh", "-c", change + path)
    repaired(project, "edge-edited")
    docker("exec", only(project, "switch"), "sh", "-c", "echo '{}' >/live/keys.json")
    repaired(project, "keys-edited")
    docker("rm", "--force", only(project, "proxy"))
    repaired(project, "proxy-gone")
    edit = ("sed", "-i", "s/630000/1000/", "/app/config/tensorzero.toml")
    docker("exec", "--user", "0", only(project, "gateway"), *edit)
    repaired(project, "gateway-edited")
    docker("rm", "--force", only(project, "gateway"))
    repaired(project, "gateway-gone")
    (standby,) = {*project.containers("engine")} - {project.live()}  # an engine has no limit to go back to
    docker("update", "--memory", "900m", "--memory-swap", "900m", standby)
    record(project, "memory-limit")
    docker("rm", standby)
    project.up("--refresh")


def serve_with_the_standby(stack: str, folder: Path) -> str:
    """Has the switch make the standby active, as someone at the host could. Returns its container."""
    ours = from_files(stack, folder)
    other = blueprint_of(replace(ours, engine=ours.kinds[1]))

    def named(role: str) -> list[str]:
        labels = (f"label=changeover.{mark}" for mark in (f"stack={stack}", f"role={role}"))
        filters = [word for label in labels for word in ("--filter", label)]
        return docker("ps", "--all", *filters, "--format", "{{.Names}}").split()

    (container,) = [name for name in named("engine") if f"-{ours.kinds[1]}-" in name]
    (switch,), (gateway,) = named("switch"), named("gateway")
    toml = docker("exec", gateway, "cat", "/app/config/tensorzero.toml")
    command = ["docker", "exec", "-i", switch, "python3", "-m", "switch"]

    def tell(verb: str, plan: str) -> None:
        content = json.loads(plan)
        content["gateway"]["config"] = toml
        subprocess.run(
            [*command, verb], input=json.dumps(content), text=True, check=True, stdout=subprocess.DEVNULL
        )
        while (code := subprocess.run([*command, "follow"], stdout=subprocess.DEVNULL).returncode) == 75:
            pass
        assert code == 0, docker("exec", switch, "python3", "-m", "switch", "status")

    tell("prepare", other.plan().leading_to(container).text)
    docker("start", gateway)
    tell("commit", other.plan().leading_to(container, gateway).text)
    return container


def by_the_switch(project: Project) -> None:
    serve_with_the_standby(project.stack, project.folder)
    repaired(project, "engine-by-hand")


def keys(project: Project) -> None:
    """Changes of API keys, which only the stack's own key decrypts."""

    def key(value: str, tenant: str = "acme") -> None:
        project.pulumi("config", "set", "--secret", "--path", f"apiKeys.{tenant}", value)

    key("first-key-0123456789")
    record(project, "first-key")
    project.up()
    key("other-key-0123456789")
    record(project, "key-rotated")
    before = project.settings_file.read_text()
    project.configure(holdBudgetSeconds=1200)
    record(project, "key-rotated-and-hold-budget")
    project.settings_file.write_text(before)
    key("second-key-0123456789", "other")
    record(project, "tenant-added")
    project.configure(apiKeys=None)
    record(project, "last-key-removed")


def fails(project: Project, why: str) -> None:
    try:
        project.up()
    except CommandFailed:
        return
    raise AssertionError(f"an update went well with {why}")


def failures(project: Project) -> None:
    """What is left to do after an update that did not come to its end."""
    before = project.settings_file.read_text()
    project.configure(engine="vllm", gateTokensPerSecond=1_000_000)
    fails(project, "an engine that is too slow")
    project.settings_file.write_text(before)
    record(project, "after-a-failure")
    project.configure(engine="vllm")
    with patched(project, "components/plan.py", "COMMIT = 'exec", "COMMIT = 'exit 1; exec"):
        fails(project, "a step that exits 1")
    while not project.settled():
        time.sleep(1)
    project.settings_file.write_text(before)
    record(project, "after-a-failure-before-the-end")
    project.up()


def the_other_way(project: Project) -> None:
    """From vLLM, without a standby, and back."""
    project.configure(engine="vllm", standby=False)
    project.up()
    project.configure(standby=True)
    record(project, "standby-added")
    project.up()
    project.configure(engine="ollama")
    record(project, "flip-back")


PARTS: tuple[Callable[[Project], None], ...] = (
    settings,
    programs,
    by_hand,
    by_the_switch,
    failures,
    keys,
    the_other_way,
)


def rendered() -> None:
    """Write the reviews of what was recorded before, after a change of their words."""
    for file in GOLDEN.glob("*.events"):
        file.with_suffix(".md").write_text(render(seen_in(file.read_text().splitlines())))


def main() -> None:
    if sys.argv[1:] == ["render"]:
        rendered()
        return
    wanted = sys.argv[1:] or [part.__name__ for part in PARTS]
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), STACK, **offline_settings(parallel=2))
        project.wipe()
        use_fast_engine(project.folder, VERSION)
        try:
            record(project, "first-deployment")
            project.up()
            for part in PARTS:
                if part.__name__ in wanted:
                    part(project)
        finally:
            project.wipe()
            remove_fast_engine(VERSION)


if __name__ == "__main__":
    main()
