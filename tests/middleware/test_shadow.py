from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from cascade import Cascade, ConfigurationError, MemoryLedger, Tier
from cascade.errors import BadRequestError, ModelUnavailableError
from cascade.middleware import Abort, Audits, Retries, Shadow
from cascade.testing import ScriptedModel
from tests.middleware.cascades import (
    PRICE,
    Held,
    Keeping,
    ask,
    both_drivers,
    large,
    losses,
    of,
    pair,
    questions,
    small,
)

Q = "Capital of Australia?"


async def shadowed(*given: Any, driver: str = "loop", **options: Any) -> MemoryLedger:
    """The ledger of one question that the large model answers, with a draft beside it."""
    ledger = options.setdefault("ledger", MemoryLedger())
    stack = [Shadow(), Retries(attempts=1), *options.pop("middleware", ())]
    made = pair(*given, middleware=stack, **options)
    result = await ask(made, Q, driver)
    assert (result.tier, result.escalated) == ("large", True)
    await made.aclose()
    return ledger


@both_drivers
async def test_the_large_model_answers_and_a_draft_is_made_after_the_reply(driver: str) -> None:
    drafts, answers = Held("Canberra", name="small", logprobs=0.95), large()
    ledger = MemoryLedger()
    made = pair(drafts, answers, ledger=ledger, middleware=[Shadow()])
    result = await ask(made, Q, driver)
    assert (result.answer, result.tier) == ("Canberra", "large")
    assert result.decision.reason == "shadow: the large model answers"
    await asyncio.to_thread(drafts.asked.wait, 30)
    assert of(ledger, "shadow") == []
    drafts.release.set()
    await made.aclose()
    assert losses(ledger, "shadow") == [0.0]
    assert len(answers.requests) == 1
    assert {e.node for e in result.ledger} <= {"router", "expert"}


@both_drivers
@pytest.mark.parametrize(("p", "action"), [(0.95, "accept"), (0.3, "escalate")])
async def test_a_draft_says_what_would_have_been_decided(
    driver: str, p: float, action: str
) -> None:
    ledger = await shadowed(small("Sydney", p), driver=driver)
    decided = [entry.decision for entry in of(ledger, "shadow") if entry.decision]
    assert [decision.action for decision in decided] == [action]
    assert decided[0].signals["logprob_mean"] < 0
    assert losses(ledger, "shadow") == [1.0]


async def test_a_draft_is_a_cost_and_earns_nothing() -> None:
    ledger = await shadowed()
    assert sum(entry.saved_usd for entry in ledger.entries) == Decimal("-0.000011")
    assert {entry.node for entry in ledger.entries} <= {"router", "expert", "shadow"}


async def test_checks_of_a_draft_are_booked_beside_it() -> None:
    ledger = await shadowed(signals=["p_true"])
    assert [entry.model for entry in of(ledger, "shadow") if entry.model] == ["scripted:small"] * 2


@pytest.mark.parametrize(
    "failure",
    [
        BadRequestError("no", model="scripted:small"),
        ModelUnavailableError("down", model="scripted:small"),
    ],
)
async def test_a_draft_that_fails_harms_no_run_and_asks_nothing_else(failure: Exception) -> None:
    answers = large()
    ledger = await shadowed(small(failures=[failure]), answers)
    assert losses(ledger, "shadow") == []
    assert [entry.outcome for entry in of(ledger, "shadow")] == ["failed"]
    assert len(answers.requests) == 1


async def test_where_a_router_goes_straight_to_the_large_model_nothing_is_drafted() -> None:
    drafts, answers = small(), large()
    ledger = await shadowed(drafts, answers, router=lambda _: "large")
    assert (len(drafts.requests), len(answers.requests)) == (0, 1)
    assert of(ledger, "shadow") == []


async def test_a_shadow_draft_is_neither_stopped_nor_audited() -> None:
    model = small("no idea what that is", 0.1)
    tier = Tier(model, price=PRICE, max_tokens=10)
    ledger = MemoryLedger()
    stack = [Shadow(), Abort(), Audits(1.0)]
    made = Cascade(tier, Tier(large(), price=PRICE), ledger=ledger, middleware=stack)
    await ask(made, Q)
    await made.aclose()
    assert [e.outcome for e in of(ledger, "shadow") if e.model] == ["ok"]
    assert of(ledger, "audit") == []


async def test_without_an_answer_of_the_large_model_nothing_is_drafted() -> None:
    drafts = small()
    down = ModelUnavailableError("down", model="scripted:large")
    made = pair(drafts, large(failures=[down]), middleware=[Shadow(), Retries(attempts=1)])
    with pytest.raises(ModelUnavailableError):
        await ask(made, Q)
    await made.aclose()
    assert drafts.requests == []


async def test_a_draft_that_a_process_leaves_is_made_by_the_next() -> None:
    ledger, drafts = Keeping(), Held("Canberra", name="small", logprobs=0.95)
    made = pair(drafts, ledger=ledger, middleware=[Shadow(grace_s=0.0)])
    await ask(made, Q)
    await asyncio.to_thread(drafts.asked.wait, 30)
    await made.aclose()
    drafts.release.set()
    shadow, model = Shadow(), small()
    made = pair(model, ledger=ledger, middleware=[shadow])
    await shadow._runs.resume(made.kernel, timedelta())
    await made.aclose()
    assert questions(model) == [Q]
    assert losses(ledger, "shadow") == [0.0]


# --- canary


async def test_a_share_of_the_questions_is_live() -> None:
    made = pair(middleware=[Shadow(0.25)])
    results = await made.abatch([f"question {i}" for i in range(200)])
    await made.aclose()
    live = [result for result in results if result.tier == "small"]
    assert 25 <= len(live) <= 78
    assert {result.tier for result in results} == {"small", "large"}


async def test_a_conversation_stays_where_it_is_and_a_larger_share_keeps_who_was_live() -> None:
    shadow = Shadow(0.3)
    made = pair(middleware=[shadow])

    async def tiers() -> list[str]:
        return [
            (await made.ainvoke(Q, {"configurable": {"thread_id": str(thread)}})).tier
            for thread in range(20)
        ]

    first, second = await tiers(), await tiers()
    shadow.live_share = 0.7
    third = await tiers()
    await made.aclose()
    assert first == second
    assert {"small", "large"} == set(first)
    assert all(later == "small" for at, later in zip(first, third, strict=True) if at == "small")
    assert third.count("small") > first.count("small")


async def test_at_1_the_cascade_is_live() -> None:
    made = pair(middleware=[Shadow(1)])
    assert (await ask(made, Q)).tier == "small"


async def test_a_question_that_must_stay_here_is_live() -> None:
    made = pair(small(), large(local=False), middleware=[Shadow()])
    assert (await ask(made, Q, local_only=True)).tier == "small"
    assert (await ask(made, Q)).tier == "large"
    await made.aclose()


# --- set-up


@pytest.mark.parametrize("share", [-0.1, 1.1, True, "all"])
def test_a_share_without_meaning_is_refused(share: Any) -> None:
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        Shadow(share)


def test_a_cascade_in_which_nothing_may_be_drafted_or_answered_is_refused() -> None:
    far = ScriptedModel("x", name="large", local=False)
    for options in ({"tiers": [large()]}, {"small": small(), "large": far, "local_only": True}):
        with pytest.raises(ConfigurationError, match="only one here, or local_only"):
            Cascade(**options, middleware=[Shadow()])
