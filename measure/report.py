"""What was measured of both engines on one card, beside what is claimed, as data and for readers. Pure.

The claims are those of the document that this project began with, its table "Performance Comparison (T4 with
7B model)" and its "longer startup". A claim with `~` holds where a tenth is missing.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.naming import NAMES
from measure.levels import COLUMNS, cells
from measure.picture import over_time, picture

FILES = ("report.json", "report.md", "report.html")
"""Beside a stack's rendered files."""
ABOUT = 0.9
"""The part of a claim with `~` that is enough."""
CLAIMED_ON = "a T4 with a 7B model"

ClaimVerdict = Literal["yes", "no", "unknown"]
"""Whether a claim holds here; `holds` of its row says it in words."""


@dataclass(frozen=True)
class UserLimits:
    """What users must get: 95 of 100 the first token within `first` seconds, and 95 of 100 at least so many
    `tokens` a second, their wait for the first included. And every answer must be whole."""

    first: float
    tokens: float

    def hold(self, level: Mapping[str, Any]) -> bool:
        """Whether each user of a level got that."""
        return (
            level["bad"] == 0
            and level["rate"] is not None
            and level["first_p95"] <= self.first
            and level["user_p5"] >= self.tokens
        )


def served(levels: Sequence[Mapping[str, Any]], limits: UserLimits) -> tuple[int, bool]:
    """The most users for whom, and for every fewer that were measured, the limits hold; and whether more were
    not measured."""
    users = 0
    for level in sorted(levels, key=lambda each: int(each["users"])):
        if not limits.hold(level):
            return users, False
        users = level["users"]
    return users, True


def engine(
    levels: Sequence[Mapping[str, Any]], limits: UserLimits, start: float | None, **about: Any
) -> dict[str, Any]:
    """One engine's part of the report. `start` is how long it took until it had passed its gate, in seconds,
    and `about` what it is."""
    users, more = served(levels, limits)
    good = [level for level in levels if level["rate"] is not None]
    best = max(good, key=lambda each: float(each["rate"]), default=None)
    return {
        **about,
        "users": users,
        "more": more,
        "rate": best and best["rate"],
        "rate_users": best and best["users"],
        "gpu": best and best["gpu"].get("busy"),
        "start": start,
        "levels": list(levels),
    }


def claims(engines: Mapping[str, Mapping[str, Any]], limits: UserLimits) -> list[dict[str, Any]]:
    """Row by row: what is claimed, what each engine does here, by how much, and whether the claim holds."""
    ours, theirs = engines["ollama"], engines["vllm"]
    rows = [
        _row(
            "throughput, tokens a second at its highest",
            ("1 ×", "1.5 to 2 ×", "1.5 to 2 times"),
            [_number(each["rate"], 1, f" with {each['rate_users']} users") for each in (ours, theirs)],
            _ratio(ours["rate"], theirs["rate"]),
            1.5,
            2,
        )
    ]
    users = _row(
        "users served at the same time",
        ("~20", "~40", "2 times"),
        [f"{each['users']}{' or more' if each['more'] else ''}" for each in (ours, theirs)],
        _ratio(ours["users"], theirs["users"]),
        2 * ABOUT,
        2 / ABOUT,
    )
    if not ours["users"] and not ours["more"]:
        if theirs["users"] or theirs["more"]:
            users |= {"verdict": "unknown", "holds": "not known: Ollama served nobody within the limits"}
        else:
            users |= {"verdict": "no", "holds": "no: neither served anybody within the limits"}
    elif ours["more"] and not theirs["more"] and users["verdict"] == "no":
        users["ratio"] = f"at most {users['ratio']}"  # whatever more Ollama would serve
    elif ours["more"]:
        why = "not known: Ollama served every number of users that was tried"
        users |= {"ratio": None, "verdict": "unknown", "holds": why}
    elif theirs["more"] and users["ratio"]:
        users["ratio"] = f"at least {users['ratio']}"
        if users["verdict"] != "yes":
            why = "not known: vLLM served every number of users that was tried"
            users |= {"verdict": "unknown", "holds": why}
    rows.append(users)
    both = latency(ours["levels"], theirs["levels"], limits)
    seconds: list[float | None] = [_answer(each) for each in both] if both else [None, None]
    faster = _ratio(*seconds)
    rows.append(
        _row(
            "latency, seconds of an answer (median)" + (f" with {both[0]['users']} users" if both else ""),
            ("moderate", "lower", "20 to 30 % lower"),
            [_number(each, 2) for each in seconds],
            None if faster is None else 1 / faster,
            1 / 0.8,
            1 / 0.7,
            words=None if faster is None else _lower(faster),
        )
    )
    rows.append(
        _row(
            "GPU busy at the highest throughput, %",
            ("~60", "~85", "1.42 times"),
            [_number(each["gpu"], 0) for each in (ours, theirs)],
            _ratio(ours["gpu"], theirs["gpu"]),
            1.42 * ABOUT,
            1.42 / ABOUT,
            none="not measured: no GPU here reports it",
        )
    )
    rows.append(
        _row(
            "start, seconds until the engine serves",
            ("30", "120 to 180", "4 to 6 times as long"),
            [_number(each["start"], 0) for each in (ours, theirs)],
            _ratio(ours["start"], theirs["start"]),
            4,
            6,
            opposite="vLLM starts faster",
        )
    )
    return rows


