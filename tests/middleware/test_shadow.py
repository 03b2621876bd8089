from __future__ import annotations

from typing import Any

import pytest

from cascade import Cascade, ConfigurationError, MemoryLedger, Tier
from cascade.middleware import Abort, Audits, Shadow
from cascade.testing import ScriptedModel
from tests.middleware.cascades import PRICE, ask, large, of, pair, small

Q = "Capital of Australia?"


async def test_where_a_router_goes_straight_to_the_large_model_nothing_is_drafted() -> None:
    drafts, answers, ledger = small(), large(), MemoryLedger()
    options: Any = {"middleware": [Shadow()], "ledger": ledger, "router": lambda _: "large"}
    made = pair(drafts, answers, **options)
    result = await ask(made, Q)
    await made.aclose()
    assert (result.tier, result.escalated) == ("large", True)
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


async def test_a_larger_share_keeps_the_conversations_that_were_live() -> None:
    shadow = Shadow()
    made = pair(middleware=[shadow])
    live = []
    for share in (0.3, 0.7):
        shadow.live_share = share
        threads: list[Any] = [{"configurable": {"thread_id": str(n)}} for n in range(20)]
        tiers = [(await made.ainvoke(Q, thread)).tier for thread in threads]
        live.append({n for n, tier in enumerate(tiers) if tier == "small"})
    await made.aclose()
    assert set() < live[0] < live[1]
    with pytest.raises(ConfigurationError, match="live_share=50"):
        shadow.live_share = 50


def test_a_cascade_in_which_nothing_may_be_drafted_or_answered_is_refused() -> None:
    far = ScriptedModel("x", name="large", local=False)
    for options in ({"tiers": [large()]}, {"small": small(), "large": far, "local_only": True}):
        with pytest.raises(ConfigurationError, match="only one here, or local_only"):
            Cascade(**options, middleware=[Shadow()])
