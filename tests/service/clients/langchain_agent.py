"""LangChain's `ChatOpenAI`, as anybody uses it, against the gateway at BASE_URL.

Prints one line of JSON for each thing that it did.
"""

from __future__ import annotations

import json
import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

QUESTION = {"messages": [{"role": "user", "content": "the weather in 'Oslo'"}]}
PARIS = "'Paris' has 2100000 people"


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: rain"


def model(api: str, **settings: Any) -> ChatOpenAI:
    """The chat model."""
    usual = {
        "model": os.environ["MODEL"],
        "base_url": os.environ["BASE_URL"],
        "api_key": os.environ["GOOD_KEY"],
        "use_responses_api": api == "responses",
    }
    return ChatOpenAI(**{**usual, **settings})


def plain(api: str) -> dict[str, Any]:
    answer = model(api).invoke("hi")
    usage = dict(answer.usage_metadata or {})
    return {"text": answer.text, "usage": [usage["input_tokens"], usage["output_tokens"]]}


def stream(api: str) -> dict[str, Any]:
    whole: Any = None
    words = []
    for chunk in model(api, stream_usage=True).stream("hi"):
        words += [chunk.text] if chunk.text else []
        whole = chunk if whole is None else whole + chunk
    usage = whole.usage_metadata
    return {"words": words, "usage": [usage["input_tokens"], usage["output_tokens"]]}


def structured(api: str) -> dict[str, Any]:
    answer: Any = model(api).with_structured_output(City).invoke(PARIS)
    return answer.model_dump()


def structured_by_tool(api: str) -> dict[str, Any]:
    asked = model(api).with_structured_output(City, method="function_calling")
    answer: Any = asked.invoke(PARIS)
    return answer.model_dump()


def agent(api: str) -> dict[str, Any]:
    found = create_agent(model(api), [weather]).invoke(QUESTION)
    messages = found["messages"]
    return {
        "types": [message.type for message in messages],
        "tool": messages[2].content,
        "answer": messages[-1].text,
        "usage": [bool(m.usage_metadata) for m in messages if m.type == "ai"],
    }


def agent_stream(api: str) -> dict[str, Any]:
    words, nodes = [], []
    running = create_agent(model(api), [weather])
    for mode, part in running.stream(QUESTION, stream_mode=["messages", "updates"]):
        if mode == "updates":
            nodes += list(part)
        elif part[0].type == "AIMessageChunk" and part[0].text:
            words.append(part[0].text)
    return {"nodes": nodes, "words": words}


def agent_structured(api: str) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": PARIS}]}
    found = create_agent(model(api), [], response_format=City).invoke(asked)
    return found["structured_response"].model_dump()


def errors(api: str) -> list[Any]:
    told = []
    for changes in ({"model": "none"}, {"api_key": "csk_wrong"}):
        try:
            model(api, max_retries=0, **changes).invoke("hi")
        except Exception as error:  # noqa: BLE001 - whatever it is
            told.append([type(error).__name__, getattr(error, "code", None)])
    return told


def main() -> None:
    parts = (
        plain,
        stream,
        structured,
        structured_by_tool,
        agent,
        agent_stream,
        agent_structured,
        errors,
    )
    for api in ("chat", "responses"):
        for part in parts:
            told: Any
            try:
                told = part(api)
            except Exception as error:  # noqa: BLE001 - the test shows it
                told = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps({"name": f"{api} {part.__name__}", "told": told}), flush=True)


main()
