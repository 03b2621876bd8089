"""Drivers of `overhead` for what stands around a cascade: an agent of LangChain's, the gateway.

Each has its own reference beside it: the agent with `ChatOpenAI`, the client without a gateway.
"""

# ruff: noqa: PLC0415 - the imports of one driver are no other's

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from _drivers import Ask, Driver, asked, cascade, tier


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A driver that has another process work for it, whose CPU counts.

    Attributes:
        ask: asks a question.
        cpu_s: seconds of CPU that the other process has used.
    """

    ask: Ask
    cpu_s: Callable[[], float]

    def __call__(self, question: str) -> Awaitable[str]:
        """Ask."""
        return self.ask(question)


def _agent(model: Any) -> Ask:
    from langchain.agents import create_agent

    agent: Any = create_agent(model, tools=[])

    async def ask(question: str) -> str:
        state = await agent.ainvoke({"messages": [("user", question)]})
        about = state["messages"][-1].response_metadata
        return tier(str(about.get("tier") or about["model_name"]))

    return ask


@asynccontextmanager
async def agent(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """LangChain's `create_agent` with a `ChatOpenAI` that is asked everything: one call each."""
    del folder
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found, unused-ignore]

    yield _agent(ChatOpenAI(model="large", base_url=address, api_key="x"))


@asynccontextmanager
async def ours_agent(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """The same agent with `as_chat_model()`: a cascade at each step, 1.3 calls."""
    del folder
    made = cascade(address)
    yield _agent(made.as_chat_model())
    await made.aclose()


@asynccontextmanager
async def ours_gateway(address: str, folder: Path) -> AsyncGenerator[Ask]:
    """The bare client, which asks the gateway instead; the gateway's CPU counts as well."""
    del folder
    import openai
    from gateway import free_port, ours

    behind = urlsplit(address).port
    assert behind is not None, "the upstream has a port"
    with ExitStack() as stack:
        server = stack.enter_context(ours(behind, free_port()))
        url = f"http://127.0.0.1:{server.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=server.key) as client:
            create: Any = client.chat.completions.with_raw_response.create

            async def ask(question: str) -> str:
                raw = await create(model=server.model, messages=asked(question))
                return str(raw.headers["x-cascade-tier"]) if raw.parse().choices else "none"

            yield Elsewhere(ask, lambda: server.cpu_s)


AROUND: dict[str, Driver] = {
    "agent": agent,
    "ours_agent": ours_agent,
    "ours_gateway": ours_gateway,
}
"""By name."""
