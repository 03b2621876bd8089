"""When a model cannot be had: what is raised, what is returned, and that no spend is lost."""

from __future__ import annotations

import asyncio
import random
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade import Cascade, Price, Tier
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    CascadeError,
    ContextLengthError,
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    StreamInterruptedError,
)
from cascade.graph import DEFAULT_RETRY, is_retryable
from cascade.ledger import LedgerView, MemoryLedger
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
DOWN = ModelUnavailableError("nobody listens", model="m", billed=False)
TIMED_OUT = ModelTimeoutError("no answer", model="m", billed=None)
WRONG_KEY = AuthenticationError("wrong key", model="m", status=401)


def failing(*errors: Exception, then: str = "Canberra") -> ScriptedModel:
    return ScriptedModel([then], failures=errors)


def draft(text: str = "Sydney", probability: float = 0.3) -> ScriptedModel:
    return ScriptedModel([reply(text, probability=probability)])


def cascade_of(small: Any, large: Any, **options: Any) -> Cascade:
    return Cascade(small, large, retry_policy=FAST, **options)


def outcomes(ledger: LedgerView | None, node: str) -> list[str]:
    assert ledger is not None
    return [entry.outcome for entry in ledger if entry.node == node]


# --- the large model is down ---------------------------------------------------------------------


async def test_a_large_model_that_stays_down_leaves_the_draft_marked_as_degraded() -> None:
    large = failing(*[DOWN] * 5)
    result = await cascade_of(draft(), large).ainvoke("?")
    assert (result.answer, result.tier) == ("Sydney", "small")
    assert result.degraded
    assert result.escalated
    assert result.decision.reason == (
        "uncalibrated score 0.300 < 0.800; but large failed: nobody listens"
    )
    assert result.confidence == pytest.approx(0.3)
    assert outcomes(result.ledger, "expert") == ["failed"] * 3
    assert len(large.requests) == 3


async def test_a_degraded_answer_earns_no_baseline() -> None:
    price = Price(input=1, output=1)
    result = await cascade_of(
        Tier(draft(), price=price), Tier(failing(*[DOWN] * 3), price=price)
    ).ainvoke("?")
    assert result.ledger.baseline_usd == 0
    assert result.ledger.saved_usd == Decimal("-0.000011")


async def test_attempts_that_may_have_been_billed_cost_an_unknown_amount() -> None:
    price = Price(input=1, output=1)
    large = Tier(failing(TIMED_OUT), price=price)
    result = await cascade_of(Tier(draft(), price=price), large).ainvoke("?")
    assert result.answer == "Canberra"
    assert result.ledger.cost_usd is None
    assert result.ledger.unknown == 1
    failed = next(e for e in result.ledger if e.outcome == "failed")
    assert (failed.cost_usd, failed.basis, failed.note) == (None, "unknown", "no answer")


async def test_attempts_that_were_refused_cost_nothing() -> None:
    price = Price(input=1, output=1)
    large = Tier(failing(DOWN), price=price)
    result = await cascade_of(Tier(draft(), price=price), large).ainvoke("?")
    assert result.ledger.cost_usd == Decimal("0.000022")
    assert outcomes(result.ledger, "expert") == ["failed", "ok"]


@pytest.mark.parametrize("text", ["", "not json"])
async def test_without_a_usable_draft_the_error_is_raised_with_its_ledger(text: str) -> None:
    schema = {"type": "object"}
    small = ScriptedModel([reply(text, probability=None)], returns_logprobs=False)
    with pytest.raises(ModelUnavailableError) as caught:
        await cascade_of(small, failing(*[DOWN] * 3), response_format=schema).ainvoke("?")
    assert outcomes(caught.value.ledger, "draft") == ["ok"]
    assert outcomes(caught.value.ledger, "expert") == ["failed"] * 3


async def test_a_draft_that_was_rejected_before_the_middle_tier_fell_out_is_still_there() -> None:
    tiers = [
        Tier(draft("Sydney"), name="s"),
        Tier(failing(*[DOWN] * 3), name="m"),
        Tier(failing(*[DOWN] * 3), name="l"),
    ]
    result = await Cascade(tiers=tiers, retry_policy=FAST).ainvoke("?")
    assert (result.answer, result.tier) == ("Sydney", "s")
    assert result.degraded
    assert result.escalated
    assert result.confidence == pytest.approx(0.3)


