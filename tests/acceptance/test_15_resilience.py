"""Row 15: deadlines; a large model that is down; breaker, retries with a budget."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from cascade import Cascade, ConfigurationError, ModelError, Price
from cascade.errors import CircuitOpenError, DeadlineError
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Held, Upstream, failure

PRICE = Price(input=1, output=1)
PATIENT = {"in_a_row": 10_000, "least_calls": 10_000}
"""A breaker that never opens."""
SHUT = {"open_s": 600, "most_open_s": 600}
"""For as long as a test takes."""


def pair(upstream: Upstream, p: float = 0.3, **options: Any) -> Cascade:
    upstream.says("small", Answer("a draft", p=p))
    upstream.says("large", "the answer")
    small, large = (upstream.tier(name, price=PRICE) for name in ("small", "large"))
    return edition.cascade(small, large, **options)


# --- deadlines


def test_a_large_model_that_hangs_does_not_hold_up_an_answer(upstream: Upstream) -> None:
    with pair(upstream, deadline=0.8) as cascade:
        upstream.says("large", Answer("x", held=Held()))
        began = time.monotonic()
        result = cascade.invoke("?")
    assert (result.answer, result.tier, result.degraded) == ("a draft", "small", True)
    assert time.monotonic() - began < 20
    assert upstream.asked("large")[0].left.wait(20)
    (expert,) = [e for e in edition.entries_of(result) if e.node == "expert"]
    assert (expert.outcome in ("failed", "cancelled"), expert.cost_usd) == (True, None)


def test_a_small_model_that_hangs_ends_with_the_deadline(upstream: Upstream) -> None:
    with pair(upstream, deadline=0.5) as cascade:
        upstream.says("small", Answer("x", held=Held()))
        with pytest.raises(DeadlineError) as raised:
            cascade.invoke("?")
    assert ("draft", "ok") not in edition.calls_of(raised.value)
    assert upstream.asked("small")[0].left.wait(20)


def test_a_failure_is_not_tried_again_when_it_would_be_too_late(upstream: Upstream) -> None:
    late = failure(503, "come back later", **{"retry-after": "30"})
    with pair(upstream, deadline=2) as cascade:
        upstream.says("large", late)
        began = time.monotonic()
        result = cascade.invoke("?")
    assert (result.degraded, len(upstream.asked("large"))) == (True, 1)
    assert time.monotonic() - began < 20


def test_with_time_enough_a_deadline_changes_nothing(upstream: Upstream) -> None:
    with pair(upstream, deadline=60) as cascade:
        result = cascade.invoke("?")
    assert (result.answer, result.degraded) == ("the answer", False)


def test_each_call_has_a_timeout_of_its_own(upstream: Upstream) -> None:
    upstream.says("small", Answer("a draft", p=0.3))
    upstream.says("large", Answer("x", held=Held()))
    large = upstream.tier("large", timeout_s=0.4)
    with edition.cascade(upstream.tier("small"), large, retries=1) as cascade:
        assert cascade.invoke("?").degraded


@pytest.mark.parametrize("deadline", [0, -1])
def test_a_deadline_that_is_none_is_refused(upstream: Upstream, deadline: float) -> None:
    with pytest.raises(ConfigurationError, match="deadline"):
        pair(upstream, deadline=deadline)


# --- a model that is down


def nobody(upstream: Upstream, name: str) -> Any:
    """A tier at an address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    from cascade import Tier  # noqa: PLC0415 - as upstream.tier does

    return Tier(f"openai:{name}", base_url=f"http://127.0.0.1:{port}/v1", api_key="k", price=PRICE)


def test_where_nobody_listens_the_draft_is_the_answer_and_says_so(upstream: Upstream) -> None:
    upstream.says("small", Answer("a draft", p=0.3))
    small = upstream.tier("small", price=PRICE)
    with edition.cascade(small, nobody(upstream, "large"), retries=2) as cascade:
        result = cascade.invoke("?")
    assert (result.answer, result.tier, result.degraded) == ("a draft", "small", True)
    assert "large" in result.decision.reason
    assert [e.outcome for e in edition.entries_of(result) if e.node == "expert"] == ["failed"] * 2


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_whatever_a_large_model_fails_with_the_draft_stands_in(
    upstream: Upstream, status: int
) -> None:
    with pair(upstream, retries=1) as cascade:
        upstream.says("large", failure(status))
        result = cascade.invoke("?")
    assert (result.answer, result.degraded) == ("a draft", True)


def test_without_a_usable_draft_the_error_is_that_of_the_large_model(upstream: Upstream) -> None:
    with pair(upstream, retries=1) as cascade:
        upstream.says("small", Answer("", p=0.9))
        upstream.says("large", failure(503))
        with pytest.raises(ModelError) as raised:
            cascade.invoke("?")
    assert raised.value.model == "openai:large"
    assert edition.calls_of(raised.value) == [("draft", "ok"), ("expert", "failed")]


