"""Clients of Python against a gateway: `python python_clients.py URL KEY` prints a JSON table.

It runs in an environment of its own, with the packages of `PACKAGES`; each client is used as its
own documentation shows. A cell is `ok`, `–` where the client has no such feature, or what went
wrong.
"""

# ruff: noqa: PLC0415 - each client is loaded where it is tried
from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "anthropic==2.14.0",
    "instructor==1.17.0",
    "langchain-anthropic==1.7.10",
    "langchain-ollama==1.1.0",
    "langchain-openai==1.7.4",
    "litellm==1.110.2",
    "llm==0.36",
    "ollama==0.6.3",
    "openai==3.3.0",
    "pydantic-ai-slim[openai]==2.38.0",
)
FEATURES = ("plain", "stream", "tools", "structured", "usage", "error")
ASKED: Any = [{"role": "user", "content": "What is the capital of Australia?"}]
MODEL, MISSING = "support", "no-such-cascade"
PARAMETERS: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather.", "parameters": PARAMETERS},
}


def same(found: object, wanted: object) -> str:
    """`ok`, or what was found instead."""
    return "ok" if found == wanted else f"{found!r}"


def refused(ask: Callable[[], object], kind: type[Exception]) -> str:
    """`ok` where a model that is not there is an error of the client's own kind."""
    try:
        return f"answered {ask()!r}"
    except kind as error:
        return "ok" if MISSING in str(error) else f"{type(error).__name__}: {error}"


def chat_completions(
    ask: Callable[..., Any], missing: str, kind: type[Exception]
) -> dict[str, Callable[[], str]]:
    """Any client that answers with chat completions."""

    def text(**given: Any) -> Any:
        return ask(**given).choices[0].message.content

    def tools() -> str:
        called = ask(tools=[TOOL]).choices[0].message
        (call,) = called.tool_calls
        told = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        messages = [*ASKED, called.model_dump(exclude_none=True), told]
        return same(text(tools=[TOOL], messages=messages), "It is warm")

    def structured() -> str:
        form = {"name": "city", "schema": PARAMETERS, "strict": True}
        answer = text(response_format={"type": "json_schema", "json_schema": form})
        return same(json.loads(answer), {"city": "Canberra"})

    return {
        "plain": lambda: same(text(), "Canberra"),
        "stream": lambda: same(
            "".join(c.choices[0].delta.content or "" for c in ask(stream=True) if c.choices),
            "Canberra",
        ),
        "tools": tools,
        "structured": structured,
        "usage": lambda: same(ask().usage.total_tokens, 110),
        "error": lambda: refused(lambda: ask(model=missing), kind),
    }


def openai_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def ask(**given: Any) -> Any:
        return client.chat.completions.create(**{"model": MODEL, "messages": ASKED, **given})

    return chat_completions(ask, MISSING, openai.NotFoundError)


def openai_responses(url: str, key: str) -> dict[str, Callable[[], str]]:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def ask(**given: Any) -> Any:
        return client.responses.create(**{"model": MODEL, "input": ASKED, **given})

    def tools() -> str:
        tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS}
        (call,) = (each for each in ask(tools=[tool]).output if each.type == "function_call")
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
        given: Any = [*ASKED, call.model_dump(exclude_none=True), told]
        return same(ask(tools=[tool], input=given).output_text, "It is warm")

    def structured() -> str:
        form: Any = {"type": "json_schema", "name": "city", "schema": PARAMETERS}
        return same(json.loads(ask(text={"format": form}).output_text), {"city": "Canberra"})

    return {
        "plain": lambda: same(ask().output_text, "Canberra"),
        "stream": lambda: same(
            "".join(e.delta for e in ask(stream=True) if e.type == "response.output_text.delta"),
            "Canberra",
        ),
        "tools": tools,
        "structured": structured,
        "usage": lambda: same(ask().usage.total_tokens, 110),
        "error": lambda: refused(lambda: ask(model=MISSING), openai.NotFoundError),
    }


