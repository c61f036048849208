"""The picture of flips as SVG: requests over time, each a bar from its start to its end.

Run: `python -m bench.flip --picture FILE`, which draws the last two flips.
"""

from collections.abc import Mapping
from pathlib import Path

from bench.flips import FlipRecord
from measure.picture import HELD, LEFT, WIDTH, svg
from measure.picture import text as _text

LANE, ROW = 9, 13
"""Height of a request's lane and of a row of labels, in pixels."""
COLOURS = {"streamed": "#2b7bba", "whole": "#e39a34", "aborted": "#9aa5b1", "failed": "#d0021b"}
BEFORE, AFTER = 2.0, 3.0
"""Seconds that are shown before the flip begins and after it ends."""


def draw(panels: Mapping[str, FlipRecord], file: Path) -> None:
    """Writes the picture to `file`: one panel for each flip, by its title, all on one scale, and the legend
    below."""
    first = -BEFORE
    last = max(flip["length"] for flip in panels.values()) + AFTER
    scale = (WIDTH - 2 * LEFT) / (last - first)

    def across(seconds: float) -> float:
        """Pixels from the left of the picture, of so many seconds after the flip began."""
        place: float = LEFT + (min(max(seconds, first), last) - first) * scale
        return round(place, 1)

    lines: list[str] = []
    top = 8
    for title, flip in panels.items():
        lines.append(_text(LEFT, top + 12, title, weight="bold"))
        ends: list[float] = []  # of the last label in each row
        labels = []
        for label, at in flip["marks"]:
            row = next((n for n, end in enumerate(ends) if end <= across(at)), len(ends))
            ends[row : row + 1] = [across(at) + 7 * len(label)]
            labels.append((label, across(at), row))
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
            left, down = across(begin), top + lane * LANE
            wide = max(across(end) - left - 0.6, 2.5 if problem else 0.8)
            bars.append(
                f'<rect x="{left}" y="{down + 1}" width="{wide:.1f}" height="{LANE - 2}" fill="{colour}"/>'
            )
        height = len(lanes) * LANE
        if flip.get("held_from") is not None:
            left, right = across(flip["held_from"]), across(flip["held_from"] + flip["hold"])
            lines.append(
                f'<rect x="{left}" y="{top - 5}" width="{right - left:.1f}" height="{height + 10}" '
                f'fill="{HELD}"/>'
            )
        lines += bars
        for label, at, row in labels:
            down = top - 8 - ROW * (len(ends) - 1 - row)
            lines.append(
                f'<path d="M{at} {down + 2}V{top + height}" stroke="#556" stroke-width="0.8" '
                'stroke-dasharray="2 2" fill="none"/>'
            )
            lines.append(_text(at + 2, down, label))
        top += height + 4
        for second in range(0, int(flip["length"] + AFTER) + 1, 5):
            lines.append(_text(across(second), top + 10, f"{second} s", anchor="middle", colour="#667"))
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
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(svg(top + 18, lines))
