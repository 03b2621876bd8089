"""The large model is down: each step of the order, asked for the answer and for a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, MemoryLedger, Queue, ThresholdPolicy, Tier, ToolRisks
from cascade.errors import DeadlineError, ModelError, ModelUnavailableError
from cascade.ledger import LedgerView
from cascade.ledger.runs import runs_of
from cascade.models import Chunk, Request
from cascade.observing import ObservedCall, ObservedRun, Observer
from cascade.testing import ScriptedModel, reply
from tests.resilience.fallbacks import (
    FAST,
    ONCE,
    QUESTION,
    House,
    asked,
    down,
    other,
    wrong_key,
)

WAITING = Queue(seconds=30, every=0.01)
STEPS: dict[str, tuple[Any, str, bool]] = {
    "another model": ("other", "Canberra", True),
    "the draft": ("draft", "Sydney", True),
    "waiting": (WAITING, "the large answer", False),
}
"""A step, what is answered, and whether that is degraded."""


def order(step: Any) -> Any:
    return (other() if step == "other" else step, "fail")


@pytest.mark.parametrize("name", STEPS)
async def test_a_step_leads_to_its_answer_and_says_so(name: str) -> None:
    step, answer, degraded = STEPS[name]
    house = House(order(step), [down(), down()])
    result = await house.ask()
    assert (result.answer, result.degraded, result.escalated) == (answer, degraded, True)
    assert "; but large failed: large is down" in result.decision.reason
    (entry,) = house.entries("fallback")
    assert entry.run_id == result.run_id
    assert list(result.ledger) == house.store.entries


@pytest.mark.parametrize("show", ["verified", "optimistic", "final"])
@pytest.mark.parametrize("name", STEPS)
async def test_a_stream_shows_the_answer_of_the_step_and_no_other(name: str, show: Any) -> None:
    step, answer, degraded = STEPS[name]
    shown, result = await House(order(step), [down(), down()]).watch(show)
    assert (result.answer, result.degraded) == (answer, degraded)
    assert shown == ("" if show == "final" else answer)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_leads_to_its_answer_in_synchronous_calls_and_in_batches(name: str) -> None:
    step, answer, _ = STEPS[name]
    house = House(order(step), [down(), down()])
    assert house.cascade.invoke("?").answer == answer
    again = House(order(step), [down(), down()])
    assert [result.answer for result in again.cascade.batch(["?"])] == [answer]


@pytest.mark.parametrize("name", STEPS)
async def test_a_chat_model_answers_with_the_step(name: str) -> None:
    step, answer, degraded = STEPS[name]
    house = House(order(step), [down(), down()])
    message = await house.cascade.as_chat_model().ainvoke("?")
    assert message.text == answer
    assert message.response_metadata["degraded"] is degraded


async def test_the_error_is_raised_where_the_order_says_so_though_there_is_a_draft() -> None:
    house = House("fail")
    with pytest.raises(ModelUnavailableError, match="large is down") as caught:
        await house.ask()
    assert [e.node for e in caught.value.ledger or ()] == [e.node for e in house.store.entries]
    assert not house.entries("fallback")


async def test_steps_are_tried_in_their_order_and_the_reason_names_those_in_vain() -> None:
    first, second = other(*[down("first")] * 9, name="first"), other(name="second")
    result = await House((first, second, "draft")).ask()
    assert (result.tier, result.answer) == ("second", "Canberra")
    assert result.decision.reason == (
        "uncalibrated score 0.300 < 0.800; but large failed: large is down; first failed: first "
        "is down; second answered instead"
    )


async def test_the_error_tells_which_steps_were_in_vain() -> None:
    house = House((other(*[down("other")] * 9), "draft"), draft=reply("", probability=0.9))
    with pytest.raises(ModelUnavailableError, match="large is down") as caught:
        await house.ask()
    assert caught.value.__notes__[0] == (
        "fallback: other failed: other is down; the draft is ruled out: the answer is empty"
    )


async def test_another_model_is_tried_as_often_as_the_large_one() -> None:
    stand_in = other(down("other"), down("other"))
    house = House((stand_in,), retry_policy=FAST)
    result = await house.ask()
    assert (result.tier, asked(stand_in), len(house.large.requests)) == ("other", 3, 3)
    tiers = [(e.tier, e.outcome) for e in house.entries("expert")]
    assert tiers == [("large", "failed")] * 3 + [("other", "failed")] * 2 + [("other", "ok")]


async def test_a_wrong_key_of_another_model_is_not_tried_again() -> None:
    stand_in = other(wrong_key())
    result = await House((stand_in, "draft"), retry_policy=FAST).ask()
    assert (result.answer, asked(stand_in)) == ("Sydney", 1)


async def test_a_bug_in_another_model_is_not_hidden_by_the_draft() -> None:
    broken = Tier(ScriptedModel(lambda _: KeyError("choices")), name="other")
    with pytest.raises(KeyError):
        await House((broken, "draft")).ask()


async def test_a_stream_withdraws_what_another_model_said_before_it_broke_off() -> None:
    class Breaks(ScriptedModel):
        async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
            async for chunk in super()._stream(request):
                yield chunk
                raise down("other")

    stand_in = Tier(Breaks(["half an answer"], name="other"), name="other")
    shown, result = await House((stand_in, "draft")).watch()
    assert (shown, result.answer) == ("Sydney", "Sydney")


async def test_without_a_draft_another_model_answers_what_the_small_one_could_not() -> None:
    result = await House((other(),), draft=down("small")).ask()
    assert (result.tier, result.degraded, result.confidence) == ("other", True, None)


async def test_another_model_answers_where_there_is_only_one_tier() -> None:
    large = ScriptedModel(["x"], failures=[down()])
    cascade = Cascade(tiers=[large], fallback=other(), retry_policy=ONCE)
    result = await cascade.ainvoke("?")
    assert (result.answer, result.degraded) == ("Canberra", True)


async def test_tools_and_schema_go_to_another_model_too() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    stand_in = Tier(ScriptedModel(['{"city": "Canberra"}'], name="other"), name="other")
    house = House((stand_in,), response_format=schema)
    result = await house.ask()
    assert result.parsed == {"city": "Canberra"}
    assert isinstance(stand_in.model, ScriptedModel)
    assert stand_in.model.requests[0].schema == schema


async def test_an_irreversible_call_of_another_model_goes_to_a_person_like_the_large_ones() -> None:

    path = {"type": "object", "properties": {"path": {"type": "string"}}}
    erase = {"type": "function", "function": {"name": "erase", "parameters": path}}
    call = ToolCall(name="erase", args={"path": "a"}, id="1", type="tool_call")
    stand_in = Tier(ScriptedModel([reply("", tool_calls=[call])], name="other"), name="other")
    risks = ToolRisks({"erase": "irreversible"}, irreversible="ask")
    house = House((stand_in,), tools=[erase], tool_risks=risks)
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    state = await graph.ainvoke(QUESTION, config)
    assert state["__interrupt__"][0].value["calls"] == [{"name": "erase", "args": {"path": "a"}}]
    state = await graph.ainvoke(Command(resume="accept"), config)
    assert state["messages"][-1].tool_calls[0]["name"] == "erase"
    assert state["degraded"]


# --- what it costs, and what it saves ------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "saved"),
    [
        (100, "-0.000011"),  # as dear: the draft is lost
        (10, "-0.000011"),  # cheaper: an outage saves nothing
        (300, "-0.002211"),  # dearer: the difference is lost as well
    ],
)
async def test_another_model_saves_nothing_and_loses_what_it_costs_more(
    price: float, saved: str
) -> None:
    ledger = (await House((other(price=price),)).ask()).ledger
    assert ledger.cost_usd == Decimal("0.000011") + 11 * Decimal(str(price)) / 10**6
    assert ledger.saved_usd == Decimal(saved)
    assert ledger.saved_basis == "estimated"
    assert ledger.baseline_usd is not None
    assert ledger.baseline_usd <= Decimal("0.0011")


async def test_what_another_model_without_a_price_costs_and_saves_is_unknown() -> None:
    ledger = (await House((other(price=None),)).ask()).ledger
    assert (ledger.cost_usd, ledger.saved_usd) == (None, None)


async def test_the_large_model_that_came_back_is_its_own_baseline() -> None:
    ledger = (await House((Queue(seconds=30, every=0.01),), [down()]).ask()).ledger
    assert (ledger.saved_usd, ledger.saved_basis) == (Decimal("-0.000011"), "measured")


async def test_the_answer_of_another_model_is_no_large_answer_to_whoever_counts_them() -> None:
    house = House((other(),))
    result = await house.ask()
    (run,) = runs_of((entry, {}) for entry in result.ledger).values()
    assert (run.outcome, run.expert, run.large_usd) == ("degraded", None, None)


async def test_a_policy_learns_what_another_model_has_cost() -> None:
    class Paying:
        paid_usd = Decimal(0)

        def decide(self, situation: Any) -> Any:
            return ThresholdPolicy(0.8).decide(situation)

        def paid(self, cost_usd: Any) -> None:
            self.paid_usd += Decimal(str(cost_usd))

    policy = Paying()
    result = await House((other(),), policy=policy).ask()
    assert policy.paid_usd == result.ledger.cost_usd


async def test_observers_see_the_calls_and_that_the_run_was_degraded() -> None:
    class Looks(Observer):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def call_ended(self, call: ObservedCall) -> None:
            self.seen.append((call.tier, call.error is None))

        def run_ended(self, run: ObservedRun) -> None:
            assert run.ending is not None
            self.seen.append((run.outcome, run.ending.tier))

    looks = Looks()
    await House((other(),), observers=[looks]).ask()
    assert looks.seen == [
        ("small", True),
        ("large", False),
        ("other", True),
        ("degraded", "other"),
    ]


async def test_in_shadow_no_draft_is_compared_with_another_model() -> None:
    house = House((other(),), mode="shadow")
    result = await house.ask()
    await house.cascade.aclose()
    assert (result.answer, result.degraded) == ("Canberra", True)
    assert not house.small.requests
    assert not house.entries("shadow")


async def test_a_stand_in_is_never_kept_by_a_cache_of_answers() -> None:
    house = House((other(),), [down()], cache=InMemoryCache())
    assert (await house.ask()).answer == "Canberra"
    assert (await house.ask()).answer == "the large answer"


async def test_a_conversation_goes_on_after_another_model_has_answered() -> None:
    house = House((other(),), [down()])
    result = await house.ask()
    asked_again = [*[("user", "?")], result.message, ("user", "And of France?")]
    again = await house.cascade.ainvoke({"messages": asked_again})
    assert again.answer == "the large answer"
    assert not again.degraded


# --- a latched conversation, which has no draft to fall back on ----------------------------------


def in_trouble() -> list[BaseMessage]:
    """A conversation whose last two drafts were escalated."""
    step = {"asked": ["small", "large"], "at": 0}
    answer = AIMessage("an answer", response_metadata={"step": step, "tier": "large"})
    return [HumanMessage("1?"), answer, HumanMessage("2?"), answer, HumanMessage("3?")]


@pytest.mark.parametrize(
    ("fallback", "answer", "drafts"),
    [
        ((other(), "draft"), "Canberra", 0),
        ((other(down("other"), name="first"), "draft"), "Sydney", 1),
        ("draft", "Sydney", 1),
    ],
)
async def test_a_latched_step_is_drafted_where_the_order_comes_to_the_draft(
    fallback: Any, answer: str, drafts: int
) -> None:
    house = House(fallback, latch=True, draft=reply("Sydney", probability=0.9))
    result = await house.cascade.ainvoke({"messages": in_trouble()})
    assert (result.answer, len(house.small.requests)) == (answer, drafts)


async def test_a_latched_step_is_never_drafted_where_the_order_has_no_draft() -> None:
    house = House("fail", latch=True)
    with pytest.raises(ModelUnavailableError):
        await house.cascade.ainvoke({"messages": in_trouble()})
    assert not house.small.requests


# --- what must not leave this machine ------------------------------------------------------------


def world_at_home(stand_in: Tier) -> House:
    """The large model is here, the other one may be elsewhere."""
    return House((stand_in, "draft"), private=lambda messages: True)


async def test_a_private_question_never_goes_to_another_model_elsewhere() -> None:
    far = Tier(ScriptedModel(["Canberra"], name="far", local=False), name="far")
    result = await world_at_home(far).ask()
    assert (result.answer, result.degraded, asked(far)) == ("Sydney", True, 0)
    assert "far must not be asked" in result.decision.reason


async def test_a_private_question_goes_to_another_model_that_is_here() -> None:
    result = await world_at_home(other()).ask()
    assert (result.answer, result.tier) == ("Canberra", "other")


async def test_local_only_of_one_call_holds_for_the_order_too() -> None:
    far = Tier(ScriptedModel(["Canberra"], name="far", local=False), name="far")
    house = House((far, "draft"))
    config: Any = {"configurable": {"local_only": True}}
    assert (await house.cascade.ainvoke("?", config)).answer == "Sydney"
    assert asked(far) == 0


# --- the deadline --------------------------------------------------------------------------------


async def test_nobody_waits_for_a_large_model_after_the_deadline() -> None:
    late = DeadlineError("too late", model="scripted:large")
    result = await House((Queue(seconds=30), "draft"), [late]).ask()
    assert result.answer == "Sydney"
    assert "; waiting for large would not help" in result.decision.reason


# --- who was asked is closed ---------------------------------------------------------------------


async def test_closing_a_cascade_closes_the_other_model() -> None:
    class Closes(ScriptedModel):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    stand_in = Closes(["x"], name="other")
    house = House((Tier(stand_in, name="other"),))
    await house.cascade.aclose()
    assert stand_in.closed == 1


def test_a_ledger_without_a_fallback_has_no_entry_of_it() -> None:
    store = MemoryLedger()
    house = House(None, [], ledger=store)
    house.cascade.invoke("?")
    assert "fallback" not in LedgerView(store.entries).by_node()


async def test_by_default_the_draft_is_the_answer_and_else_the_error() -> None:
    assert (await House(None).ask()).answer == "Sydney"
    with pytest.raises(ModelError):
        await House(None, draft=reply("", probability=0.9)).ask()
