"""The large model is asked beside a draft where a deadline leaves no time to ask it after.

Nothing here measures speed: models wait until the test lets them go on.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, RetryPolicy

from cascade import Cascade, Price, Tier
from cascade.agents import hedging as hedging_module
from cascade.agents.hedging import Hedge, Hedging, starts_in_s
from cascade.errors import (
    AuthenticationError,
    ConfigurationError,
    DeadlineError,
    ModelUnavailableError,
)
from cascade.events import Decided, Provisional, Token
from cascade.graph import is_retryable
from cascade.ledger import MemoryLedger
from cascade.ledger.store import open_store
from cascade.models import Chunk, Model, Request
from cascade.observing import ObservedCall, Observer
from cascade.policies import Situation
from cascade.result import CascadeResult
from cascade.state import Completion, Decision, LedgerEntry
from cascade.testing import ScriptedModel, reply

SURE, UNSURE = 0.95, 0.3
LONG, SPARE = 3600.0, 0.2
"""A deadline that no test reaches, and what it leaves beside the large model's time."""


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


class Paused(Model):
    """Answers, or fails, once it is let go on."""

    provider = "paused"
    real = False
    returns_logprobs = True

    def __init__(self, name: str, answer: Completion | Exception, *, local: bool = True) -> None:
        self.model, self.local = name, local
        self.answer = answer
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.requests: list[Request] = []
        self.cancelled = 0

    async def _complete(self, request: Request) -> Completion:
        self.requests.append(request)
        self.asked.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        completion = await self._complete(request)
        for word in completion.text.split():
            yield Chunk(f"{word} ")
        yield Chunk(completion=completion)


def hedging_of(cascade: Cascade) -> Hedging:
    assert cascade._hedging is not None
    return cascade._hedging


class House:
    """A cascade whose models wait; the large one is expected to need nearly all of the time."""

    def __init__(
        self,
        confidence: float = UNSURE,
        *,
        draft: Completion | Exception | None = None,
        large: Completion | Exception | None = None,
        expected_s: float = LONG - SPARE,
        large_local: bool = True,
        **options: Any,
    ) -> None:
        self.small = Paused("small", draft or reply("draft", probability=confidence))
        answer = large or reply("the large answer", output_tokens=50)
        self.large = Paused("large", answer, local=large_local)
        self.ledger = MemoryLedger()
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=10, output=10)),
            deadline=LONG,
            hedge=expected_s,
            ledger=self.ledger,
            **options,
        )

    @property
    def hedging(self) -> Hedging:
        return hedging_of(self.cascade)

    async def both_asked(self) -> None:
        async with asyncio.timeout(10):
            await self.small.asked.wait()
            await self.large.asked.wait()

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(e.node, e.outcome) for e in self.ledger.entries if e.model is not None]

    def entry(self, node: str) -> LedgerEntry:
        return next(e for e in self.ledger.entries if e.node == node)


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    yield
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


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


# --- whoever gives up


async def test_a_run_that_is_cancelled_takes_its_hedge_along() -> None:
    house = House()
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (house.small.cancelled, house.large.cancelled) == (1, 1)
    assert sorted(house.calls) == [("draft", "cancelled"), ("hedge", "cancelled")]


async def test_a_run_that_is_cancelled_while_it_waits_for_its_hedge_cancels_it() -> None:
    house = House()
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    await settle()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert house.calls == [("draft", "ok"), ("expert", "cancelled")]


async def test_a_stream_that_is_left_between_two_nodes_ends_the_hedge() -> None:
    house = House()
    stream = house.cascade.astream("?")
    first = asyncio.ensure_future(anext(stream))
    await house.both_asked()
    house.small.go_on.set()
    assert isinstance(await first, Decided)
    await stream.aclose()
    await settle()
    assert house.large.cancelled == 1
    assert len(house.hedging) == 0
    assert ("draft", "ok") in house.calls


