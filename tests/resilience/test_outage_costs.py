"""What an outage costs: in the result, in the ledger, and in the report as text, JSON and page."""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cascade import Cascade, Price, Queue, Shedding, Tier
from cascade.errors import ContextLengthError, ModelUnavailableError
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.ledger.store import open_store
from cascade.report import Report, make_report
from cascade.resilience import Breaker, Resilience
from cascade.testing import ScriptedModel, reply
from tests.resilience.fallbacks import ONCE, House, down, other

LARGE_USD, DRAFT_USD = Decimal("0.0013"), Decimal("0.000011")
"""What the large model and a draft cost in the house."""


async def report_of(house: House) -> Report:
    store = open_store("memory://")
    store.append(house.store.entries)
    found = await make_report(store)
    await store.aclose()
    return found


async def test_the_result_says_what_the_outage_of_the_small_model_costs() -> None:
    result = await House(None, [], draft=down("small")).ask()
    assert result.decision.reason == "small failed: small is down; large answered for $0.0013"
    (entry,) = [e for e in result.ledger if e.node == "outage"]
    assert (entry.tier, entry.cost_usd) == ("small", 0)
    assert entry.note == "small is down: the question goes on"


async def test_a_prompt_that_is_too_long_is_no_outage() -> None:
    too_long = ContextLengthError("too long", model="scripted:small", status=400)
    house = House(None, [], draft=too_long)
    result = await house.ask()
    assert result.decision.reason == "small failed: too long"
    assert not house.entries("outage")


async def test_while_the_breaker_of_the_small_model_is_open_it_is_not_waited_for() -> None:
    resilience = Resilience(retries=None, breaker=Breaker(in_a_row=1, open_s=15.0))
    house = House(None, [], draft=down("small"), resilience=resilience, retry_policy=None)
    for _ in range(3):
        assert (await house.ask()).answer == "the large answer"
    assert len(house.small.requests) == 1
    assert len(house.entries("outage")) == 3


async def outage(n: int, fine: int) -> House:
    """So many runs while the small model is down, and so many while it is not."""
    left = [n]

    def answers(_: Any) -> Any:
        left[0] -= 1
        return down("small") if left[0] >= 0 else reply("Canberra", probability=0.95)

    house = House(None, [])
    house.cascade = Cascade(
        Tier(
            ScriptedModel(answers, name="small", returns_logprobs=True),
            price=Price(input=1, output=1),
        ),
        Tier(house.large, price=Price(input=100, output=100)),
        ledger=house.store,
        retry_policy=ONCE,
        resilience=None,
    )
    for _ in range(n + fine):
        await house.ask()
    return house


async def test_the_report_says_what_the_outage_has_cost() -> None:
    found = await report_of(await outage(3, 5))
    (lost,) = found.outages
    assert (lost.tier, lost.runs, lost.cost_usd, lost.unpriced) == ("small", 3, 3 * LARGE_USD, 0)
    assert lost.extra_usd == pytest.approx(float(3 * (LARGE_USD - DRAFT_USD)))
    words = (
        "escalated because small was down: 3 runs, $0.00390; estimated $0.00387 more than as many "
        "drafted runs"
    )
    assert words in found.text()
    assert words in found.html()
    told = json.loads(found.model_dump_json())["outages"]
    assert told[0]["runs"] == 3


async def test_with_nothing_to_compare_with_the_report_says_so() -> None:
    found = await report_of(await outage(2, 0))
    assert "2 runs, $0.00260; no run was drafted to compare with" in found.text()


async def test_what_is_not_priced_leaves_the_cost_of_an_outage_open() -> None:
    house = House(None, [])
    house.cascade = Cascade(
        ScriptedModel([down("small")], name="small"),
        ScriptedModel(["x"], name="large"),
        ledger=house.store,
        retry_policy=ONCE,
        resilience=None,
    )
    result = await house.ask()
    assert result.decision.reason == "small failed: small is down"
    assert "small was down: 1 run, $0.00+?" in (await report_of(house)).text()


