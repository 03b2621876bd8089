"""OpenAI's Agents SDK, as anybody uses it, against the gateway at BASE_URL.

Prints one line of JSON for each thing that it did.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel

from agents import (  # noqa: TID251 - it is the SDK that is meant here
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    RunResult,
    RunResultStreaming,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)  # traces would go to OpenAI
CLIENT = AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["GOOD_KEY"])
NAME = os.environ["MODEL"]
MODELS = {
    "chat": OpenAIChatCompletionsModel(NAME, CLIENT),
    "responses": OpenAIResponsesModel(NAME, CLIENT),
}
QUESTION = "the weather in 'Oslo'"


class City(BaseModel):
    """A city."""

    name: str
    people: int


@function_tool
def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    return f"{city}: rain"


def agent(api: str, **changes: Any) -> Agent[Any]:
    """An agent with a tool."""
    return Agent(
        name="Helper",
        instructions="Help.",
        model=MODELS[api],
        **{"tools": [weather], **changes},
    )


def steps(result: RunResult | RunResultStreaming) -> dict[str, Any]:
    """What happened in a run."""
    usage = result.context_wrapper.usage
    return {
        "items": [item.type for item in result.new_items],
        "tool": [item.output for item in result.new_items if item.type == "tool_call_output_item"],
        "answer": result.final_output,
        "agent": result.last_agent.name,
        "usage": [usage.requests, usage.input_tokens, usage.output_tokens],
    }


async def plain(api: str) -> dict[str, Any]:
    return steps(await Runner.run(agent(api), QUESTION))


async def stream(api: str) -> dict[str, Any]:
    result = Runner.run_streamed(agent(api), QUESTION)
    raw = [e.data async for e in result.stream_events() if e.type == "raw_response_event"]
    words = [data.delta for data in raw if data.type == "response.output_text.delta"]
    return {**steps(result), "words": words}


async def stream_usage(api: str) -> list[int]:
    """With chat completions the SDK asks for the usage where it is told to."""
    asked = agent(api, tools=[], model_settings=ModelSettings(include_usage=True))
    result = Runner.run_streamed(asked, "hi")
    async for _ in result.stream_events():
        pass
    usage: list[int] = steps(result)["usage"]
    return usage


async def structured(api: str) -> dict[str, Any]:
    asked = agent(api, tools=[], output_type=City)
    result = await Runner.run(asked, "'Paris' has 2100000 people")
    return result.final_output_as(City, raise_if_incorrect_type=True).model_dump()


async def handoff(api: str) -> dict[str, Any]:
    expert = Agent(name="Expert", instructions="Answer.", model=MODELS[api])
    return steps(await Runner.run(agent(api, tools=[], handoffs=[expert]), "hi"))


async def session(api: str) -> list[str]:
    """Two turns of a conversation that the SDK keeps."""
    kept = SQLiteSession("one")
    answers = [
        str((await Runner.run(agent(api, tools=[]), text, session=kept)).final_output)
        for text in ("hi", "and now?")
    ]
    return [*answers, *(str(item.get("role")) for item in await kept.get_items())]


async def settings(api: str) -> str:
    """What an agent may be set to."""
    given = ModelSettings(
        temperature=0.2,
        max_tokens=200,
        metadata={"ticket": "7"},
        parallel_tool_calls=False,
        store=False,
        include_usage=True,
        tool_choice="auto",
        verbosity="low",
    )
    return str((await Runner.run(agent(api, model_settings=given), QUESTION)).final_output)


async def server_side(api: str) -> str:
    """The second turn names the first."""
    first = await Runner.run(agent(api, tools=[]), "hi")
    second = await Runner.run(
        agent(api, tools=[]), "and now?", previous_response_id=first.last_response_id
    )
    return str(second.final_output)


PARTS: Any = (plain, stream, stream_usage, structured, handoff, session, settings)


async def main() -> None:
    parts = [(api, part) for api in MODELS for part in PARTS]
    for api, part in [*parts, ("responses", server_side)]:
        told: Any
        try:
            told = await part(api)
        except Exception as error:  # noqa: BLE001 - the test shows it
            told = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": f"{api} {part.__name__}", "told": told}), flush=True)


asyncio.run(main())
