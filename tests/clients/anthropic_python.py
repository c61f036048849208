"""The `anthropic` package of Python."""

from typing import Any

import anthropic
from driver import KEY, MODEL, ROOT, TALK, USER, WEATHER, serve

client = anthropic.Anthropic(base_url=ROOT, api_key=KEY)
ASK: Any = {"model": MODEL, "messages": [USER], "max_tokens": 64}
TOOL: Any = {"name": "weather", "input_schema": WEATHER}


def models() -> list[str]:
    return [each.id for each in client.models.list()]


def chat() -> str:
    (block,) = client.messages.create(**ASK).content
    return block.text


def stream() -> list[Any]:
    with client.messages.stream(**ASK) as events:
        return ["".join(events.text_stream), events.get_final_message().stop_reason]


def tools() -> list[Any]:
    answer = client.messages.create(**ASK, tools=[TOOL])
    (call,) = answer.content
    result = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}],
    }
    said: Any = [USER, {"role": "assistant", "content": answer.content}, result]
    after = client.messages.create(**{**ASK, "messages": said}, tools=[TOOL])
    return [call.name, call.input, answer.stop_reason, bool(after.content[0].text)]


def count() -> int:
    return client.messages.count_tokens(model=MODEL, messages=[USER]).input_tokens


def abort() -> bool:
    ask: Any = {**ASK, "messages": [TALK], "max_tokens": 900}
    with client.messages.stream(**ask) as events:
        return bool(next(iter(events.text_stream)))


def timeout(seconds: float) -> None:
    client.with_options(timeout=seconds, max_retries=0).messages.create(**ASK)


def retry() -> str:
    return chat()


def held() -> str:
    with client.messages.stream(**ASK) as events:
        return "".join(events.text_stream)


serve(models, chat, stream, tools, count, abort, timeout, retry, held)
