"""Agents as tiers whose models answer over HTTP: what the server saw is what the ledger holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from cascade import Cascade, MemoryLedger, Price
from cascade.confidence.trajectory import TrajectorySignal
from cascade.integrations import AgentTier
from cascade.middleware import Retries
from cascade.models.base import guard
from tests.acceptance.langchain_model import OpenAIChat
from tests.acceptance.upstream import Answer, Held, Seen, Upstream, failure

Q = "How many people live in Canberra?"
CALL = ("population", {"city": "Canberra"})


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return 460_000


class ToolChat(OpenAIChat):
    """Sends its tools, and reads calls."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    async def _agenerate(self, messages: Any, *given: Any, **more: Any) -> Any:
        result = await super()._agenerate(messages, *given, **more)
        message = result.generations[0].message
        assert isinstance(message, AIMessage)
        if message.text == "look it up":
            message.tool_calls = [
                {"name": CALL[0], "args": CALL[1], "id": "1", "type": "tool_call"}
            ]
        return result


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    monkeypatch.setattr(guard, "forbidden", False)
    with Upstream() as running:
        yield running


def agent(upstream: Upstream, name: str, answer: Any) -> AgentTier:
    def say(seen: Seen) -> Any:
        told = any(message["role"] == "tool" for message in seen.body["messages"])
        if not told:
            return Answer("look it up")
        return answer(seen) if callable(answer) else answer

    upstream.says(name, say)
    chat = ToolChat(base_url=upstream.openai_url, model=name)
    prices = {"openai-chat:small": Price(input=1, output=2)}
    return AgentTier(create_agent(chat, [population]), name=name, prices=prices)


def pair(upstream: Upstream, small: Any = "five", **options: Any) -> Cascade:
    tiers = [agent(upstream, "small", small), agent(upstream, "large", "460,000 people")]
    given = {"signals": [TrajectorySignal()], "verifier": lambda _q, a: "460" in a, **options}
    return Cascade(*tiers, **given)


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "astream", "graph", "chat model"])
async def test_each_call_that_the_server_saw_is_an_entry(upstream: Upstream, how: str) -> None:
    store = MemoryLedger()
    cascade, asked = pair(upstream, ledger=store), {"messages": [("human", Q)]}
    if how == "invoke":
        answer = (await asyncio.to_thread(cascade.invoke, Q)).answer
    elif how == "ainvoke":
        answer = (await cascade.ainvoke(Q)).answer
    elif how == "astream":
        *events, result = [event async for event in cascade.astream(Q)]
        assert "five" not in str(events)
        answer = result.answer  # type: ignore[union-attr]
    elif how == "graph":
        answer = (await cascade.graph.ainvoke(asked))["messages"][-1].text
    else:
        answer = (await cascade.as_chat_model().ainvoke(Q)).text
    assert answer == "460,000 people"
    calls = [(e.node, e.tier, e.outcome) for e in store.entries if e.model]
    assert calls == [("draft", "small", "ok")] * 2 + [("expert", "large", "ok")] * 2
    assert len(upstream.seen) == 4
    tokens = [(e.input_tokens, e.output_tokens) for e in store.entries if e.model]
    assert tokens == [seen.usage for seen in upstream.seen]


async def test_a_call_that_fails_inside_is_an_entry_too(upstream: Upstream) -> None:
    store = MemoryLedger()
    cascade = pair(upstream, failure(503), ledger=store, middleware=[Retries(1)])
    assert (await cascade.ainvoke(Q)).answer == "460,000 people"
    outcomes = [e.outcome for e in store.entries if e.node == "draft"]
    assert outcomes == ["ok", "failed"]
    assert len(upstream.asked("small")) == 2


async def test_an_agent_that_is_given_up_closes_its_call(upstream: Upstream) -> None:
    store, held = MemoryLedger(), Held()
    asking = asyncio.create_task(pair(upstream, Answer("x", held=held), ledger=store).ainvoke(Q))
    while len(upstream.asked("small")) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [e.outcome for e in store.entries if e.model] == ["ok", "cancelled"]
    held.release()


async def test_questions_side_by_side_get_their_own_answers(upstream: Upstream) -> None:
    def answers(seen: Seen) -> Answer:
        return Answer(f"460 for {seen.texts[0]}")

    store = MemoryLedger()
    cascade = pair(upstream, answers, ledger=store)
    questions = [f"question {i}?" for i in range(12)]
    results = await cascade.abatch(questions)
    assert [result.answer for result in results] == [f"460 for {q}" for q in questions]
    assert [len([e for e in r.ledger if e.model]) for r in results] == [2] * 12
