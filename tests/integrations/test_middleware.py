"""A cascade in an agent that has its own model already."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import BaseModel, Field

from cascade import Cascade, Price
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.integrations.middleware import CascadeMiddleware
from cascade.ledger import MemoryLedger
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.testing import ScriptedModel, reply
from tests.integrations.agents import ASKED, big, little, population


class OwnModel(BaseChatModel):
    """A chat model of LangChain's, as an agent has one: right in both steps, and streaming."""

    calls: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "own"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)

    def _message(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        self.calls.append({"messages": messages, **kwargs})
        usage = {"input_tokens": 30, "output_tokens": 6, "total_tokens": 36}
        if messages[-1].type == "tool":
            return AIMessage("460,000 people live there.", usage_metadata=usage)
        call = {"name": "population", "args": {"city": "Canberra"}, "id": "9"}
        return AIMessage("", tool_calls=[call], usage_metadata=usage)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._message(messages, kwargs))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._message(messages, kwargs)
        for word in message.text.split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))
        usage = message.usage_metadata
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=usage))


@pytest.fixture
def own(_real_requests_only_when_live: None, monkeypatch: pytest.MonkeyPatch) -> OwnModel:
    """It counts as a real model, as any chat model that is not LangChain's own fake."""
    monkeypatch.setattr(guard, "forbidden", False)
    return OwnModel()


def tiers(state: Any) -> list[str]:
    return [
        message.response_metadata["tier"]
        for message in state["messages"]
        if isinstance(message, AIMessage)
    ]


async def test_the_small_model_drafts_for_the_agents_own(own: OwnModel) -> None:
    agent: Any = create_agent(own, [population], middleware=[CascadeMiddleware(little())])
    for state in (agent.invoke(ASKED), await agent.ainvoke(ASKED)):
        assert tiers(state) == ["small", "large"]
        assert state["messages"][-1].text == "460,000 people live there."
        said = state["messages"][-1].response_metadata
        assert said["tiers"]["large"]["usage"]["input_tokens"] == 30
    assert len(own.calls) == 2


async def test_everything_of_a_step_goes_to_both_models(own: OwnModel) -> None:
    @wrap_model_call
    def settings(request: ModelRequest, handler: Any) -> Any:
        changed = request.override(model_settings={"temperature": 0.25}, tool_choice="auto")
        return handler(changed)

    small = little()
    agent: Any = create_agent(
        own,
        [population],
        system_prompt="You are a geographer.",
        middleware=[settings, CascadeMiddleware(small)],
    )
    agent.invoke(ASKED)
    request, call = small.requests[0], own.calls[0]
    assert request.messages[0].text == call["messages"][0].text == "You are a geographer."
    assert request.temperature == call["temperature"] == 0.25
    assert request.tool_choice == call["tool_choice"] == "auto"
    assert request.tools[0]["function"]["name"] == "population"
    assert call["tools"][0]["function"]["name"] == "population"


class Answer(BaseModel):
    """An answer."""

    people: int


def test_a_response_format_holds_for_the_cascade(own: OwnModel) -> None:
    small = ScriptedModel([reply('{"people": 460000}', probability=0.95)])
    agent: Any = create_agent(
        own, response_format=ProviderStrategy(Answer), middleware=[CascadeMiddleware(small)]
    )
    assert agent.invoke(ASKED)["structured_response"] == Answer(people=460_000)
    assert own.calls == []


async def test_a_stream_shows_no_rejected_draft_and_the_own_models_words_once(
    own: OwnModel,
) -> None:
    agent: Any = create_agent(own, [population], middleware=[CascadeMiddleware(little())])

    async def shown() -> AsyncIterator[str]:
        async for message, _ in agent.astream(ASKED, stream_mode="messages"):
            if isinstance(message, AIMessageChunk) and message.text:
                yield message.text

    assert [text async for text in shown()] == [
        "460,000 ",
        "people ",
        "live ",
        "there. ",
    ]


def test_a_cascade_may_answer_in_place_of_the_agents_model(own: OwnModel) -> None:
    cascade = Cascade(little(), big())
    agent: Any = create_agent(own, [population], middleware=[CascadeMiddleware(cascade=cascade)])
    state = agent.invoke(ASKED)
    assert state["messages"][-1].text == "460,000 people live in Canberra."
    assert own.calls == []


async def test_entries_have_the_agents_name_and_the_price_of_its_model(
    own: OwnModel, tmp_path: Path
) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        middleware = CascadeMiddleware(
            little(), ledger=store, large_price=Price(input=1, output=1), tags={"app": "a"}
        )
        agent: Any = create_agent(own, [population], middleware=[middleware], name="geographer")
        await agent.ainvoke(ASKED)
        stored = [stored async for stored in store.stored()]
    assert all(each.tags == {"agent": "geographer", "app": "a"} for each in stored)
    (expert,) = [each.entry for each in stored if each.entry.node == "expert"]
    assert expert.cost_usd is not None
    assert float(expert.cost_usd) == pytest.approx(36e-6)
    await middleware.aclose()


def test_one_cascade_is_made_for_each_model_and_kept(own: OwnModel) -> None:
    middleware = CascadeMiddleware(little(), ledger=MemoryLedger())
    other = OwnModel()
    assert middleware.chat_model(own) is middleware.chat_model(own)
    assert middleware.chat_model(own) is not middleware.chat_model(other)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (CascadeMiddleware, "either the small model"),
        (lambda: CascadeMiddleware(little(), cascade=Cascade(little(), big())), "either"),
        (
            lambda: CascadeMiddleware(
                cascade=Cascade(little(), big()), deadline=1.0, large_price=Price(input=1, output=1)
            ),
            "deadline, large_price cannot be given",
        ),
        (
            lambda: CascadeMiddleware(little()).chat_model(
                Cascade(little(), big()).as_chat_model()
            ),
            "is a cascade already",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()


def test_without_langchain_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "langchain"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langchain", None)
    monkeypatch.delitem(sys.modules, "cascade.integrations.middleware")
    with pytest.raises(MissingDependencyError, match="agent-cascade\\[langchain\\]"):
        importlib.import_module("cascade.integrations.middleware")
