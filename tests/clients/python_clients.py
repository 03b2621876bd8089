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


CITY, WARM = {"city": "Canberra"}, "It is warm"
WANTED = {
    "plain": "Canberra",
    "stream": "Canberra",
    "tools": WARM,
    "structured": CITY,
    "usage": 10,
    "error": "ok",
}
"""What each feature has to give."""

FEATURES = tuple(WANTED)

Features = dict[str, Callable[[], Any]]


def refused(ask: Callable[[], object], kind: type[Exception]) -> str:
    """`ok` where a model that is not there is an error of the client's own kind."""
    try:
        return f"answered {ask()!r}"
    except kind as error:
        return "ok" if MISSING in str(error) else f"{type(error).__name__}: {error}"


def chat_completions(ask: Callable[..., Any], missing: str, kind: type[Exception]) -> Features:
    """Any client that answers with chat completions."""

    def text(**given: Any) -> Any:
        return ask(**given).choices[0].message.content

    def tools() -> str:
        called = ask(tools=[TOOL]).choices[0].message
        (call,) = called.tool_calls
        told = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        messages = [*ASKED, called.model_dump(exclude_none=True), told]
        return text(tools=[TOOL], messages=messages)

    def structured() -> object:
        form = {"name": "city", "schema": PARAMETERS, "strict": True}
        return json.loads(text(response_format={"type": "json_schema", "json_schema": form}))

    return {
        "plain": text,
        "stream": lambda: "".join(
            c.choices[0].delta.content or "" for c in ask(stream=True) if c.choices
        ),
        "tools": tools,
        "structured": structured,
        "usage": lambda: ask().usage.completion_tokens,
        "error": lambda: refused(lambda: ask(model=missing), kind),
    }


def openai_client(url: str, key: str) -> Features:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def ask(**given: Any) -> Any:
        return client.chat.completions.create(**{"model": MODEL, "messages": ASKED, **given})

    return chat_completions(ask, MISSING, openai.NotFoundError)


def openai_responses(url: str, key: str) -> Features:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def ask(**given: Any) -> Any:
        return client.responses.create(**{"model": MODEL, "input": ASKED, **given})

    def tools() -> str:
        tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS}
        (call,) = (each for each in ask(tools=[tool]).output if each.type == "function_call")
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
        given: Any = [*ASKED, call.model_dump(exclude_none=True), told]
        return ask(tools=[tool], input=given).output_text

    form: Any = {"type": "json_schema", "name": "city", "schema": PARAMETERS}
    return {
        "plain": lambda: ask().output_text,
        "stream": lambda: "".join(
            e.delta for e in ask(stream=True) if e.type == "response.output_text.delta"
        ),
        "tools": tools,
        "structured": lambda: json.loads(ask(text={"format": form}).output_text),
        "usage": lambda: ask().usage.output_tokens,
        "error": lambda: refused(lambda: ask(model=MISSING), openai.NotFoundError),
    }


def anthropic_client(url: str, key: str) -> Features:
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
    tool: Any = {"name": "weather", "input_schema": PARAMETERS}
    form = {"format": {"type": "json_schema", "schema": PARAMETERS}}

    def ask(**given: Any) -> Any:
        given = {"model": MODEL, "messages": ASKED, "max_tokens": 50, **given}
        return client.messages.create(**given)

    def stream() -> str:
        with client.messages.stream(model=MODEL, messages=ASKED, max_tokens=50) as pieces:
            return "".join(pieces.text_stream)

    def tools() -> str:
        called = ask(tools=[tool])
        (call,) = (block for block in called.content if block.type == "tool_use")
        told = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
        said = {"role": "assistant", "content": [b.model_dump() for b in called.content]}
        messages = [*ASKED, said, {"role": "user", "content": [told]}]
        return ask(tools=[tool], messages=messages).content[-1].text

    return {
        "plain": lambda: ask().content[0].text,
        "stream": stream,
        "tools": tools,
        "structured": lambda: json.loads(ask(output_config=form).content[0].text),
        "usage": lambda: ask().usage.output_tokens,
        "error": lambda: refused(lambda: ask(model=MISSING), anthropic.NotFoundError),
    }


def ollama_client(url: str, key: str) -> Features:
    import ollama

    client = ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"})

    def ask(**given: Any) -> Any:
        return client.chat(**{"model": MODEL, "messages": ASKED, **given})

    def tools() -> str:
        called = ask(tools=[TOOL]).message
        told = {"role": "tool", "content": "21 degrees", "tool_name": "weather"}
        return ask(tools=[TOOL], messages=[*ASKED, called, told]).message.content

    return {
        "plain": lambda: ask().message.content,
        "stream": lambda: "".join(piece.message.content for piece in ask(stream=True)),
        "tools": tools,
        "structured": lambda: json.loads(ask(format=PARAMETERS).message.content),
        "usage": lambda: ask().eval_count,
        "error": lambda: refused(lambda: ask(model=MISSING), ollama.ResponseError),
    }


