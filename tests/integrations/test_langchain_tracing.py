"""What LangChain's tracing (LangSmith) and LangGraph's message stream see of a cascade."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run
from langgraph.graph import END, START, MessagesState, StateGraph
from watched import QUESTION, down, large, small, watched

from cascade import Cascade
from cascade.errors import ModelUnavailableError
from cascade.testing import ScriptedModel


class Tokens(BaseCallbackHandler):
    """Collects the tokens of all model runs."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.seen.append(token)


def all_runs(run: Run) -> Iterator[Run]:
    yield run
    for child in run.child_runs:
        yield from all_runs(child)


def calls(run: Run) -> list[Run]:
    return [found for found in all_runs(run) if found.run_type in ("llm", "chat_model")]


async def traced(cascade: Cascade, *, fails: bool = False) -> Run:
    tracer = RunCollectorCallbackHandler()
    if fails:
        with pytest.raises(ModelUnavailableError):
            await cascade.ainvoke(QUESTION, {"callbacks": [tracer]})
    else:
        await cascade.ainvoke(QUESTION, {"callbacks": [tracer]})
    (run,) = tracer.traced_runs
    return run


def metadata(run: Run) -> dict[str, Any]:
    return dict((run.extra or {})["metadata"])


def chat(*texts: str) -> BaseChatModel:
    usage: Any = {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}
    return FakeMessagesListChatModel(
        responses=[AIMessage(text, usage_metadata=usage) for text in texts]
    )


async def test_each_call_is_a_run_below_its_node() -> None:
    run = await traced(watched(sure=False))
    found = [(call.name, parent.name) for parent in all_runs(run) for call in parent.child_runs]
    assert ("scripted:small-1", "draft") in found
    assert ("scripted:large-1", "expert") in found
    assert len(calls(run)) == 2


async def test_a_call_has_what_langsmith_counts_by() -> None:
    draft, expert = calls(await traced(watched(sure=False)))
    about = metadata(draft)
    assert (about["ls_provider"], about["ls_model_name"]) == ("scripted", "small-1")
    assert (about["ls_model_type"], about["ls_max_tokens"]) == ("chat", 64)
    assert (about["cascade_tier"], about["cascade_node"]) == ("small", "draft")
    assert (draft.extra or {})["invocation_params"] == {"model": "small-1", "max_tokens": 64}
    message = (expert.outputs or {})["generations"][0][0]["message"]["kwargs"]
    assert message["content"] == "Canberra, ACT"
    assert message["usage_metadata"]["input_tokens"] == 10
    assert message["usage_metadata"]["output_tokens"] == 2
    assert message["response_metadata"]["model_name"] == "large-1-2026"


async def test_the_run_of_the_graph_says_what_came_of_it() -> None:
    tracer = RunCollectorCallbackHandler()
    result = await watched(sure=False, name="shop").ainvoke(
        QUESTION, {"callbacks": [tracer], "metadata": {"mine": 1}}
    )
    about = metadata(tracer.traced_runs[0])
    assert about["mine"] == 1
    assert {key: value for key, value in about.items() if key.startswith("cascade_")} == {
        "cascade_name": "shop",
        "cascade_run_id": result.run_id,
        "cascade_outcome": "escalated",
        "cascade_tier": "large",
        "cascade_escalated": True,
        "cascade_confidence": result.confidence,
        "cascade_calibrated": False,
        "cascade_cost_usd": float(result.ledger.cost_usd or 0),
        "cascade_saved_usd": float(result.ledger.saved_usd or 0),
        "cascade_basis": "measured",
    }


def test_the_run_of_a_graph_that_is_invoked_synchronously_says_it_too() -> None:
    tracer = RunCollectorCallbackHandler()
    asked: Any = {"messages": [("user", QUESTION)]}
    watched().graph.invoke(asked, {"callbacks": [tracer]})
    assert metadata(tracer.traced_runs[0])["cascade_tier"] == "small"
    assert len(calls(tracer.traced_runs[0])) == 1