def test_where_the_small_model_is_down_the_large_one_answers(upstream: Upstream) -> None:
    with pair(upstream, 0.9, retries=1) as cascade:
        upstream.says("small", failure(503))
        result = cascade.invoke("?")
    assert (result.answer, result.escalated, result.degraded) == ("the answer", True, False)
    assert "small" in result.decision.reason


def test_another_large_model_may_stand_in(upstream: Upstream) -> None:
    upstream.says("other", "another answer")
    other = upstream.tier("other", name="other", price=Price(input=9, output=9))
    with pair(upstream, retries=1, fallback=other) as cascade:
        upstream.says("large", failure(503))
        result = cascade.invoke("?")
    assert (result.answer, result.tier, result.degraded) == ("another answer", "other", True)
    assert upstream.models() == ["small", "large", "other"]
    assert result.ledger.known_cost_usd > 0


# --- retries


@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (500, 3), (429, 3), (400, 1), (401, 1)])
def test_only_what_may_pass_is_tried_again(upstream: Upstream, status: int, attempts: int) -> None:
    with pair(upstream, retries=3, breaker=PATIENT) as cascade:
        upstream.says("large", failure(status))
        cascade.invoke("?")
    assert len(upstream.asked("large")) == attempts


def test_a_second_attempt_that_succeeds_is_the_answer(upstream: Upstream) -> None:
    with pair(upstream, retries=3) as cascade:
        upstream.next("large", failure(503), Answer("x", broken_after=0))
        result = cascade.invoke("?")
    assert (result.answer, result.degraded) == ("the answer", False)
    assert [e.outcome for e in edition.entries_of(result) if e.node == "expert"] == [
        "failed",
        "failed",
        "ok",
    ]


def test_what_the_provider_asks_to_wait_is_waited(upstream: Upstream) -> None:
    with pair(upstream, retries=2) as cascade:
        upstream.next("large", failure(429, "slow down", **{"retry-after": "1"}))
        began = time.monotonic()
        result = cascade.invoke("?")
    assert (result.answer, time.monotonic() - began >= 0.95) == ("the answer", True)


def test_retries_have_a_budget(upstream: Upstream) -> None:
    """A provider that is down gets a fifth more calls and a few, not three times as many."""
    with pair(upstream, retries=3, breaker=PATIENT) as cascade:
        upstream.says("large", failure(503))
        results = cascade.batch([f"question {i}" for i in range(100)])
    assert all(result.degraded for result in results)
    assert 100 < len(upstream.asked("large")) <= 100 + 20 + 10 + 5
    calls = [entry for result in results for entry in edition.entries_of(result) if entry.model]
    assert len(calls) == len(upstream.seen)


# --- circuit breaker


def test_a_model_that_fails_again_and_again_is_left_alone(upstream: Upstream) -> None:
    with pair(upstream, retries=1, breaker={"in_a_row": 3, **SHUT}) as cascade:
        upstream.says("large", failure(503))
        results = [cascade.invoke(f"question {i}") for i in range(6)]
    assert all((result.answer, result.degraded) == ("a draft", True) for result in results)
    assert len(upstream.asked("large")) == 3
    last = [e for e in edition.entries_of(results[-1]) if e.node == "expert"]
    assert [(entry.outcome, entry.cost_usd) for entry in last] == [("not_sent", 0)]


def test_a_question_without_a_draft_is_told_when_it_may_come_again(upstream: Upstream) -> None:
    upstream.says("only", failure(503))
    tiers, breaker = [upstream.tier("only")], {"in_a_row": 1, **SHUT}
    with edition.cascade(tiers=tiers, retries=1, breaker=breaker) as cascade:
        with pytest.raises(ModelError):
            cascade.invoke("?")
        with pytest.raises(CircuitOpenError) as raised:
            cascade.invoke("?")
    assert 0 < (raised.value.ready_in_s or 0) <= 600
    assert len(upstream.seen) == 1


def test_a_model_that_is_well_again_is_asked_again(upstream: Upstream) -> None:
    breaker = {"in_a_row": 1, "open_s": 0.05, "most_open_s": 0.1}
    with pair(upstream, retries=1, breaker=breaker) as cascade:
        upstream.next("large", failure(503))
        assert cascade.invoke("?").degraded
        end = time.monotonic() + 30
        while cascade.invoke("?").degraded:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not cascade.invoke("?").degraded


def test_refused_requests_say_that_a_server_is_well(upstream: Upstream) -> None:
    with pair(upstream, retries=1, breaker={"in_a_row": 2, **SHUT}) as cascade:
        upstream.says("large", failure(400))
        for i in range(5):
            cascade.invoke(f"question {i}")
    assert len(upstream.asked("large")) == 5


def test_by_default_a_dead_server_is_left_alone(upstream: Upstream) -> None:
    with pair(upstream) as cascade:
        upstream.says("large", failure(503))
        cascade.batch([f"question {i}" for i in range(60)])
    assert len(upstream.asked("large")) < 60
