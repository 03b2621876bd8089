"""Calls through a cascade whose large model fails: who is asked, how often, and what is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from turning import Clock, Server, doubtful, down, house, until

from cascade import Cascade, Price, Tier
from cascade.agents.deadline import ANSWER_BY
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    CircuitOpenError,
    ContextLengthError,
    DeadlineError,
    InputError,
    MalformedResponseError,
    ModelTimeoutError,
    ModelUnavailableError,
    NotSentError,
    OverloadedError,
    RateLimitError,
    StreamInterruptedError,
)
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import LedgerView, MemoryLedger
from cascade.models import Request
from cascade.resilience import Breaker, Bulkhead, Doors, Resilience, Retries, is_outage
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

ONE_TRY = Resilience(retries=None, breaker=Breaker(in_a_row=3), bulkhead=None)
ONLY_RETRIES = Resilience(breaker=None, bulkhead=None)


def waits_for(seconds: float) -> RunnableConfig:
    """Of a question whose caller waits so long."""
    return RunnableConfig(configurable={ANSWER_BY: time.time() + seconds})


def outcomes(ledger: LedgerView, node: str = "expert") -> list[str]:
    return [entry.outcome for entry in ledger if entry.node == node]


# --- the circuit breaker --------------------------------------------------------------------------


async def test_a_large_model_that_fails_again_and_again_is_left_alone() -> None:
    large = Server(down)
    cascade = house(large, ONE_TRY)
    results = [await cascade.ainvoke(str(n)) for n in range(10)]
    assert large.calls == 3
    assert all(result.degraded and result.answer == "Sydney" for result in results)
    assert outcomes(results[2].ledger) == ["failed"]
    assert outcomes(results[3].ledger) == ["not_sent"]
    assert "scripted:large was not asked: it has failed too often" in results[3].decision.reason
    assert cascade.tier_states()["large"].breaker == "open"
    assert cascade.tier_states()["small"].breaker == "closed"


async def test_a_call_that_was_not_sent_costs_nothing_and_is_no_call_in_the_ledger() -> None:
    store = MemoryLedger()
    cascade = house(Server(down), ONE_TRY, ledger=store)
    for n in range(4):
        await cascade.ainvoke(str(n))
    (entry,) = [entry for entry in store.entries if entry.outcome == "not_sent"]
    assert (entry.node, entry.tier, entry.model) == ("expert", "large", None)
    assert (entry.cost_usd, entry.saved_usd, entry.baseline_usd) == (0, 0, 0)
    assert "left alone; in 2.0 s one may" in entry.note


async def test_once_its_time_is_over_one_question_tries_it_and_the_rest_follow() -> None:
    large, clock = Server(down), Clock()
    cascade = house(large, ONE_TRY, clock)
    for n in range(5):
        await cascade.ainvoke(str(n))
    large.error = None
    assert (await cascade.ainvoke("too early")).degraded
    clock.now += 2
    assert (await cascade.ainvoke("?")).answer == "Canberra"
    assert cascade.tier_states()["large"].breaker == "closed"
    assert not (await cascade.ainvoke("??")).degraded


async def test_while_one_question_tries_it_the_others_do_not_wait() -> None:
    clock, gate = Clock(), asyncio.Event()

    class Slow(Server):
        async def _complete(self, request: Request) -> Completion:
            if self.error is None:
                self.requests.append(request)
                await gate.wait()
                return reply("Canberra")
            return await super()._complete(request)

    large = Slow(down)
    cascade = house(large, ONE_TRY, clock)
    for n in range(3):
        await cascade.ainvoke(str(n))
    large.error, clock.now = None, clock.now + 2
    trying = asyncio.create_task(cascade.ainvoke("tries"))
    await until(lambda: large.calls == 4)
    others = await asyncio.gather(*(cascade.ainvoke(str(n)) for n in range(20)))
    assert all(result.degraded for result in others)
    assert "one call tries it now" in others[0].decision.reason
    gate.set()
    assert (await trying).answer == "Canberra"
    assert large.calls == 4


async def test_a_cancelled_question_that_tried_it_leaves_that_to_the_next() -> None:
    clock = Clock()
    large = Server(down)
    cascade = house(large, ONE_TRY, clock)
    for n in range(3):
        await cascade.ainvoke(str(n))
    large.error, large._delay_s, clock.now = None, 3600, clock.now + 2
    trying = asyncio.create_task(cascade.ainvoke("tries"))
    await until(lambda: cascade.tier_states()["large"].breaker == "half_open")
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    large._delay_s = 0.0
    assert (await cascade.ainvoke("?")).answer == "Canberra"


async def test_a_small_model_that_is_left_alone_hands_its_questions_on() -> None:
    small = Server(down)
    doors = Doors(ONE_TRY, clock=Clock())
    cascade = Cascade(small, ScriptedModel("Canberra"), resilience=doors)
    results = [await cascade.ainvoke(str(n)) for n in range(5)]
    assert small.calls == 3
    assert [result.answer for result in results] == ["Canberra"] * 5
    assert not any(result.degraded for result in results)
    assert outcomes(results[-1].ledger, "draft") == ["not_sent"]


async def test_without_a_draft_the_error_says_when_the_tier_may_be_asked() -> None:
    cascade = Cascade(tiers=[Server(down)], resilience=Doors(ONE_TRY, clock=Clock()))
    for _ in range(3):
        with pytest.raises(ModelUnavailableError, match="nobody listens"):
            await cascade.ainvoke("?")
    with pytest.raises(CircuitOpenError, match="left alone") as refused:
        await cascade.ainvoke("?")
    assert refused.value.ready_in_s == 2
    assert (refused.value.billed, refused.value.retryable) == (False, False)
    assert refused.value.circumstantial
    assert refused.value.ledger is not None
    assert outcomes(refused.value.ledger) == ["not_sent"]


async def test_no_retry_follows_a_failure_that_has_opened_it() -> None:
    large = Server(down)
    settings = Resilience(retries=Retries(attempts=10), breaker=Breaker(in_a_row=4))
    result = await house(large, settings).ainvoke("?")
    assert large.calls == 4
    last = [entry for entry in result.ledger if entry.node == "expert"][-1]
    assert last.note == "nobody listens. It is not tried again: its circuit breaker is open."
    assert result.decision.reason.endswith("circuit breaker is open.")


OUTAGES: list[tuple[Exception, bool]] = [
    (ModelUnavailableError("500", model="m", status=500), True),
    (ModelTimeoutError("no answer", model="m", billed=None), True),
    (StreamInterruptedError("broke", model="m", billed=None), True),
    (MalformedResponseError("what", model="m", billed=None), True),
    (RateLimitError("slowly", model="m"), True),
    (RateLimitError("slowly", model="m", retry_after=1), False),
    (AuthenticationError("wrong key", model="m", status=401), False),
    (BadRequestError("no", model="m"), False),
    (ContextLengthError("long", model="m"), False),
    (DeadlineError("late", model="m"), False),
    (CircuitOpenError("left alone", model="m"), False),
    (ValueError("a bug"), False),
]


@pytest.mark.parametrize(("error", "counts"), OUTAGES, ids=lambda e: type(e).__name__)
def test_only_what_speaks_of_the_server_is_an_outage(error: Exception, counts: bool) -> None:
    assert is_outage(error) is counts


async def test_refused_requests_show_that_the_server_is_well() -> None:
    large = Server(lambda: ContextLengthError("too long", model="m"))
    cascade = house(large, ONE_TRY)
    for n in range(10):
        await cascade.ainvoke(str(n))
    assert large.calls == 10
    assert cascade.tier_states()["large"].breaker == "closed"


async def test_cancelled_questions_say_nothing_about_the_server() -> None:
    large = Server(delay_s=3600)
    cascade = house(large, ONE_TRY)
    for n in range(5):
        task = asyncio.create_task(cascade.ainvoke(str(n)))
        await until(lambda n=n: large.calls == n + 1)  # type: ignore[misc]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cascade.tier_states()["large"].breaker == "closed"


async def test_a_client_in_a_hurry_does_not_shut_the_tier_for_all() -> None:
    large = Server()
    cascade = house(large, ONE_TRY)
    cascade._deadline.saw("large", 5.0)  # its calls take five seconds
    large._delay_s = 3600
    for _ in range(5):
        hurried = waits_for(0.05)
        await cascade.ainvoke("?", hurried)
    assert large.calls == 5
    assert cascade.tier_states()["large"].breaker == "closed"


async def test_a_server_that_hangs_for_as_long_as_calls_usually_take_is_left_alone() -> None:
    large = Server(delay_s=3600)
    cascade = house(large, ONE_TRY)
    cascade._deadline.saw("large", 0.001)
    for _ in range(5):
        patient = waits_for(0.05)
        await cascade.ainvoke("?", patient)
    assert large.calls == 3
    assert cascade.tier_states()["large"].breaker == "open"


async def test_variants_of_a_cascade_know_what_it_knows() -> None:
    large = Server(down)
    cascade = house(large, ONE_TRY)
    for n in range(3):
        await cascade.ainvoke(str(n))
    await cascade.with_policy(deadline=60).ainvoke("?")
    assert large.calls == 3


async def test_cascades_with_the_same_doors_share_what_they_know_of_a_server() -> None:
    class Addressed(Server):
        server = "http://127.0.0.1:1/v1"

    doors = Doors(ONE_TRY, clock=Clock())
    one, other, third = Addressed(down), Addressed(down), Server(down)
    first = Cascade(doubtful(), one, resilience=doors)
    for n in range(3):
        await first.ainvoke(str(n))
    assert (await Cascade(doubtful(), other, resilience=doors).ainvoke("?")).degraded
    assert other.calls == 0
    await Cascade(doubtful(), third, resilience=doors).ainvoke("?")
    assert third.calls == 1


def test_what_is_shared_is_that_of_a_server_a_key_and_settings() -> None:
    class Addressed(Server):
        server = "http://127.0.0.1:1/v1"

    def left_after_one_retry(doors: Doors, key: str | None) -> int | None:
        return doors.of("large", Addressed(), key).state.retries_left

    doors = Doors(Resilience(Retries(reserve=5)), clock=Clock())
    doors.of("large", Addressed(), "one").no_retry()
    assert left_after_one_retry(Doors(doors.settings, doors.shared), "one") == 4
    assert left_after_one_retry(Doors(doors.settings, doors.shared), "other") == 5
    others = Resilience(Retries(reserve=7))
    assert left_after_one_retry(Doors(others, doors.shared), "one") == 7


async def test_without_a_breaker_a_model_is_asked_however_often_it_fails() -> None:
    large = Server(down)
    cascade = house(large, Resilience(retries=None, breaker=None, bulkhead=None))
    for n in range(10):
        await cascade.ainvoke(str(n))
    assert large.calls == 10
    assert cascade.tier_states()["large"].breaker is None


async def test_resilience_none_is_nothing_of_it() -> None:
    large = Server(down)
    cascade = Cascade(doubtful(), large, resilience=None)
    for n in range(10):
        await cascade.ainvoke(str(n))
    assert large.calls == 10
    state = cascade.tier_states()["large"]
    assert (state.breaker, state.running, state.retries_left) == (None, None, None)


# --- retries --------------------------------------------------------------------------------------


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
    cascade = drawing(1.0, Retries(attempts=2, base_s=8)).with_policy(deadline=4)
    (slept,) = await waits(monkeypatch, cascade, plainly)
    assert 1 < slept <= 2


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


# --- the bulkhead ---------------------------------------------------------------------------------


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


async def test_half_of_the_time_is_left_to_a_call_that_waits_in_vain() -> None:
    large = Server(delay_s=3600)
    cascade = house(large, narrow(waiting=10))
    hanging = [asyncio.create_task(cascade.ainvoke(str(n))) for n in range(2)]
    await until(lambda: large.calls == 2)
    result = await cascade.with_policy(deadline=0.4).ainvoke("?")
    assert result.degraded
    assert "none was free within 0." in result.decision.reason
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_sync_caller_finds_the_same_places() -> None:
    cascade = house(Server(), narrow(waiting=100))
    answers = await asyncio.gather(*(asyncio.to_thread(cascade.invoke, str(n)) for n in range(8)))
    assert all(result.answer == "Canberra" for result in answers)
    assert cascade.tier_states()["large"].running == 0


# --- the time of whoever asks ---------------------------------------------------------------------


async def test_no_call_gets_more_time_than_its_caller_waits() -> None:
    large = Server()
    cascade = house(large, ONE_TRY)
    waiting = waits_for(5)
    await cascade.ainvoke("?", waiting)
    assert 0 < (large.requests[0].timeout_s or 0) <= 5


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
    waiting = waits_for(5)
    result = await cascade.ainvoke("?", waiting)
    assert result.answer == "Canberra"


# --- audits ---------------------------------------------------------------------------------------


async def test_audits_leave_a_tier_alone_too_and_none_counts_as_done() -> None:
    store, large = MemoryLedger(), Server(down)
    small = Tier(ScriptedModel([reply("a", probability=0.99)]), price=Price(input=1, output=1))
    doors = Doors(ONE_TRY, clock=Clock())
    priced = Tier(large, price=Price(input=1, output=8))
    cascade = Cascade(small, priced, resilience=doors, audit_rate=1.0, ledger=store)
    for n in range(6):
        await cascade.ainvoke(str(n))
        await cascade.aclose()
    audits = [entry for entry in store.entries if entry.node == "audit"]
    assert large.calls == 3
    assert [entry.outcome for entry in audits] == ["failed"] * 3 + ["not_sent"] * 3
    assert sum((entry.cost_usd or Decimal(0)) for entry in audits) == 0
