"""Calls that wait for a place, and those that find none; the time of whoever asks."""

from __future__ import annotations

import asyncio
import gc

import pytest
from langchain_core.runnables import RunnableConfig
from turning import (
    ONE_TRY,
    Clock,
    Server,
    down,
    house,
    outcomes,
    until,
    waits_for,
)

from cascade import Cascade, Price, Tier
from cascade.agents.deadline import ANSWER_BY, Deadline
from cascade.errors import (
    DeadlineError,
    InputError,
    NotSentError,
    OverloadedError,
)
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.resilience import Breaker, Bulkhead, Doors, Resilience
from cascade.state import Completion


def narrow(waiting: int = 0, wait_s: float = 60) -> Resilience:
    return Resilience(None, None, Bulkhead(most=2, waiting=waiting, wait_s=wait_s))


async def test_a_call_without_a_place_is_answered_by_the_draft() -> None:
    store = MemoryLedger()
    large = Server(delay_s=3600)
    cascade = house(large, narrow(), ledger=store)
    hanging = [asyncio.create_task(cascade.ainvoke(str(n))) for n in range(2)]
    await until(lambda: large.calls == 2)
    result = await cascade.ainvoke("?")
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert "2 calls to it run already, and 0 wait already" in result.decision.reason
    assert outcomes(result.ledger) == ["not_sent"]
    assert cascade.tier_states()["large"].running == 2
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert cascade.tier_states()["large"].running == 0


async def test_the_error_of_a_full_bulkhead_is_one_of_circumstance() -> None:
    large = Server(delay_s=3600)
    doors = Doors(Resilience(None, None, Bulkhead(most=1, waiting=0)))
    cascade = Cascade(tiers=[large], resilience=doors)
    hanging = asyncio.create_task(cascade.ainvoke("?"))
    await until(lambda: large.calls == 1)
    with pytest.raises(OverloadedError, match="raise Bulkhead") as refused:
        await cascade.ainvoke("?")
    assert isinstance(refused.value, NotSentError)
    assert refused.value.circumstantial
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_calls_wait_for_a_place_and_none_is_lost() -> None:
    running = most = 0

    class Counting(Server):
        async def _complete(self, request: Request) -> Completion:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0.001)
                return await super()._complete(request)
            finally:
                running -= 1

    large = Counting()
    cascade = house(large, narrow(waiting=100))
    results = await asyncio.gather(*(cascade.ainvoke(str(n)) for n in range(40)))
    assert all(result.answer == "Canberra" for result in results)
    assert most == 2
    state = cascade.tier_states()["large"]
    assert (state.running, state.waiting) == (0, 0)


async def test_places_survive_failures_and_cancellation() -> None:
    large = Server(down)
    cascade = house(large, narrow(waiting=100))
    asked = [asyncio.create_task(cascade.ainvoke(str(n))) for n in range(40)]
    for task in asked[::3]:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    large.error = None
    assert (await cascade.ainvoke("?")).answer == "Canberra"
    assert cascade.tier_states()["large"].running == 0


async def test_half_of_the_time_is_left_to_a_call_that_waits_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = Server(delay_s=3600)
    cascade = house(large, narrow(waiting=10))
    hanging = [asyncio.create_task(cascade.ainvoke(str(n))) for n in range(2)]
    await until(lambda: large.calls == 2)
    monkeypatch.setattr(Deadline, "left_s", lambda *_: 0.5)
    result = await cascade.ainvoke("?")
    assert result.degraded
    assert "none was free within 0.25 s" in result.decision.reason
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_those_who_wait_for_a_tier_that_is_left_alone_wait_no_longer() -> None:
    errors = iter([down(), down(), down()])
    settings = Resilience(None, Breaker(in_a_row=1), Bulkhead(most=1, waiting=100))
    gate = asyncio.Event()

    class Hanging(Server):
        async def _complete(self, request: Request) -> Completion:
            self.requests.append(request)
            await gate.wait()
            raise next(errors)

    large = Hanging()
    cascade = house(large, settings)
    asked = [asyncio.create_task(cascade.ainvoke(str(n))) for n in range(20)]
    await until(lambda: cascade.tier_states()["large"].waiting == 19)
    gate.set()
    results = await asyncio.gather(*asked)
    assert large.calls == 1
    assert sum("left alone" in result.decision.reason for result in results) == 19
    state = cascade.tier_states()["large"]
    assert (state.running, state.waiting) == (0, 0)


