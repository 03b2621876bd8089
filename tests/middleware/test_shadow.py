from __future__ import annotations

from typing import Any

import pytest

from cascade import Cascade, ConfigurationError, MemoryLedger, Tier
from cascade.middleware import Abort, Audits, Retries, Shadow
from cascade.testing import ScriptedModel
from tests.middleware.cascades import PRICE, ask, large, of, pair, small

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


# --- canary


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


# --- set-up


def test_a_cascade_in_which_nothing_may_be_drafted_or_answered_is_refused() -> None:
    far = ScriptedModel("x", name="large", local=False)
    for options in ({"tiers": [large()]}, {"small": small(), "large": far, "local_only": True}):
        with pytest.raises(ConfigurationError, match="only one here, or local_only"):
            Cascade(**options, middleware=[Shadow()])
