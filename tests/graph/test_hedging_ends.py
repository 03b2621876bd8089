"""What ends the call beside a draft, and where there is none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, RetryPolicy

from cascade import Cascade
from cascade.agents import hedging as hedging_module
from cascade.agents.hedging import Hedge, Hedging
from cascade.errors import (
    AuthenticationError,
    ConfigurationError,
    ModelUnavailableError,
)
from cascade.events import Decided
from cascade.graph import is_retryable
from cascade.ledger import MemoryLedger
from cascade.ledger.store import open_store
from cascade.models import Chunk, Model, Request
from cascade.observing import ObservedCall, Observer
from cascade.policies import Situation
from cascade.state import Completion, Decision
from cascade.testing import ScriptedModel, reply
from tests.graph.hedges import (
    LONG,
    SPARE,
    SURE,
    UNSURE,
    House,
    Paused,
    hedging_of,
    no_task_is_left,
    settle,
    until,
)


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    yield
    await no_task_is_left()


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
