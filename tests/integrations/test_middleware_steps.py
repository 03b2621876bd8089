"""What a step may not do, and what it goes by, through the middleware of an agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field

from cascade.integrations.middleware import CascadeMiddleware
from cascade.ledger import MemoryLedger
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.privacy import looks_personal
from cascade.testing import ScriptedModel, reply
from tests.integrations.agents import ASKED, little, population

SECRET: Any = {"messages": [("human", "Write to anna@example.org")]}
PUBLIC: Any = {"messages": [("human", "What is the weather like?")]}
HERE: Any = {"configurable": {"local_only": True, "thread_id": "t"}}


class Elsewhere(BaseChatModel):
    """The agent's own model, which is not on this machine."""

    asked: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "elsewhere"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked.append(str(messages[-1].text))
        usage: Any = {"input_tokens": 30, "output_tokens": 6, "total_tokens": 36}
        message = AIMessage("from elsewhere", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def own(_real_requests_only_when_live: None, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    monkeypatch.setattr(guard, "forbidden", False)
    return Elsewhere()


def unsure() -> ScriptedModel:
    return ScriptedModel([reply("from here", probability=0.3)], name="little")


def metadata(state: Any) -> list[dict[str, Any]]:
    return [m.response_metadata for m in state["messages"] if isinstance(m, AIMessage)]


def agent_of(own: Elsewhere, tools: Sequence[Any] = (), saver: Any = None, **options: Any) -> Any:
    small = options.pop("small", None) or unsure()
    middleware = [CascadeMiddleware(small, **options)]
    return create_agent(own, list(tools), middleware=middleware, checkpointer=saver, name="clerk")


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "astream"])
async def test_a_call_that_has_to_stay_here_asks_nobody_elsewhere(own: Elsewhere, how: str) -> None:
    agent = agent_of(own)
    if how == "invoke":
        state = agent.invoke(PUBLIC, HERE)
    elif how == "ainvoke":
        state = await agent.ainvoke(PUBLIC, HERE)
    else:
        *_, state = [each async for each in agent.astream(PUBLIC, HERE, stream_mode="values")]
    (said,) = metadata(state)
    assert (said["tier"], said["degraded"], said["local_only"]) == ("small", True, "answer")
    assert own.asked == []
    assert agent.invoke(PUBLIC)["messages"][-1].text == "from elsewhere"


def test_a_middleware_that_is_local_only_never_asks_the_agents_own_model(own: Elsewhere) -> None:
    agent = agent_of(own, small=little(), tools=[population], local_only="abstain")
    state = agent.invoke(ASKED)
    assert [said["tier"] for said in metadata(state)] == ["small", "small"]
    assert metadata(state)[-1]["abstained"] is True
    assert state["messages"][-1].text == ""
    assert own.asked == []


async def test_what_is_private_stays_here_with_all_that_follows_in_its_thread(
    own: Elsewhere,
) -> None:
    ledger = MemoryLedger()
    agent = agent_of(own, saver=InMemorySaver(), private=looks_personal, ledger=ledger)
    thread: Any = {"configurable": {"thread_id": "1"}}
    other: Any = {"configurable": {"thread_id": "2"}}
    await agent.ainvoke(SECRET, thread)
    await agent.ainvoke(PUBLIC, thread)
    assert own.asked == []
    await agent.ainvoke(PUBLIC, other)
    assert own.asked == ["What is the weather like?"]
    notes = [entry.note for entry in ledger.entries if entry.node == "route"]
    assert notes == [
        "private: stays on this machine",
        "an earlier question had to stay: stays on this machine",
        "not private",
    ]


def test_a_secret_that_a_tool_brings_stays_here(own: Elsewhere) -> None:
    """The first step may leave; the one that has the tool's answer in it may not."""

    def look_up(name: str) -> str:
        """Look up somebody's address."""
        return f"{name}@example.org"

    def draft(request: Any) -> Any:
        if request.messages[-1].type == "tool":
            return reply("found", probability=0.3)
        call: Any = {"name": "look_up", "args": {"name": "anna"}, "id": "1", "type": "tool_call"}
        return reply("sure", probability=0.95, tool_calls=[call])

    small = ScriptedModel(draft, returns_logprobs=True)
    agent = agent_of(
        own, small=small, tools=[look_up], private=looks_personal, verifier=_sure_of_calls
    )
    state = agent.invoke(PUBLIC)
    assert [said.get("local_only") for said in metadata(state)] == [None, "answer"]
    assert own.asked == []


def _sure_of_calls(question: str, answer: str) -> float:
    return 0.95 if "look_up" in answer else 0.3


async def test_the_latch_goes_by_the_agents_messages(own: Elsewhere) -> None:
    small = unsure()
    agent = agent_of(own, small=small, saver=InMemorySaver(), latch=True)
    thread: Any = {"configurable": {"thread_id": "1"}}
    state: Any = None
    for _ in range(4):
        state = await agent.ainvoke({"messages": [HumanMessage("?")]}, thread)
    assert [said["step"]["asked"] for said in metadata(state)] == [
        ["small", "large"],
        ["small", "large"],
        ["large"],
        ["large"],
    ]
    assert metadata(state)[-1]["reason"].startswith("latched: 2 of the last 2 drafts")
    assert len(small.requests) == 2
    assert len(own.asked) == 4


async def test_a_latched_step_of_a_secret_stays_here_all_the_same(own: Elsewhere) -> None:
    agent = agent_of(own, saver=InMemorySaver(), latch=True)
    thread: Any = {"configurable": {"thread_id": "t"}}
    for _ in range(2):
        await agent.ainvoke(PUBLIC, thread)
    state = await agent.ainvoke(PUBLIC, HERE)
    assert metadata(state)[-1]["tier"] == "small"
    assert len(own.asked) == 2


async def test_entries_of_each_agent_have_its_name(own: Elsewhere) -> None:
    async with open_store("memory://") as store:
        middleware = CascadeMiddleware(unsure(), ledger=store, latch=True)
        for name in ("planner", "writer"):
            agent: Any = create_agent(own, middleware=[middleware], name=name)
            await agent.ainvoke(PUBLIC)
        tags = [stored.tags["agent"] async for stored in store.stored()]
    assert tags == ["planner"] * 4 + ["writer"] * 4


async def test_agents_that_share_a_conversation_are_latched_apart(own: Elsewhere) -> None:
    middleware = CascadeMiddleware(unsure(), latch=True)
    agents: list[Any] = [
        create_agent(own, middleware=[middleware], name=name) for name in ("planner", "writer")
    ]
    state: Any = {"messages": []}
    for turn in (0, 0, 1, 0):
        messages = [*state["messages"], HumanMessage("?")]
        state = await agents[turn].ainvoke({"messages": messages})
    assert [len(said["step"]["asked"]) for said in metadata(state)] == [2, 2, 2, 1]
