"""`make watch`: one screen that follows a running stack, and a change of its engine, until `q` is typed.

It asks the switch on the stack's Docker host once a second, over SSH where that is on AWS, and nothing else
is needed for it. `ONCE=1`, or an output that is no terminal, prints one frame as text.
"""

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import termios
import threading
import time
import tty
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import (
    Console,
    ConsoleDimensions,
    ConsoleOptions,
    Group,
    RenderableType,
    RenderResult,
)
from rich.live import Live
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from common import StepFailed, main_guard
from switch.owner import ago
from tools import rates
from tools.status import switch_of

EVERY_SECONDS = 1.0
ONCE_SECONDS = 3.0
"""Between the two looks of a single frame."""
AGAIN_SECONDS = 2.0
"""After the switch was lost, before it is looked for again."""
SILENT_SECONDS = 10.0
"""Without an answer of the switch, from which on that is said."""
QUIET_SECONDS = 2.0
"""Between two frames while nothing is held and no change is under way."""
TENANTS = 8
GIB = 2**30
WIDTH = 100
"""Of a frame that goes to no terminal."""
BAR = 14
"""Characters of a bar."""


class Feed:
    """The lines of one stack's switch; `lines` has them, and in words what is wrong where there is none."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.lines: queue.Queue[dict[str, Any] | str] = queue.Queue()
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, args=(switch_of(stack),), daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        if self._process is not None:
            self._process.kill()

    def _follow(self, switch: str) -> None:
        while not self._over.is_set():
            self._ask(switch)
            if self._over.wait(AGAIN_SECONDS):
                return
            try:
                switch = switch_of(self.stack)
            except StepFailed as error:
                self.lines.put(str(error))

    def _ask(self, switch: str) -> None:
        """Asks once a second, until there is no answer any more."""
        words = ["docker", "exec", "-i", switch, "python3", "-m", "switch", "observe"]
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process
        ) as self._process:
            assert self._process.stdin and self._process.stdout
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    self._process.stdin.write("\n")
                    self._process.stdin.flush()
                except OSError:
                    break
                line = self._process.stdout.readline()
                if not line:
                    break
                self.lines.put(_read(line))
                self._over.wait(max(0.0, EVERY_SECONDS - (time.monotonic() - began)))
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.kill()
        self.lines.put("the switch does not answer; looking for it again")


def _read(line: str) -> dict[str, Any] | str:
    """What the switch said, or what is wrong with it."""
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        return f"the switch answered {line.strip()!r}. If it is of another version, run: pulumi up"
    return str(said["error"]) if "error" in said else said


# what is shown


class Pairs:
    """Rows of two panels, each as wide as half of the screen.

    A table would measure all that is in them several times before it draws it, which costs more than to draw.
    """

    def __init__(self, *rows: tuple[Panel, Panel]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        half = options.max_width // 2
        widths = half - 1, options.max_width - half
        for row in self.rows:
            drawn = [
                console.render_lines(panel, options.update(width=width, height=None))
                for panel, width in zip(row, widths, strict=True)
            ]
            height = max(len(lines) for lines in drawn)
            left, right = (
                Segment.set_shape(lines, width, height) for lines, width in zip(drawn, widths, strict=True)
            )
            for number in range(height):
                yield from left[number]
                yield Segment(" ")
                yield from right[number]
                yield Segment.line()


def frame(
    stack: str, line: Mapping[str, Any] | None, minute: rates.Minute, wrong: str, height: int
) -> RenderableType:
    """The whole screen; `wrong` is why there is nothing newer."""
    title = Text.assemble(("changeover", "bold"), f"  stack {stack}")
    if line is None:
        return Group(title, Text(wrong or "asking the switch …", "yellow"))
    status = line["status"]
    clock = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(line["now"]))
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(title, clock)
    pairs = Pairs(
        (
            Panel(_serves(status, line["now"]), title="engine", title_align="left"),
            Panel(_requests(status, minute), title="requests", title_align="left"),
        ),
        (
            Panel(_last_minute(minute), title=f"last {minute.seconds:.0f} s", title_align="left"),
            Panel(_machine(line, minute), title="machine", title_align="left"),
        ),
    )
    alerts = [*([wrong] if wrong else []), *_alerts(status)]
    # a switch of an older version says nothing of a monitor's
    alerts += [f"{each['severity']}: {each['summary']}" for each in line.get("alerts", [])]
    said = Group(*(Text(each, "bold red") for each in alerts)) if alerts else Text("nothing", "green")
    rows: list[RenderableType] = [head, Panel(said, title="alerts", title_align="left"), pairs]
    room = max(1, (height - 20 - len(alerts)) // 2)
    for name, lines in line["logs"].items():
        shown = Text("\n".join(lines[-room:]) or "nothing yet", no_wrap=True, overflow="ellipsis")
        rows.append(Panel(shown, title=f"log of the {name}", title_align="left", style="dim"))
    return Group(*rows)


def _grid(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, what in rows:
        table.add_row(name, what)
    return table


def _serves(status: Mapping[str, Any], now: float) -> Table:
    active, change, last = status["active"], status["under_way"], status["last"]
    rows: list[tuple[str, RenderableType]] = []
    if active is None:
        rows.append(("serves", Text("nothing yet: no change has been committed", "yellow")))
    else:
        kind = Text(f"{active['kind']}  {active['model']}", "bold green" if status["gated"] else "bold red")
        rows.append(("serves" if status["gated"] else "not ready", kind))
        rows.append(("since", f"{ago(now - active['since'])}"))
        gateway = status["gateway"]
        stands = status["containers"].get(gateway, "is gone")
        rows.append(("gateway", stands if gateway else "none: the proxies ask the engine directly"))
    if change:
        to = f"to {change['kind']}: {change['phase']} {change['phase_seconds']:.0f} s"
        rows.append(("change", Text(f"{to}, {change['seconds']:.0f} s in all", "bold yellow")))
        rows += [("", f"{step['phase']} {step['seconds']:.1f} s") for step in change["steps"][-3:]]
    elif last:
        took = f"to {last['kind']} {last['phase']} in {last['seconds']:.0f} s"
        rows.append(("last", f"{took}, {ago(now - last['began'])} ago"))
        if last["error"]:
            rows.append(("", Text(last["error"], "red")))
    return _grid(rows)


def _requests(status: Mapping[str, Any], minute: rates.Minute) -> Table:
    said = [each for each in status["proxies"].values() if each]
    running = sum(sum(each["running"].values()) for each in said)
    waiting = sum(each["held"] for each in said)
    there, wait = Counter[str](), Counter[str]()
    for each in said:
        there.update(each["tenants"])
        wait.update(each.get("waiting", {}))  # a switch of an older version does not say whose they are
    rows: list[tuple[str, RenderableType]] = [
        ("at the engine", Text(str(running), "bold")),
        ("held" if status["held_since"] else "waiting", Text(str(waiting), "bold yellow" if waiting else "")),
    ]
    now = there + wait
    for tenant in sorted({*now, *minute.tenants}, key=lambda each: (-now[each], each))[:TENANTS]:
        waits = f"{wait[tenant]} waiting, " if wait[tenant] else ""
        rows.append((tenant, f"{there[tenant]} now, {waits}{minute.tenants.get(tenant, 0):.0f} ended"))
    return _grid(rows)


def _last_minute(minute: rates.Minute) -> Table:
    seconds = minute.seconds or 1
    p50, p95 = (("none" if each is None else f"{each:.2f} s") for each in minute.first)
    errors = Text(
        f"{minute.errors:.0f} errors, {minute.cut:.0f} cut", "red" if minute.errors + minute.cut else ""
    )
    return _grid(
        [
            ("requests", f"{minute.requests / seconds:.1f} a second, {minute.requests:.0f} in all"),
            ("failed", errors),
            ("first byte", f"p50 {p50}, p95 {p95}"),
            ("tokens", f"{minute.tokens / seconds:.1f} a second"),
        ]
    )


def _machine(line: Mapping[str, Any], minute: rates.Minute) -> RenderableType:
    rows: list[tuple[str, RenderableType]] = []
    gpus = line["status"]["gpus"]
    if isinstance(gpus, str):
        rows.append(("GPU", Text(gpus, "red")))
    else:
        for number, each in enumerate(gpus):
            rows.append((f"GPU {number}", _bar(each["busy"], 100, "%")))
            rows.append(("memory", _bar(_gib(each["used"]), _gib(each["size"]) or 0, "GiB")))
            rows.append(("", f"{_known(each['watts'], 'W')}, {_known(each['celsius'], '°C')}"))
    memory = line["status"]["memory"]
    count = line["cpu"]["count"]
    rows.append((f"{count} CPUs", _bar(None if minute.cpu is None else 100 * minute.cpu, 100, "%")))
    rows.append(("RAM", _bar((memory["size"] - memory["free"]) / GIB, memory["size"] / GIB, "GiB")))
    for name, disk in line["status"]["disks"].items():
        rows.append((f"disk {name}", f"{disk['free'] / GIB:.1f} of {disk['size'] / GIB:.1f} GiB free"))
    return _grid(rows)


def _gib(size: float | None) -> float | None:
    return None if size is None else size / GIB


def _known(value: float | None, unit: str) -> str:
    return f"{'unknown' if value is None else f'{value:.0f}'} {unit}"


def _bar(value: float | None, most: float, unit: str) -> Text:
    if value is None:
        return Text("not known yet")
    full = round(BAR * min(1.0, max(0.0, value / most))) if most else 0
    text = f"{value:.0f} %" if unit == "%" else f"{value:.1f} of {most:.1f} {unit}"
    return Text.assemble(("━" * full, "bar.complete"), ("─" * (BAR - full), "bar.back"), f" {text}")


def _alerts(status: Mapping[str, Any]) -> list[str]:
    found = [status["trouble"]] if status["trouble"] else []
    found += [f"{name} {how}" for name, how in status["silent"].items()]
    found += [f"{name} does not answer" for name, said in status["proxies"].items() if not said]
    if not status["proxies"]:
        found.append("no proxy runs")
    if status["held_since"] and not status["under_way"]:
        found.append("requests wait, and no change is under way")
    if status["journal"]:
        found.append("the journal was damaged. Run: pulumi up")
    return found


# the screen


@contextlib.contextmanager
def keys() -> Iterator[int | None]:
    """Each key at once, where somebody can type one."""
    if not sys.stdin.isatty():
        yield None
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def typed(keyboard: int | None, seconds: float) -> bytes:
    """What was typed within so many seconds; `q` where there is nobody to type any more."""
    if keyboard is None:
        time.sleep(seconds)
        return b""
    ready, _, _ = select.select([keyboard], [], [], seconds)
    return (os.read(keyboard, 64) or b"q") if ready else b""


def moment(line: Mapping[str, Any]) -> float:
    """Which frame a line belongs to, as a number. While nothing happens, lines of QUIET_SECONDS share one,
    since drawing costs more than all the rest."""
    now, status = float(line["now"]), line["status"]
    return now if status["under_way"] or status["held_since"] else now // QUIET_SECONDS


def follow(stack: str, watched: Feed, console: Console) -> None:
    """Shows what comes in until `q` is typed."""
    looks: list[rates.Look] = []
    line: dict[str, Any] | None = None
    wrong, heard, minute = "", time.monotonic(), rates.Minute(0)
    shown: tuple[float, str, ConsoleDimensions] | None = None
    with keys() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while b"q" not in typed(keyboard, 0.2):
            with contextlib.suppress(queue.Empty):
                while True:
                    said = watched.lines.get_nowait()
                    if isinstance(said, str):
                        wrong = said
                        continue
                    line, wrong, heard = said, "", time.monotonic()
                    looks = rates.trimmed([*looks, rates.look(said)])
                    minute = rates.minute(looks)
            silent = time.monotonic() - heard
            why = wrong or (f"no answer for {silent:.0f} s" if silent > SILENT_SECONDS else "")
            new = (moment(line) if line else 0.0, why, console.size)
            if shown != new:
                live.update(frame(stack, line, minute, why, console.height), refresh=True)
                shown = new


def once(stack: str, watched: Feed, console: Console) -> None:
    """Prints one frame, with the rates of a few seconds. Raises StepFailed where the switch says nothing."""
    looks: list[rates.Look] = []
    line: dict[str, Any] | None = None
    end = time.monotonic() + ONCE_SECONDS + 30
    while len(looks) < 2 or looks[-1].now - looks[0].now < ONCE_SECONDS:
        try:
            said = watched.lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise StepFailed(f"the switch of stack `{stack}` does not answer") from None
        if isinstance(said, str):
            raise StepFailed(said)
        line = said
        looks.append(rates.look(said))
    console.print(frame(stack, line, rates.minute(looks), "", 40))


def watch(stack: str) -> None:
    """Shows the stack. Raises StepFailed where there is none, or it is another state's."""
    for size in ("COLUMNS", "LINES"):  # what a shell exported of it stays when the terminal changes
        os.environ.pop(size, None)
    terminal = sys.stdout.isatty() and os.environ.get("ONCE") != "1"
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDTH)
    with Feed(stack) as watched, contextlib.suppress(KeyboardInterrupt):
        if terminal:
            follow(stack, watched, console)
        else:
            once(stack, watched, console)


if __name__ == "__main__":
    main_guard(lambda: watch(sys.argv[1]))
