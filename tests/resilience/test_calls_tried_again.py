"""Calls that are tried again: after which waits, how often, and what ends that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from turning import (
    ONE_TRY,
    ONLY_RETRIES,
    Clock,
    Server,
    doubtful,
    down,
    house,
    outcomes,
)

from cascade import Cascade
from cascade.errors import (
    ModelUnavailableError,
    RateLimitError,
)
from cascade.graph import DEFAULT_RETRY
from cascade.models.failures import Caller as Named
from cascade.resilience import Doors, Resilience, Retries


async def waits(
    monkeypatch: pytest.MonkeyPatch, cascade: Cascade, ask: Callable[[Cascade], Any]
) -> list[float]:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, result: Any = None) -> Any:
        if seconds > 0:
            slept.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", note)
    await ask(cascade)
    return slept


def plainly(cascade: Cascade) -> Any:
    return cascade.ainvoke("?")


def through_the_graph(cascade: Cascade) -> Any:
    graph: Any = cascade.graph
    return graph.ainvoke({"messages": [("human", "?")]})


def drawing(draw: float, retries: Retries, error: Callable[[], Exception] = down) -> Cascade:
    settings = Resilience(retries=retries, breaker=None)
    doors = Doors(settings, clock=Clock(), draw=lambda: draw)
    return Cascade(doubtful(), Server(error), resilience=doors)


@pytest.mark.parametrize("ask", [plainly, through_the_graph])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
async def test_the_wait_is_full_jitter_on_both_ways_through_the_nodes(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Cascade], Any], draw: float
) -> None:
    cascade = drawing(draw, Retries(attempts=5, base_s=1, cap_s=3))
    wanted = [draw * most for most in (1, 2, 3, 3) if draw]
    assert await waits(monkeypatch, cascade, ask) == wanted


async def test_a_provider_that_says_when_to_come_back_is_never_asked_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slowly() -> Exception:
        return RateLimitError("slowly", model="m", retry_after=7)

    cascade = drawing(0.5, Retries(attempts=2, base_s=1), slowly)
    assert await waits(monkeypatch, cascade, plainly) == [7.5]


async def test_a_deadline_leaves_half_of_its_time_for_the_attempt_after_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cascade = drawing(1.0, Retries(attempts=2, base_s=800, cap_s=800)).with_policy(deadline=400)
    (slept,) = await waits(monkeypatch, cascade, plainly)
    assert 100 < slept <= 200


async def test_a_policy_of_the_users_waits_as_it_says_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = DEFAULT_RETRY._replace(initial_interval=0.25, jitter=False, max_attempts=4)
    doors = Doors(ONLY_RETRIES, clock=Clock(), draw=lambda: 1.0)
    cascade = Cascade(doubtful(), Server(down), resilience=doors, retry_policy=own)
    assert await waits(monkeypatch, cascade, plainly) == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("ask", [plainly, through_the_graph])
async def test_retries_end_with_their_budget_and_the_first_attempts_go_on(
    ask: Callable[[Cascade], Any],
) -> None:
    large = Server(down)
    settings = Resilience(Retries(attempts=3, share=0.2, reserve=4), breaker=None)
    cascade = house(large, settings)
    for _ in range(100):
        await ask(cascade)
    assert 100 + 20 <= large.calls <= 100 + 20 + 4
    assert cascade.tier_states()["large"].retries_left == 0


async def test_a_retry_that_the_budget_refuses_stands_in_the_ledger() -> None:
    settings = Resilience(Retries(reserve=0, share=0), breaker=None)
    result = await house(Server(down), settings).ainvoke("?")
    (entry,) = [entry for entry in result.ledger if entry.node == "expert"]
    why = "nobody listens. It is not tried again: the retry budget is used up."
    assert (entry.outcome, entry.note) == ("failed", why)
    assert result.decision.reason.endswith(why)


async def test_the_budget_holds_for_a_retry_policy_that_would_try_anything() -> None:
    large = Server(down)
    own = DEFAULT_RETRY._replace(
        initial_interval=0.0, jitter=False, max_attempts=50, retry_on=Exception
    )
    settings = Resilience(Retries(reserve=2, share=0), breaker=None)
    assert (await house(large, settings, retry_policy=own).ainvoke("?")).degraded
    assert large.calls == 3


async def test_a_retry_policy_that_would_try_anything_does_not_beat_at_a_shut_door() -> None:
    own = DEFAULT_RETRY._replace(
        initial_interval=0.0, jitter=False, max_attempts=50, retry_on=Exception
    )
    cascade = house(Server(down), ONE_TRY, retry_policy=own)
    results = [await cascade.ainvoke("?") for _ in range(3)]
    assert outcomes(results[-1].ledger) == ["not_sent"]


async def test_an_error_that_is_raised_twice_is_given_up_only_where_it_was() -> None:
    error = down()
    settings = Resilience(Retries(reserve=0, share=0), breaker=None)
    await house(Server(lambda: error), settings).ainvoke("?")
    assert not error.given_up
    assert str(error) == "nobody listens."


async def test_a_tier_may_be_tried_less_often_than_another() -> None:
    small, large = Server(down), Server(down)
    patient = Resilience(Retries(attempts=5), breaker=None)
    settings = Resilience(
        Retries(attempts=2), breaker=None, tiers={"large": patient}, bulkhead=None
    )
    doors = Doors(settings, clock=Clock(), draw=lambda: 0.0)
    with pytest.raises(ModelUnavailableError, match="nobody listens"):
        await Cascade(small, large, resilience=doors).ainvoke("?")
    assert (small.calls, large.calls) == (2, 5)


async def test_without_retries_a_failed_call_is_the_last() -> None:
    large = Server(down)
    await house(large, Resilience(retries=None, breaker=None)).ainvoke("?")
    assert large.calls == 1


async def test_a_server_that_is_down_and_says_until_when_is_asked_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def overloaded() -> Exception:
        error = down()
        error.retry_after = 3
        return error

    cascade = drawing(0.5, Retries(attempts=2, base_s=1), overloaded)
    assert await waits(monkeypatch, cascade, plainly) == [3.5]


async def test_a_server_that_is_down_for_longer_than_a_minute_is_not_tried_again() -> None:
    def closed() -> Exception:
        error = down()
        error.retry_after = 3600
        return error

    large = Server(closed)
    await house(large, ONLY_RETRIES).ainvoke("?")
    assert large.calls == 1


def test_what_a_server_says_is_kept_with_the_error_also_where_it_is_down() -> None:
    named = Named("openai:m", "http://127.0.0.1:1")
    assert named.refused(503, "closed", retry_after=7).retry_after == 7
    assert named.refused(429, "slowly", retry_after=7).retry_after == 7
    assert named.refused(503, "closed").retry_after is None