async def test_one_call_alone_waits_for_a_place_to_try_a_tier() -> None:
    clock = Clock()
    settings = Resilience(None, Breaker(in_a_row=1), Bulkhead(most=1, waiting=100))
    large = Server(down)
    cascade = house(large, settings, clock)
    door = cascade.doors.of("large", cascade.tiers[1].model)
    hanging = await door.enter()
    door._core.breaker.leave(0, failed=True)  # type: ignore[union-attr] - another one has failed
    clock.now += 2
    large.error = None
    trying = asyncio.create_task(cascade.ainvoke("tries"))
    await until(lambda: cascade.tier_states()["large"].waiting == 1)
    assert "one call tries it now" in (await cascade.ainvoke("?")).decision.reason
    hanging.end()
    assert (await trying).answer == "Canberra"


async def test_who_is_cancelled_while_it_waits_to_try_a_tier_leaves_that_to_the_next() -> None:
    clock = Clock()
    settings = Resilience(None, Breaker(in_a_row=1), Bulkhead(most=1, waiting=100))
    large = Server()
    cascade = house(large, settings, clock)
    door = cascade.doors.of("large", cascade.tiers[1].model)
    hanging = await door.enter()
    door._core.breaker.leave(0, failed=True)  # type: ignore[union-attr] - another one has failed
    clock.now += 2
    trying = asyncio.create_task(cascade.ainvoke("tries"))
    await until(lambda: cascade.tier_states()["large"].waiting == 1)
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    hanging.end()
    assert (await cascade.ainvoke("?")).answer == "Canberra"
    assert cascade.tier_states()["large"].breaker == "closed"


async def test_a_call_that_hangs_does_not_keep_others_from_trying_a_tier_for_minutes() -> None:
    clock = Clock()
    large = Server(down)
    cascade = house(large, ONE_TRY, clock)
    cascade._deadline.saw("large", 1.0)
    for n in range(3):
        await cascade.ainvoke(str(n))
    large.error, large._delay_s, clock.now = None, 3600, clock.now + 2
    hanging = asyncio.create_task(cascade.ainvoke("hangs"))
    await until(lambda: cascade.tier_states()["large"].breaker == "half_open")
    large._delay_s = 0.0
    clock.now += 14
    assert (await cascade.ainvoke("?")).degraded
    clock.now += 1  # most_open_s; the time limit of the call is two minutes
    assert (await cascade.ainvoke("?")).answer == "Canberra"
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    assert cascade.tier_states()["large"].breaker == "closed"


async def test_doors_go_with_their_models() -> None:
    doors = Doors()
    model = Server()
    doors.of("large", model)
    assert len(doors._doors) == 1
    del model
    gc.collect()
    assert len(doors._doors) == 0


async def test_a_sync_caller_finds_the_same_places() -> None:
    cascade = house(Server(), narrow(waiting=100))
    answers = await asyncio.gather(*(asyncio.to_thread(cascade.invoke, str(n)) for n in range(8)))
    assert all(result.answer == "Canberra" for result in answers)
    assert cascade.tier_states()["large"].running == 0


async def test_no_call_gets_more_time_than_its_caller_waits() -> None:
    large = Server()
    cascade = house(large, ONE_TRY)
    waiting = waits_for(60)
    await cascade.ainvoke("?", waiting)
    assert 0 < (large.requests[0].timeout_s or 0) <= 60


async def test_who_waits_no_longer_is_told_so_and_nothing_is_asked() -> None:
    model = Server()
    cascade = Cascade(tiers=[Tier(model, price=Price(input=1, output=1))])
    late = RunnableConfig(configurable={ANSWER_BY: 1.0})
    with pytest.raises(DeadlineError, match="the time until which its caller waits has passed"):
        await cascade.ainvoke("?", late)
    assert model.calls == 0


async def test_the_sooner_of_deadline_and_caller_is_named() -> None:
    cascade = Cascade(tiers=[Server(delay_s=0.05)], deadline=0.000001)
    later = waits_for(60)
    with pytest.raises(DeadlineError, match=r"the deadline of 1e-06 s has passed"):
        await cascade.ainvoke("?", later)


async def test_a_time_that_is_none_is_refused() -> None:
    cascade, soon = Cascade(tiers=[Server()]), RunnableConfig(configurable={ANSWER_BY: "soon"})
    with pytest.raises(InputError, match=r'"answer_by"\] is \'soon\': give seconds since 1970'):
        await cascade.ainvoke("?", soon)


async def test_a_caller_who_waits_does_not_change_what_is_accepted() -> None:
    cascade = house(Server(), ONE_TRY)
    cascade._deadline.saw("large", 3600.0)
    waiting = waits_for(60)
    result = await cascade.ainvoke("?", waiting)
    assert result.answer == "Canberra"