async def test_a_run_that_fails_ends_its_hedge() -> None:
    house = House(draft=AuthenticationError("no such key", model="small"))
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    with pytest.raises(AuthenticationError) as failed:
        await run
    assert sorted(house.calls) == [("draft", "failed"), ("hedge", "cancelled")]
    assert failed.value.ledger is not None
    assert len(failed.value.ledger) == 2


class Asks:
    """A policy that hands every draft to a person."""

    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="always")


async def test_a_question_to_a_person_ends_the_hedge_and_it_is_asked_anew_after() -> None:
    house = House(policy=Asks())
    graph = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    run = asyncio.create_task(graph.ainvoke({"messages": [HumanMessage("?")]}, config))
    await house.both_asked()
    house.small.go_on.set()
    assert "__interrupt__" in await run
    assert house.calls == [("draft", "ok"), ("hedge", "cancelled")]
    house.large.go_on.set()
    state = await graph.ainvoke(Command(resume="escalate"), config)
    assert state["messages"][-1].text == "the large answer"
    assert house.calls[-1] == ("expert", "ok")
    assert len(house.large.requests) == 2


async def test_a_graph_that_stops_between_two_nodes_ends_the_hedge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be gone on with tomorrow, and then asks again."""
    monkeypatch.setattr(hedging_module, "IDLE_S", 0.01)
    house = House()
    graph = house.cascade.build_graph().compile(
        checkpointer=InMemorySaver(), interrupt_before=["verify"]
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    run = asyncio.create_task(graph.ainvoke({"messages": [HumanMessage("?")]}, config))
    await house.both_asked()
    house.small.go_on.set()
    await run
    await until(lambda: house.large.cancelled == 1)
    assert house.calls == [("draft", "ok"), ("hedge", "cancelled")]
    house.large.go_on.set()
    state = await graph.ainvoke(None, config)
    assert state["messages"][-1].text == "the large answer"
    assert [e.node for e in state["ledger"]].count("hedge") == 1


async def test_a_run_that_is_given_up_before_it_is_tried_again_ends_its_hedge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody tells the graph's own nodes: none of them is at work then."""
    monkeypatch.setattr(hedging_module, "RETRIED_S", 0.01)
    failing = ModelUnavailableError("down", model="small")
    retry = RetryPolicy(max_attempts=2, initial_interval=60, retry_on=is_retryable)
    house = House(draft=failing, retry_policy=retry)
    run = asyncio.create_task(house.cascade.graph.ainvoke({"messages": [HumanMessage("?")]}))
    await house.both_asked()
    house.small.go_on.set()
    await until(lambda: house.large.cancelled == 1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(house.hedging) == 0


async def test_a_hedge_that_ignores_its_cancellation_delays_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hedging_module, "LAST_WORDS_S", 0.01)
    house = House(SURE)
    stubborn = asyncio.Event()

    async def never_ends(request: Request) -> Completion:
        house.large.asked.set()
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                house.large.cancelled += 1
        return reply("late")

    house.large._complete = never_ends  # type: ignore[method-assign]
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    assert (await run).tier == "small"
    stubborn.set()
    await settle()
    assert house.large.cancelled == 1
    assert house.entry("hedge").outcome == "ok", "what it cost is known after all"


async def test_a_hedge_may_be_ended_from_another_thread() -> None:
    house = House()
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    await asyncio.to_thread(house.hedging.release, list(house.hedging._hedges))
    await until(lambda: house.large.cancelled == 1)
    house.small.go_on.set()
    house.large.go_on.set()
    assert (await run).answer == "the large answer"
    assert sorted(house.calls) == [("draft", "ok"), ("expert", "ok"), ("hedge", "cancelled")]


def test_a_hedge_of_a_loop_that_is_gone_is_not_waited_for() -> None:
    """As where a run that was killed is gone on with in a new loop."""
    hedging = Hedging()

    async def never(held: Any, hear: Any) -> Completion:
        await asyncio.Event().wait()
        raise AssertionError("it is never let go on")

    async def begin() -> None:
        hedging._hedges["run"] = Hedge(0.0, never)
        await settle()

    async def go_on() -> None:
        assert not hedging.is_at_it("run")
        assert hedging.take("run") is None

    asyncio.run(begin())
    asyncio.run(go_on())
    assert len(hedging) == 0


