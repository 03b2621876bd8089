"""Row 15: deadlines; a large model that is down; breaker, retries with a budget."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cascade import Cascade, ModelError, Tier
from cascade.errors import CircuitOpenError, DeadlineError
from cascade.middleware import Breaker, Fallback
from tests.acceptance.setups import CHEAP, DEAR, calls_of, entries_of, pair, tries
from tests.acceptance.upstream import Answer, Held, Upstream, failure
from tests.servers.fake import free_port

DRAFT, ANSWER = "small: ?", "large: ?"
NEVER = Breaker(10_000)
"""One that does not open."""


def shut(in_a_row: int) -> Breaker:
    """One that stays open for as long as a test takes."""
    return Breaker(in_a_row, open_s=600, most_open_s=600)


def of(result: Any, node: str) -> list[str]:
    """Outcomes of the calls of a node."""
    return [entry.outcome for entry in entries_of(result) if entry.node == node]


# --- deadlines


def test_a_model_that_hangs_does_not_hold_up_an_answer(upstream: Upstream) -> None:
    with pair(upstream, 0.3, deadline=2) as cascade:
        cascade.invoke("to warm up", deadline=300)
        upstream.next("large", Answer("x", held=Held()))
        result = cascade.invoke("?")
        assert (result.answer, result.tier, result.degraded) == (DRAFT, "small", True)
        assert of(result, "expert") in (["failed"], ["cancelled"])
        assert result.ledger.cost_usd is None  # who knows what was written by then
        upstream.next("small", Answer("x", held=Held()))
        with pytest.raises(DeadlineError):
            cascade.invoke("?")
    assert all(upstream.asked(model)[-1].left.wait(300) for model in ("small", "large"))


def test_a_failure_is_not_tried_again_when_it_would_be_too_late(upstream: Upstream) -> None:
    upstream.says("large", failure(503, "come back later", **{"retry-after": "300"}))
    began = time.monotonic()
    result = pair(upstream, 0.3, deadline=100).invoke("?")
    assert (result.degraded, len(upstream.asked("large"))) == (True, 1)
    assert time.monotonic() - began < 100


# --- a model that is down


def test_where_nobody_listens_the_draft_is_the_answer_and_says_so(upstream: Upstream) -> None:
    upstream.says("small", Answer("a draft", p=0.3))
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    large = Tier("openai:large", base_url=nobody, api_key="k", price=DEAR)
    small = upstream.tier("small", price=CHEAP)
    with Cascade(small, large, middleware=[tries(2)]) as cascade:
        result = cascade.invoke("?")
    assert (result.answer, result.degraded) == ("a draft", True)
    assert "large" in result.decision.reason
    assert of(result, "expert") == ["failed", "failed"]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_whatever_a_large_model_fails_with_the_draft_stands_in(
    upstream: Upstream, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pair(upstream, 0.3, tries(3), NEVER) as cascade:
        upstream.says("large", failure(status))
        result = cascade.invoke("?")
    assert (result.answer, result.degraded) == (DRAFT, True)
    # What will not mend itself is in the log.
    assert ("the draft stands in" in caplog.text) == (status in (400, 401, 404))
    # Only what may pass is tried again.
    assert len(upstream.asked("large")) == (3 if status in (429, 500, 503) else 1)


def test_without_a_usable_draft_the_error_is_that_of_the_large_model(upstream: Upstream) -> None:
    with pair(upstream, 0.95, tries(1), says=("", "")) as cascade:
        upstream.says("large", failure(503))
        with pytest.raises(ModelError) as raised:
            cascade.invoke("?")
    assert raised.value.model == "openai:large"
    assert calls_of(raised.value) == [("draft", "ok"), ("expert", "failed")]


def test_where_the_small_model_is_down_the_large_one_answers(upstream: Upstream) -> None:
    with pair(upstream, 0.95, tries(1)) as cascade:
        upstream.says("small", failure(503))
        result = cascade.invoke("?")
    assert (result.answer, result.escalated, result.degraded) == (ANSWER, True, False)
    assert "small" in result.decision.reason


def test_another_large_model_may_stand_in(upstream: Upstream) -> None:
    upstream.says("other", "another answer")
    other = upstream.tier("other", name="other", price=DEAR)
    with pair(upstream, 0.3, tries(1), Fallback(other)) as cascade:
        upstream.says("large", failure(503))
        result = cascade.invoke("?")
    assert (result.answer, result.tier, result.degraded) == ("another answer", "other", True)
    assert upstream.models() == ["small", "large", "other"]


# --- retries


def test_what_the_provider_asks_to_wait_is_waited(upstream: Upstream) -> None:
    with pair(upstream, 0.3, tries(2)) as cascade:
        upstream.next("large", failure(429, "slow down", **{"retry-after": "1"}))
        began = time.monotonic()
        result = cascade.invoke("?")
    assert (result.answer, time.monotonic() - began >= 0.95) == (ANSWER, True)


def test_retries_have_a_budget(upstream: Upstream) -> None:
    """A provider that is down gets a fifth more calls and a few, not three times as many."""
    with pair(upstream, 0.3, tries(3), NEVER) as cascade:
        upstream.says("large", failure(503))
        results = cascade.batch([f"question {i}" for i in range(100)])
    assert all(result.degraded for result in results)
    assert 100 < len(upstream.asked("large")) <= 100 + 20 + 10 + 5
    calls = [call for result in results for call in calls_of(result)]
    assert len(calls) == len(upstream.seen)


# --- circuit breaker


def test_a_model_that_fails_again_and_again_is_left_alone(upstream: Upstream) -> None:
    with pair(upstream, 0.3, tries(1), shut(3)) as cascade:
        upstream.says("large", failure(503))
        results = [cascade.invoke(f"question {i}") for i in range(6)]
    assert all(result.degraded and result.answer.startswith("small: ") for result in results)
    assert len(upstream.asked("large")) == 3
    (last,) = [e for e in entries_of(results[-1]) if e.node == "expert"]
    assert (last.outcome, last.cost_usd) == ("not_sent", 0)


def test_a_question_without_a_draft_is_told_when_it_may_come_again(upstream: Upstream) -> None:
    upstream.says("only", failure(503))
    with Cascade(tiers=[upstream.tier("only")], middleware=[tries(1), shut(1)]) as cascade:
        with pytest.raises(ModelError):
            cascade.invoke("?")
        with pytest.raises(CircuitOpenError) as raised:
            cascade.invoke("?")
    assert 0 < (raised.value.ready_in_s or 0) <= 600
    assert "(ModelUnavailableError)" in str(raised.value)
    assert len(upstream.seen) == 1


async def test_what_closing_cuts_off_is_held_against_no_server(upstream: Upstream) -> None:
    cascade = pair(upstream, 0.3, tries(1), shut(1))
    upstream.next("large", Answer("x", held=Held()))
    asking = asyncio.ensure_future(cascade.ainvoke("?"))
    await upstream.has_asked(1, "large")
    await cascade.aclose()
    assert (await asking).degraded
    assert (await cascade.ainvoke("?")).answer == ANSWER
    await cascade.aclose()


def test_a_model_that_is_well_again_is_asked_again(upstream: Upstream) -> None:
    with pair(upstream, 0.3, tries(1), Breaker(1, open_s=0.05, most_open_s=0.1)) as cascade:
        upstream.next("large", failure(503))
        assert cascade.invoke("?").degraded
        end = time.monotonic() + 300
        while cascade.invoke("?").degraded:
            assert time.monotonic() < end
            time.sleep(0.01)
