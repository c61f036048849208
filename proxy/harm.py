"""What of a request is known to end Ollama 0.17.4, or to hold it for ever. Pure.

Found by running its own C++ (`llama/llama.cpp`: `common/json-schema-to-grammar.cpp`, `src/llama-grammar.cpp`,
`src/unicode.cpp`) with what it gets from a request. It splits prompts and reads schemas in the process that
serves, and not in a runner: what ends that ends everybody's answers.
"""

import json
import re
from collections.abc import Iterable, Iterator
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
MOST = 2000
"""Times that something is repeated: a grammar of llama.cpp has no more."""
GRAMMAR_BYTES, BASE_BYTES = 32_768, 1_500
"""Room for a grammar, unless its schema is longer than a quarter of that, and what each has in it. One that
is cut off ends the runner."""
BOUND = 10**15
"""Of an integer that has no other bound. Beyond it a repetition is made that ends before it begins."""

_LONG_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_CLASSES = tuple(re.compile(text) for text in (r"[^\W\d_]*+", r"\s*+", r"(?:[^\w\s]|_)*+"))
"""Letters, white space, and the rest without digits, of which it takes one at a time."""

_BREAK = re.compile(rb" [A-Za-z]")
"""A place that no run goes over. Both stand for themselves in JSON, wherever they are."""

_TIMES = re.compile(r"([0-9]{0,9})(,([0-9]{0,9}))?")
_ESCAPED = re.compile(r"\\(?:[trn\\\"\[\]]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})")
"""What grammars of llama.cpp know (`parse_char`)."""