async def test_of_three_tiers_the_one_that_was_down_is_named_and_the_next_one_drafts() -> None:
    house = House(None, [])
    middle = ScriptedModel([reply("Canberra", probability=0.95)], returns_logprobs=True)
    unsure = ScriptedModel([reply("Sydney", probability=0.3)], returns_logprobs=True)
    results = []
    for second in (middle, unsure):
        tiers = [
            Tier(ScriptedModel([down("small")]), name="small", price=Price(input=1, output=1)),
            Tier(second, name="middle", price=Price(input=10, output=10)),
            Tier(house.large, name="large", price=Price(input=100, output=100)),
        ]
        cascade = Cascade(tiers=tiers, ledger=house.store, retry_policy=ONCE, resilience=None)
        results.append(await cascade.ainvoke("?"))
    assert [result.tier for result in results] == ["middle", "large"]
    assert results[1].decision.reason == "uncalibrated score 0.300 < 0.800"
    assert "small was down: 2 runs, $0.00152" in (await report_of(house)).text()


async def test_without_outages_the_report_has_no_word_of_them() -> None:
    found = await report_of(await outage(0, 2))
    assert "Outages and pressure" not in found.text()
    assert "Outages and pressure" not in found.html()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (other(name="stand-in"), "stand-in answered as the large model was down: 1 run, $0.00111"),
        ("draft", "a draft was returned as large was down: 1 run, $0.0000110"),
        (Queue(seconds=30, every=0.01), "waited for large, 0.0 s on average: 1 run, $0.00131"),
    ],
)
async def test_the_report_says_what_followed_where_the_large_model_was_down(
    step: Any, words: str
) -> None:
    house = House((step,), [down()])
    await house.ask()
    found = await report_of(house)
    assert words in re.sub(r"[\d.]+ s on", "0.0 s on", found.text())
    assert found.outcomes in ({"degraded": 1}, {"escalated": 1})


async def test_what_a_stand_in_would_have_cost_is_an_estimate_in_the_report() -> None:
    house = House((other(price=300),), [down()])
    result = await house.ask()
    found = await report_of(house)
    assert found.saving.saving.basis == "estimated"
    assert found.saving.saving.value == pytest.approx(float(result.ledger.saved_usd or 0))
    assert found.saving.saving.low < found.saving.saving.value
    assert found.total.baseline_measured_usd == 0
    assert found.outcomes == {"degraded": 1}


async def test_the_report_counts_what_was_left_out_under_pressure() -> None:
    house = House(None, draft=reply("Canberra", probability=0.95))
    house.cascade = Cascade(
        Tier(house.small, price=Price(input=1, output=1)),
        Tier(house.large, price=Price(input=100, output=100)),
        ledger=house.store,
        audit_rate=0.001,
        shedding=Shedding(load=lambda: 1.0),
    )
    await house.ask()
    text = (await report_of(house)).text()
    assert "accepted drafts whose chance of an audit was lowered under pressure: 1" in text


async def test_a_shadow_draft_that_was_left_out_makes_no_escalation_of_its_run() -> None:
    house = House(None, [], mode="shadow", shedding=Shedding(load=lambda: 1.0))
    await house.ask()
    found = await report_of(house)
    assert found.outcomes == {"shadow": 1}
    assert "shadow drafts that were not made under pressure: 1" in found.text()


async def test_metrics_count_outages_and_steps() -> None:
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    await House(None, [], draft=down("small"), observers=[metrics], name="a").ask()
    await House((other(),), observers=[metrics], name="b").ask()
    value = registry.get_sample_value
    assert value("cascade_outages_total", {"cascade": "a", "tier": "small"}) == 1
    assert value("cascade_fallbacks_total", {"cascade": "b", "step": "other"}) == 1


async def test_many_at_once_during_an_outage_keep_their_books_apart() -> None:
    stand_in = other()
    house = House((stand_in, "draft"))
    results = await asyncio.gather(*(house.ask() for _ in range(30)))
    assert {result.answer for result in results} == {"Canberra"}
    entries = [entry for result in results for entry in result.ledger]
    assert sorted(entries, key=id) == sorted(house.store.entries, key=id)
    assert len(house.entries("fallback")) == 30


async def test_a_run_that_nobody_answers_is_no_cost_of_an_outage() -> None:
    house = House("fail", draft=down("small"))
    with pytest.raises(ModelUnavailableError, match="large is down"):
        await house.ask()
    assert not (await report_of(house)).outages
