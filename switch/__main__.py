"""`python3 -m switch VERB`, run by `docker exec` in the switch's container.

Exit status: 0 done, 1 failed or refused, 2 used wrongly, 75 still under way: what is followed, or what
has to end before the change that is asked for.
"""

import argparse
import contextlib
import dataclasses
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
from typing import Any

import switch
from switch import certificate, daemon, gpu, keys
from switch.checks import Failed, check
from switch.daemon import Switch, proxies
from switch.docker import Docker, DockerError
from switch.exchange import exchange
from switch.gc import Busy, collect
from switch.gpu import GpuError
from switch.journal import Journal
from switch.live import serving
from switch.machine import UNDER_WAY, State, Transaction, World, gated
from switch.plan import Gateway, PlanError, load, parse
from switch.proxies import Status, statuses
from switch.weights import GIB, Fetch, fetch, receive, say

SOCKET, JOURNAL, WEIGHTS, LOCKS = Path("/tmp/switch.sock"), Path("/journal"), Path("/weights"), Path("/tmp")
TENANTS = 5
"""How many the screen names, those with most requests first."""
LIVE = Path("/tmp/live")
SHARED = Path("/live")
"""The folder that the proxies read."""
KEYS = JOURNAL / "keys.json"
"""What is remembered of the keys that were applied last."""


def look(state: State, docker: Docker) -> list[str]:
    """Whether gateway and keys are what was declared, a line each. Nothing is said of what isn't there."""
    lines = [f"keys {keys.look(SHARED, KEYS)}"]
    gateway = state.active.plan.gateway if state.active else None
    if gateway:
        with contextlib.suppress(DockerError):
            lines.insert(0, f"gateway {gateway_config(gateway, docker)}")
    return lines


def gateway_config(gateway: Gateway, docker: Docker) -> str:
    """`edited in place` with a digest if the committed gateway's file is not the committed config, else what
    its container's label says: that was said before it was created. Raises DockerError."""
    text = docker.get(gateway.container, gateway.config_file)
    if text != gateway.config:
        return f"edited in place {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return docker.labels_of(gateway.container).get("changeover.config", keys.AS_DECLARED)


def report(
    state: State,
    world: World,
    told: dict[str, Status | None],
    weights: Path,
    now: float,
    unkept: str = "",
) -> dict[str, Any]:
    """All that `status` shows; times in seconds since the epoch, sizes in bytes. `told` is what each running
    proxy says, None where it says nothing."""
    a, t = state.active, state.transaction
    t = t if t and t.phase in UNDER_WAY else None
    disks = {}
    for folder in sorted(weights.glob("*")):
        disk = os.statvfs(folder)
        disks[folder.name] = {"free": disk.f_bavail * disk.f_frsize, "size": disk.f_blocks * disk.f_frsize}
    return {
        "live": serving(state, world),
        "active": a and {**dataclasses.asdict(a.plan.engine), "since": a.since},
        "gated": gated(state, world),
        "gateway": a and a.plan.gateway_container,
        "held_since": state.held,
        "trouble": state.trouble or unkept,
        "under_way": t and _short(t, now),
        "last": state.last and _short(state.last, now),
        "containers": {c.name: "running" if c.running else "stopped" for c in world.values()},
        "disks": disks,
        "proxies": {name: said and dataclasses.asdict(said) for name, said in told.items()},
        "memory": _memory(),
        "gpus": _gpus(a.plan.engine.gpu_bytes if a else 0),
    }


def _memory() -> dict[str, int]:
    """Free and all RAM of the host, in bytes."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
    return {"free": kib["MemAvailable"] * 1024, "size": kib["MemTotal"] * 1024}


def _gpus(wanted: int) -> list[dict[str, int]] | str:
    """Free and all memory of each GPU in bytes, what the driver's tool said instead, or nothing on a CPU."""
    if not wanted:
        return []
    try:
        return [{"free": free, "size": size} for free, size in gpu.memory()]
    except GpuError as error:
        return str(error)


def _short(t: Transaction, now: float) -> dict[str, Any]:
    return {
        "kind": t.plan.engine.kind,
        "container": t.plan.engine.container,
        "from": t.old_engine,
        "asked": t.asked,
        "way": t.way,
        "phase": t.phase,
        "phase_seconds": round(now - t.since, 1),
        "began": t.began,
        "seconds": round((t.ended or now) - t.began, 1),
        "held_seconds": t.held_seconds,
        "error": t.error,
        "abandoned": t.abandoned,
        "steps": t.steps,
        "gates": t.gates,
    }