def has_long_run(raw: bytes) -> bool:
    """Whether a string of this JSON has `RUN` characters of one class, one after another."""
    # a run that is as long has one of these pieces in it, and most texts have no piece without such a place
    if all(_BREAK.search(raw, at, at + RUN // 2) for at in range(0, len(raw) - RUN // 2 + 1, RUN // 2)):
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

    def __init__(self, members: Iterable[tuple[str, Any]]) -> None:
        super().__init__(members)
        self._last = dict(self)

    def get(self, name: str) -> Any:
        """The value of the last member of this name; None where there is none."""
        return self._last.get(name)


def schema_fault(raw: bytes) -> str | None:
    """Why the format of an answer, as JSON, must not reach Ollama; None: nothing that is known."""
    if len(raw) > SCHEMA_BYTES:
        return f"a schema larger than {SCHEMA_BYTES} bytes"
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
    for root in _roots(said):
        ends = set[str]()
        for value, _ in _walk(root):
            if isinstance(value, _Object) and _is_endless(root, value, ends):
                return "a $ref that leads to itself"
        try:
            length = _length(root, root, "", set())
        except RecursionError:
            return "more levels than can be counted, by what each $ref leads to"
        if BASE_BYTES + length > max(GRAMMAR_BYTES, 4 * _compact(root)):
            return "more names, on too many levels, than a grammar has room for"
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


def _roots(said: Any) -> Iterator[Any]:
    """Every value that may be the schema, outermost: the way to it has no other `schema` in it."""
    left = [said]
    while left:
        value = left.pop()
        if isinstance(value, _Object):
            yield from (each for name, each in value if name.casefold() == "schema")
            left += [each for name, each in value if name.casefold() != "schema"]
        elif isinstance(value, list):
            left += value


def _object_fault(schema: _Object) -> str | None:
    for name, value in schema:
        if len(name.encode(errors="surrogatepass")) > NAME_BYTES:
            return f"a name longer than {NAME_BYTES} bytes"
        if name == "$ref" and isinstance(value, str) and len(value) > NAME_BYTES // 4:
            return f"a $ref longer than {NAME_BYTES // 4} characters"
        if name == "pattern" and isinstance(value, str) and (fault := pattern_fault(value)):
            return f"the pattern {value[:40]!r}, which has {fault}"
        if name == "properties" and isinstance(value, _Object):
            required = schema.get("required")
            needed = (
                {each for each in required if isinstance(each, str)} if isinstance(required, list) else ()
            )
            if sum(key not in needed for key, _ in value) > OPTIONAL:
                return f"more than {OPTIONAL} optional properties"
        if name in ("type", "anyOf", "oneOf") and value == []:
            return f"an empty {name}"
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
        low, high = schema.get(least), schema.get(most)
        if _is_number(low) and _is_number(high) and low > high:
            return f"{least} above {most}"
        for key, value in ((least, low), (most, high)):
            if _is_number(value) and not 0 <= value <= MOST:
                return f"{key} {value}, where 0 to {MOST} are possible"
    lower = [value for name, value in schema if name in ("minimum", "exclusiveMinimum") and _is_number(value)]
    upper = [value for name, value in schema if name in ("maximum", "exclusiveMaximum") and _is_number(value)]
    if (lower and not upper and max(lower) > BOUND) or (upper and not lower and min(upper) < -BOUND):
        return f"a bound beyond {BOUND} without a bound on the other side"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_endless(root: Any, value: _Object, ends: set[str]) -> bool:
    """Whether the references from here on come back to where they were. Of those in `ends` it is known that
    they don't, and so it is afterwards of those from here."""
    seen = set[str]()
    while isinstance(value, _Object) and isinstance(reference := value.get("$ref"), str):
        if reference in seen:
            return True
        if reference in ends:
            break
        seen.add(reference)
        value = _resolved(root, reference)
    ends |= seen
    return False


def _resolved(root: Any, reference: str) -> Any:
    found = root
    for part in reference.partition("#")[2].split("/")[1:]:
        if isinstance(found, _Object):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def pattern_fault(pattern: str) -> str | None:
    """What in a regular expression repeats nothing, which ends Ollama, closes nothing or ends before it
    begins, which keep it for ever, or is nothing that its grammars know, which ends its runner."""
    if not (pattern[:1] == "^" and pattern[-1:] == "$"):
        return None  # it is refused
    inside, at = pattern[1:-1], 0
    # the open groups, each with whether one of its alternatives is empty, and what came before
    groups, last = [False], "|"
    while at < len(inside):
        char = inside[at]
        if char in "*+?{":
            end = at if char != "{" else inside.find("}", at)
            if fault := char == "{" and _times_fault(inside[at + 1 : end]):
                return fault
            if last in ("|", "(", "split") or (last in ("quantifier", "empty") and char != "?"):
                return f"{char!r} with nothing before it that it could repeat"
            at, last = end, "quantifier"
        elif char in "]}":
            return f"{char!r} outside of brackets"
        elif char == "(":
            groups.append(False)
            last = "("
        elif char == ")":
            if len(groups) == 1:
                return None  # its reading ends here
            last = "empty" if groups.pop() or last in ("|", "(") else "group"
        elif char == "|":
            groups[-1] |= last in ("|", "(")
            last = "|"
        elif char == "[":
            at += 1
            while at < len(inside) and inside[at] != "]":
                if inside[at] == "\\" and not _ESCAPED.match(inside, at):
                    return f"the escape {inside[at : at + 2]!r}"
                at += 2 if inside[at] == "\\" else 1
            last = "class"
        elif char == "\\" and inside[at + 1 : at + 2] in tuple("^$.[]()|{}*+?"):
            at, last = at + 1, "char"
        elif char == "\\":
            escape = _ESCAPED.match(inside, at)
            if escape is None:
                return f"the escape {inside[at : at + 2]!r}"
            last = "split" if len(escape.group()) > 2 else "char"
            at = escape.end() - 1
        elif char == "\0":
            return "a NUL"
        else:
            # a literal is split before its last byte, if that is repeated
            last = "char" if char.isascii() else "split"
        at += 1
    return None


def _times_fault(said: str) -> str | None:
    """What ends or keeps Ollama in the number of times between `{` and `}` of a regular expression."""
    times = _TIMES.fullmatch(said)
    if times is None:
        return "a {…} that is not a number of times"
    low = int(times[1] or 0)
    high = low if times[2] is None else int(times[3] or 0) or None
    if low > MOST or (high or 0) > MOST or (high is not None and low > high) or times[0] in ("0", "0,0"):
        return f"{{{said}}}, where 1 to {MOST} times are possible"
    return None


def _compact(value: Any) -> int:
    """How long this is as JSON without white space, at least."""
    if isinstance(value, _Object):
        return 2 + sum(len(json.dumps(key, ensure_ascii=False)) + 1 + _compact(each) for key, each in value)
    if isinstance(value, list):
        return 2 + sum(map(_compact, value))
    return len(json.dumps(value, ensure_ascii=False))


def _length(root: Any, schema: Any, name: str, seen: set[str]) -> int:
    """About how long the grammar of this is, in bytes, where `name` is that of its rule."""
    if not isinstance(schema, _Object):
        return 0
    long, parts = len(name.encode()), 40 + 2 * len(name.encode())
    if isinstance(reference := schema.get("$ref"), str):
        if reference in seen:
            return parts
        seen.add(reference)
        return parts + _length(root, _resolved(root, reference), "ref" + reference.partition("#")[2], seen)
    for key in ("oneOf", "anyOf", "prefixItems", "allOf", "items"):
        inside = schema.get(key)
        if isinstance(inside, list) and not isinstance(inside, _Object):
            parts += sum(
                _length(root, each, f"{name}-{n}", seen) + long + 12 for n, each in enumerate(inside)
            )
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, _Object):
        needed = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
        for key, each in properties:
            whole = long + 1 + len(key.encode(errors="surrogatepass"))
            parts += _length(root, each, f"{name}-{key}", seen) + 3 * whole + 60
            parts += 0 if key in needed else 4 * whole + 60
    if isinstance(items := schema.get("items"), _Object):
        parts += _length(root, items, f"{name}-item", seen) + 3 * long + 60
    if isinstance(more := schema.get("additionalProperties"), _Object):
        parts += _length(root, more, f"{name}-additional-value", seen) + 4 * long + 60
    for key in ("enum", "const", "pattern"):
        parts += 2 * len(json.dumps(schema.get(key), ensure_ascii=False)) if schema.get(key) else 0
    return parts
