"""The `langchain-openai` package."""

from typing import Any

from driver import BASE, KEY, MODEL, SAY, WEATHER, serve
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

ASK: Any = {"base_url": BASE, "api_key": KEY, "model": MODEL, "max_tokens": 64}
model = ChatOpenAI(**ASK)
TOOL: Any = {"title": "weather", "description": "The weather in a city.", **WEATHER}


class City(BaseModel):
    """A city."""

    city: str


def chat() -> Any:
    return model.invoke(SAY).content


def stream() -> str:
    return "".join(str(chunk.content) for chunk in model.stream(SAY))


def tools() -> list[Any]:
    bound, user = model.bind_tools([TOOL]), HumanMessage(SAY)
    message = bound.invoke([user])
    (call,) = message.tool_calls
    after = bound.invoke([user, message, ToolMessage("sunny", tool_call_id=call["id"])])
    return [call["name"], call["args"], bool(after.content)]


def structured() -> Any:
    return model.with_structured_output(City).invoke(SAY).model_dump()


def completions() -> str:
    return OpenAI(**ASK).invoke(SAY)


def responses() -> str:
    return ChatOpenAI(**ASK, use_responses_api=True).invoke(SAY).text


def responses_stream() -> str:
    return "".join(chunk.text for chunk in ChatOpenAI(**ASK, use_responses_api=True).stream(SAY))


def abort() -> bool:
    chunks = ChatOpenAI(**{**ASK, "max_tokens": 900}).stream("Tell me a long story.")
    begun = next(chunks).content
    chunks.close()
    return bool(begun)


def timeout(seconds: float) -> None:
    ChatOpenAI(**ASK, timeout=seconds, max_retries=0).invoke(SAY)


def retry() -> Any:
    return chat()


def held() -> str:
    return stream()


serve(
    *(chat, stream, tools, structured, completions, responses, responses_stream),
    *(abort, timeout, retry, held),
)
