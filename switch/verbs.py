"""The verbs of `python3 -m switch` but for those with which a change is made, and what they print."""

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import switch
from switch import answers, certificate, daemon, keys, owner, shared
from switch.asking import SOCKET, ask
from switch.checks import Failed, check
from switch.daemon import Daemon, proxies
from switch.docker import Docker, DockerError
from switch.exchange import exchange
from switch.gc import Busy, collect
from switch.journal import Journal
from switch.machine import State, World
from switch.observe import observe
from switch.owner import OwnerRecord, ago
from switch.plan import EngineKind, Fetch, PlannedGateway, load, parse
from switch.proxies import statuses
from switch.report import report
from switch.weights import GIB, fetch, receive, say

LOCKS = Path("/tmp")
JOURNAL, WEIGHTS = Path(shared.JOURNAL), Path(shared.WEIGHTS)
TENANTS = 5
"""How many the screen names, those with most requests first."""
LIVE, SHARED = Path(shared.LIVE_FILE), Path(shared.LIVE)
APPLIED_KEYS = JOURNAL / "keys.json"
"""What is remembered of the keys that were applied last."""


def look(state: State, docker: Docker) -> list[str]:
    """Whether gateway and keys are what was declared, one line for each. What isn't there has no line."""
    lines = [answers.line("keys", keys.look(SHARED, APPLIED_KEYS))]
    gateway = state.active.plan.gateway if state.active else None
    if gateway:
        with contextlib.suppress(DockerError):
            lines.insert(0, answers.line("gateway", gateway_config(gateway, docker)))
    return lines


def gateway_config(gateway: PlannedGateway, docker: Docker) -> str:
    """`edited in place` with a digest if the committed gateway's file is not the committed config. Otherwise
    what its container's label says, which repeats what was said before it was created. Raises DockerError."""
    text = docker.get(gateway.container, gateway.config_file)
    if text != gateway.config:
        return answers.edited(hashlib.sha256(text.encode()).hexdigest())
    return docker.labels_of(gateway.container).get(shared.label("config"), answers.AS_DECLARED)


def screen(seen: dict[str, Any], now: float) -> str:
    """The report for a person, on one screen."""
    active, change, last = seen["active"], seen["under_way"], seen["last"]
    lines = ["serves    nothing: no change has been committed yet"]
    if damaged := seen["journal"]:
        running = ", ".join(seen["engines_running"])
        lines = [f"engine    {running} runs" if running else "serves    nothing: no engine runs"]
    if active:
        state = "serves" if seen["gated"] else "IS NOT READY"
        engine, since = f"{active['kind']} ({active['container']})", ago(now - active["since"])
        lines = [f"engine    {engine} {state}, committed {since} ago"]
        stands = f"{seen['gateway']} {seen['containers'].get(seen['gateway'], 'is gone')}"
        lines.append(f"gateway   {stands if seen['gateway'] else 'none: the proxies ask the engine'}")
    lines += _requests(seen["proxies"])
    if damaged:
        lines.append(f"journal   was damaged, seen {ago(now - damaged['damaged_at'])} ago: {damaged['why']}")
        lines.append(f"          known: {damaged['known']}")
        lines.append(f"          not known: {damaged['unknown']}")
        lines.append("          nothing is freed until `pulumi up` has made it right")
    if seen["held_since"]:
        lines.append(f"held      requests wait since {ago(now - seen['held_since'])}")
    if seen["trouble"]:
        lines.append(f"trouble   {seen['trouble'].rstrip('.')}; the switch keeps trying")
    lines += [f"silent    {name} {how}" for name, how in seen["silent"].items()]
    if seen["healed"]:
        lines.append(f"put right {seen['healed']['what']}, {ago(now - seen['healed']['at'])} ago")
    lines.append(
        f"under way {_named(change)} for {change['phase_seconds']:.0f} s" if change else "under way nothing"
    )
    if last:
        held = f", {last['held_seconds']:.1f} s held" if last["held_seconds"] else ""
        since, took = ago(now - last["began"]), f"{last['seconds']:.1f} s"
        lines.append(f"last      {_named(last)}, {since} ago, {took}{held}")
        lines.append("          " + ", ".join(f"{s['phase']} {s['seconds']:.1f} s" for s in last["steps"]))
        if last["error"]:
            lines.append(f"          {last['error']}")
    rooms = [(f"disk      weights/{name}", disk) for name, disk in seen["disks"].items()]
    rooms.append(("memory    host", seen["memory"]))
    if isinstance(seen["gpus"], str):
        lines.append(f"memory    GPU: {seen['gpus']}")
    else:
        rooms += [
            (f"memory    GPU {number}", each) for number, each in enumerate(seen["gpus"]) if each["size"]
        ]
    for name, room in rooms:
        lines.append(f"{name}: {room['free'] / GIB:.1f} of {room['size'] / GIB:.1f} GiB free")
    return "\n".join(lines)