def latency(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], limits: UserLimits
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Both engines' levels of the most users whom both serve; else of the fewest. None where none is
    comparable."""
    others = {level["users"]: level for level in theirs if level["rate"] is not None}
    pairs = [
        (level, others[level["users"]])
        for level in sorted(ours, key=lambda each: int(each["users"]))
        if level["rate"] is not None and level["users"] in others
    ]
    good = [pair for pair in pairs if all(map(limits.hold, pair))]
    return good[-1] if good else pairs[0] if pairs else None


def _answer(level: Mapping[str, Any]) -> float:
    """Seconds of an answer of the level's length, at the median user's rate."""
    return float(level["tokens"] / level["user"])


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return theirs / ours if ours and theirs is not None else None


def _lower(ratio: float) -> str:
    percent = round(100 * (1 - ratio))
    return f"{percent} % lower" if percent >= 0 else f"{-percent} % higher"


def _number(value: float | None, digits: int, more: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{more}"


def _row(
    metric: str,
    claimed: tuple[str, str, str],
    here: Sequence[str],
    ratio: float | None,
    least: float,
    most: float,
    *,
    words: str | None = None,
    none: str = "not measured",
    opposite: str = "it is the other way round",
) -> dict[str, Any]:
    answer: ClaimVerdict
    if ratio is None:
        answer, holds = "unknown", none
    elif ratio < 1:
        answer, holds = "no", f"no: {opposite}"
    elif ratio < least:
        answer, holds = "no", "no: less than claimed"
    else:
        answer, holds = "yes", "yes, and more than claimed" if ratio > most else "yes"
    return {
        "metric": metric,
        "claimed": dict(zip(("ollama", "vllm", "ratio"), claimed, strict=True)),
        "ollama": here[0],
        "vllm": here[1],
        "ratio": words or (None if ratio is None else f"{ratio:.2f} times"),
        "verdict": answer,
        "holds": holds,
    }


# for readers


@dataclass(frozen=True)
class ReportPart:
    """A piece of the report: a title, what is said, perhaps a table, and a picture that only a page has."""

    title: str
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    svg: str = ""


def verdict(content: Mapping[str, Any]) -> str:
    """The first sentences of the report, for whoever has to decide."""
    ours, theirs = (content["engines"][kind] for kind in ("ollama", "vllm"))
    users = [f"{each['users']}{' or more' if each['more'] else ''}" for each in (ours, theirs)]
    ratio = _ratio(ours["rate"], theirs["rate"])
    fast = "" if ratio is None else f" vLLM generates {ratio:.2f} times as many tokens a second as Ollama."
    needs = (
        f" Up to {ours['users']} users at the same time, Ollama is enough."
        if ours["users"]
        else " Ollama serves not even one user within the limits."
    )
    return (
        f"Here Ollama serves {users[0]} users at the same time, and vLLM {users[1]}.{fast}{needs} `make "
        f"advise STACK={content['stack']}` says how many there really are."
    )


def parts(content: Mapping[str, Any]) -> list[ReportPart]:
    """The report, in order."""
    limits, asked, held = content["limits"], content["asked"], content["held"]
    return [
        ReportPart(
            "",
            [
                verdict(content),
                f"{content['model']} on {content['card']}{content['driver']}, {content['day']}. A number of "
                f"users is served if 95 of 100 get their first token within {limits['first_p95']:g} s, 95 of "
                f"100 get at least {limits['user']:g} tokens a second, the wait for the first included, and "
                "no answer is bad.",
            ],
        ),
        ReportPart(
            "What is claimed, and what was measured here",
            [f"The claims are about {CLAIMED_ON}; this is {content['model']} on {content['card']}."],
            (
                *("", "claimed: Ollama", "vLLM", "improvement"),
                *("Ollama here", "vLLM here", "ratio here", "does it hold?"),
            ),
            [
                [
                    row["metric"],
                    *(row["claimed"][key] for key in ("ollama", "vllm", "ratio")),
                    *(row[kind] for kind in ("ollama", "vllm")),
                    row["ratio"] or "-",
                    f"**{row['holds']}**" if row["verdict"] == "no" else row["holds"],
                ]
                for row in content["claims"]
            ],
        ),
        ReportPart(
            "Users at a time",
            [
                "Each engine was asked directly, by as many users at once as the row says. Each asks for "
                f"{asked['tokens']} tokens with a prompt of about {asked['prompt']}, and again once it has "
                "its answer. Times are in seconds, `for each token` in milliseconds. What `for each user` "
                "says is the median; 95 of 100 get at least the `p5` beside it. Once two numbers of users "
                "in a row were not served, no larger one was tried."
            ],
            [each for each in COLUMNS if each != "way"],
            [
                [str(cell) for n, cell in enumerate(cells({**level, "way": ""})) if n != 1]
                for kind in ("ollama", "vllm")
                for level in content["engines"][kind]["levels"]
            ],
        ),
        ReportPart("", svg=_curves(content)),
        *_traffic(content),
        ReportPart(
            "GPU, and the time in which requests waited" if _has_gpu(content) else "Host, and the flip",
            [
                f"Requests were held for {held['seconds']:.0f} s, at most {held['requests']} of them at the "
                "same time."
                if held["seconds"]
                else "No request was held.",
                *content["remarks"],
            ],
            svg=_times(content),
        ),
        ReportPart(
            "What was measured",
            (),
            ("", "Ollama", "vLLM"),
            [
                [what, *(str(content["engines"][kind][key]) for kind in ("ollama", "vllm"))]
                for what, key in (
                    ("engine", "name"),
                    ("version", "version"),
                    ("quantization", "quantization"),
                    ("KV cache", "kv_cache"),
                    ("context", "context"),
                    ("parallel requests", "parallel"),
                    ("command", "command"),
                )
            ],
        ),
    ]


def _traffic(content: Mapping[str, Any]) -> list[ReportPart]:
    seen = content["traffic"]
    if not seen:
        return []
    return [
        ReportPart(
            "Real traffic, replayed",
            [
                f"{seen['requests']} requests of {seen['from']} to {seen['until']} UTC, the busiest "
                f"{seen['seconds']:.0f} s of that day, with their lengths and the times at which they came, "
                "but with other texts: no log has what was asked."
            ],
            ("", "answers", "bad", "tokens/s", "for each user", "first token p50", "p95"),
            [
                [
                    NAMES[kind],
                    str(row["answers"]),
                    str(row["bad"]),
                    *(_number(row[key], 1) for key in ("rate", "user")),
                    *(_number(row[key], 2) for key in ("first_p50", "first_p95")),
                ]
                for kind, row in seen["engines"].items()
            ],
        )
    ]


def _has_gpu(content: Mapping[str, Any]) -> bool:
    return any(each["busy"] is not None for each in content["timeline"]["samples"])


def _curves(content: Mapping[str, Any]) -> str:
    levels = [level for kind in ("ollama", "vllm") for level in content["engines"][kind]["levels"]]
    limits = {"first_p95": content["limits"]["first_p95"], "user_p5": content["limits"]["user"]}
    return picture([{**level, "engine": NAMES[level["engine"]]} for level in levels], limits)


def _times(content: Mapping[str, Any]) -> str:
    samples, spans = content["timeline"]["samples"], content["timeline"]["spans"]

    def line(key: str) -> list[tuple[float, float]]:
        return [(each["at"], each[key]) for each in samples if each[key] is not None]

    busy = (
        {"busy, %": {"GPU": line("busy"), "host's CPUs": line("cpu")}}
        if _has_gpu(content)
        else {"busy, %": {"host's CPUs": line("cpu")}}
    )
    watts = {"power of the GPU, W": {"power": line("watts")}} if line("watts") else {}
    users = {
        "requests of the endpoint's users": {"at the engine": line("running"), "waiting": line("waiting")}
    }
    return over_time({**busy, **watts, **users}, [tuple(span) for span in spans])


def markdown(content: Mapping[str, Any]) -> str:
    """For a reviewer; the pictures are on the page."""
    said = [f"# Ollama and vLLM on {content['card']}: stack `{content['stack']}`, {content['day']}"]
    for part in parts(content):
        if part.title:
            said.append(f"## {part.title}")
        said += part.lines
        if part.head:
            rows = [part.head, ["---"] * len(part.head), *part.rows]
            said.append("\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows))
    return "\n\n".join(said) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #223; max-width: 980px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { border: 1px solid #dfe5ec; padding: 4px 8px; text-align: left; vertical-align: top }
th { background: #f3f6f9 } td b { color: #b00 } svg { max-width: 100%; height: auto }
code { font-size: 0.92em }
p:first-of-type { font-size: 1.15em }
"""


def page(content: Mapping[str, Any]) -> str:
    """One page of HTML that needs nothing else."""
    title = f"Ollama and vLLM on {content['card']}: stack {content['stack']}, {content['day']}"
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts(content):
        if part.title:
            body.append(f"<h2>{html.escape(part.title)}</h2>")
        body += [f"<p>{_inline(line)}</p>" for line in part.lines]
        if part.head:
            body.append(f"<table>{_html_row('th', part.head)}{_html_rows(part.rows)}</table>")
        if part.svg:
            body.append(part.svg)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</html>\n"
    )


def _html_rows(rows: Iterable[Sequence[str]]) -> str:
    return "".join(_html_row("td", row) for row in rows)


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells) + "</tr>"


def _inline(text: str) -> str:
    """The little Markdown that is in a line: code, and what is bold."""
    said = html.escape(text)
    for mark, tag in (("**", "b"), ("`", "code")):
        pieces = said.split(mark)
        if len(pieces) % 2:
            said = "".join(f"<{tag}>{piece}</{tag}>" if n % 2 else piece for n, piece in enumerate(pieces))
    return said