async def test_all_models_down_is_the_error_of_the_last() -> None:
    last = ModelUnavailableError("large is down", model="l")
    with pytest.raises(ModelUnavailableError, match="large is down") as caught:
        await cascade_of(failing(*[DOWN] * 3), failing(*[last] * 3)).ainvoke("?")
    assert outcomes(caught.value.ledger, "draft") == ["failed"] * 3
    assert outcomes(caught.value.ledger, "expert") == ["failed"] * 3


async def test_one_tier_that_is_down_is_an_error() -> None:
    with pytest.raises(ModelUnavailableError):
        await Cascade(tiers=[failing(*[DOWN] * 3)], retry_policy=FAST).ainvoke("?")


async def test_a_bug_in_a_model_is_not_hidden_by_the_draft() -> None:
    class Broken(ScriptedModel):
        async def _complete(self, request: Request) -> Completion:
            raise KeyError("choices")

    store = MemoryLedger()
    with pytest.raises(KeyError):
        await cascade_of(draft(), Broken("x"), ledger=store).ainvoke("?")
    # Something was sent, and nobody knows what it cost.
    assert [(e.node, e.outcome, e.basis) for e in store.entries][-1] == (
        "expert",
        "failed",
        "unknown",
    )


# --- the small model is down ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (DOWN, 3),
        (TIMED_OUT, 3),
        (RateLimitError("slowly", model="m"), 3),
        (ContextLengthError("too long", model="m", status=400), 1),
    ],
)
async def test_a_small_model_that_cannot_answer_hands_the_question_on(
    error: ModelError, attempts: int
) -> None:
    small = failing(*[error] * 5)
    result = await cascade_of(small, failing()).ainvoke("?")
    assert (result.tier, result.escalated, result.degraded) == ("large", True, False)
    assert result.confidence is None
    assert result.decision.reason == f"small failed: {error}"
    assert outcomes(result.ledger, "draft") == ["failed"] * attempts
    assert len(small.requests) == attempts


@pytest.mark.parametrize(
    "error",
    [WRONG_KEY, ModelNotFoundError("not pulled", model="m"), BadRequestError("no", model="m")],
)
async def test_a_mistake_in_the_set_up_of_the_small_model_is_raised(error: ModelError) -> None:
    small, large = failing(*[error] * 5), failing()
    with pytest.raises(type(error)) as caught:
        await cascade_of(small, large).ainvoke("?")
    assert outcomes(caught.value.ledger, "draft") == ["failed"]
    assert (len(small.requests), len(large.requests)) == (1, 0)


async def test_a_self_check_that_fails_escalates_and_says_why() -> None:
    small = ScriptedModel(lambda r: "Sydney" if len(r.messages) == 1 else DOWN)
    result = await cascade_of(small, failing()).ainvoke("?")
    assert result.tier == "large"
    assert result.decision.reason == "no confidence: the self-check failed: nobody listens"
    assert outcomes(result.ledger, "self_check") == ["failed"] * 3


async def test_a_self_check_that_is_refused_for_good_is_raised() -> None:
    small = ScriptedModel(lambda r: "Sydney" if len(r.messages) == 1 else WRONG_KEY)
    with pytest.raises(AuthenticationError):
        await cascade_of(small, failing()).ainvoke("?")


