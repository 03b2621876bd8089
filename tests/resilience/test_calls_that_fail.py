"""Calls to a large model that fails: when it is left alone, tried again, and by whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest
from turning import (
    ONE_TRY,
    Clock,
    Server,
    doubtful,
    down,
    house,
    outcomes,
    until,
)

from cascade import Cascade, Price, Tier
from cascade.agents.deadline import Deadline
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    CircuitOpenError,
    ContextLengthError,
    DeadlineError,
    MalformedResponseError,
    ModelError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    StreamInterruptedError,
)
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.resilience import Breaker, Doors, Resilience, Retries, is_outage
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply


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


async def cut_short(monkeypatch: pytest.MonkeyPatch, usual_s: float) -> tuple[int, str | None]:
    """Five calls that a deadline ends after a hundredth of a second, to a tier that usually takes
    so long; how many were sent, and what the breaker makes of it.
    """

    def bound(_: Deadline, request: Request, *args: object, **given: object) -> Request:
        return replace(request, timeout_s=0.01)

    monkeypatch.setattr(Deadline, "bound", bound)
    large = Server(delay_s=3600)
    cascade = Cascade(tiers=[large], resilience=Doors(ONE_TRY, clock=Clock()))
    (name,) = cascade.tier_states()
    cascade._deadline.saw(name, usual_s)
    for _ in range(5):
        with pytest.raises(ModelError):
            await cascade.ainvoke("?")
    return large.calls, cascade.tier_states()[name].breaker


async def test_a_client_in_a_hurry_does_not_shut_the_tier_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await cut_short(monkeypatch, usual_s=5) == (5, "closed")


async def test_a_server_that_hangs_for_as_long_as_calls_usually_take_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await cut_short(monkeypatch, usual_s=0.001) == (3, "open")


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
