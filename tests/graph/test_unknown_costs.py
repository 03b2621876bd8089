"""A model that does not say what it used: unknown in the ledger, and no free ride in a budget."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ModelError, ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.policies import DeadlinePolicy, DollarBudget, DollarBudgetPolicy, Policy
from cascade.state import Usage
from cascade.testing import ScriptedModel, reply

QUESTION = "q" * 4_000  # about 1,000 tokens
PRICE = Price(input=10, output=10)


def cascade(policy: Policy, *, counts: bool) -> Cascade:
    answer = reply("a" * 400, input_tokens=1_000, output_tokens=100)
    large = ScriptedModel([answer if counts else replace(answer, usage=Usage())])
    small = ScriptedModel([reply("x", probability=0.5, input_tokens=1_000, output_tokens=100)])
    return Cascade(
        Tier(small, price=Price(input=0, output=0)), Tier(large, price=PRICE), policy=policy
    )


async def test_the_entry_is_unknown_and_the_table_says_what_budgets_count() -> None:
    result = await cascade(DollarBudget(DollarBudgetPolicy(1.0)), counts=False).ainvoke(QUESTION)
    ledger = result.ledger
    assert result.escalated
    assert (ledger.cost_usd, ledger.saved_usd, ledger.unknown) == (None, None, 1)
    assert ledger.known_cost_usd == 0
    # 1,001 tokens of the question and 101 of the answer, by their characters
    assert ledger.assumed_usd == Decimal("0.01102")
    assert "? the cost of 1 of 4 entries is unknown; budgets count ≈ $0.011020 for 1" in (
        ledger.table()
    )
    assert "scripted:scripted did not report its usage" in ledger.table()


@pytest.mark.parametrize("deadline", [False, True])
async def test_a_budget_is_kept_as_if_the_cost_were_known(deadline: bool) -> None:
    """Escalating costs 11 times the budget: about one question in eleven may be escalated."""
    shares = []
    for counts in (True, False):
        budget = DollarBudget(DollarBudgetPolicy(0.001))
        asked = cascade(DeadlinePolicy(budget) if deadline else budget, counts=counts)
        escalated = [(await asked.ainvoke(QUESTION)).escalated for _ in range(60)]
        assert budget.policy.shadow_price > 0
        shares.append(sum(escalated))
    assert shares[1] == pytest.approx(shares[0], abs=2)
    assert 0 < shares[1] < 30


async def test_a_run_that_fails_is_paid_for_too() -> None:
    budget = DollarBudget(DollarBudgetPolicy(0.001))
    broken = ModelUnavailableError("broke", model="m", billed=None)
    tier = Tier(ScriptedModel([broken]), price=PRICE, max_tokens=100)
    once = DEFAULT_RETRY._replace(max_attempts=1)
    with pytest.raises(ModelError) as caught:
        await Cascade(tiers=[tier], policy=budget, retry_policy=once).ainvoke(QUESTION)
    assert caught.value.ledger is not None
    assert caught.value.ledger.assumed_usd == Decimal("0.01101")
    assert budget.policy == DollarBudgetPolicy(0.001).after(Decimal("0.01101"))


async def test_a_run_that_is_cancelled_is_paid_for_too() -> None:
    budget = DollarBudget(DollarBudgetPolicy(0.001))
    model = ScriptedModel("x", delay_s=60)
    cascade = Cascade(tiers=[Tier(model, price=PRICE, max_tokens=100)], policy=budget)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await cascade.ainvoke(QUESTION)
    assert model.requests
    assert budget.policy == DollarBudgetPolicy(0.001).after(Decimal("0.01101"))


async def test_a_stream_that_is_left_after_its_result_is_paid_for_once() -> None:
    budget = DollarBudget(DollarBudgetPolicy(0.001))
    tier = Tier(ScriptedModel([reply("x", input_tokens=1_000)]), price=PRICE)
    stream = Cascade(tiers=[tier], policy=budget).astream(QUESTION)
    async for event in stream:
        if hasattr(event, "ledger"):
            break
    await stream.aclose()
    assert budget.policy == DollarBudgetPolicy(0.001).after(Decimal("0.01001"))