def anthropic_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
    tool: Any = {"name": "weather", "input_schema": PARAMETERS}

    def ask(**given: Any) -> Any:
        given = {"model": MODEL, "messages": ASKED, "max_tokens": 50, **given}
        return client.messages.create(**given)

    def stream() -> str:
        with client.messages.stream(model=MODEL, messages=ASKED, max_tokens=50) as pieces:
            return same("".join(pieces.text_stream), "Canberra")

    def tools() -> str:
        called = ask(tools=[tool])
        (call,) = (block for block in called.content if block.type == "tool_use")
        told = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
        messages = [
            *ASKED,
            {"role": "assistant", "content": [b.model_dump() for b in called.content]},
            {"role": "user", "content": [told]},
        ]
        return same(ask(tools=[tool], messages=messages).content[-1].text, "It is warm")

    def structured() -> str:
        form = {"format": {"type": "json_schema", "schema": PARAMETERS}}
        return same(json.loads(ask(output_config=form).content[0].text), {"city": "Canberra"})

    return {
        "plain": lambda: same(ask().content[0].text, "Canberra"),
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "usage": lambda: same(ask().usage.output_tokens, 10),
        "error": lambda: refused(lambda: ask(model=MISSING), anthropic.NotFoundError),
    }


def ollama_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    import ollama

    client = ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"})

    def ask(**given: Any) -> Any:
        return client.chat(**{"model": MODEL, "messages": ASKED, **given})

    def tools() -> str:
        called = ask(tools=[TOOL]).message
        told = {"role": "tool", "content": "21 degrees", "tool_name": "weather"}
        return same(
            ask(tools=[TOOL], messages=[*ASKED, called, told]).message.content, "It is warm"
        )

    return {
        "plain": lambda: same(ask().message.content, "Canberra"),
        "stream": lambda: same("".join(p.message.content for p in ask(stream=True)), "Canberra"),
        "tools": tools,
        "structured": lambda: same(
            json.loads(ask(format=PARAMETERS).message.content), {"city": "Canberra"}
        ),
        "usage": lambda: same(ask().eval_count, 10),
        "error": lambda: refused(lambda: ask(model=MISSING), ollama.ResponseError),
    }


def langchain_model(model: Callable[[str], Any]) -> dict[str, Callable[[], str]]:
    """Any chat model of LangChain's."""

    def tools() -> str:
        bound = model(MODEL).bind_tools([TOOL])
        called = bound.invoke(ASKED[0]["content"])
        (call,) = called.tool_calls
        told = {"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"}
        return same(bound.invoke([*ASKED, called, told]).text, "It is warm")

    def structured() -> str:
        form = {"title": "City", "description": "A city.", **PARAMETERS}
        asked = model(MODEL).with_structured_output(form)
        return same(asked.invoke(ASKED[0]["content"]), {"city": "Canberra"})

    return {
        "plain": lambda: same(model(MODEL).invoke("Capital?").text, "Canberra"),
        "stream": lambda: same(
            "".join(piece.text for piece in model(MODEL).stream("Capital?")), "Canberra"
        ),
        "tools": tools,
        "structured": structured,
        "usage": lambda: same(model(MODEL).invoke("Capital?").usage_metadata["output_tokens"], 10),
        "error": lambda: refused(lambda: model(MISSING).invoke("Capital?"), Exception),
    }


def langchain_openai(url: str, key: str) -> dict[str, Callable[[], str]]:
    from langchain_openai import ChatOpenAI

    return langchain_model(
        lambda name: ChatOpenAI(
            model=name, base_url=f"{url}/v1", api_key=key, max_retries=0, stream_usage=True
        )
    )


def langchain_anthropic(url: str, key: str) -> dict[str, Callable[[], str]]:
    from langchain_anthropic import ChatAnthropic

    return langchain_model(
        lambda name: ChatAnthropic(
            model=name, base_url=url, api_key=key, max_retries=0, max_tokens=50
        )
    )


def langchain_ollama(url: str, key: str) -> dict[str, Callable[[], str]]:
    from langchain_ollama import ChatOllama

    headers = {"headers": {"Authorization": f"Bearer {key}"}}
    return langchain_model(lambda name: ChatOllama(model=name, base_url=url, client_kwargs=headers))


def litellm_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    def ask(model: str = f"openai/{MODEL}", **given: Any) -> Any:
        place = {"api_base": f"{url}/v1", "api_key": key, "num_retries": 0}
        return litellm.completion(**{"model": model, "messages": ASKED, **place, **given})

    return chat_completions(ask, f"openai/{MISSING}", litellm.NotFoundError)


