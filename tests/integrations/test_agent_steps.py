"""Steps of an agent: each is escalated alone, and after repeated trouble they go straight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from cascade import Cascade, Latch
from cascade.errors import AuthenticationError, ModelUnavailableError, RateLimitError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

QUESTION: Any = {"messages": [("human", "Add it up.")]}
STRAIGHT = "latched: 2 of the last 2 drafts of this conversation were in trouble; step "


def add(n: int) -> str:
    """Add a number."""
    return f"{n} more"


def step_number(request: Request) -> int:
    """How many answers the conversation has."""
    return sum(message.type == "ai" for message in request.messages)


def working(steps: int) -> Callable[[Request], Completion]:
    """The large model: one tool call per step, then an answer."""

    def answer(request: Request) -> Completion:
        n = step_number(request)
        if n >= steps:
            return reply("done")
        call: Any = {"name": "add", "args": {"n": n}, "id": f"large-{n}", "type": "tool_call"}
        return reply("", tool_calls=[call])

    return answer


def drafting(sure: str) -> ScriptedModel:
    """A small model that is sure of the steps with a `+`, and calls the right tool in them."""

    def draft(request: Request) -> Completion:
        n = step_number(request)
        if n >= len(sure) or sure[n] == "-":
            return reply("I do not know", probability=0.3)
        call: Any = {"name": "add", "args": {"n": n}, "id": f"small-{n}", "type": "tool_call"}
        words = f"Step {n}, no doubt"
        return reply(words, probability=0.95, tool_calls=[call])

    return ScriptedModel(draft, returns_logprobs=True, name="little")


def judged(question: str, answer: str) -> float:
    """A verifier: it trusts what the small model says without a doubt."""
    return 0.95 if "no doubt" in answer else 0.3


def cascade(sure: str, steps: int, **options: Any) -> Cascade:
    large = ScriptedModel(working(steps), name="big")
    return Cascade(drafting(sure), large, verifier=judged, **options)


def way(state: Any) -> str:
    """Of each step: s(mall), l(arge) after a draft, or straight |."""
    letters = []
    for message in state["messages"]:
        if isinstance(message, AIMessage):
            asked = message.response_metadata["step"]["asked"]
            letters.append({1: "|" if asked[0] == "large" else "s", 2: "l"}[len(asked)])
    return "".join(letters)


def reasons(state: Any) -> list[str]:
    return [m.response_metadata["reason"] for m in state["messages"] if isinstance(m, AIMessage)]


async def test_one_step_is_escalated_and_not_the_whole_run() -> None:
    agent: Any = create_agent(cascade("+-++", 4).as_chat_model(), [add])
    assert way(agent.invoke(QUESTION)) == way(await agent.ainvoke(QUESTION)) == "slssl"


async def test_after_repeated_trouble_steps_go_straight_and_no_draft_is_paid() -> None:
    ledger = MemoryLedger()
    pair = cascade("--------", 8, latch=True, ledger=ledger)
    agent: Any = create_agent(pair.as_chat_model(), [add])
    state = await agent.ainvoke(QUESTION)
    assert way(state) == "ll|||l|||"
    assert len([e for e in ledger.entries if e.node == "draft"]) == 3
    assert reasons(state)[2] == f"{STRAIGHT}1 of 3 before a draft is tried"
    routed = [entry for entry in ledger.entries if entry.node == "route"]
    assert [entry.note for entry in routed] == [r for r in reasons(state) if "latched" in r]
    assert {(entry.tier, entry.cost_usd) for entry in routed} == {("large", 0)}


def test_it_goes_back_when_drafts_are_accepted_again() -> None:
    agent: Any = create_agent(cascade("--+++++-+++", 11, latch=True).as_chat_model(), [add])
    # closed, held, tried twice, open: a single one in trouble closes nothing
    assert way(agent.invoke(QUESTION)) == "ll|||sslsssl"


def test_a_draft_that_is_tried_in_vain_holds_it_longer() -> None:
    pair = cascade("--+++-+++++", 9, latch=Latch(hold=2))
    agent: Any = create_agent(pair.as_chat_model(), [add])
    assert way(agent.invoke(QUESTION)) == "ll||sl||sssl"


def test_without_a_latch_each_step_is_drafted() -> None:
    agent: Any = create_agent(cascade("------", 5).as_chat_model(), [add])
    assert way(agent.invoke(QUESTION)) == "llllll"


def test_a_small_model_that_goes_round_in_a_circle_is_relieved() -> None:
    """Each of its drafts is accepted: only what came of the calls tells."""

    def circling(request: Request) -> Completion:
        n = step_number(request)
        stuck: Any = {"name": "add", "args": {"n": n % 2}, "id": str(n), "type": "tool_call"}
        return reply("no doubt", probability=0.95, tool_calls=[stuck])

    small = ScriptedModel(circling, returns_logprobs=True)
    large = ScriptedModel(lambda _: reply("done"))
    agent: Any = create_agent(
        Cascade(small, large, verifier=judged, latch=True).as_chat_model(), [add]
    )
    state = agent.invoke(QUESTION, {"recursion_limit": 30})
    assert way(state) == "ssss|"
    assert "2 of the last 4 drafts" in reasons(state)[-1]


async def test_what_it_goes_by_survives_a_restart_and_never_leaves_its_thread(
    tmp_path: Path,
) -> None:
    """Another process has nothing but the checkpoints."""
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "agent.db")) as saver:
        for turn, expected in enumerate(["l", "ll", "ll|"]):
            model = cascade("", 0, latch=True).as_chat_model()
            agent: Any = create_agent(model, [add], checkpointer=saver)
            one, other = ({"configurable": {"thread_id": thread}} for thread in ("one", f"{turn}"))
            assert way(await agent.ainvoke(QUESTION, one)) == expected
            assert way(await agent.ainvoke(QUESTION, other)) == "l"


async def test_the_graph_itself_goes_by_the_messages_of_its_thread() -> None:
    graph = cascade("", 0, latch=True).build_graph().compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    for expected in ("l", "ll", "ll|", "ll||"):
        question: Any = {"messages": [HumanMessage("?")]}
        state = await graph.ainvoke(question, thread)
        assert way(state) == expected
    assert state["decision"].reason.startswith(STRAIGHT)


async def test_a_graph_around_it_hands_it_the_messages_too() -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", cascade("", 0, latch=True).graph)
    builder.add_edge(START, "answer")
    app: Any = builder.compile()
    state: Any = {"messages": []}
    for _ in range(3):
        state = await app.ainvoke({"messages": [*state["messages"], HumanMessage("?")]})
    assert way(state) == "ll|"


async def test_a_conversation_given_as_messages_is_enough() -> None:
    pair = cascade("", 0, latch=True)
    conversation: list[Any] = []
    for escalated_straight in (False, False, True):
        conversation.append(HumanMessage("?"))
        result = await pair.ainvoke(conversation)
        conversation.append(result.message)
        assert result.decision.reason.startswith("latched") is escalated_straight
        assert result.escalated


def test_a_small_model_that_is_down_is_left_alone_for_some_steps() -> None:
    busy = [RateLimitError("busy", model="s", billed=False) for _ in range(20)]
    small = ScriptedModel("x", failures=busy, returns_logprobs=True)
    pair = Cascade(
        small,
        ScriptedModel(working(4)),
        latch=True,
        retry_policy=DEFAULT_RETRY._replace(max_attempts=1),
    )
    agent: Any = create_agent(pair.as_chat_model(), [add])
    assert way(agent.invoke(QUESTION)) == "ll|||"
    assert len(small.requests) == 2


def test_the_users_router_has_the_last_word() -> None:
    named = cascade("", 0, latch=True, router=lambda _: "small")
    silent = cascade("", 0, latch=True, router=lambda _: None)
    for pair, last in ((named, ["small", "large"]), (silent, ["large"])):
        conversation: list[Any] = []
        for _ in range(3):
            conversation.append(HumanMessage("?"))
            conversation.append(pair.invoke(conversation).message)
        assert conversation[-1].response_metadata["step"]["asked"] == last


def test_what_has_to_stay_here_is_drafted_also_when_it_is_latched() -> None:
    small, large = drafting(""), ScriptedModel("large", local=False)
    pair = Cascade(small, large, verifier=judged, latch=True)
    conversation: list[Any] = []
    for _ in range(2):
        conversation.append(HumanMessage("?"))
        conversation.append(pair.invoke(conversation).message)
    conversation.append(HumanMessage("my secret"))
    result = pair.invoke(conversation, {"configurable": {"local_only": True}})
    assert (result.tier, result.degraded) == ("small", True)
    note = next(entry.note for entry in result.ledger if entry.node == "route")
    assert "latched" in note
    assert "large, which must not be asked" in note
    assert len(large.requests) == 2


def test_of_three_tiers_the_last_one_is_asked() -> None:
    unsure = ScriptedModel("I do not know", name="middle", logprobs=0.3)
    tiers = [drafting(""), unsure, ScriptedModel("yes", name="big")]
    pair = Cascade(tiers=tiers, verifier=judged, latch=Latch(after=1))
    asked = []
    conversation: list[Any] = []
    for _ in range(2):
        conversation.append(HumanMessage("?"))
        message = pair.invoke(conversation).message
        conversation.append(message)
        asked.append(message.response_metadata["step"]["asked"])
    names = [tier.name for tier in pair.tiers]
    assert asked == [names, names[-1:]]


@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_in_shadow_the_large_model_answers_whatever_the_latch_says(mode: Any) -> None:
    ledger = MemoryLedger()
    with cascade("", 0, latch=Latch(after=1), mode=mode, ledger=ledger) as pair:
        conversation: list[Any] = []
        for _ in range(2):
            conversation.append(HumanMessage("?"))
            conversation.append(pair.invoke(conversation).message)
    latched = [entry for entry in ledger.entries if "latched" in entry.note]
    assert len(latched) == (mode == "live")


def failing_from(n: int, error: Exception, **options: Any) -> Cascade:
    """A large model that is asked in vain from its n-th call on."""
    calls: list[Request] = []

    def answer(request: Request) -> Completion | Exception:
        calls.append(request)
        return reply("large") if len(calls) < n else error

    once = DEFAULT_RETRY._replace(max_attempts=1)
    large = ScriptedModel(answer, name="big")
    return Cascade(drafting(""), large, verifier=judged, latch=True, retry_policy=once, **options)


def third_step(pair: Cascade) -> Any:
    """The first step that goes straight."""
    conversation: list[Any] = []
    for _ in range(2):
        conversation.append(HumanMessage("?"))
        conversation.append(pair.invoke(conversation).message)
    return pair.invoke([*conversation, HumanMessage("?")])


def test_a_latched_step_is_drafted_after_all_while_the_large_model_is_down() -> None:
    """It would have had a draft to fall back on without a latch, and has it with one."""
    down = ModelUnavailableError("down", model="big", billed=False)
    for options in ({}, {"router": lambda _: None}):
        result = third_step(failing_from(3, down, **options))
        assert (result.tier, result.degraded) == ("small", True)
        assert result.answer == "I do not know"
        nodes = [entry.node for entry in result.ledger]
        drafted = ["draft", "self_check", "verify"]
        assert nodes == ["route", "expert", *drafted, "expert", "fallback"]


def test_where_the_draft_fails_as_well_the_error_is_raised() -> None:
    down = ModelUnavailableError("down", model="big", billed=False)
    pair = failing_from(3, down)
    small: Any = pair.tiers[0].model
    small._answers = lambda request: (
        reply("x", probability=0.3) if step_number(request) < 2 else down
    )
    with pytest.raises(ModelUnavailableError):
        third_step(pair)


def test_a_mistake_in_the_set_up_is_not_hidden_by_a_draft() -> None:
    wrong = AuthenticationError("wrong key", model="big", billed=False)
    with pytest.raises(AuthenticationError):
        third_step(failing_from(3, wrong))
