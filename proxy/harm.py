"""What of a request is known to end Ollama 0.17.4, or to hold it for ever. Pure.

Found by running its own C++ (`llama/llama.cpp`: `common/json-schema-to-grammar.cpp`, `src/llama-grammar.cpp`,
`src/unicode.cpp`) with what it gets from a request. It splits prompts and reads schemas in the process that
serves, and not in a runner: what ends that ends everybody's answers.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

RUN = 10_000
"""Characters of one class. Its regular expressions recurse once for each; after 25,900 the stack is full."""
SCHEMA_BYTES = 64 * 2**10
"""Of a schema. The work grows with the cube of some parts: 1,000 optional properties take a minute."""
DEPTH = 100
"""Levels of a schema in JSON. Some hundred take minutes, and with some thousand the stack is full."""
OPTIONAL = 400
"""Optional properties of one object."""
NAME_BYTES = 8192
"""Of a property's name or a reference, which go through a regular expression that recurses, too."""
BOUND = 10**15
"""Of an integer that has no other bound. Beyond it a repetition is made that ends before it begins."""

_LONG_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_CLASSES = tuple(re.compile(text) for text in (r"[^\W\d_]*+", r"\s*+", r"(?:[^\w\s]|_)*+"))
"""Letters, white space, and the rest without digits, of which it takes one at a time."""

_TIMES = re.compile(r"\s*\+?([0-9]{1,10})[^,]*,\s*\+?([0-9]{1,10})[^,]*")


def has_long_run(raw: bytes) -> bool:
    """Whether a string of this JSON has `RUN` characters of one class, one after another."""
    if len(raw) < RUN:
        return False
    for found in _LONG_STRING.finditer(raw):
        if found.end() - found.start() >= RUN:
            try:
                text = json.loads(found.group())
            except ValueError:  # no JSON, which is refused as such
                return False
            # a run that is as long has one of these places in its first half
            for at in range(0, len(text), RUN // 2):
                for each in _CLASSES:
                    run = each.match(text, at)
                    if run is not None and run.end() - at >= RUN // 2 and _runs(text, each, at, run.end()):
                        return True
    return False


def _runs(text: str, kind: re.Pattern[str], at: int, end: int) -> bool:
    """Whether the run of this class that `at` is in, and that ends at `end`, is long enough as a whole."""
    before = kind.match(text[max(0, at - RUN) : at][::-1])
    return end - at + (before.end() if before else 0) >= RUN


class _Object(list[tuple[str, Any]]):
    """The members of an object, with those that come twice."""

    def get(self, name: str) -> Any:
        return next((value for key, value in reversed(self) if key == name), None)


def schema_fault(raw: bytes) -> str | None:
    """Why the format of an answer, as JSON, must not reach Ollama; None: nothing that is known."""
    if len(raw) > SCHEMA_BYTES:
        return f"a schema above {SCHEMA_BYTES} bytes"
    try:
        said = json.loads(raw, object_pairs_hook=_Object)
    except RecursionError:
        return f"more than {DEPTH} levels"
    except ValueError:  # such as a number of 5,000 digits: the engine refuses it
        return None
    for value, depth in _walk(said):
        if depth > DEPTH:
            return f"more than {DEPTH} levels"
        if isinstance(value, _Object) and (found := _object_fault(value)):
            return found
    objects = [value for value, _ in _walk(said) if isinstance(value, _Object)]
    for root in (value for each in objects for name, value in each if name.casefold() == "schema"):
        for value, _ in _walk(root):
            if isinstance(value, _Object) and _is_endless(root, value):
                return "a $ref that leads to itself"
    return None


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Every value with its depth, without recursion."""
    left = [(value, 0)]
    while left:
        value, depth = left.pop()
        yield value, depth
        if isinstance(value, list):
            inside = [each[1] for each in value] if isinstance(value, _Object) else value
            left += [(each, depth + 1) for each in inside]


def _object_fault(schema: _Object) -> str | None:
    for name, value in schema:
        if len(name.encode(errors="surrogatepass")) > NAME_BYTES:
            return f"a name above {NAME_BYTES} bytes"
        if name == "$ref" and isinstance(value, str) and len(value) > NAME_BYTES // 4:
            return f"a $ref above {NAME_BYTES // 4} characters"
        if name == "pattern" and isinstance(value, str) and (fault := pattern_fault(value)):
            return f"the pattern {value[:40]!r}, which has {fault}"
        if name == "properties" and isinstance(value, _Object):
            required = schema.get("required")
            needed = (
                {each for each in required if isinstance(each, str)} if isinstance(required, list) else ()
            )
            if sum(key not in needed for key, _ in value) > OPTIONAL:
                return f"more than {OPTIONAL} optional properties"
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
        low, high = schema.get(least), schema.get(most)
        if _is_number(low) and _is_number(high) and low > high:
            return f"{least} above {most}"
    lower = [value for name, value in schema if name in ("minimum", "exclusiveMinimum") and _is_number(value)]
    upper = [value for name, value in schema if name in ("maximum", "exclusiveMaximum") and _is_number(value)]
    if (lower and not upper and max(lower) > BOUND) or (upper and not lower and min(upper) < -BOUND):
        return f"a bound beyond {BOUND} without one on the other side"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_endless(root: Any, value: _Object) -> bool:
    """Whether the references from here on come back to where they were."""
    seen = set()
    while isinstance(value, _Object) and isinstance(reference := value.get("$ref"), str):
        if reference in seen:
            return True
        seen.add(reference)
        found = root
        for part in reference.partition("#")[2].split("/")[1:]:
            if isinstance(found, _Object):
                found = found.get(part)
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                return False
        value = found
    return False


def pattern_fault(pattern: str) -> str | None:
    """What in a regular expression repeats nothing, which ends Ollama, or closes nothing, or ends before it
    begins, which keep it for ever."""
    if not (pattern[:1] == "^" and pattern[-1:] == "$"):
        return None  # it is refused
    inside, at, empty = pattern[1:-1], 0, [True]
    while at < len(inside):
        char = inside[at]
        if char in "*+?{":
            if empty[-1]:
                return f"{char!r} after nothing"
            if char == "{":
                end = inside.find("}", at)
                if end < 0:
                    return None
                times = _TIMES.fullmatch(inside, at + 1, end)
                if times and int(times[1]) > int(times[2]):
                    return f"{inside[at : end + 1]!r}, whose end is before its beginning"
                at = end
        elif char in "]}":
            return f"{char!r} outside of brackets"
        elif char == "(":
            empty.append(True)
        elif char == ")":
            if len(empty) == 1:
                return None  # its reading ends here
            empty.pop()
            empty[-1] = False
        elif char == "[":
            at += 1
            while at < len(inside) and inside[at] != "]":
                at += 2 if inside[at] == "\\" else 1
            empty[-1] = False
        else:
            at += char == "\\"
            empty[-1] = False
        at += 1
    return None