def pydantic_ai_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    from pydantic import BaseModel
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import ModelHTTPError
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class City(BaseModel):
        city: str

    def model(name: str = MODEL) -> Any:
        return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key))

    async def stream() -> str:
        async with Agent(model()).run_stream("Capital?") as result:
            return same(await result.get_output(), "Canberra")

    def tools() -> str:
        agent: Any = Agent(model())
        agent.tool_plain(lambda city: f"21 degrees in {city}", name="weather")
        return same(agent.run_sync("Weather?").output, "It is warm")

    return {
        "plain": lambda: same(Agent(model()).run_sync("Capital?").output, "Canberra"),
        "stream": lambda: asyncio.run(stream()),
        "tools": tools,
        "structured": lambda: same(
            Agent(model(), output_type=City).run_sync("Capital?").output, City(city="Canberra")
        ),
        "usage": lambda: same(Agent(model()).run_sync("Capital?").usage.output_tokens, 10),
        "error": lambda: refused(lambda: Agent(model(MISSING)).run_sync("?"), ModelHTTPError),
    }


def instructor_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    import instructor
    import openai
    from pydantic import BaseModel

    class City(BaseModel):
        city: str

    plain = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def structured() -> str:
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON):
            made: Any = instructor.from_openai(plain, mode=mode)
            city = made.create(model=MODEL, messages=ASKED, response_model=City, max_retries=0)
            if city.city != "Canberra":
                return f"{mode}: {city!r}"
        return "ok"

    return {"structured": structured}


def llm_client(url: str, key: str) -> dict[str, Callable[[], str]]:
    """simonw/llm, by its file of further models."""
    folder = Path(tempfile.mkdtemp())
    os.environ["LLM_USER_PATH"] = str(folder)
    (folder / "extra-openai-models.yaml").write_text(
        "".join(
            f"- {{model_id: {name}, model_name: {name}, api_base: '{url}/v1', "
            f"api_key_name: gateway, supports_schema: true, supports_tools: true}}\n"
            for name in (MODEL, MISSING)
        )
    )
    (folder / "keys.json").write_text(json.dumps({"gateway": key}))
    import llm

    def weather(city: str) -> str:
        """The weather."""
        return f"21 degrees in {city}"

    model = llm.get_model(MODEL)
    return {
        "plain": lambda: same(model.prompt("Capital?", stream=False).text(), "Canberra"),
        "stream": lambda: same("".join(model.prompt("Capital?")), "Canberra"),
        "tools": lambda: same(
            model.chain("Weather?", tools=[weather], stream=False).text().strip(), "It is warm"
        ),
        "structured": lambda: same(
            json.loads(model.prompt("Capital?", schema=PARAMETERS, stream=False).text()),
            {"city": "Canberra"},
        ),
        "error": lambda: refused(
            lambda: llm.get_model(MISSING).prompt("?", stream=False).text(), Exception
        ),
    }


CLIENTS: dict[str, tuple[str, Callable[[str, str], dict[str, Callable[[], str]]]]] = {
    "openai, chat": ("openai", openai_client),
    "openai, responses": ("openai", openai_responses),
    "anthropic": ("anthropic", anthropic_client),
    "ollama": ("ollama", ollama_client),
    "langchain-openai": ("langchain-openai", langchain_openai),
    "langchain-anthropic": ("langchain-anthropic", langchain_anthropic),
    "langchain-ollama": ("langchain-ollama", langchain_ollama),
    "litellm": ("litellm", litellm_client),
    "pydantic-ai": ("pydantic-ai-slim", pydantic_ai_client),
    "instructor": ("instructor", instructor_client),
    "simonw/llm": ("llm", llm_client),
}


def tried(feature: Callable[[], str]) -> str:
    """What came of a feature."""
    try:
        return feature()
    except Exception as error:  # noqa: BLE001 - it is the cell of the table
        return f"{type(error).__name__}: {error}"[:300]


def main() -> None:
    """Print the table."""
    url, key = sys.argv[1:3]
    table: dict[str, dict[str, str]] = {}
    for name, (package, make) in CLIENTS.items():
        features = make(url, key)
        row = {each: tried(features[each]) if each in features else "–" for each in FEATURES}
        table[f"{name} (Python)"] = {"version": version(package), **row}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
