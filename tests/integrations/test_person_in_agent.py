"""A person is asked in the middle of an agent: by the agent's own interrupt, and nothing is paid
twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import dynamic_prompt
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from cascade import Cascade, Decision, Price, Situation, Tier
from cascade.errors import ConfigurationError, InputError, PersonNeededError
from cascade.integrations.chat_person import Kept
from cascade.integrations.middleware import CascadeMiddleware
from cascade.ledger import MemoryLedger
from cascade.state import Action
from cascade.testing import ScriptedModel, reply
from tests.integrations.agents import ASKED, big, calls, population, steps

PRICE = Price(input=1, output=1)


class Unsure:
    """Accepts what is certain; about the rest it does what it was told to."""

    def __init__(self, action: Action = "ask") -> None:
        self.action: Action = action
        self.paid_usd = 0.0

    def decide(self, situation: Situation) -> Decision:
        confidence = situation.assessment.confidence or 0.0
        action: Action = "accept" if confidence > 0.9 else self.action
        return Decision(action=action, reason="unsure", confidence=confidence)

    def paid(self, cost_usd: Any) -> None:
        self.paid_usd += float(cost_usd)


def small(probability: float = 0.5) -> ScriptedModel:
    """Sure of the tool to call, and not of what to make of its answer."""
    answers = steps(calls(city="Canberra"), reply("Half a million.", probability=probability))
    return ScriptedModel(answers, name="little", returns_logprobs=True)


class World:
    """An agent whose second step asks a person, and what was paid in it."""

    def __init__(self, saver: Any, action: Action = "ask", **options: Any) -> None:
        self.small, self.large, self.ledger = small(), big(), MemoryLedger()
        self.policy = Unsure(action)
        self.cascade = Cascade(
            Tier(self.small, price=PRICE),
            Tier(self.large, price=PRICE),
            policy=self.policy,
            ledger=self.ledger,
        )
        self.agent: Any = create_agent(
            self.cascade.as_chat_model(), [population], checkpointer=saver, **options
        )

    def nodes(self) -> list[str]:
        """Of the entries of the run that asked a person."""
        last = self.ledger.entries[-1].run_id
        return [entry.node for entry in self.ledger.entries if entry.run_id == last]


THREAD: Any = {"configurable": {"thread_id": "t"}}


def asked_of(state: Any) -> dict[str, Any]:
    (asked,) = state["__interrupt__"]
    return dict(asked.value)


def said(state: Any) -> dict[str, Any]:
    return dict(state["messages"][-1].response_metadata)


@pytest.mark.parametrize(
    ("reply_of_person", "tier", "text", "nodes"),
    [
        ("accept", "small", "Half a million.", ["draft", "self_check", "verify", "ask"]),
        (
            "escalate",
            "large",
            "460,000 people live in Canberra.",
            ["draft", "self_check", "verify", "ask", "expert"],
        ),
        (
            {"answer": "460,000."},
            "person",
            "460,000.",
            ["draft", "self_check", "verify", "ask"],
        ),
    ],
)
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream"])
async def test_the_agent_is_interrupted_and_goes_on_from_the_draft(
    how: str, reply_of_person: Any, tier: str, text: str, nodes: list[str]
) -> None:
    world = World(InMemorySaver())

    async def run(given: Any) -> Any:
        if how == "invoke":
            return world.agent.invoke(given, THREAD)
        if how == "ainvoke":
            return await world.agent.ainvoke(given, THREAD)
        state: Any = None
        async for mode, event in world.agent.astream(
            given, THREAD, stream_mode=["messages", "values"]
        ):
            state = event if mode == "values" else state
        return state

    paused = await run(ASKED)
    assert asked_of(paused) == {
        "question": "460000",
        "draft": "Half a million.",
        "confidence": pytest.approx(0.5),
        "reason": "unsure",
    }
    drafts = len(world.small.requests)
    state = await run(Command(resume=reply_of_person))
    assert (state["messages"][-1].text, said(state)["tier"]) == (text, tier)
    assert len(world.small.requests) == drafts
    assert len(world.large.requests) == (tier == "large")
    assert world.nodes() == nodes
    # the answer says what all of its run cost, and the policy heard of each dollar once
    own = [entry for entry in world.ledger.entries if entry.run_id == said(state)["run_id"]]
    assert said(state)["cost_usd"] == pytest.approx(
        sum(float(entry.cost_usd or 0) for entry in own)
    )
    assert world.policy.paid_usd == pytest.approx(
        sum(float(entry.cost_usd or 0) for entry in world.ledger.entries)
    )


async def test_what_was_paid_outlives_the_process(tmp_path: Path) -> None:
    """Another process, which has nothing but the database, does not draft again."""
    for step in ("asks", "goes on"):
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "agent.db")) as saver:
            world = World(saver)
            if step == "asks":
                assert asked_of(await world.agent.ainvoke(ASKED, THREAD))
            else:
                state = await world.agent.ainvoke(Command(resume="accept"), THREAD)
                assert state["messages"][-1].text == "Half a million."
                assert world.small.requests == []
                assert [entry.node for entry in world.ledger.entries] == ["ask"]


def test_a_synchronous_checkpointer_is_enough_for_synchronous_calls(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "agent.db")) as saver:
        world = World(saver)
        assert asked_of(world.agent.invoke(ASKED, THREAD))
        before = len(world.small.requests)
        state = world.agent.invoke(Command(resume="accept"), THREAD)
        assert state["messages"][-1].text == "Half a million."
        assert len(world.small.requests) == before


async def test_what_is_kept_is_deleted_with_the_thread() -> None:
    saver = InMemorySaver()
    world = World(saver)
    await world.agent.ainvoke(ASKED, THREAD)
    assert any("Half a million" in str(found.checkpoint) for found in saver.list(None))
    await saver.adelete_thread("t")
    assert list(saver.list(None)) == []


async def test_an_answer_that_is_none_is_refused_and_can_be_given_again() -> None:
    world = World(InMemorySaver())
    await world.agent.ainvoke(ASKED, THREAD)
    with pytest.raises(InputError, match="resumed with 'maybe'"):
        await world.agent.ainvoke(Command(resume="maybe"), THREAD)
    before = len(world.small.requests)
    state = await world.agent.ainvoke(Command(resume="accept"), THREAD)
    assert state["messages"][-1].text == "Half a million."
    assert len(world.small.requests) == before


async def test_a_person_is_asked_for_each_doubtful_draft_of_one_call() -> None:
    middle = ScriptedModel([reply("Some.", probability=0.6)], name="middle")
    last = ScriptedModel("460,000.", name="last")
    ledger = MemoryLedger()
    first = ScriptedModel([reply("Many.", probability=0.5)], name="first")
    tiers = [first, middle, last]
    cascade = Cascade(tiers=tiers, policy=Unsure(), ledger=ledger)
    agent: Any = create_agent(cascade.as_chat_model(), checkpointer=InMemorySaver())
    assert asked_of(await agent.ainvoke(ASKED, THREAD))["draft"] == "Many."
    assert asked_of(await agent.ainvoke(Command(resume="escalate"), THREAD))["draft"] == "Some."
    state = await agent.ainvoke(Command(resume="escalate"), THREAD)
    assert state["messages"][-1].text == "460,000."
    assert [len(model.requests) for model in (first, middle, last)] == [1, 1, 1]
    assert [entry.node for entry in ledger.entries].count("ask") == 2
    assert len({entry.run_id for entry in ledger.entries}) == 1


def twice(model: Any) -> Any:
    """A node that asks a model two things."""

    async def node(state: MessagesState) -> dict[str, list[BaseMessage]]:
        del state
        return {"messages": [await model.ainvoke("one"), await model.ainvoke("two")]}

    return node


async def test_a_call_that_was_answered_is_not_paid_again_when_a_later_one_asks() -> None:
    drafts = {"one": reply("1", probability=0.5), "two": reply("2", probability=0.5)}
    first, last = ScriptedModel(drafts, name="first"), ScriptedModel("better", name="last")
    cascade = Cascade(first, last, policy=Unsure())
    builder = StateGraph(MessagesState)
    builder.add_node("twice", twice(cascade.as_chat_model()))
    builder.add_edge(START, "twice")
    app: Any = builder.compile(checkpointer=InMemorySaver())
    begun = await app.ainvoke({"messages": [HumanMessage("go")]}, THREAD)
    assert asked_of(begun)["question"] == "one"
    assert asked_of(await app.ainvoke(Command(resume="escalate"), THREAD))["question"] == "two"
    state = await app.ainvoke(Command(resume="accept"), THREAD)
    assert [message.text for message in state["messages"]] == ["go", "better", "2"]
    assert (len(first.requests), len(last.requests)) == (2, 1)
    assert said({"messages": state["messages"][:2]})["escalated"] is True


class Crashing(InMemorySaver):
    """The process dies before the interrupt of the agent is written down."""

    dies = True

    async def aput_writes(
        self, config: Any, writes: Any, task_id: str, task_path: str = ""
    ) -> None:
        if self.dies and any(channel == "__interrupt__" for channel, _ in writes):
            self.dies = False
            raise ConnectionError("the process is gone")
        await super().aput_writes(config, writes, task_id, task_path)


async def test_a_crash_between_the_draft_and_the_question_pays_no_second_draft() -> None:
    world = World(Crashing())
    with pytest.raises(ConnectionError):
        await world.agent.ainvoke(ASKED, THREAD)
    before = len(world.small.requests)
    assert asked_of(await world.agent.ainvoke(None, THREAD))["draft"] == "Half a million."
    assert len(world.small.requests) == before
    state = await world.agent.ainvoke(Command(resume="accept"), THREAD)
    assert state["messages"][-1].text == "Half a million."
    assert len(world.small.requests) == before


async def test_a_prompt_that_tells_the_time_finds_its_draft_again() -> None:
    clock = iter(range(100))

    @dynamic_prompt
    def prompt(request: Any) -> str:
        del request
        return f"It is {next(clock)} o'clock."

    world = World(InMemorySaver(), middleware=[prompt])
    assert asked_of(await world.agent.ainvoke(ASKED, THREAD))
    before = len(world.small.requests)
    state = await world.agent.ainvoke(Command(resume="accept"), THREAD)
    assert state["messages"][-1].text == "Half a million."
    assert len(world.small.requests) == before


async def test_what_was_said_of_one_draft_is_never_taken_for_another() -> None:
    """A node that asks something else when it is executed again: the person sees that draft too."""
    words = iter(["one", "two"])
    drafts = ScriptedModel([reply("Mine.", probability=0.5), reply("Yours.", probability=0.5)])
    model = Cascade(drafts, ScriptedModel("better"), policy=Unsure()).as_chat_model()
    latest: list[str] = []

    async def fickle(state: MessagesState) -> dict[str, list[BaseMessage]]:
        del state
        latest.append(next(words, "two"))
        return {"messages": [await model.ainvoke(latest[-1])]}

    builder = StateGraph(MessagesState)
    builder.add_node("fickle", fickle)
    builder.add_edge(START, "fickle")
    app: Any = builder.compile(checkpointer=InMemorySaver())
    first = await app.ainvoke({"messages": [HumanMessage("go")]}, THREAD)
    assert asked_of(first)["draft"] == "Mine."
    second = await app.ainvoke(Command(resume="accept"), THREAD)
    assert (asked_of(second)["question"], asked_of(second)["draft"]) == ("two", "Yours.")
    state = await app.ainvoke(Command(resume={"answer": "third"}), THREAD)
    assert state["messages"][-1].text == "third"
    assert len(drafts.requests) == 2


async def test_what_another_version_has_kept_is_no_reason_to_pay_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(InMemorySaver())
    with monkeypatch.context() as other:
        other.setattr(Kept, "model_dump_json", lambda self: '{"unknown": 1}')
        await world.agent.ainvoke(ASKED, THREAD)
    before = len(world.small.requests)
    with pytest.raises(ConfigurationError, match="another version"):
        await world.agent.ainvoke(Command(resume="accept"), THREAD)
    assert len(world.small.requests) == before


async def test_threads_do_not_see_each_others_drafts() -> None:
    world = World(InMemorySaver())
    other: Any = {"configurable": {"thread_id": "other"}}
    await world.agent.ainvoke(ASKED, THREAD)
    await world.agent.ainvoke(ASKED, other)
    state = await world.agent.ainvoke(Command(resume={"answer": "mine"}), other)
    assert state["messages"][-1].text == "mine"
    state = await world.agent.ainvoke(Command(resume="accept"), THREAD)
    assert state["messages"][-1].text == "Half a million."


async def test_a_person_may_take_longer_than_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    large = big()
    cascade = Cascade(small(), large, policy=Unsure(), deadline=20.0)
    agent: Any = create_agent(cascade.as_chat_model(), [population], checkpointer=InMemorySaver())
    await agent.ainvoke(ASKED, THREAD)
    later = time.time() + 3_600
    monkeypatch.setattr(time, "time", lambda: later)
    state = await agent.ainvoke(Command(resume="escalate"), THREAD)
    assert (said(state)["tier"], said(state)["degraded"]) == ("large", False)


async def test_the_middleware_asks_a_person_too() -> None:
    cascade = Cascade(small(), big(), policy=Unsure())
    agent: Any = create_agent(
        Cascade(small(), big()).as_chat_model(),
        [population],
        middleware=[CascadeMiddleware(cascade=cascade)],
        checkpointer=InMemorySaver(),
    )
    assert asked_of(await agent.ainvoke(ASKED, THREAD))
    state = await agent.ainvoke(Command(resume="accept"), THREAD)
    assert said(state)["tier"] == "small"


async def test_the_next_question_of_the_thread_is_drafted_anew() -> None:
    world = World(InMemorySaver())
    await world.agent.ainvoke(ASKED, THREAD)
    await world.agent.ainvoke(Command(resume="accept"), THREAD)
    before = len(world.small.requests)
    paused = await world.agent.ainvoke({"messages": [("human", "And now?")]}, THREAD)
    assert len(world.small.requests) > before
    assert asked_of(paused)["draft"] == "Half a million."


@pytest.mark.parametrize("streams", [False, True])
async def test_where_nothing_can_wait_the_error_says_so(streams: bool) -> None:
    model = Cascade(small(), big(), policy=Unsure()).as_chat_model(disable_streaming=not streams)
    with pytest.raises(ConfigurationError, match="needs a checkpointer"):
        await model.ainvoke([("human", "?")])
    with pytest.raises(ConfigurationError, match="needs a checkpointer"):
        _ = [chunk async for chunk in model.astream("?")]
    agent: Any = create_agent(model, [population])
    with pytest.raises(PersonNeededError, match="as_chat_model") as error:
        await agent.ainvoke(ASKED)
    assert error.value.ledger is not None
    assert error.value.state["draft"] is not None


# --- no answer on purpose


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "astream"])
async def test_an_agent_sees_that_there_is_no_answer(how: str) -> None:
    """An empty message without tool calls: the agent ends, and its caller can tell why."""
    world = World(InMemorySaver(), "abstain")
    if how == "invoke":
        state = world.agent.invoke(ASKED, THREAD)
    elif how == "ainvoke":
        state = await world.agent.ainvoke(ASKED, THREAD)
    else:
        *_, state = [
            state async for state in world.agent.astream(ASKED, THREAD, stream_mode="values")
        ]
    last = state["messages"][-1]
    assert (last.text, last.tool_calls) == ("", [])
    assert said(state)["abstained"] is True
    assert said(state)["action"] == "abstain"
    assert said(state)["reason"] == "unsure"
    assert said(state)["confidence"] == pytest.approx(0.5)
    assert said(state)["cost_usd"] > 0
    assert world.large.requests == []
    # its draft was no good: the latch counts that, see `cascade.agents.steps`
    assert said(state)["step"]["degraded"] is True
