"""The settings as they came, which every reader of them asks, and what is wrong with them."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_A_KIND = {"object": "an object", "array": "a list", "integer": "an integer", "boolean": "true or false"}
"""What a value of each type in Pulumi.yaml is, for a sentence."""


def one_of(values: Iterable[str]) -> str:
    """What is allowed where only these values are, as the part of a sentence that `problem` takes."""
    every = list(values)
    return f"it must be {'one of ' if len(every) > 1 else ''}{', '.join(every)}"


@dataclass(frozen=True)
class RawSettings:
    """Settings as they came, with every problem found on the way. `project` is Pulumi's name for whose they
    are. A type is empty where Pulumi.yaml names none: Pulumi checks such a value by nothing."""

    project: str
    values: Mapping[str, Any]
    types: Mapping[str, str]
    problems: list[str]

    def value(self, key: str) -> Any:
        """The value in the type that Pulumi.yaml names; an empty one of it where it has another."""
        value = self.values.get(key)
        kind = self.types[key]
        try:
            if kind in ("object", "array") and isinstance(value, str):
                parsed = json.loads(value)
                if not isinstance(parsed, dict if kind == "object" else list):
                    raise ValueError(value)
                return parsed
            if kind == "integer" and isinstance(value, str):
                return int(value)
        except ValueError:
            self.problem(key, value, f"it must be {_A_KIND[kind]}", f"pulumi config set {key} …")
            return {"object": {}, "array": []}.get(kind, 0)
        if kind == "boolean" and isinstance(value, str):
            return value == "true"
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of the values that are allowed; the first where it is none of them."""
        value = str(self.value(key))
        if value not in allowed:
            guess = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5) or allowed[:1]
            self.problem(key, value, one_of(allowed), f"pulumi config set {key} {guess[0]}")
            return allowed[0]
        return value

    def number(self, key: str, low: int, high: int, unit: str, why: str = "") -> int:
        """The number, which has to be from `low` to `high`; `why` is said after these."""
        value = int(self.value(key))
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            allowed = f"it must be {low} to {high}{unit and f' {unit}'}{why}"
            self.problem(key, value, allowed, f"pulumi config set {key} {nearest}")
        return value

    def problem(self, key: str, value: object, allowed: str, command: str) -> None:
        """Notes that a value can't work, what is allowed, and the command that puts it right."""
        self.problems.append(f"{self.project}:{key}: {value!r} cannot work; {allowed}. Run: {command}")
