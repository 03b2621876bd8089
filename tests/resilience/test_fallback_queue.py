"""Questions wait until the large model is back: how long, how many, and who tries."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cascade import Queue
from cascade.agents.deadline import Deadline
from cascade.agents.fallback import Waiting
from cascade.errors import ModelUnavailableError, NotSentError, RateLimitError
from cascade.models import Request
from cascade.policies import DeadlinePolicy
from cascade.resilience import Breaker, Resilience
from cascade.state import Completion
from tests.resilience.fallbacks import House, down, wrong_key


async def until(what: Any) -> None:
    """Wait for a condition; half a minute is for a machine that is busy."""
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)


async def test_every_try_is_in_the_ledger() -> None:
    house = House((Queue(seconds=30, every=0.001),), [down(), down(), down()])
    result = await house.ask()
    assert (result.answer, result.degraded) == ("the large answer", False)
    assert [e.outcome for e in house.entries("expert")] == ["failed"] * 3 + ["ok"]
    assert "; large was back after" in result.decision.reason


async def test_a_large_model_that_does_not_come_back_ends_in_the_next_step() -> None:
    result = await House((Queue(seconds=0.05, every=0.01), "draft")).ask()
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert "; large was not back after 0." in result.decision.reason


async def test_a_wait_that_is_shorter_than_the_time_between_tries_ends_with_one() -> None:
    house = House((Queue(seconds=0.02, every=100),), [down()])
    assert (await house.ask()).answer == "the large answer"


async def test_a_deadline_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    left_s = [3600.0]
    monkeypatch.setattr(Deadline, "left_s", lambda self, run: left_s[0])
    house = House((Queue(every=0.001), "draft"), deadline=3600.0)
    inner = house.large._complete

    async def nearly_over(request: Request) -> Completion:
        left_s[0] = 0.02 if len(house.large.requests) == 2 else left_s[0]
        return await inner(request)

    monkeypatch.setattr(house.large, "_complete", nearly_over)
    result = await house.ask()
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert len(house.large.requests) == 3
    assert result.decision.reason.endswith("the deadline of 3600.0 s is near.")


async def test_nobody_waits_where_the_large_model_could_not_be_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DeadlinePolicy, "decide", lambda self, case: self.inner.decide(case))
    house = House(("queue", "draft"), deadline=3600.0)
    house.cascade._deadline.saw("large", 7200.0)
    result = await house.ask()
    assert result.decision.reason.endswith("; there is no time to wait for large")
    assert len(house.large.requests) == 1


async def test_nobody_waits_where_waiting_cannot_help() -> None:
    house = House((Queue(seconds=3600), "draft"), [wrong_key()])
    result = await house.ask()
    assert result.answer == "Sydney"
    assert len(house.large.requests) == 1


async def test_a_wait_ends_at_a_failure_that_waiting_cannot_help() -> None:
    house = House((Queue(seconds=3600, every=0.001), "draft"), [down(), wrong_key()])
    result = await house.ask()
    assert result.answer == "Sydney"
    assert result.decision.reason.endswith("s: wrong key")


async def test_one_more_than_may_wait_takes_the_next_step_at_once() -> None:
    house = House((Queue(seconds=3600, every=3600, most=2), "draft"))
    waiting = house.cascade._fallback.steps[0]
    assert isinstance(waiting, Waiting)
    waiters = [asyncio.ensure_future(house.ask()) for _ in range(2)]
    await until(lambda: waiting.n == 2)
    result = await house.ask()
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert "; 2 wait for large already" in result.decision.reason
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert waiting.n == 0


async def test_those_who_wait_knock_one_by_one_until_somebody_was_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House((Queue(seconds=30, every=0.005),))
    inner, knocking, crowd = house.large._complete, [0], [0]

    async def counted(request: Request) -> Completion:
        knocking[0] += 1
        together = knocking[0]
        try:
            await asyncio.sleep(0.002)
            return await inner(request)
        except ModelUnavailableError:
            crowd[0] = max(crowd[0], together)
            raise
        finally:
            knocking[0] -= 1

    waiting = house.cascade._fallback.steps[0]
    assert isinstance(waiting, Waiting)
    runs = [asyncio.ensure_future(house.ask()) for _ in range(20)]
    await until(lambda: waiting.n == 20)
    monkeypatch.setattr(house.large, "_complete", counted)
    results = await asyncio.gather(*runs)  # after 50 failures it is back
    assert {result.answer for result in results} == {"the large answer"}
    assert len([e for e in house.entries("expert") if e.outcome == "failed"]) == 50
    assert crowd[0] == 1


async def test_one_tries_at_a_time_until_somebody_was_answered() -> None:
    waiting, begun = Waiting(Queue(seconds=1)), time.monotonic()
    with waiting.turn(begun) as mine, waiting.turn(begun) as others:
        assert (mine, others) == (True, False)
    with waiting.turn(begun) as mine:
        assert mine
        waiting.is_back()
        with waiting.turn(begun) as others:
            assert others


async def test_what_says_when_it_is_back_is_asked_then(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, result: Any = None) -> Any:
        slept.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", note)
    failures = [
        RateLimitError("slowly", model="m", retry_after=7.0),
        NotSentError("left alone", model="m", ready_in_s=3.0),
        down(),
    ]
    await House((Queue(seconds=3600, every=0.5),), failures).ask()
    assert [seconds for seconds in slept if seconds in (7.0, 3.0, 0.5)] == [7.0, 3.0, 0.5]


async def test_a_question_waits_for_a_circuit_breaker_that_lets_one_call_try() -> None:
    breaker = Breaker(in_a_row=1, open_s=0.05, growth=1)
    resilience = Resilience(retries=None, breaker=breaker, bulkhead=None)
    order = (Queue(seconds=30, every=0.01),)
    house = House(order, [down(), down()], resilience=resilience, retry_policy=None)
    result = await house.ask()
    assert (result.answer, result.degraded) == ("the large answer", False)
    assert len(house.large.requests) == 3


async def test_whoever_goes_away_leaves_the_queue() -> None:
    house = House((Queue(seconds=3600, every=3600),))
    waiting = house.cascade._fallback.steps[0]
    assert isinstance(waiting, Waiting)
    run = asyncio.ensure_future(house.ask())
    await until(lambda: waiting.n == 1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert waiting.n == 0


async def test_without_a_step_after_it_the_error_is_the_first_one() -> None:
    house = House((Queue(seconds=0.03, every=0.01),))
    with pytest.raises(ModelUnavailableError, match="large is down") as caught:
        await house.ask()
    assert caught.value.__notes__[0].startswith("fallback: large was not back after 0.")
