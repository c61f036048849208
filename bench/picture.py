"""Pictures as SVG: requests over time, each a line from its start to its end, and figures over users."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.flips import Record

WIDTH, LEFT, LANE, ROW = 900, 12, 9, 13
HELD = "#dfe5ec"
COLOURS = {"streamed": "#2b7bba", "whole": "#e39a34", "aborted": "#9aa5b1", "failed": "#d0021b"}
BEFORE, AFTER = 2.0, 3.0
"""Seconds that are shown before the flip begins and after it ends."""


def draw(panels: Mapping[str, Record], file: Path) -> None:
    """One panel a flip, all on one scale, with the legend below."""
    first = -BEFORE
    last = max(flip["length"] for flip in panels.values()) + AFTER
    scale = (WIDTH - 2 * LEFT) / (last - first)

    def x(seconds: float) -> float:
        place: float = LEFT + (min(max(seconds, first), last) - first) * scale
        return round(place, 1)

    lines: list[str] = []
    top = 8
    for title, flip in panels.items():
        lines.append(_text(LEFT, top + 12, title, weight="bold"))
        ends: list[float] = []  # of the last label in each row
        labels = []
        for label, at in flip["marks"]:
            row = next((n for n, end in enumerate(ends) if end <= x(at)), len(ends))
            ends[row : row + 1] = [x(at) + 7 * len(label)]
            labels.append((label, x(at), row))
        top += 20 + ROW * len(ends)
        lanes: list[float] = []
        bars = []
        for begin, end, streamed, problem, aborted in flip["requests"]:
            if end < first or begin > flip["length"] + AFTER:
                continue
            lane = next((n for n, free in enumerate(lanes) if free <= begin), len(lanes))
            lanes[lane : lane + 1] = [end]
            kind = "aborted" if aborted else "streamed" if streamed else "whole"
            colour = COLOURS["failed" if problem else kind]
            left, y = x(begin), top + lane * LANE
            wide = max(x(end) - left - 0.6, 2.5 if problem else 0.8)
            bars.append(
                f'<rect x="{left}" y="{y + 1}" width="{wide:.1f}" height="{LANE - 2}" fill="{colour}"/>'
            )
        height = len(lanes) * LANE
        if flip.get("held_from") is not None:
            left, right = x(flip["held_from"]), x(flip["held_from"] + flip["hold"])
            lines.append(
                f'<rect x="{left}" y="{top - 5}" width="{right - left:.1f}" height="{height + 10}" '
                f'fill="{HELD}"/>'
            )
        lines += bars
        for label, at, row in labels:
            y = top - 8 - ROW * (len(ends) - 1 - row)
            lines.append(
                f'<path d="M{at} {y + 2}V{top + height}" stroke="#556" stroke-width="0.8" '
                'stroke-dasharray="2 2" fill="none"/>'
            )
            lines.append(_text(at + 2, y, label))
        top += height + 4
        for second in range(0, int(flip["length"] + AFTER) + 1, 5):
            lines.append(_text(x(second), top + 10, f"{second} s", anchor="middle", colour="#667"))
        top += 24
    left = float(LEFT)
    held = any(flip.get("held_from") is not None for flip in panels.values())
    colours = {**COLOURS, **({"held": HELD} if held else {})}
    if not any(each[4] for flip in panels.values() for each in flip["requests"]):
        del colours["aborted"]
    for name, colour in colours.items():
        lines.append(f'<rect x="{left}" y="{top}" width="14" height="9" rx="1" fill="{colour}"/>')
        lines.append(_text(left + 18, top + 8, name))
        left += 34 + 7 * len(name)
    _write(file, top + 18, lines)


LINES = ("#2b7bba", "#e39a34", "#3f9a5b", "#8e5ba6", "#d0021b", "#6b7683")
PANEL, AXIS = 190, 46
"""Height of a panel, and room at its left for the numbers."""


def curves(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], file: Path) -> None:
    """One panel a title, each with a line by name through (users, value), all from 0 on; the legend below.

    Users stand apart alike, whatever lies between their numbers.
    """
    users = sorted({each for lines in panels.values() for points in lines.values() for each, _ in points})
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    step = (WIDTH - 2 * LEFT - AXIS) / max(1, len(users) - 1)
    found: list[str] = []
    top = 8
    for title, lines in panels.items():
        found.append(_text(LEFT, top + 12, title, weight="bold"))
        top += 24
        most = max((value for points in lines.values() for _, value in points), default=0.0) or 1.0
        for part in range(5):
            y = round(top + PANEL * (1 - part / 4), 1)
            found.append(f'<path d="M{LEFT + AXIS} {y}H{WIDTH - LEFT}" stroke="{HELD}" stroke-width="1"/>')
            found.append(_text(LEFT + AXIS - 4, y + 4, f"{most * part / 4:.3g}", anchor="end", colour="#667"))
        for name, points in lines.items():
            colour = LINES[names.index(name) % len(LINES)]
            places = [
                (round(LEFT + AXIS + users.index(each) * step, 1), round(top + PANEL * (1 - value / most), 1))
                for each, value in sorted(points)
            ]
            way = " ".join(f"{x},{y}" for x, y in places)
            found.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
            found += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in places]
        for n, each in enumerate(users):
            found.append(
                _text(LEFT + AXIS + n * step, top + PANEL + 14, str(each), anchor="middle", colour="#667")
            )
        top += PANEL + 30
    left = float(LEFT)
    for n, name in enumerate(names):
        found.append(
            f'<rect x="{left}" y="{top}" width="14" height="9" rx="1" fill="{LINES[n % len(LINES)]}"/>'
        )
        found.append(_text(left + 18, top + 8, name))
        left += 34 + 6.5 * len(name)
    _write(file, top + 18, found)


def _write(file: Path, height: int, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, *, weight: str = "normal", anchor: str = "start", colour: str = "#223"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )
