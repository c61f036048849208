"""The probes: each asks an engine something and says in words what it does. Behaviour, never the text.

A probe is a generator: it yields request bodies and is sent the answers, as the switch's `exchange` gives
them (`status`, `body` or `events`, `error`). Whoever runs it does the sending, to the probe's path. Most ask
for a chat; what is common to all protocols is asked in each.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from switch.protocols import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Broken, Said, TextProtocol

NO_ANSWER = "no answer"
"""Begins what is found where nobody answers."""
COUNT_TOKENS = f"{MESSAGES.path}/count_tokens"
Reply = Mapping[str, Any]
Steps = Generator[str, Reply, str]


def is_no_answer(said: object) -> bool:
    """Whether what was found says that nobody answered."""
    return str(said).startswith(NO_ANSWER)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is asked: the model by its name, and its `context` in tokens."""

    model: str
    context: int

    def body(self, content: str = "Write a long story about the sea.", **more: Any) -> str:
        """The body of a chat request with one message; `more` are further fields, or other values of
        these."""
        asked = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        return json.dumps({**asked, "max_tokens": 8, **more})


@dataclass(frozen=True, kw_only=True)
class Probe:
    """`able`: only for a model that understands what it is asked. `path` is where it asks."""

    name: str
    what: str
    steps: Callable[[Subject], Steps]
    able: bool = False
    path: str = CHAT.path


class _Odd(Exception):
    """The answer is not one that the probe can look into; the text says what it is instead."""


def run(probe: Probe, subject: Subject, send: Callable[[str, str], Reply]) -> str:
    """What the engine does, in words. `send` is given path and body."""
    steps = probe.steps(subject)
    try:
        body = next(steps)
        while True:
            body = steps.send(send(probe.path, body))
    except StopIteration as end:
        return str(end.value)
    except _Odd as odd:
        return str(odd)
    except Broken:
        return "HTTP 200, an error in the answer"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return f"an answer that is not its protocol's format: {type(error).__name__}"


def refusal(reply: Reply) -> str:
    """Status and shape of an answer, for errors above all."""
    if "status" not in reply:
        return f"{NO_ANSWER}: {reply.get('error', '')}"
    if reply["status"] == 200:
        return "HTTP 200, an answer that is cut" if reply.get("error") else "HTTP 200"
    try:
        error = json.loads(reply.get("body", ""))["error"]
        shape = f"error with {', '.join(sorted(error))}" if isinstance(error, dict) else "error is a text"
    except (ValueError, KeyError, TypeError):
        shape = "not OpenAI's error"
    return f"HTTP {reply['status']}, {shape}"


def _whole(reply: Reply) -> dict[str, Any]:
    if reply.get("status") != 200 or reply.get("error"):
        raise _Odd(refusal(reply) if reply.get("status") != 200 else f"cut: {reply['error']}")
    return dict(json.loads(reply["body"]))


def _chunks(reply: Reply) -> list[dict[str, Any]]:
    if reply.get("status") != 200 or reply.get("error") or "events" not in reply:
        broken = f"no whole stream {reply.get('error', '')}"
        raise _Odd(refusal(reply) if reply.get("status") != 200 else broken)
    return [json.loads(event) for event in reply["events"] if event != "[DONE]"]


def _content(answer: Mapping[str, Any]) -> str:
    return str(answer["choices"][0]["message"].get("content") or "")


def _count(limit: int) -> Callable[[Subject], Steps]:
    def steps(subject: Subject) -> Steps:
        used = _whole((yield subject.body(max_tokens=limit)))["usage"]["completion_tokens"]
        return "honoured" if used <= limit else f"{used} tokens for {limit}"

    return steps


def _finish_length(subject: Subject) -> Steps:
    answer = _whole((yield subject.body(max_tokens=5)))
    at_limit = answer["usage"]["completion_tokens"] >= 5
    return f"{answer['choices'][0]['finish_reason']}" if at_limit else "the model ended before the limit"


def _stopped(subject: Subject) -> Generator[str, Reply, tuple[str, str, str, dict[str, Any]]]:
    """Text without a stop string, the string, text with it, and the second answer."""
    full = _content(_whole((yield subject.body(max_tokens=32))))
    middle = [i for i in range(len(full) // 3, len(full) - 3) if full[i : i + 3].isalnum()]
    middle = [i for i in middle if full[i : i + 3].isascii() and full.find(full[i : i + 3]) == i]
    if not middle:
        raise _Odd("its text has no place to stop at")
    word = full[middle[0] : middle[0] + 3]
    answer = _whole((yield subject.body(max_tokens=32, stop=[word])))
    return full, word, _content(answer), answer


def _stop_string(subject: Subject) -> Steps:
    full, word, cut, _ = yield from _stopped(subject)
    before = full[: full.index(word)]
    if cut.strip() == before.strip():
        return "stops before it"
    if word not in cut and not full.startswith(cut):
        return "another text the second time"
    return "stops after it" if cut.strip() == (before + word).strip() else "does not stop at it"


def _stop_finish(subject: Subject) -> Steps:
    *_, answer = yield from _stopped(subject)
    return str(answer["choices"][0]["finish_reason"])


def _prompt_tokens(subject: Subject) -> Steps:
    counts = []
    for text in ("Hello.", "one two three four five", "def f(x):\n    return x ** 2"):
        counts.append(_whole((yield subject.body(text, max_tokens=1)))["usage"]["prompt_tokens"])
    return ", ".join(map(str, counts))


def _usage(subject: Subject) -> Steps:
    used = _whole((yield subject.body()))["usage"]
    whole = used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    names = ", ".join(sorted(key for key, value in used.items() if value is not None))
    return f"{names}; the total is {'' if whole else 'not '}the sum"


def _fields(subject: Subject) -> Steps:
    answer = _whole((yield subject.body()))
    message = answer["choices"][0]["message"]
    return f"{_keys([answer])}; message: {_keys([message])}"


def _keys(things: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({key for thing in things for key, value in thing.items() if value is not None}))


def _kind(chunk: Mapping[str, Any]) -> str:
    if not chunk["choices"]:
        return "usage" if chunk.get("usage") else "empty"
    choice = chunk["choices"][0]
    delta = choice.get("delta") or {}
    parts = ["content"] if delta.get("content") else ["role"] if delta.get("role") else []
    parts += ["finish"] if choice.get("finish_reason") else []
    return "+".join(parts) or "empty"


def _stream_order(subject: Subject) -> Steps:
    reply = yield subject.body(stream=True, stream_options={"include_usage": True})
    kinds = [_kind(chunk) for chunk in _chunks(reply)]
    kinds += ["[DONE]"] if reply["events"][-1] == "[DONE]" else ["no [DONE]"]
    return ", ".join(kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind)


def _stream_fields(subject: Subject) -> Steps:
    chunks = _chunks((yield subject.body(stream=True)))
    for chunk in chunks:
        chunk.pop("usage", None)  # has a probe of its own
    deltas: list[dict[str, Any]] = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    first: dict[str, Any] = next((delta for delta in deltas if delta.get("role")), {})
    return f"{_keys(chunks)}; role: {first.get('role', 'never')}"


def _stream_usage(subject: Subject) -> Steps:
    chunks = _chunks((yield subject.body(stream=True)))
    return "only when asked for" if not any(chunk.get("usage") for chunk in chunks) else "always"


def _stream_finish(subject: Subject) -> Steps:
    chunks = _chunks((yield subject.body(stream=True, max_tokens=5)))
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c.get("finish_reason")]
    return ", ".join(reasons) or "none"


SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 8}},
    "required": ["word"],
    "additionalProperties": False,
}
JSON_OBJECT = {"type": "json_object"}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "one_word", "strict": True, "schema": SCHEMA}}
ONE_KEY = "Answer with a JSON object that has one key."


def _json_mode(stream: bool, response_format: Mapping[str, Any]) -> Callable[[Subject], Steps]:
    """Whether what is written is JSON, as far as it goes, and with a schema, has its key and no other."""

    def steps(subject: Subject) -> Steps:
        asked = {"max_tokens": 48, "response_format": response_format, "stream": stream}
        reply = yield subject.body(ONE_KEY, **asked)
        if stream:
            choices = [choice for chunk in _chunks(reply) for choice in chunk["choices"]]
            text = "".join(choice["delta"].get("content") or "" for choice in choices).strip()
            finish = next((choice["finish_reason"] for choice in choices if choice.get("finish_reason")), "")
        else:
            answer = _whole(reply)
            text, finish = _content(answer).strip(), answer["choices"][0]["finish_reason"]
        try:
            read = json.loads(text)
        except ValueError:
            return "JSON" if finish == "length" and text[:1] in ("", "{") else "not JSON"
        good = isinstance(read, dict) and (response_format is not JSON_SCHEMA or set(read) == {"word"})
        return "JSON" if good else "other JSON"

    return steps


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


OSLO = "What is the weather in Oslo?"
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
RESULT = [
    {"role": "user", "content": OSLO},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]


def _tools(stream: bool) -> Callable[[Subject], Steps]:
    def steps(subject: Subject) -> Steps:
        return _ended((yield subject.body(OSLO, tools=[TOOL], max_tokens=64, stream=stream)))

    return steps


def _tool_result(stream: bool) -> Callable[[Subject], Steps]:
    def steps(subject: Subject) -> Steps:
        return _ended((yield subject.body(messages=RESULT, tools=[TOOL], max_tokens=32, stream=stream)))

    return steps


def _tool_named(stream: bool) -> Callable[[Subject], Steps]:
    """Whether a tool that is asked for by its name is called, whatever the model would have done."""

    def steps(subject: Subject) -> Steps:
        asked = {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 64, "stream": stream}
        reply = yield subject.body(OSLO, **asked)
        if stream:
            deltas = [choice["delta"] for chunk in _chunks(reply) for choice in chunk["choices"]]
            calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
        else:
            calls = _whole(reply)["choices"][0]["message"].get("tool_calls") or []
        names = sorted({name for call in calls if (name := (call.get("function") or {}).get("name"))})
        return f"calls {', '.join(names)}" if names else "no call"

    return steps


def _ended(reply: Reply) -> str:
    """Status of an answer, and of a stream whether it is whole."""
    if reply.get("status") == 200 and "events" in reply:
        whole = not reply.get("error") and reply["events"][-1:] == ["[DONE]"]
        return "HTTP 200, a whole stream" if whole else "HTTP 200, a stream that is cut"
    return refusal(reply)


def _tool_argument(subject: Subject) -> Steps:
    asked = "What is the weather in Oslo? Use the tool."
    answer = _whole((yield subject.body(asked, tools=[TOOL], max_tokens=max(128, _enough(subject)))))
    calls = answer["choices"][0]["message"].get("tool_calls")
    if not calls:
        return "no call"
    given = json.loads(calls[0]["function"]["arguments"])
    right = "Oslo" in str(given.get("city", ""))
    return f"calls {calls[0]['function']['name']} with {'the right' if right else 'a wrong'} argument"


def _enough(subject: Subject) -> int:
    """How many tokens an answer may have, so that also a model that reasons first comes to it; others end by
    themselves."""
    return min(512, subject.context // 4)


def _needle(subject: Subject) -> Steps:
    # a piece is five tokens; 80 are for the template and the rest of the prompt
    hay = "The grass is green. " * min(400, (subject.context - _enough(subject) - 80) // 10)
    asked = f"{hay}The code of the safe is 7421. {hay}\nWhat is the code of the safe? Only the number."
    answer = _whole((yield subject.body(asked, max_tokens=_enough(subject))))
    return "found" if "7421" in CHAT.read(answer).content else "not found"


CODES = {"garden": "4817", "harbour": "2096", "library": "7354", "station": "5163", "tower": "8240"}


def _recall(subject: Subject) -> Steps:
    """How many of several numbers in a long prompt come back right. Their keys alone tell them apart, so a KV
    cache of fewer than 16 bits can lose them where it still finds one needle."""
    hay = "The grass is green. " * min(60, subject.context // 90)
    told = hay.join(f"The code of the {place} is {code}. " for place, code in CODES.items())
    asked = f"{hay}{told}{hay}\nWhat are the codes of the {', the '.join(CODES)}? Only the numbers."
    said = CHAT.read(_whole((yield subject.body(asked, max_tokens=_enough(subject))))).content
    return f"{sum(code in said for code in CODES.values())} of {len(CODES)} right"


def _long(share: float) -> Callable[[Subject], Steps]:
    """A prompt of `share` of the context, less the 4 tokens of its answer; what a word costs is measured."""

    def steps(subject: Subject) -> Steps:
        counts = []
        for words in (20, 120):
            answer = _whole((yield subject.body("one " * words, max_tokens=1)))
            counts.append(answer["usage"]["prompt_tokens"])
        per_word = (counts[1] - counts[0]) / 100
        if per_word <= 0:
            return "does not count its prompt"
        words = 20 + int((subject.context * share - 4 - counts[0]) / per_word)
        expected = counts[0] + (words - 20) * per_word
        reply = yield subject.body("one " * words, max_tokens=4)
        if reply.get("status") != 200:
            return refusal(reply)
        whole = _whole(reply)["usage"]["prompt_tokens"] >= expected - 2
        return f"HTTP 200, {'the whole prompt' if whole else 'the prompt was cut'}"

    return steps


def _repeat(subject: Subject) -> Steps:
    texts = set()
    for _ in range(3):
        texts.add(_content(_whole((yield subject.body(max_tokens=24)))))
    return "the same text each time" if len(texts) == 1 else "another text"


def _error(**more: Any) -> Callable[[Subject], Steps]:
    def steps(subject: Subject) -> Steps:
        return refusal((yield subject.body(**more)))

    return steps


def _limited(protocol: TextProtocol, *, stream: bool) -> Callable[[Subject], Steps]:
    """How an answer of five tokens ends in a protocol."""

    def steps(subject: Subject) -> Steps:
        ask = protocol.ask(subject.model, "Write a long story about the sea.", max_tokens=5, stream=stream)
        reply = yield json.dumps(ask)
        if stream and reply.get("status") == 200 and "events" in reply:
            said = Said()
            for event in reply["events"]:
                protocol.hear(said, event)
            if reply.get("error") or not said.ended:
                return "HTTP 200, a stream that is cut"
        else:
            said = protocol.read(_whole(reply))
        if said.total != said.given + said.tokens:
            return "a usage that does not add up"
        return f"{said.finish}" if said.tokens == 5 else "the model ended before the limit"

    return steps


def _count_tokens(subject: Subject) -> Steps:
    asked = {"model": subject.model, "messages": [{"role": "user", "content": "Hello."}]}
    reply = yield json.dumps(asked)
    if reply.get("status") != 200:
        return refusal(reply)
    return "counts" if _whole(reply)["input_tokens"] > 0 else "counts nothing"


def _malformed(subject: Subject) -> Steps:
    return refusal((yield subject.body()[:-10]))


PROBES: dict[str, Probe] = {
    name: Probe(name=name, what=what, steps=steps, able=name in ("tool-argument", "needle", "recall"))
    for name, what, steps in (
        ("max-tokens", "`max_tokens: 5`", _count(5)),
        ("max-tokens-one", "`max_tokens: 1`", _count(1)),
        ("context-fits", "a prompt that just fits the context", _long(1)),
        ("context-overlong", "a prompt of one and a half contexts", _long(1.5)),
        ("stop-string", "a stop string", _stop_string),
        ("finish-stop", "`finish_reason` at a stop string", _stop_finish),
        ("finish-length", "`finish_reason` at `max_tokens`", _finish_length),
        ("prompt-tokens", "`prompt_tokens` of three prompts", _prompt_tokens),
        ("usage", "`usage`", _usage),
        ("answer-fields", "fields of an answer", _fields),
        ("stream-order", "order of a stream with `include_usage`", _stream_order),
        ("stream-fields", "fields of a stream's chunks", _stream_fields),
        ("stream-usage", "`usage` in a stream that did not ask", _stream_usage),
        ("stream-finish", "`finish_reason` of a stream", _stream_finish),
        ("json-mode", "`response_format: json_object`", _json_mode(False, JSON_OBJECT)),
        ("json-mode-stream", "the same in a stream", _json_mode(True, JSON_OBJECT)),
        ("json-schema", "`response_format: json_schema`", _json_mode(False, JSON_SCHEMA)),
        ("json-schema-stream", "the same in a stream", _json_mode(True, JSON_SCHEMA)),
        ("tools", "a request with `tools`", _tools(False)),
        ("tools-stream", "the same in a stream", _tools(True)),
        ("tool-named", "`tool_choice` with the tool's name", _tool_named(False)),
        ("tool-named-stream", "the same in a stream", _tool_named(True)),
        ("tool-result", "a tool's result among the messages", _tool_result(False)),
        ("tool-result-stream", "the same in a stream", _tool_result(True)),
        ("tool-argument", "a tool call with the right argument", _tool_argument),
        ("needle", "a needle in a long prompt", _needle),
        ("recall", "five numbers out of a long prompt, which a quantized KV cache can lose", _recall),
        ("temperature-zero", "the same request three times, `temperature: 0`", _repeat),
        ("unknown-model", "a model that does not exist", _error(model="no-such-model")),
        ("empty-messages", "no messages", _error(messages=[])),
        ("wrong-type", "`messages` is a text", _error(messages="hello")),
        ("malformed-json", "a body that is not JSON", _malformed),
        ("negative-max-tokens", "`max_tokens: -1`", _error(max_tokens=-1)),
    )
}
PROBES |= {
    name: Probe(name=name, what=what, steps=steps, path=path)
    for protocol in (COMPLETIONS, RESPONSES, MESSAGES)
    for name, what, steps, path in (
        (
            protocol.name,
            f"how `{protocol.path}` ends at its limit",
            _limited(protocol, stream=False),
            protocol.path,
        ),
        (f"{protocol.name}-stream", "the same in a stream", _limited(protocol, stream=True), protocol.path),
    )
}
PROBES["count-tokens"] = Probe(
    name="count-tokens", what=f"`{COUNT_TOKENS}`", steps=_count_tokens, path=COUNT_TOKENS
)
"""Every probe by its name, in the table's order."""


def chosen(able: bool) -> list[Probe]:
    """The probes for a model that is able to follow an instruction, or is not."""
    return [probe for probe in PROBES.values() if able or not probe.able]
