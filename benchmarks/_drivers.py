"""The drivers of `overhead`: one way each to answer a question, small model first.

A driver takes the upstream's address and a folder of its own, and gives a function that answers a
question and says which tier did. What a driver needs is imported in it: each runs in a process of
its own, with no other's modules in memory.
"""

# ruff: noqa: PLC0415 - the imports of one driver are no other's

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

Ask = Callable[[str], Awaitable[str]]
Driver = Callable[[str, Path], AbstractAsyncContextManager[Ask]]
THRESHOLD = -1.0
"""Mean log-prob below which those by hand escalate: the upstream's drafts have -0.02 or -2.3."""


def cascade(address: str, **options: Any) -> Any:
    """The cascade of all drivers: two tiers at the upstream, with prices."""
    from cascade import Cascade, Price, Tier

    small = Price(input=0.1, output=0.4)
    large = Price(input=1, output=4)
    return Cascade(
        Tier("openai:small", base_url=address, api_key="x", price=small),
        Tier("openai:large", base_url=address, api_key="x", price=large),
        **options,
    )


def tier(name: str) -> str:
    """Who answered, without what stands before its name."""
    return name.rpartition(":")[2]


@asynccontextmanager
async def ours(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """`Cascade.ainvoke`, its ledger in SQLite."""
    from cascade.ledger.store import open_store

    async with _store(open_store(f"sqlite:///{folder / 'ledger.db'}")) as store:
        made = cascade(address, ledger=store)
        yield _by_ainvoke(made)
        await made.aclose()


@asynccontextmanager
async def _store(store: Any) -> AsyncGenerator[Any]:
    try:
        yield store
    finally:
        await store.aclose()


def _by_ainvoke(made: Any) -> Ask:
    async def ask(question: str) -> str:
        return tier((await made.ainvoke(question)).tier)

    return ask


@asynccontextmanager
async def ours_in_memory(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """`Cascade.ainvoke`, its ledger in the result alone."""
    del folder
    made = cascade(address)
    yield _by_ainvoke(made)
    await made.aclose()


@asynccontextmanager
async def ours_graph(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """`Cascade.graph`, as a part of a user's graph has it."""
    del folder
    made = cascade(address)

    async def ask(question: str) -> str:
        state = await made.graph.ainvoke({"messages": [("user", question)]})
        return tier(str(state["messages"][-1].response_metadata["tier"]))

    yield ask
    await made.aclose()


@asynccontextmanager
async def ours_checkpointed(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """The same graph with LangGraph's checkpointer in memory, a thread for each question."""
    del folder
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    from cascade.state import CHECKPOINT_TYPES

    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))
    made = cascade(address)
    graph = made.build_graph().compile(checkpointer=saver)

    async def ask(question: str) -> str:
        config = {"configurable": {"thread_id": uuid4().hex}}
        state = await graph.ainvoke({"messages": [("user", question)]}, config)
        return tier(str(state["messages"][-1].response_metadata["tier"]))

    yield ask
    await made.aclose()


@asynccontextmanager
async def ours_streamed(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """`Cascade.astream`, token by token after the decision."""
    del folder
    made = cascade(address)

    async def ask(question: str) -> str:
        result: Any = None
        async for event in made.astream(question):
            result = event
        return tier(result.tier)

    yield ask
    await made.aclose()


@asynccontextmanager
async def ours_chat_model(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """`as_chat_model().ainvoke`."""
    del folder
    made = cascade(address)
    model = made.as_chat_model()

    async def ask(question: str) -> str:
        return tier(str((await model.ainvoke(question)).response_metadata["tier"]))

    yield ask
    await made.aclose()


def asked(question: str) -> list[Any]:
    """The question as messages of OpenAI's."""
    return [{"role": "user", "content": question}]


def _client(transport: Callable[[], Any] | None) -> Driver:
    @asynccontextmanager
    async def driver(address: str, folder: Path) -> AsyncGenerator[Ask]:
        del folder
        import openai

        http = None if transport is None else transport()
        async with openai.AsyncOpenAI(base_url=address, api_key="x", http_client=http) as client:
            create: Any = client.chat.completions.create

            async def ask(question: str) -> str:
                draft = await create(model="small", messages=asked(question), logprobs=True)
                tokens = draft.choices[0].logprobs.content
                if sum(token.logprob for token in tokens) / len(tokens) >= THRESHOLD:
                    return "small" if draft.choices[0].message.content else "none"
                answer = await create(model="large", messages=asked(question))
                return "large" if answer.choices[0].message.content else "none"

            yield ask

    return driver


def _aiohttp_transport() -> Any:
    import openai

    return openai.DefaultAioHttpClient()


class _Asked(TypedDict):
    """The state of a cascade that is written by hand."""

    prompt: str
    answer: str
    confidence: float
    model: str


@asynccontextmanager
async def langgraph(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """What a competent developer writes: a StateGraph, two ChatOpenAI, a conditional edge."""
    del folder
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found, unused-ignore]
    from langgraph.graph import END, START, StateGraph

    small = ChatOpenAI(model="small", base_url=address, api_key="x", logprobs=True)
    large = ChatOpenAI(model="large", base_url=address, api_key="x")

    async def draft(state: _Asked) -> dict[str, Any]:
        answer = await small.ainvoke(state["prompt"])
        tokens = answer.response_metadata["logprobs"]["content"]
        mean = sum(token["logprob"] for token in tokens) / len(tokens)
        return {"answer": str(answer.content), "confidence": mean, "model": "small"}

    async def expert(state: _Asked) -> dict[str, Any]:
        answer = await large.ainvoke(state["prompt"])
        return {"answer": str(answer.content), "model": "large"}

    def way(state: _Asked) -> str:
        return END if state["confidence"] >= THRESHOLD else "expert"

    builder = StateGraph(_Asked)
    builder.add_node("draft", draft)
    builder.add_node("expert", expert)
    builder.add_edge(START, "draft")
    builder.add_conditional_edges("draft", way, {END: END, "expert": "expert"})
    builder.add_edge("expert", END)
    graph = builder.compile()

    async def ask(question: str) -> str:
        asked: Any = {"prompt": question}
        return str((await graph.ainvoke(asked))["model"])

    yield ask


@asynccontextmanager
async def floor(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """Raw aiohttp and json: what HTTP costs in Python."""
    del folder
    import aiohttp

    url, headers = f"{address}/chat/completions", {"authorization": "Bearer x"}
    connector = aiohttp.TCPConnector(limit=1000)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def complete(body: dict[str, Any]) -> Any:
            async with session.post(url, json=body) as reply:
                return json.loads(await reply.read())["choices"][0]

        async def ask(question: str) -> str:
            body = {"model": "small", "messages": asked(question), "logprobs": True}
            tokens = (await complete(body))["logprobs"]["content"]
            if sum(token["logprob"] for token in tokens) / len(tokens) >= THRESHOLD:
                return "small"
            answer = await complete({"model": "large", "messages": asked(question)})
            return "large" if answer["message"]["content"] else "none"

        yield ask


DRIVERS: dict[str, Driver] = {
    "client": _client(None),
    "client_aiohttp": _client(_aiohttp_transport),
    "ours": ours,
    "ours_in_memory": ours_in_memory,
    "ours_graph": ours_graph,
    "ours_checkpointed": ours_checkpointed,
    "ours_streamed": ours_streamed,
    "ours_chat_model": ours_chat_model,
    "langgraph": langgraph,
    "floor": floor,
}
"""By name, the reference first."""
