"""Drivers of `overhead` and `guard`: one way each to answer a question, small model first.

A driver takes the upstream's address and a folder of its own, and gives a function that answers a
question and says which tier did. It imports what it needs, so that each can run in a process of
its own with no other's modules in memory.
"""

# ruff: noqa: PLC0415 - the imports of one driver are no other's

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

from _upstream import child_process

Ask = Callable[[str], Awaitable[str]]
Driver = Callable[[str, Path], AbstractAsyncContextManager[Ask]]
PROGRAM = str(Path(sys.executable).parent / "cascade")
TICKS = os.sysconf("SC_CLK_TCK")
THRESHOLD = -1.0
"""Mean log-prob below which those by hand escalate: the upstream's drafts have -0.02 or -2.3."""


def cascade(address: str, **options: Any) -> Any:
    """The cascade of all drivers: two tiers at the upstream, with prices."""
    from cascade import Cascade, Price, Tier

    small, large = Price(input=0.1, output=0.4), Price(input=1, output=4)
    return Cascade(
        Tier("openai:small", base_url=address, api_key="x", price=small),
        Tier("openai:large", base_url=address, api_key="x", price=large),
        **options,
    )


def _tier(name: object) -> str:
    """The name of a tier without its provider."""
    return str(name).rpartition(":")[2]


def _ours(how: Callable[[Any], Ask], *, stored: bool = False) -> Driver:
    @asynccontextmanager
    async def driver(address: str, folder: Path) -> AsyncGenerator[Ask]:
        from cascade.ledger import open_store

        store = open_store(f"sqlite:///{folder / 'ledger.db'}") if stored else None
        made = cascade(address, ledger=store)
        yield how(made)
        await made.aclose()
        if store is not None:
            await store.aclose()

    return driver


def _by_ainvoke(made: Any) -> Ask:
    async def ask(question: str) -> str:
        return _tier((await made.ainvoke(question)).tier)

    return ask


def _by_astream(made: Any) -> Ask:
    async def ask(question: str) -> str:
        result: Any = None
        async for event in made.astream(question):
            result = event
        return _tier(result.tier)

    return ask


def _by_graph(made: Any) -> Ask:
    graph = made.graph

    async def ask(question: str) -> str:
        state = await graph.ainvoke({"messages": [("user", question)]})
        return _tier(state["messages"][-1].response_metadata["tier"])

    return ask


def _with_checkpoints(made: Any) -> Ask:
    from langgraph.checkpoint.memory import InMemorySaver

    graph = made.build_graph().compile(checkpointer=InMemorySaver())

    async def ask(question: str) -> str:
        config = {"configurable": {"thread_id": uuid4().hex}}
        state = await graph.ainvoke({"messages": [("user", question)]}, config)
        return _tier(state["messages"][-1].response_metadata["tier"])

    return ask


def _by_chat_model(made: Any) -> Ask:
    model = made.as_chat_model()

    async def ask(question: str) -> str:
        return _tier((await model.ainvoke(question)).response_metadata["tier"])

    return ask


def asked(question: str) -> list[Any]:
    """The question as messages of OpenAI's."""
    return [{"role": "user", "content": question}]


@asynccontextmanager
async def _by_hand(address: str) -> AsyncGenerator[Any]:
    """Draft, with its mean log-prob, and answer of the bare `AsyncOpenAI`."""
    import openai

    async with openai.AsyncOpenAI(base_url=address, api_key="x") as bare:
        create: Any = bare.chat.completions.create

        async def draft(question: str) -> tuple[str, float]:
            said = await create(model="small", messages=asked(question), logprobs=True)
            tokens = said.choices[0].logprobs.content
            mean = sum(token.logprob for token in tokens) / len(tokens)
            return said.choices[0].message.content, mean

        async def expert(question: str) -> str:
            said = await create(model="large", messages=asked(question))
            return str(said.choices[0].message.content)

        yield draft, expert