def langchain_model(model: Callable[[str], Any]) -> Features:
    """Any chat model of LangChain's."""
    form = {"title": "City", "description": "A city.", **PARAMETERS}

    def tools() -> str:
        bound = model(MODEL).bind_tools([TOOL])
        called = bound.invoke(ASKED)
        (call,) = called.tool_calls
        told = {"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"}
        return bound.invoke([*ASKED, called, told]).text

    return {
        "plain": lambda: model(MODEL).invoke("Capital?").text,
        "stream": lambda: "".join(piece.text for piece in model(MODEL).stream("Capital?")),
        "tools": tools,
        "structured": lambda: model(MODEL).with_structured_output(form).invoke("Capital?"),
        "usage": lambda: model(MODEL).invoke("Capital?").usage_metadata["output_tokens"],
        "error": lambda: refused(lambda: model(MISSING).invoke("Capital?"), Exception),
    }


def langchain_openai(url: str, key: str) -> Features:
    from langchain_openai import ChatOpenAI

    return langchain_model(
        lambda name: ChatOpenAI(
            model=name, base_url=f"{url}/v1", api_key=key, max_retries=0, stream_usage=True
        )
    )


def langchain_anthropic(url: str, key: str) -> Features:
    from langchain_anthropic import ChatAnthropic

    return langchain_model(
        lambda name: ChatAnthropic(
            model=name, base_url=url, api_key=key, max_retries=0, max_tokens=50
        )
    )


def langchain_ollama(url: str, key: str) -> Features:
    from langchain_ollama import ChatOllama

    headers = {"headers": {"Authorization": f"Bearer {key}"}}
    return langchain_model(lambda name: ChatOllama(model=name, base_url=url, client_kwargs=headers))


def litellm_client(url: str, key: str) -> Features:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    def ask(model: str = f"openai/{MODEL}", **given: Any) -> Any:
        place = {"api_base": f"{url}/v1", "api_key": key, "num_retries": 0}
        return litellm.completion(**{"model": model, "messages": ASKED, **place, **given})

    return chat_completions(ask, f"openai/{MISSING}", litellm.NotFoundError)


def pydantic_ai_client(url: str, key: str) -> Features:
    from pydantic import BaseModel
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import ModelHTTPError
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class City(BaseModel):
        city: str

    def agent(name: str = MODEL, **given: Any) -> Any:
        provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
        return Agent(OpenAIChatModel(name, provider=provider), **given)

    async def stream() -> str:
        async with agent().run_stream("Capital?") as result:
            return await result.get_output()

    def tools() -> str:
        made = agent()
        made.tool_plain(lambda city: f"21 degrees in {city}", name="weather")
        return made.run_sync("Weather?").output

    return {
        "plain": lambda: agent().run_sync("Capital?").output,
        "stream": lambda: asyncio.run(stream()),
        "tools": tools,
        "structured": lambda: vars(agent(output_type=City).run_sync("Capital?").output),
        "usage": lambda: agent().run_sync("Capital?").usage.output_tokens,
        "error": lambda: refused(lambda: agent(MISSING).run_sync("?"), ModelHTTPError),
    }


def instructor_client(url: str, key: str) -> Features:
    import instructor
    import openai
    from pydantic import BaseModel

    class City(BaseModel):
        city: str

    plain = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def structured() -> object:
        given: Any = {"model": MODEL, "messages": ASKED, "response_model": City, "max_retries": 0}
        modes = (instructor.Mode.TOOLS, instructor.Mode.JSON)
        cities = (instructor.from_openai(plain, mode=m).create(**given) for m in modes)
        first, other = (city.model_dump() for city in cities)
        return first if first == other else (first, other)

    return {"structured": structured}


def llm_client(url: str, key: str) -> Features:
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
        "plain": lambda: model.prompt("Capital?", stream=False).text(),
        "stream": lambda: "".join(model.prompt("Capital?")),
        "tools": lambda: model.chain("Weather?", tools=[weather], stream=False).text().strip(),
        "structured": lambda: json.loads(
            model.prompt("Capital?", schema=PARAMETERS, stream=False).text()
        ),
        "error": lambda: refused(
            lambda: llm.get_model(MISSING).prompt("?", stream=False).text(), Exception
        ),
    }


CLIENTS: dict[str, tuple[str, Callable[[str, str], Features]]] = {
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


def tried(feature: Callable[[], Any], wanted: object) -> str:
    """What came of a feature."""
    try:
        found = feature()
    except Exception as error:  # noqa: BLE001 - it is the cell of the table
        return f"{type(error).__name__}: {error}"[:300]
    return "ok" if found == wanted else f"{found!r}"


def main() -> None:
    """Print the table."""
    url, key = sys.argv[1:3]
    table: dict[str, dict[str, str]] = {}
    for name, (package, make) in CLIENTS.items():
        features = make(url, key)
        row = {f: tried(features[f], WANTED[f]) if f in features else "–" for f in FEATURES}
        table[f"{name} (Python)"] = {"version": version(package), **row}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