async def test_langsmith_is_sent_what_came_of_it() -> None:
    sent: dict[str, dict[str, Any]] = {}

    class Client:
        """Takes what LangSmith's client would send."""

        def create_run(self, **run: Any) -> None:
            sent[str(run["id"])] = run

        def update_run(self, run_id: Any, **run: Any) -> None:
            sent[str(run_id)] |= run

    tracer = LangChainTracer(project_name="test", client=Client())  # type: ignore[arg-type]
    await watched(sure=False).ainvoke(QUESTION, {"callbacks": [tracer]})
    (graph,) = (run for run in sent.values() if run["parent_run_id"] is None)
    assert graph["extra"]["metadata"]["cascade_tier"] == "large"
    asked = [run for run in sent.values() if run["run_type"] == "llm"]
    usage = [run["extra"]["metadata"]["usage_metadata"] for run in asked]
    assert [tokens["output_tokens"] for tokens in usage] == [1, 2]


async def test_in_a_graph_of_the_users_it_is_the_cascades_own_run_that_says_it() -> None:
    tracer = RunCollectorCallbackHandler()
    await parent(watched()).ainvoke(asked(), {"callbacks": [tracer]})
    (whole,) = tracer.traced_runs
    assert "cascade_tier" not in metadata(whole)
    told = [run.name for run in all_runs(whole) if "cascade_tier" in metadata(run)]
    assert "cascade" in told


async def test_a_failed_call_is_a_run_with_its_error() -> None:
    broken = ScriptedModel([down("the-server")], name="small-1")
    run = await traced(watched(first=broken, second=broken), fails=True)
    assert len(calls(run)) == 6
    assert all("the server is down" in str(call.error) for call in calls(run))


async def test_only_tokens_that_are_shown_are_tokens_of_a_run() -> None:
    tokens = Tokens()
    config: Any = {"callbacks": [tokens]}
    async for _ in watched(sure=False).astream(QUESTION, config):
        pass
    assert "".join(tokens.seen) == "Canberra, ACT"
    tokens.seen.clear()
    await watched(sure=False).ainvoke(QUESTION, config)
    assert not tokens.seen


async def test_a_chat_model_as_a_tier_reports_itself_and_nobody_a_second_time() -> None:
    cascade = Cascade(chat("Sydney", "False"), chat("Canberra"))
    tracer = RunCollectorCallbackHandler()
    result = await cascade.ainvoke(QUESTION, {"callbacks": [tracer]})
    (run,) = tracer.traced_runs
    nodes = [metadata(call)["cascade_node"] for call in calls(run)]
    assert nodes == ["draft", "self_check", "expert"]
    assert result.escalated
    assert [metadata(call)["cascade_tier"] for call in calls(run)] == ["small", "small", "large"]


def asked() -> Any:
    return {"messages": [("user", QUESTION)]}


def parent(cascade: Cascade) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", cascade.graph)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile()


CASCADES = {
    "providers": lambda: watched(sure=False, first=small(0.3, "Sydney"), second=large()),
    "chat models": lambda: Cascade(chat("Sydney", "False"), chat("Canberra, ACT")),
}


@pytest.mark.parametrize("kind", CASCADES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("more", [{}, {"version": "v2"}])
async def test_a_rejected_draft_is_not_in_the_stream_of_messages(
    kind: str, inside: bool, more: dict[str, Any]
) -> None:
    cascade = CASCADES[kind]()
    graph: Any = parent(cascade) if inside else cascade.graph
    texts = []
    async for part in graph.astream(asked(), stream_mode="messages", subgraphs=True, **more):
        data = part["data"] if isinstance(part, dict) else part[1]
        texts.append(str(data[0].text))
    assert "Canberra, ACT" in texts
    assert "Sydney" not in "".join(texts)
    assert "False" not in "".join(texts)
    assert texts.count("Canberra, ACT") == 1


async def test_without_callbacks_no_run_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("no callback is configured")

    name = "cascade.agents.sending.get_async_callback_manager_for_config"
    monkeypatch.setattr(name, unexpected)
    assert (await watched().ainvoke(QUESTION)).answer == "Canberra"
