"""The `litellm` package, which speaks the OpenAI protocols and Anthropic's."""

from typing import Any

import litellm
from driver import BASE, KEY, MODEL, ROOT, SAY, TALK, USER, WEATHER, serve
from pydantic import BaseModel

OPENAI: Any = {"model": f"openai/{MODEL}", "api_base": BASE, "api_key": KEY, "max_tokens": 64}
ANTHROPIC: Any = {"model": f"anthropic/{MODEL}", "api_base": ROOT, "api_key": KEY, "max_tokens": 64}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


class City(BaseModel):
    city: str


def models() -> list[str]:
    return litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="openai", api_base=BASE, api_key=KEY
    )


def chat() -> str:
    return litellm.completion(messages=[USER], **OPENAI).choices[0].message.content


def stream() -> str:
    chunks = litellm.completion(messages=[USER], stream=True, **OPENAI)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def tools() -> list[Any]:
    message = litellm.completion(messages=[USER], tools=[TOOL], **OPENAI).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = litellm.completion(messages=[USER, message, result], tools=[TOOL], **OPENAI).choices[0].message
    return [call.function.name, call.function.arguments, bool(after.content)]


def structured() -> Any:
    done = litellm.completion(messages=[USER], response_format=City, **OPENAI)
    return City.model_validate_json(done.choices[0].message.content).model_dump()


def completions() -> str:
    ask = {**OPENAI, "model": f"text-completion-openai/{MODEL}"}
    return litellm.text_completion(prompt=SAY, **ask).choices[0].text


def responses() -> str:
    return litellm.responses(
        input=SAY, model=OPENAI["model"], api_base=BASE, api_key=KEY, max_output_tokens=64
    ).output_text


def messages() -> str:
    return litellm.completion(messages=[USER], **ANTHROPIC).choices[0].message.content


def messages_stream() -> str:
    chunks = litellm.completion(messages=[USER], stream=True, **ANTHROPIC)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def abort() -> bool:
    chunks = litellm.completion(messages=[TALK], stream=True, **{**OPENAI, "max_tokens": 900})
    begun = next(chunks).choices[0].delta.content
    chunks.completion_stream.close()
    return bool(begun)


def timeout(seconds: float) -> None:
    litellm.completion(messages=[USER], timeout=seconds, max_retries=0, **OPENAI)


def retry() -> str:
    return litellm.completion(messages=[USER], num_retries=3, **OPENAI).choices[0].message.content


def held() -> str:
    return stream()


serve(
    *(models, chat, stream, tools, structured, completions, responses, messages, messages_stream),
    *(abort, timeout, retry, held),
)
