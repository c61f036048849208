"""The `openai` package of Python."""

from typing import Any

import openai
from driver import BASE, KEY, MODEL, SAY, TALK, USER, WEATHER, serve
from pydantic import BaseModel

client = openai.OpenAI(base_url=BASE, api_key=KEY)
ASK: Any = {"model": MODEL, "messages": [USER], "max_tokens": 64}
INPUT: Any = {"model": MODEL, "input": SAY, "max_output_tokens": 64}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


class City(BaseModel):
    city: str


def models() -> list[str]:
    return [each.id for each in client.models.list()]


def chat() -> str | None:
    return client.chat.completions.create(**ASK).choices[0].message.content


def stream() -> str:
    with client.chat.completions.create(**ASK, stream=True) as chunks:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tools() -> list[Any]:
    message = client.chat.completions.create(**ASK, tools=[TOOL]).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said: Any = {**ASK, "messages": [USER, message, result], "tools": [TOOL]}
    after = client.chat.completions.create(**said).choices[0].message
    return [call.function.name, call.function.arguments, bool(after.content)]


def structured() -> Any:
    done = client.chat.completions.parse(**ASK, response_format=City)
    return done.choices[0].message.parsed.model_dump()


def completions() -> str:
    return client.completions.create(model=MODEL, prompt=SAY, max_tokens=64).choices[0].text


def responses() -> str:
    return client.responses.create(**INPUT).output_text


def responses_stream() -> list[Any]:
    with client.responses.stream(**INPUT) as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        return [text, events.get_final_response().status]


def responses_tools() -> list[Any]:
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    (call,) = client.responses.create(**INPUT, tools=[tool]).output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = client.responses.create(**{**INPUT, "input": [USER, call, result]}, tools=[tool])
    return [call.name, call.arguments, bool(after.output_text)]


def responses_structured() -> Any:
    done = client.responses.parse(**INPUT, text_format=City)
    return done.output_parsed.model_dump()


def abort() -> bool:
    chunks = client.chat.completions.create(**{**ASK, "messages": [TALK], "max_tokens": 900}, stream=True)
    begun = next(iter(chunks)).choices[0].delta.content
    chunks.close()
    return bool(begun)


def timeout(seconds: float) -> None:
    client.with_options(timeout=seconds, max_retries=0).chat.completions.create(**ASK)


def retry() -> str | None:
    return chat()


def held() -> str:
    return stream()


serve(
    *(models, chat, stream, tools, structured, completions),
    *(responses, responses_stream, responses_tools, responses_structured),
    *(abort, timeout, retry, held),
)