async def test_a_run_that_is_gone_on_with_in_another_loop_waits_for_no_hedge_of_the_first() -> None:
    hedging, ended = Hedging(), asyncio.Event()

    async def never(held: Any, hear: Any) -> Completion:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("it is never let go on")

    hedging._hedges["run"] = Hedge(0.0, never)
    await settle()
    await asyncio.to_thread(asyncio.run, hedging.drop("run"))
    async with asyncio.timeout(10):
        await ended.wait()


async def test_what_is_wrong_with_a_hedge_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(held: Any, hear: Any) -> Completion:
        raise ValueError("broken")

    Hedge(0.0, breaks)
    await until(lambda: "a hedge failed: ValueError('broken')" in caplog.text)


class Erratic(Model):
    """Answers, or fails, after a random while."""

    provider = "erratic"
    real = False
    returns_logprobs = True

    def __init__(self, name: str, chance: random.Random) -> None:
        self.model, self.local = name, True
        self.chance = chance
        self.under_way = 0

    async def _complete(self, request: Request) -> Completion:
        self.under_way += 1
        try:
            await asyncio.sleep(self.chance.uniform(0, 0.05))
        finally:
            self.under_way -= 1
        if self.chance.random() < 0.1:
            raise ModelUnavailableError("down", model=self.model)
        return reply("an answer", probability=self.chance.choice([SURE, UNSURE]))

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        yield Chunk(completion=await self._complete(request))


@pytest.mark.parametrize("seed", range(3))
async def test_however_runs_end_nothing_is_left_over_and_no_baseline_is_earned_twice(
    seed: int,
) -> None:
    chance = random.Random(seed)
    small, large = Erratic("small", chance), Erratic("large", chance)
    ledger = MemoryLedger()
    cascade = Cascade(small, large, deadline=LONG, hedge=LONG - 0.02, ledger=ledger)

    async def ask(i: int) -> None:
        run = asyncio.create_task(cascade.ainvoke(f"{i}?"))
        await asyncio.sleep(chance.uniform(0, 0.15))
        if i % 3:
            run.cancel()
        await asyncio.wait([run])

    await asyncio.gather(*(ask(i) for i in range(60)))
    await until(lambda: len(hedging_of(cascade)) == 0)
    assert (small.under_way, large.under_way) == (0, 0)
    earning: Counter[str] = Counter()
    for entry in ledger.entries:
        answered = entry.node == "expert" and entry.outcome == "ok"
        earning[entry.run_id] += answered or entry.action == "accept"
    assert max(earning.values()) == 1


# --- where nobody may be asked


async def test_a_question_that_has_to_stay_here_is_not_hedged() -> None:
    house = House(SURE, large_local=False, private=lambda messages: True)
    house.small.go_on.set()
    result = await house.cascade.ainvoke("?")
    assert result.tier == "small"
    assert house.large.requests == []
    assert len(house.hedging) == 0


async def test_one_that_is_marked_in_its_configuration_is_not_hedged() -> None:
    house = House(UNSURE, large_local=False)
    house.small.go_on.set()
    result = await house.cascade.ainvoke("?", {"configurable": {"local_only": True}})
    assert (result.tier, result.degraded) == ("small", True)
    assert house.large.requests == []


async def test_a_tier_between_is_asked_while_the_last_one_is_at_it() -> None:
    """The hedge outlives the first draft, and ends with the second one, which is accepted."""
    large = Paused("large", reply("never"))
    middle = ScriptedModel([reply("from the middle", probability=SURE)], name="middle")
    small = Paused("small", reply("draft", probability=UNSURE))
    cascade = Cascade(tiers=[small, middle, large], deadline=LONG, hedge=LONG - SPARE)
    run = asyncio.create_task(cascade.ainvoke("?"))
    await small.asked.wait()
    await large.asked.wait()
    small.go_on.set()
    result = await run
    assert (result.answer, result.tier) == ("from the middle", "scripted:middle")
    calls = [(e.node, e.outcome) for e in result.ledger if e.model is not None]
    assert calls == [("draft", "ok"), ("draft", "ok"), ("hedge", "cancelled")]


