"""Which runs an observer sees begin and end."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from watched import QUESTION, small, watched

from cascade.errors import ConfigurationError, RealRequestForbiddenError
from cascade.observing import ObservedCall, ObservedNode, ObservedRun, Observer, Observers
from cascade.policies import Situation
from cascade.state import Decision, Run
from cascade.testing import ScriptedModel, forbid_real_requests


class Diary(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.ended: list[ObservedRun] = []
        self.nodes: list[ObservedNode] = []
        self.begun = 0

    def run_began(self, run: ObservedRun) -> None:
        self.begun += 1

    def run_ended(self, run: ObservedRun) -> None:
        self.ended.append(run)

    def node_ended(self, node: ObservedNode) -> None:
        self.nodes.append(node)

    @property
    def outcomes(self) -> list[Any]:
        return [run.outcome for run in self.ended]


@pytest.fixture
def diary() -> Diary:
    return Diary()


class Abstains:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="abstain", reason="it never answers")


async def test_a_run_holds_the_entries_of_the_ledger(diary: Diary) -> None:
    result = await watched(diary, sure=False).ainvoke(QUESTION)
    (run,) = diary.ended
    assert tuple(run.entries) == result.ledger.entries
    assert [node.name for node in diary.nodes] == ["draft", "self_check", "verify", "expert"]
    assert [e for node in diary.nodes for e in node.entries] == run.entries
    assert diary.nodes[2].decision == result.decision
    assert run.ending is not None
    assert run.ending.answer is not None
    assert run.ending.answer.text == result.answer


async def test_a_run_without_an_answer_on_purpose_is_abstained(diary: Diary) -> None:
    result = await watched(diary, policy=Abstains()).ainvoke(QUESTION)
    assert result.abstained
    assert diary.outcomes == ["abstained"]
    assert diary.ended[0].ending is not None
    assert diary.ended[0].ending.answer is None


async def test_turns_of_a_conversation_are_runs_of_their_own(diary: Diary) -> None:
    cascade = watched(diary)
    first = await cascade.ainvoke(QUESTION)
    await cascade.ainvoke([("user", QUESTION), first.message, ("user", "And of France?")])
    assert diary.outcomes == ["accepted", "accepted"]
    assert len({run.id for run in diary.ended}) == 2


async def test_a_stream_that_is_left_between_two_nodes_is_abandoned(diary: Diary) -> None:
    cascade = watched(diary, sure=False, second=ScriptedModel(["late"], name="large-1", delay_s=5))
    stream = cascade.graph.astream(
        {"messages": [("user", QUESTION)]},  # type: ignore[typeddict-item]
        stream_mode="updates",
        interrupt_before=["expert"],
    )
    async for _ in stream:
        pass
    assert not diary.outcomes
    await cascade.aclose()
    assert diary.outcomes == ["abandoned"]
    assert diary.ended[0].ending is None


async def test_a_run_that_stands_still_is_abandoned_when_another_begins(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = watched(diary, sure=False)
    paused: Any = {"messages": [("user", QUESTION)]}
    await cascade.graph.ainvoke(paused, interrupt_before=["expert"])
    await cascade.ainvoke(QUESTION)
    assert diary.outcomes == ["escalated"]
    monkeypatch.setattr("cascade.observing.telling.ABANDONED_AFTER_S", 0.0)
    await cascade.ainvoke(QUESTION)
    assert diary.outcomes == ["escalated", "abandoned", "escalated"]


async def test_a_run_that_two_callers_go_on_with_ends_once(diary: Diary) -> None:
    observers = Observers([diary], "cascade")
    decision = Decision(action="accept", reason="sure")
    state = {"messages": [], "run": Run("r", "q"), "decision": decision}
    with (
        observers.node("draft", "r", [], {}),
        observers.node("verify", "r", [], {}) as last,
    ):
        last.returned(state, {"messages": [AIMessage("yes")]}, last=True)
    observers.finish()
    assert diary.outcomes == ["accepted"]
    assert not observers._open
    assert not observers._between


async def test_a_stream_that_is_closed_while_a_model_answers_is_cancelled(diary: Diary) -> None:
    cascade = watched(diary, sure=False, second=ScriptedModel(["late"], name="large-1", delay_s=5))
    stream = cascade.astream(QUESTION)
    await anext(stream)
    await stream.aclose()
    await cascade.aclose()
    assert len(diary.ended) == diary.begun == 1
    assert diary.outcomes[0] in ("cancelled", "abandoned")


async def test_no_run_stays_open_after_a_thousand(diary: Diary) -> None:
    cascade = watched(diary, first=small(0.9))
    await cascade.abatch([QUESTION] * 1000, max_concurrency=100)
    observers = cascade._oversight.recorder.observers
    assert (diary.begun, diary.outcomes) == (1000, ["accepted"] * 1000)
    assert not observers._open
    assert not observers._between


def test_one_observer_without_a_list_is_refused_with_the_way_out(diary: Diary) -> None:
    with pytest.raises(ConfigurationError, match=r"give a list, observers=\[Diary\(…\)\]"):
        Observers(diary)  # type: ignore[arg-type]


async def test_a_call_that_is_not_sent_has_no_entry() -> None:
    class Real(ScriptedModel):
        real = True

    class Calls(Observer):
        def __init__(self) -> None:
            self.seen: list[ObservedCall] = []

        def call_ended(self, call: ObservedCall) -> None:
            self.seen.append(call)

    calls = Calls()
    with forbid_real_requests(), pytest.raises(RealRequestForbiddenError):
        await watched(calls, first=Real(["4"], name="small-1")).ainvoke(QUESTION)
    (call,) = calls.seen
    assert call.entry is None
    assert isinstance(call.error, RealRequestForbiddenError)
    assert call.seconds >= 0


def test_what_is_no_observer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"observers=\[<class.*Observer'>\].*subclass"):
        Observers([Observer])  # type: ignore[list-item]
