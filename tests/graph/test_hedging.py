"""The large model is asked beside a draft where a deadline leaves no time to ask it after.

Nothing here measures speed: models wait until the test lets them go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from langgraph.types import RetryPolicy

from cascade import Cascade, Price, Tier
from cascade.agents import hedging as hedging_module
from cascade.agents.hedging import starts_in_s
from cascade.errors import (
    AuthenticationError,
    DeadlineError,
    ModelUnavailableError,
)
from cascade.events import Decided, Provisional, Token
from cascade.graph import is_retryable
from cascade.policies import Situation
from cascade.result import CascadeResult
from cascade.state import Decision
from cascade.testing import ScriptedModel, reply
from tests.graph.hedges import (
    LONG,
    SPARE,
    SURE,
    House,
    no_task_is_left,
    settle,
    until,
)


@pytest.mark.parametrize(
    ("left_s", "usual_s", "careful_s", "expected"),
    [
        (None, 1.0, 1.5, None),  # no deadline
        (3.0, None, None, None),  # never seen
        (3.0, 1.0, 1.5, 1.5),  # a draft that is judged within 1.5 s needs none
        (3.0, 1.0, 1.0, 2.0),
        (2.0, 1.0, 2.0, 0.0),  # at once
        (1.2, 1.0, 1.5, 0.0),  # as good as too late: at once
        (1.0, 1.0, 1.5, None),  # too late
        (0.0, 1.0, 1.5, None),
        (-1.0, 1.0, 1.5, None),
        (3.0, 1.0, 0.5, 2.0),  # never later than the usual time
    ],
)
def test_when_the_large_model_has_to_be_asked(
    left_s: float | None, usual_s: float | None, careful_s: float | None, expected: float | None
) -> None:
    assert starts_in_s(left_s, usual_s, careful_s) == expected


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    yield
    await no_task_is_left()


# --- the draft is accepted


async def test_an_accepted_draft_ends_the_call_beside_it() -> None:
    house = House(SURE)
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    result = await run
    assert (result.answer, result.tier, result.escalated) == ("draft", "small", False)
    assert house.large.cancelled == 1
    assert house.calls == [("draft", "ok"), ("hedge", "cancelled")]
    assert len(house.hedging) == 0


async def test_what_a_cancelled_hedge_costs_is_unknown_and_in_the_ledger_of_the_run() -> None:
    house = House(SURE)
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    result = await run
    hedge = next(e for e in result.ledger if e.node == "hedge")
    assert (hedge.tier, hedge.cost_usd, hedge.saved_usd, hedge.baseline_usd) == (
        "large",
        None,
        None,
        Decimal(0),
    )
    assert hedge.assumed_usd is not None
    assert hedge.assumed_usd > 0
    assert result.ledger.cost_usd is None
    assert result.ledger.saved_usd is None


async def test_a_hedge_that_was_answered_and_not_needed_is_pure_cost() -> None:
    house = House(SURE)
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.large.go_on.set()
    await settle()
    assert house.calls == [], "not before it is known what it was"
    house.small.go_on.set()
    result = await run
    assert result.tier == "small"
    assert house.calls == [("draft", "ok"), ("hedge", "ok")]
    hedge, verify = house.entry("hedge"), house.entry("verify")
    # 10 + 50 tokens at $10; the baseline is earned once, by the draft that was accepted
    assert (hedge.cost_usd, hedge.saved_usd) == (Decimal("0.0006"), Decimal("-0.0006"))
    assert hedge.baseline_usd == 0
    assert result.ledger.baseline_usd == verify.baseline_usd
    assert result.ledger.cost_usd == Decimal("0.0006") + Decimal("0.000011")


async def test_a_draft_that_is_decided_about_in_time_needs_no_hedge() -> None:
    house = House(SURE, expected_s=1.0)
    house.small.go_on.set()
    assert (await house.cascade.ainvoke("?")).tier == "small"
    assert house.calls == [("draft", "ok")]
    assert house.large.requests == []


# --- the draft is escalated


async def test_the_answer_of_a_hedge_is_booked_like_every_other_answer_of_the_expert() -> None:
    house, plain = House(), House()
    plain.cascade = Cascade(
        Tier(plain.small, price=Price(input=1, output=1)),
        Tier(plain.large, price=Price(input=10, output=10)),
        ledger=plain.ledger,
    )
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    for model in (house.small, house.large, plain.small, plain.large):
        model.go_on.set()
    hedged, usual = await run, await plain.cascade.ainvoke("?")
    assert (hedged.answer, hedged.tier, hedged.escalated) == ("the large answer", "large", True)
    assert hedged.answer == usual.answer
    differing = {"run_id", "at", "latency_ms", "attempt_id"}
    told = [
        sorted((e.model_dump(exclude=differing) for e in result.ledger), key=str)
        for result in (hedged, usual)
    ]
    assert told[0] == told[1]
    assert len(house.large.requests) == 1
    assert house.large.requests[0].messages[-1].text == plain.large.requests[0].messages[-1].text


async def test_a_hedge_that_is_under_way_is_waited_for() -> None:
    house = House()
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    await settle()
    assert not run.done()
    house.large.go_on.set()
    assert (await run).tier == "large"
    assert house.calls == [("draft", "ok"), ("expert", "ok")]
    assert len(house.large.requests) == 1


async def test_a_draft_that_fails_is_answered_by_the_hedge() -> None:
    failing = ModelUnavailableError("down", model="small")
    house = House(draft=failing, retry_policy=RetryPolicy(max_attempts=1))
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    house.large.go_on.set()
    assert (await run).answer == "the large answer"
    assert sorted(house.calls) == [("draft", "failed"), ("expert", "ok")]


async def test_a_draft_that_is_tried_again_keeps_its_hedge() -> None:
    failing = ModelUnavailableError("down", model="small")
    retry = RetryPolicy(max_attempts=2, initial_interval=0.001, retry_on=is_retryable)
    house = House(draft=failing, retry_policy=retry)
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    house.large.go_on.set()
    assert (await run).answer == "the large answer"
    assert len(house.small.requests) == 2
    assert len(house.large.requests) == 1


async def test_a_draft_that_takes_all_of_the_time_is_answered_by_the_hedge() -> None:
    """Without one there is nothing to answer with, and the deadline is an error."""
    house = House(draft=DeadlineError("too late", model="small", billed=None))
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.large.go_on.set()
    house.small.go_on.set()
    assert (await run).answer == "the large answer"
    unhedged = House(draft=DeadlineError("too late", model="small", billed=None), expected_s=1.0)
    unhedged.small.go_on.set()
    with pytest.raises(DeadlineError):
        await unhedged.cascade.ainvoke("?")


async def test_a_draft_is_given_up_in_time_for_the_answer_from_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hedging_module, "KEPT_BACK", 1.0)  # at once
    house = House()
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    house.large.go_on.set()
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineError):
            await run  # the large model had not been asked either
    assert house.calls == [("draft", "cancelled")]
    house.ledger.entries.clear()
    monkeypatch.setattr(hedging_module, "KEPT_BACK", 1.0 - 0.5 / LONG)
    result = await house.cascade.ainvoke("?")
    assert result.answer == "the large answer"
    assert "scripted" not in result.decision.reason
    assert "was given up after" in result.decision.reason
    assert sorted(house.calls) == [("draft", "cancelled"), ("expert", "ok")]


async def test_a_hedge_that_failed_before_it_was_needed_is_asked_again_by_the_expert() -> None:
    house = House(large=ModelUnavailableError("down", model="large"))
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.large.go_on.set()
    await settle()
    house.large.answer = reply("the large answer")
    house.small.go_on.set()
    assert (await run).answer == "the large answer"
    assert house.calls == [("hedge", "failed"), ("draft", "ok"), ("expert", "ok")]


async def test_a_hedge_that_fails_while_it_is_waited_for_fails_as_the_expert_does() -> None:
    house = House(
        large=ModelUnavailableError("down", model="large"), retry_policy=RetryPolicy(max_attempts=1)
    )
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    await settle()
    house.large.go_on.set()
    result = await run
    assert (result.answer, result.degraded) == ("draft", True)
    assert house.calls == [("draft", "ok"), ("expert", "failed")]


async def test_a_failed_hedge_that_nobody_needs_reaches_nobody() -> None:
    house = House(SURE, large=AuthenticationError("no such key", model="large"))
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.large.go_on.set()
    await settle()
    house.small.go_on.set()
    assert (await run).tier == "small"
    assert house.calls == [("hedge", "failed"), ("draft", "ok")]


async def test_a_policy_that_keeps_to_the_deadline_counts_the_time_of_the_hedge() -> None:
    """Without it, an escalation after the draft would come too late."""
    seen: list[float | None] = []

    class Looks:
        def decide(self, situation: Situation) -> Decision:
            seen.append(situation.escalation_s)
            return Decision(action="escalate", reason="always")

    house = House(policy=Looks())
    house.cascade._deadline.saw("large", LONG - SPARE)
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.large.go_on.set()
    await settle()
    house.small.go_on.set()
    await run
    assert seen == [0.0], "it has arrived"


# --- streams


async def read(cascade: Cascade, into: list[Any]) -> None:
    async for event in cascade.astream("?"):
        into.append(event)  # noqa: PERF401 - one by one, as they come


async def test_no_word_of_a_hedge_is_shown_before_the_decision() -> None:
    house = House()
    events: list[Any] = []
    reader = asyncio.create_task(read(house.cascade, events))
    await house.both_asked()
    house.large.go_on.set()
    await settle()
    assert events == []
    house.small.go_on.set()
    await reader
    kinds = [type(event) for event in events]
    assert kinds == [Decided, Token, Token, Token, CascadeResult]
    shown = "".join(event.text for event in events if isinstance(event, Token))
    assert shown.strip() == "the large answer"
    assert all(event.tier == "large" for event in events if isinstance(event, Token))


async def test_words_that_arrive_after_the_decision_are_shown_as_they_come() -> None:
    house = House()
    events: list[Any] = []
    reader = asyncio.create_task(read(house.cascade, events))
    await house.both_asked()
    house.small.go_on.set()
    await until(lambda: len(events) > 0)
    assert [type(event) for event in events] == [Decided]
    house.large.go_on.set()
    await reader
    assert len([event for event in events if isinstance(event, Token)]) == 3


async def test_an_accepted_draft_shows_no_word_of_the_hedge() -> None:
    house = House(SURE)
    stream = house.cascade.astream("?", show="optimistic")
    first = asyncio.ensure_future(anext(stream))
    await house.both_asked()
    house.large.go_on.set()
    await settle()
    house.small.go_on.set()
    events = [await first, *[event async for event in stream]]
    shown = [e.text for e in events if isinstance(e, Token | Provisional)]
    assert "".join(shown).strip() == "draft"


def test_a_timeout_of_somebody_elses_is_not_taken_for_the_deadline() -> None:
    small = ScriptedModel([TimeoutError("of the model's own")], logprobs=SURE)
    with pytest.raises(TimeoutError, match="of the model's own"):
        Cascade(small, ScriptedModel("large"), deadline=LONG, hedge=1.0).invoke("?")