async def test_observers_see_a_hedge_as_every_other_call() -> None:
    seen: list[tuple[str, str | None]] = []

    class Looks(Observer):
        def call_ended(self, call: ObservedCall) -> None:
            entry = call.entry
            seen.append((call.node, None if entry is None else entry.node))

    house = House(SURE, observers=[Looks()])
    run = asyncio.create_task(house.cascade.ainvoke("?"))
    await house.both_asked()
    house.small.go_on.set()
    await run
    assert seen == [("draft", "draft"), ("expert", "hedge")]


async def test_a_crash_safe_ledger_has_no_unfinished_call_afterwards(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        large = Paused("large", reply("never"))
        small = Paused("small", reply("draft", probability=SURE))
        cascade = Cascade(small, large, deadline=LONG, hedge=LONG - SPARE, ledger=store)
        run = asyncio.create_task(cascade.ainvoke("?"))
        await large.asked.wait()
        small.go_on.set()
        await run
        await cascade.aclose()
        await store.flush()
        assert await store.unfinished() == []
        entries = await store.query()
    assert ("hedge", "cancelled") in [(e.node, e.outcome) for e in entries]


async def test_many_at_once_have_a_hedge_each() -> None:
    house = House()
    runs = [asyncio.create_task(house.cascade.ainvoke(f"{i}?")) for i in range(10)]
    await until(lambda: len(house.large.requests) == 10)
    house.large.go_on.set()
    house.small.go_on.set()
    results = await asyncio.gather(*runs)
    assert [result.tier for result in results] == ["large"] * 10
    asked = sorted(request.messages[-1].text for request in house.large.requests)
    assert asked == sorted(f"{i}?" for i in range(10))


def test_synchronous_runs_are_hedged_as_well() -> None:
    """Nodes are calls of their own there; the hedge survives from one to the next."""
    large = ScriptedModel("large", delay_s=0.05)
    small = ScriptedModel([reply("draft", probability=UNSURE)], delay_s=0.01)
    cascade = Cascade(small, large, deadline=LONG, hedge=LONG - SPARE)
    result = cascade.invoke("?")
    assert result.answer == "large"
    assert len(large.requests) == 1
    assert [e.node for e in result.ledger].count("expert") == 1


def test_latencies_are_learned_and_then_no_first_guess_is_needed() -> None:
    small = ScriptedModel([reply("draft", probability=UNSURE)])
    cascade = Cascade(small, ScriptedModel("large"), deadline=LONG, hedge=True)
    cascade.invoke("?")
    assert cascade._deadline.expected_s("large") is not None
    careful, usual = cascade._deadline.careful_s("large"), cascade._deadline.expected_s("large")
    assert careful is not None
    assert usual is not None
    assert careful == pytest.approx(2 * usual)


# --- what cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hedge": True}, "give deadline="),
        ({"hedge": 0, "deadline": 1}, "hedge=0: True, False, or the seconds"),
        ({"hedge": "soon", "deadline": 1}, "hedge='soon'"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Cascade(ScriptedModel("small"), ScriptedModel("large"), **options)


def test_without_a_way_to_a_large_model_there_is_no_hedge() -> None:
    far = ScriptedModel("large", local=False)
    with pytest.raises(ConfigurationError, match="there is no way to here"):
        Cascade(ScriptedModel("small"), far, deadline=1, hedge=True, local_only=True)
    with pytest.raises(ConfigurationError, match="there is no way to here"):
        Cascade(tiers=[ScriptedModel("only")], deadline=1, hedge=True)