# --- which failures are tried again --------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (WRONG_KEY, False),
        (BadRequestError("no", model="m"), False),
        (ContextLengthError("long", model="m"), False),
        (ModelNotFoundError("gone", model="m"), False),
        (ModelUnavailableError("500", model="m", status=500), True),
        (TIMED_OUT, True),
        (StreamInterruptedError("broke", model="m"), True),
        (MalformedResponseError("what", model="m"), True),
        (RateLimitError("slowly", model="m"), True),
        (RateLimitError("slowly", model="m", retry_after=60.0), True),
        (RateLimitError("tomorrow", model="m", retry_after=61.0), False),
        (CascadeError("other"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_passing_failures_are_tried_again(error: Exception, again: bool) -> None:
    assert is_retryable(error) is again


async def waits(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[float]:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, result: Any = None) -> Any:
        if seconds > 0:
            slept.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", note)
    await cascade_of(draft(), failing(*errors)).ainvoke("?")
    return slept


async def test_a_provider_that_says_when_to_come_back_is_asked_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slowly = RateLimitError("slowly", model="m", retry_after=7.0)
    assert await waits(monkeypatch, slowly) == [7.0]


async def test_nobody_waits_after_the_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = RateLimitError("slowly", model="m", retry_after=7.0)
    assert await waits(monkeypatch, *[slowly] * 3) == [7.0, 7.0]


async def test_nobody_waits_for_a_provider_that_will_not_be_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tomorrow = RateLimitError("tomorrow", model="m", retry_after=86_400.0)
    assert await waits(monkeypatch, tomorrow) == []


# --- no spend is lost ----------------------------------------------------------------------------

ERRORS = [
    DOWN,
    TIMED_OUT,
    RateLimitError("slowly", model="m"),
    ContextLengthError("long", model="m"),
    WRONG_KEY,
    StreamInterruptedError("broke", model="m", billed=None),
]
scripts = st.lists(st.sampled_from([None, None, *range(len(ERRORS))]), max_size=6)


def moody(script: list[int | None], probability: float | None) -> ScriptedModel:
    left = list(script)

    def answer(_: Request) -> Completion | Exception:
        mood = left.pop(0) if left else None
        # A new error each time: one that is raised twice would collect notes of both.
        if mood is None:
            return reply("True", probability=probability)
        return ERRORS[mood]

    return ScriptedModel(answer, returns_logprobs=probability is not None)


@settings(max_examples=60)
@given(scripts, scripts, scripts, st.sampled_from([None, 0.3, 0.95]), st.booleans())
def test_every_attempt_that_a_model_saw_is_one_entry_in_the_store_and_in_the_result(
    small: list[int | None],
    medium: list[int | None],
    large: list[int | None],
    probability: float | None,
    streamed: bool,
) -> None:
    models = [moody(small, probability), moody(medium, 0.3), moody(large, None)]
    tiers = [Tier(model, name=str(i)) for i, model in enumerate(models)]
    store = MemoryLedger()
    cascade = Cascade(tiers=tiers, retry_policy=FAST, ledger=store)
    ledger: LedgerView | None
    try:
        result = list(cascade.stream("?"))[-1] if streamed else cascade.invoke("?")
        ledger = result.ledger  # type: ignore[union-attr]
    except ModelError as error:
        ledger = error.ledger
    assert ledger is not None
    for tier, model in zip(tiers, models, strict=True):
        seen = len(model.requests)
        assert sum(e.model is not None and e.tier == tier.name for e in store.entries) == seen
        assert sum(e.model is not None and e.tier == tier.name for e in ledger) == seen
    assert sorted(ledger, key=id) == sorted(store.entries, key=id)
    assert len({entry.run_id for entry in store.entries}) == 1


async def test_a_time_limit_around_the_call_leaves_an_entry_of_the_cancelled_attempt() -> None:
    store = MemoryLedger()
    slow = ScriptedModel(["x"], delay_s=30)
    cascade = cascade_of(draft(), slow, ledger=store)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await cascade.ainvoke("?")
    assert time.monotonic() - begun < 10
    last = store.entries[-1]
    assert (last.node, last.outcome, last.basis) == ("expert", "cancelled", "unknown")
    assert last.note == "cancelled while it ran"


async def test_random_failures_under_concurrency_keep_runs_apart() -> None:
    chance = random.Random(7)
    store = MemoryLedger()

    def answer(_: Request) -> Completion | Exception:
        return DOWN if chance.random() < 0.4 else reply("x", probability=chance.random())

    small, large = ScriptedModel(answer, returns_logprobs=True), ScriptedModel(answer)
    cascade = cascade_of(small, large, ledger=store)
    results = await cascade.abatch([f"q{i}" for i in range(40)], return_exceptions=True)
    shown = [entry for r in results for entry in (r.ledger or ())]  # type: ignore[union-attr]
    assert sorted(shown, key=id) == sorted(store.entries, key=id)
    calls = len(small.requests) + len(large.requests)
    assert sum(entry.model is not None for entry in store.entries) == calls