def _requests(proxies: dict[str, dict[str, Any] | None]) -> list[str]:
    """The sums of what the proxies say: requests in flight and held, and whose they are."""
    there = [said for said in proxies.values() if said]
    running, held = (sum(sum(s["running"].values()) for s in there), sum(s["held"] for s in there))
    lines = [f"requests  {running} in flight, {held} waiting"] if there else []
    tenants, waiting = Counter[str](), Counter[str]()
    for said in there:
        tenants.update(said["tenants"])
        waiting.update(said["waiting"])
    for title, counts in (("tenants ", tenants), ("waiting ", waiting)):
        if counts:
            most = [f"{tenant} {count}" for tenant, count in counts.most_common(TENANTS)]
            lines.append(f"{title}  {', '.join(most)}{', …' if len(counts) > TENANTS else ''}")
    lines += [f"proxy     {name} does not answer" for name, said in proxies.items() if not said]
    return lines or ["proxy     none runs"]


def _named(change: dict[str, Any]) -> str:
    ended = "ended" if change["abandoned"] and change["phase"] == "failed" else change["phase"]
    return f"to {change['kind']} ({change['container']}): {ended}"


def run(args: argparse.Namespace) -> None:
    """Does what is asked for. Raises ValueError and OSError, whose text is for the person who asked."""
    docker = Docker(os.environ.get(shared.PROJECT, ""), os.environ.get(shared.STACK, ""))
    try:
        _run(args, docker)
    except (Failed, Busy, DockerError) as error:
        raise ValueError(str(error)) from error


def _run(args: argparse.Namespace, docker: Docker) -> None:
    match args.verb:
        case "serve":
            unpack()
            daemon.serve(Daemon(docker, Journal(JOURNAL), WEIGHTS, LIVE, SHARED), SOCKET)
        case "check":
            say(check(parse(json.load(sys.stdin), "prepare"), docker, JOURNAL, WEIGHTS))
        case "keys":
            content = keys.parse(json.load(sys.stdin))
            say(keys.apply(content, args.seen, SHARED, APPLIED_KEYS, lambda: proxies(docker.world()), say))
        case "look":
            for line in look(_state(), docker):
                say(line)
        case "status":
            seen, now, _ = _status(docker)
            say(json.dumps(seen, indent=2) if args.json else screen(seen, now))
        case "observe":
            for _ in sys.stdin:  # so that it ends with who asks, which an `exec` does not by itself
                say(json.dumps(_observe(docker)))
        case "certificate":
            _certificate(_state(), tar=args.tar, change=args.change)
        case "own":
            now = time.time()
            said = OwnerRecord(args.owner, args.folder, args.machine, now, now, args.changes, args.containers)
            say(owner.write(JOURNAL, said, args.instead))
        case "gc":
            collect(_state(), docker, WEIGHTS, LOCKS, say, free=args.free)
        case "exchange":
            for line in sys.stdin:
                say(json.dumps(exchange(json.loads(line))))
        case "receive":
            if args.engine not in get_args(EngineKind):
                raise Failed(f"--engine must be one of {', '.join(get_args(EngineKind))}")
            say(receive(WEIGHTS, args.engine, args.folder, sys.stdin.buffer))
        case "fetch":
            fetch(load(Fetch, json.load(sys.stdin), "fetch"), docker, WEIGHTS, say, LOCKS)


def _status(docker: Docker) -> tuple[dict[str, Any], float, World]:
    """What `status` shows, at what time that was so, and the containers. Raises OSError, DockerError."""
    reply = ask(SOCKET, {"verb": "state"})
    state, now = load(State, reply["state"], "state"), reply["now"]
    world = docker.world()
    told = statuses(running := proxies(world))
    each = {name: told.get(name) for name in running}
    return report(state, world, each, WEIGHTS, now, reply["write_error"], reply["silent"]), now, world


def _observe(docker: Docker) -> dict[str, Any]:
    """One line of `observe`. Where nothing can be told it has only `error`: a watcher goes on anyway."""
    try:
        status, now, world = _status(docker)
        return observe(status, now, world, docker)
    except (DockerError, ValueError, OSError) as error:
        return {"error": str(error) or repr(error)}


def unpack() -> None:
    """Unpacks the modules next to the archive that they came in, where Python looks first.

    Python keeps what it has compiled of a file, and would compile an archive's modules in each `docker exec`.
    """
    archive = Path(switch.__file__).parent.parent
    if not archive.is_file():
        return
    folder = archive.parent
    with contextlib.suppress(OSError), zipfile.ZipFile(archive) as modules:  # a full disk: slower, and well
        modules.extractall(folder / "new")
        (folder / "new" / "switch").replace(folder / "switch")


def _state() -> State:
    """What the switch knows now. Raises OSError."""
    state: State = load(State, ask(SOCKET, {"verb": "state"})["state"], "state")
    return state


def _certificate(state: State, *, tar: bool, change: str) -> None:
    """Prints the certificate of the last change that has ended. Raises Failed when there is none, or when it
    was not `change`, unless that has changed nothing: then what is printed is said to be older."""
    last, current = state.last, state.transaction
    if last is None:
        raise Failed("no change has ended yet")
    unchanged = current and current.phase == "unchanged" and current.coordinator == change
    older = change and last.coordinator != change
    if older and not unchanged:
        raise Failed("this change has not ended yet")
    content = certificate.certificate(last)
    if not tar:
        if older:
            say("unchanged since the last change, which was:")
        say(owner.counted(state.commits))
        say(answers.certified(certificate.short(content)))
        return
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in certificate.files(content).items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text.encode()), int(last.ended)
            archive.addfile(member, io.BytesIO(text.encode()))
    sys.stdout.buffer.write(raw.getvalue())
