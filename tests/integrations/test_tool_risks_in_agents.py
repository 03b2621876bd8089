"""Marked tools in agents of LangChain's: the rule holds wherever the cascade stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool

from cascade import Cascade, ToolRisks
from cascade.agents import Verdict
from cascade.errors import ConfigurationError
from cascade.integrations.middleware import CascadeMiddleware
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

ASKED: Any = {"messages": [("human", "Remove old.txt, please.")]}
DELETED: list[str] = []


@tool(extras={"risk": "irreversible"})
def delete_file(path: str) -> str:
    """Delete a file."""
    DELETED.append(path)
    return f"{path} is gone"


@tool
def list_files() -> str:
    """List the files."""
    return "old.txt, new.txt"


@pytest.fixture(autouse=True)
def nothing_is_deleted_yet() -> None:
    DELETED.clear()


def call(path: str, probability: float | None = None) -> Completion:
    made = ToolCall(name="delete_file", args={"path": path}, id="1", type="tool_call")
    return reply("", tool_calls=[made], call_probability=probability)


def steps(path: str, sure: float | None = None) -> Any:
    def answer(request: Request) -> Completion:
        if request.messages[-1].type == "tool":
            return reply("It is gone.", probability=0.95)
        return call(path, sure)

    return answer


def small(sure: float = 1.0) -> ScriptedModel:
    """Deletes the wrong file, and is as sure as can be."""
    return ScriptedModel(steps("new.txt", sure), returns_logprobs=True)


def large() -> ScriptedModel:
    return ScriptedModel(steps("old.txt"))


def answers(state: Any) -> list[AIMessage]:
    return [message for message in state["messages"] if isinstance(message, AIMessage)]


def tiers(state: Any) -> list[str]:
    return [message.response_metadata["tier"] for message in answers(state)]


@pytest.mark.parametrize("ask", ["invoke", "ainvoke"])
async def test_a_mark_on_the_tool_reaches_the_cascade_through_an_agent(ask: str) -> None:
    agent: Any = create_agent(Cascade(small(), large()).as_chat_model(), [delete_file, list_files])
    state = agent.invoke(ASKED) if ask == "invoke" else await agent.ainvoke(ASKED)
    assert DELETED == ["old.txt"]
    assert tiers(state) == ["large", "small"]
    reason = answers(state)[0].response_metadata["reason"]
    assert "delete_file is irreversible" in reason


def test_a_tool_without_a_mark_is_called_by_the_draft_as_ever() -> None:
    plain = delete_file.model_copy(update={"extras": None})
    agent: Any = create_agent(Cascade(small(), large()).as_chat_model(), [plain])
    assert tiers(agent.invoke(ASKED)) == ["small", "small"]
    assert DELETED == ["new.txt"]


def test_tools_of_an_agent_are_known_by_their_names() -> None:
    plain = delete_file.model_copy(update={"extras": None})
    model = Cascade(small(), large(), tool_risks={"delete_file": "irreversible"}).as_chat_model()
    create_agent(model, [plain]).invoke(ASKED)
    assert DELETED == ["old.txt"]


def test_a_judge_that_is_sure_enough_lets_the_draft_call() -> None:
    sure = Verdict(confidence=0.995, calibrated=True)
    cascade = Cascade(small(), large(), verifier=lambda question, answer: sure)
    create_agent(cascade.as_chat_model(), [delete_file]).invoke(ASKED)
    assert DELETED == ["new.txt"]


class OwnModel(FakeMessagesListChatModel):
    """An agent's own model, which deletes the right file."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(**kwargs)


def own() -> OwnModel:
    right = {"name": "delete_file", "args": {"path": "old.txt"}, "id": "9"}
    return OwnModel(responses=[AIMessage("", tool_calls=[right]), AIMessage("It is gone.")])


@pytest.mark.parametrize("marked", ["by itself", "by name"])
async def test_the_rule_holds_in_middleware(marked: str) -> None:
    options: dict[str, Any] = {}
    the_tool = delete_file
    if marked == "by name":
        the_tool = delete_file.model_copy(update={"extras": None})
        options = {"tool_risks": {"delete_file": "irreversible"}}
    agent: Any = create_agent(own(), [the_tool], middleware=[CascadeMiddleware(small(), **options)])
    state = await agent.ainvoke(ASKED)
    assert DELETED == ["old.txt"]
    assert "delete_file is irreversible" in answers(state)[0].response_metadata["reason"]


def test_marks_survive_a_binding_and_are_sent_to_nobody() -> None:
    little, big = small(), large()
    model = Cascade(little, big).as_chat_model().bind_tools([delete_file])
    message = model.invoke("Remove old.txt, please.")
    assert message.tool_calls[0]["args"] == {"path": "old.txt"}
    for request in (*little.requests, *big.requests):
        assert "risk" not in repr(request.tools)
        assert not request.extra


def test_tools_given_with_a_call_bring_their_marks_along() -> None:
    model = Cascade(small(), large()).as_chat_model()
    message = model.invoke("Remove old.txt, please.", tools=[delete_file])
    assert message.response_metadata["tier"] == "large"


def test_marks_can_be_given_with_a_call() -> None:
    plain = delete_file.model_copy(update={"extras": None})
    model = Cascade(small(), large()).as_chat_model().bind_tools([plain])
    assert model.invoke("?").response_metadata["tier"] == "small"
    marked = model.invoke("?", tool_risks={"delete_file": "irreversible"})
    assert marked.response_metadata["tier"] == "large"
    with pytest.raises(ConfigurationError, match=r"tool_risks=.*give names and risks"):
        model.invoke("?", tool_risks=ToolRisks())
    with pytest.raises(ConfigurationError, match="'delete_file' is 'bad'"):
        model.invoke("?", tool_risks={"delete_file": "bad"})


def test_a_chat_model_cannot_wait_for_a_person() -> None:
    risks = ToolRisks({"delete_file": "irreversible"}, irreversible="ask")
    with pytest.raises(ConfigurationError, match="waits for a person"):
        CascadeMiddleware(small(), tool_risks=risks).chat_model(own())