def screen(r: dict[str, Any], now: float) -> str:
    """The report for a person, on one screen."""
    a, t, last = r["active"], r["under_way"], r["last"]
    lines = ["serves    nothing: no change has been committed yet"]
    if a:
        state = "serves" if r["gated"] else "IS NOT READY"
        lines = [f"engine    {a['kind']} ({a['container']}) {state}, committed {_ago(now - a['since'])} ago"]
        stands = f"{r['gateway']} {r['containers'].get(r['gateway'], 'is gone')}"
        lines.append(f"gateway   {stands if r['gateway'] else 'none: the proxies ask the engine'}")
    lines += _requests(r["proxies"])
    if r["held_since"]:
        lines.append(f"held      requests wait since {_ago(now - r['held_since'])}")
    if r["trouble"]:
        lines.append(f"trouble   {r['trouble']}; the switch keeps trying")
    lines.append(f"under way {_named(t)} for {t['phase_seconds']:.0f} s" if t else "under way nothing")
    if last:
        held = f", {last['held_seconds']:.1f} s held" if last["held_seconds"] else ""
        ago, took = _ago(now - last["began"]), f"{last['seconds']:.1f} s"
        lines.append(f"last      {_named(last)}, {ago} ago, {took}{held}")
        lines.append("          " + ", ".join(f"{s['phase']} {s['seconds']:.1f} s" for s in last["steps"]))
        if last["error"]:
            lines.append(f"          {last['error']}")
    rooms = [(f"disk      weights/{name}", disk) for name, disk in r["disks"].items()]
    rooms.append(("memory    host", r["memory"]))
    if isinstance(r["gpus"], str):
        lines.append(f"memory    GPU: {r['gpus']}")
    else:
        rooms += [(f"memory    GPU {number}", each) for number, each in enumerate(r["gpus"])]
    for name, room in rooms:
        lines.append(f"{name}: {room['free'] / GIB:.1f} of {room['size'] / GIB:.1f} GiB free")
    return "\n".join(lines)


def _requests(proxies: dict[str, dict[str, Any] | None]) -> list[str]:
    """What the proxies say, all together: requests in flight and held, and whose they are."""
    there = [said for said in proxies.values() if said]
    running, held = (sum(sum(s["running"].values()) for s in there), sum(s["held"] for s in there))
    lines = [f"requests  {running} in flight, {held} waiting"] if there else []
    tenants = Counter[str]()
    for said in there:
        tenants.update(said["tenants"])
    if tenants:
        most = [f"{tenant} {count}" for tenant, count in tenants.most_common(TENANTS)]
        lines.append(f"tenants   {', '.join(most)}{', …' if len(tenants) > TENANTS else ''}")
    lines += [f"proxy     {name} does not answer" for name, said in proxies.items() if not said]
    return lines or ["proxy     none runs"]


def _named(t: dict[str, Any]) -> str:
    ended = "ended" if t["abandoned"] and t["phase"] == "failed" else t["phase"]
    return f"to {t['kind']} ({t['container']}): {ended}"


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m switch", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in {
        "serve": "be the switch (process 1 of its container)",
        "prepare": "make the engine of the plan on stdin ready; `follow` shows how it goes",
        "check": "look whether the plan on stdin could be carried out; changes nothing",
        "look": "print whether the gateway's config and the keys are what was declared, a line each",
        "exchange": "send the HTTP requests on stdin to containers of the stack, one JSON a line, and answer",
        "release": "keep nothing running any more, before the stack is taken down; stops nothing",
        "fetch": "fetch the weights that the JSON on stdin describes",
    }.items():
        verbs.add_parser(verb, help=text)
    committer = verbs.add_parser("commit", help="make the gateway and engine of the plan on stdin active")
    committer.add_argument("--seen", default="", help="what `/tmp/live` held, which the coordinator keeps")
    keeper = verbs.add_parser("keys", help="give the proxies the keys of the JSON on stdin, as digests")
    keeper.add_argument("--seen", default="", help="what `look` said of the keys, which it says again then")
    verbs.add_parser("follow", help="print what is new, wait a little").add_argument("--engine", default="")
    abandoner = verbs.add_parser("abandon", help="give up a prepared change on purpose, and restore")
    abandoner.add_argument("--engine", required=True, help="the container that was to be prepared")
    verbs.add_parser("status", help="one screen").add_argument("--json", action="store_true")
    proof = verbs.add_parser("certificate", help="the last change's certificate in one line")
    proof.add_argument("--tar", action="store_true", help="its two files instead, as a tar")
    freer = verbs.add_parser("gc", help="name weights and images that neither serve nor lead back")
    freer.add_argument("--free", action="store_true", help="free them")
    taker = verbs.add_parser("receive", help="unpack a tar from stdin into the weights' folder `source`")
    taker.add_argument("--engine", choices=("ollama", "vllm"), required=True)
    taker.add_argument("--folder", required=True)
    args = parser.parse_args(argv)
    docker = Docker(os.environ.get("CHANGEOVER_PROJECT", ""), os.environ.get("CHANGEOVER_STACK", ""))
    try:
        return _run(args, docker)
    except (Failed, Busy, PlanError, DockerError, ValueError, OSError) as error:
        print(f"{args.verb}: {error}", flush=True)
        return 1


