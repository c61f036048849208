"""Pictures as SVG: figures over users, and over time. Pure."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH, LEFT = 900, 12
LETTER = 6.5
"""Pixels of a letter, about."""
HELD = "#dfe5ec"
LINES = ("#2b7bba", "#e39a34", "#3f9a5b", "#8e5ba6", "#d0021b", "#6b7683")
LIMIT = "#d0021b"
PANEL, AXIS = 190, 46
"""Height of a panel, and room at its left for the numbers."""
TIMES = 10
"""Ticks of an axis of time, at most, but for the last."""

APART = (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10)
"""What two lines of a scale are apart, times a power of ten."""

Points = Sequence[tuple[float, float]]


def curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], limits: Mapping[str, float] | None = None
) -> str:
    """One panel a title, each with a line by name through (users, value), all from 0 on; the legend below.

    Users stand apart alike, whatever lies between their numbers. `limits` are values by title, each a broken
    line across its panel.
    """
    users = sorted({each for lines in panels.values() for points in lines.values() for each, _ in points})
    step = (WIDTH - 2 * LEFT - AXIS) / max(1, len(users) - 1)
    found: list[str] = []
    top = 8
    names = _names(panels)
    for title, lines in panels.items():
        limit = (limits or {}).get(title)
        top, most = _head(found, title, lines, top, limit or 0.0)
        for name, points in lines.items():
            places = [
                (round(LEFT + AXIS + users.index(each) * step, 1), round(top + PANEL * (1 - value / most), 1))
                for each, value in sorted(points)
            ]
            _line(found, places, names.index(name), dots=True)
        if limit is not None:
            down = round(top + PANEL * (1 - limit / most), 1)
            found.append(
                f'<path d="M{LEFT + AXIS} {down}H{WIDTH - LEFT}" stroke="{LIMIT}" stroke-dasharray="5 4"/>'
            )
            found.append(text(WIDTH - LEFT, down - 3, f"limit: {limit:g}", anchor="end", colour=LIMIT))
        for position, each in enumerate(users):
            found.append(
                text(
                    LEFT + AXIS + position * step, top + PANEL + 14, str(each), anchor="middle", colour="#667"
                )
            )
        top += PANEL + 30
    return _legend(found, names, top)


def over_time(
    panels: Mapping[str, Mapping[str, Points]], spans: Iterable[tuple[float, float, str, bool]] = ()
) -> str:
    """Panels as `curves` draws them, over seconds. `spans` are from when until when, what that was, and
    whether it is shaded; the name of each is above the first panel."""
    every = [at for lines in panels.values() for points in lines.values() for at, _ in points]
    spans = list(spans)
    last = max([*every, *(until for _, until, *_ in spans)], default=1.0) or 1.0
    scale = (WIDTH - 2 * LEFT - AXIS) / last

    def across(at: float) -> float:
        """Pixels from the left of the picture at which the second `at` is."""
        return round(LEFT + AXIS + at * scale, 1)

    found: list[str] = []
    top, names = 8, _names(panels)
    rows: list[float] = []
    for begins, _, what, _ in spans:
        line, long = across(begins), LETTER * len(what) + 6
        before = line + long > WIDTH  # of its line, since after it there is no room
        left = line - long if before else line
        row = next((n for n, end in enumerate(rows) if end <= left), len(rows))
        rows[row : row + 1] = [left + long]
        place, anchor = (line - 2, "end") if before else (line + 2, "start")
        found.append(text(place, top + 10 + 13 * row, what, anchor=anchor, colour="#556"))
    top += 13 * len(rows) + (6 if rows else 0)
    for title, lines in panels.items():
        mark = len(found)
        begins_at = top
        top, most = _head(found, title, lines, top, 0.0)
        shades = [
            f'<rect x="{across(begins)}" y="{top}" width="{max(1.0, across(until) - across(begins)):.1f}" '
            f'height="{PANEL}" fill="{HELD}"/>'
            for begins, until, _, shaded in spans
            if shaded
        ]
        found[mark:mark] = shades
        found += [
            f'<path d="M{across(begins)} {begins_at}V{top + PANEL}" stroke="#556" stroke-width="0.8" '
            'stroke-dasharray="2 2" fill="none"/>'
            for begins, *_ in spans
        ]
        for name, points in lines.items():
            places = [(across(at), round(top + PANEL * (1 - value / most), 1)) for at, value in points]
            _line(found, places, names.index(name), dots=False)
        for second in _ticks(last):
            label = f"{second:g} s"
            found.append(text(across(second), top + PANEL + 14, label, anchor="middle", colour="#667"))
        top += PANEL + 30
    return _legend(found, names, top)


def _ticks(last: float) -> list[float]:
    apart = next(each for each in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1e9) if last / each <= TIMES)
    return [n * apart for n in range(int(last // apart) + 1)]


def _names(panels: Mapping[str, Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for lines in panels.values() for name in lines))


def _head(
    found: list[str], title: str, lines: Mapping[str, Points], top: int, least: float
) -> tuple[int, float]:
    """Title and scale of a panel; where its inside begins, and the value at its top."""
    found.append(text(LEFT, top + 12, title, weight="bold"))
    top += 24
    most = max((value for points in lines.values() for _, value in points), default=0.0)
    apart = (max(most, least) or 1.0) / 4
    unit = 10 ** math.floor(math.log10(apart))
    most = 4 * next(unit * each for each in APART if apart < unit * each or math.isclose(apart, unit * each))
    for part in range(5):
        down = round(top + PANEL * (1 - part / 4), 1)
        found.append(f'<path d="M{LEFT + AXIS} {down}H{WIDTH - LEFT}" stroke="{HELD}" stroke-width="1"/>')
        found.append(text(LEFT + AXIS - 4, down + 4, f"{most * part / 4:.4g}", anchor="end", colour="#667"))
    return top, most


def _line(found: list[str], places: Sequence[tuple[float, float]], number: int, *, dots: bool) -> None:
    colour = LINES[number % len(LINES)]
    way = " ".join(f"{x},{y}" for x, y in places)
    found.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
    if dots:
        found += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in places]


def _legend(found: list[str], names: Sequence[str], top: int) -> str:
    left = float(LEFT)
    for number, name in enumerate(names):
        found.append(
            f'<rect x="{left}" y="{top}" width="14" height="9" rx="1" fill="{LINES[number % len(LINES)]}"/>'
        )
        found.append(text(left + 18, top + 8, name))
        left += 34 + 6.5 * len(name)
    return svg(top + 18, found)


def svg(height: int, lines: Sequence[str]) -> str:
    """The whole picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def text(
    across: float,
    down: float,
    said: str,
    *,
    weight: str = "normal",
    anchor: str = "start",
    colour: str = "#223",
) -> str:
    """What is `said`, as an element of an SVG, at pixels from its left and from its top."""
    return (
        f'<text x="{across}" y="{down}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(said)}</text>"
    )


def picture(levels: Iterable[Mapping[str, Any]], limits: Mapping[str, float] | None = None) -> str:
    """Tokens a second and the wait for the first token over users, a line for each engine and way; `limits`
    are of a level's figures, by their keys."""
    titles = {
        "rate": "tokens a second, of all users together, over users at once",
        "user_p5": "tokens a second that 95 of 100 users get, over users at once",
        "first_p95": "seconds until the first token (p95), over users at once",
    }
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {title: {} for title in titles.values()}
    for level in levels:
        for key, title in titles.items():
            if level.get(key) is not None:  # an older version has not measured all of it
                name = f"{level['engine']}, {level['way']}" if level.get("way") else str(level["engine"])
                panels[title].setdefault(name, []).append((level["users"], level[key]))
    return curves(panels, {titles[key]: value for key, value in (limits or {}).items()})