@asynccontextmanager
async def client(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """A cascade by hand on the bare client."""
    del folder
    async with _by_hand(address) as (draft, expert):

        async def ask(question: str) -> str:
            text, mean = await draft(question)
            if mean >= THRESHOLD:
                return "small" if text else "none"
            return "large" if await expert(question) else "none"

        yield ask


class _Asked(TypedDict):
    """The state of a graph that is written by hand."""

    prompt: str
    answer: str
    confidence: float
    model: str


@asynccontextmanager
async def langgraph(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """What a competent developer writes: a StateGraph, the bare client, a conditional edge."""
    del folder
    from langgraph.graph import END, START, StateGraph

    async with _by_hand(address) as (draft, expert):

        async def small(state: _Asked) -> dict[str, Any]:
            text, mean = await draft(state["prompt"])
            return {"answer": text, "confidence": mean, "model": "small"}

        async def large(state: _Asked) -> dict[str, Any]:
            return {"answer": await expert(state["prompt"]), "model": "large"}

        def way(state: _Asked) -> str:
            return END if state["confidence"] >= THRESHOLD else "expert"

        builder = StateGraph(_Asked)
        builder.add_node("draft", small)
        builder.add_node("expert", large)
        builder.add_edge(START, "draft")
        builder.add_conditional_edges("draft", way, {END: END, "expert": "expert"})
        builder.add_edge("expert", END)
        graph = builder.compile()

        async def ask(question: str) -> str:
            state: Any = {"prompt": question}
            return str((await graph.ainvoke(state))["model"])

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


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def free_port() -> int:
    """One at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@contextmanager
def started(
    command: list[str], folder: Path, port: int, path: str, **options: Any
) -> Iterator[int]:
    """A server of its own, once it answers at a path; gives the number of its process."""
    with (folder / "log").open("w", encoding="utf-8") as log:
        options |= {"cwd": folder, "stdout": log, "stderr": log}
        with child_process(command, **options) as process:
            until = time.monotonic() + 90
            while not _answers(f"http://127.0.0.1:{port}{path}"):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit((folder / "log").read_text(encoding="utf-8")[-2000:])
                time.sleep(0.05)
            yield process.pid


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def serving(address: str, folder: Path) -> Iterator[tuple[str, str, int]]:
    """`cascade serve` with a key that has a budget and a ledger in SQLite: URL, key, process."""
    common = {"api_key_env": "UPSTREAM_KEY", "price": {"input": 0.1, "output": 0.4}}
    tiers = [{"model": f"openai:{n}", "base_url": address, **common} for n in ("small", "large")]
    port = free_port()
    config = {
        "listen": {"port": port},
        "ledger": "sqlite:///ledger.db",
        "cascades": {"assistant": {"tiers": tiers, "concurrency": 512}},
    }
    (folder / "cascade.yaml").write_text(json.dumps(config), encoding="utf-8")
    new_key = [PROGRAM, "keys", "create", "sqlite:///ledger.db", "bench", "--day-usd", "1000"]
    made = subprocess.run(new_key, check=True, capture_output=True, text=True, cwd=folder)
    key = re.findall(r"csk_\S+", made.stdout)[0]
    serve, env = [PROGRAM, "serve", "cascade.yaml"], {**os.environ, "UPSTREAM_KEY": "none"}
    with started(serve, folder, port, "/readyz", env=env) as process:
        yield f"http://127.0.0.1:{port}/v1", key, process


DRIVERS: dict[str, Driver] = {
    "client": client,
    "ours": _ours(_by_ainvoke, stored=True),
    "ours_in_memory": _ours(_by_ainvoke),
    "ours_streamed": _ours(_by_astream),
    "ours_graph": _ours(_by_graph),
    "ours_checkpointed": _ours(_with_checkpoints),
    "ours_chat_model": _ours(_by_chat_model),
    "langgraph": langgraph,
    "floor": floor,
}
"""By name, the reference first."""


async def phase(ask: Ask, requests: int, concurrency: int) -> dict[str, float]:
    """Figures of so many questions, so many at a time."""
    numbers, taken, escalated = iter(range(requests)), list[float](), 0

    async def worker() -> None:
        nonlocal escalated
        for number in numbers:
            begun = time.perf_counter()
            escalated += await ask(f"Question {number}: which city is it?") == "large"
            taken.append(1000 * (time.perf_counter() - begun))

    gc.collect()
    cpu, begun = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "per_s": requests / seconds,
        "cpu_ms": 1000 * cpu / requests,
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "escalated": escalated / requests,
    }