def _run(args: argparse.Namespace, docker: Docker) -> int:
    match args.verb:
        case "serve":
            unpack()
            daemon.serve(Switch(docker, Journal(JOURNAL), WEIGHTS, LIVE, SHARED), SOCKET)
        case "prepare" | "commit" | "follow" | "abandon" | "release":
            request: dict[str, Any] = {"verb": args.verb}
            if args.verb in ("follow", "abandon"):
                request["engine"] = args.engine
            elif args.verb != "release":
                request |= {"plan": json.load(sys.stdin), "seen": getattr(args, "seen", "")}
            reply = daemon.ask(SOCKET, request)
            for line in reply["lines"]:
                say(line)
            return int(reply["code"])
        case "check":
            say(check(parse(json.load(sys.stdin), "prepare"), docker, JOURNAL, WEIGHTS))
        case "keys":
            content = keys.parse(json.load(sys.stdin))
            say(keys.apply(content, args.seen, SHARED, KEYS, lambda: proxies(docker.world())))
        case "look":
            for line in look(_state()[0], docker):
                say(line)
        case "status":
            now = time.time()
            state, unkept = _state()
            world = docker.world()
            said = statuses(running := proxies(world))
            r = report(state, world, {name: said.get(name) for name in running}, WEIGHTS, now, unkept)
            say(json.dumps(r, indent=2) if args.json else screen(r, now))
        case "certificate":
            _certificate(_state()[0].last, tar=args.tar)
        case "gc":
            collect(_state()[0], docker, WEIGHTS, LOCKS, say, free=args.free)
        case "exchange":
            for line in sys.stdin:
                say(json.dumps(exchange(json.loads(line))))
        case "receive":
            say(receive(WEIGHTS, args.engine, args.folder, sys.stdin.buffer))
        case "fetch":
            fetch(load(Fetch, json.load(sys.stdin), "fetch"), docker, WEIGHTS, say, LOCKS)
    return 0


def unpack() -> None:
    """Lays the modules out beside the archive that they came in, where Python looks first.

    It keeps what it compiled of a file, and would compile an archive's anew in each `docker exec`.
    """
    archive = Path(switch.__file__).parent.parent
    if not archive.is_file():
        return
    folder = archive.parent
    with contextlib.suppress(OSError), zipfile.ZipFile(archive) as modules:  # a full disk: slower, and well
        modules.extractall(folder / "new")
        (folder / "new" / "switch").replace(folder / "switch")


def _state() -> tuple[State, str]:
    """What the switch knows now, and why its journal is older than that. Raises OSError."""
    reply = daemon.ask(SOCKET, {"verb": "state"})
    return load(State, reply["state"], "state"), reply["unkept"]


def _certificate(last: Transaction | None, *, tar: bool) -> None:
    """Of the change that has ended last. Raises Failed when there is none."""
    if last is None:
        raise Failed("no change has ended yet")
    content = certificate.certificate(last)
    if not tar:
        say(certificate.short(content))
        return
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in certificate.files(content).items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text.encode()), int(last.ended)
            archive.addfile(member, io.BytesIO(text.encode()))
    sys.stdout.buffer.write(raw.getvalue())


if __name__ == "__main__":
    sys.exit(main())
