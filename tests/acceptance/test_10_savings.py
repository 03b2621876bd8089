"""Row 10: cost saved at each node with its basis; sums to the last digit; unknown is not zero."""

from __future__ import annotations

import random
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from cascade import Cascade, CascadeError, CascadeResult, MemoryLedger, Price, Verdict
from cascade.middleware import Abort
from tests.acceptance import setups
from tests.acceptance.setups import CHEAP, DEAR, calls_of, entries_of, total, tries
from tests.acceptance.upstream import Answer, Upstream, failure

DRAFT, ANSWER = Decimal("0.000014"), Decimal("0.000225")
"""What 100 tokens in and 10 out cost."""
pair = partial(setups.pair, says=("Canberra", "Canberra it is"), tokens=(100, 10))


def by_node(result: Any) -> dict[str, tuple[Decimal | None, Decimal | None, str]]:
    """(cost, saved, basis) of each node that has any."""
    totals = result.ledger.by_node().items()
    found = {node: (each.cost_usd, each.saved_usd, each.saved_basis) for node, each in totals}
    return {node: figures for node, figures in found.items() if figures[:2] != (0, 0)}


def check_sums(ledger: Any) -> None:
    """The sum over nodes is the sum over entries, to the last digit, for what is known."""
    entries = entries_of(ledger)
    totals = ledger.by_node().values()
    for field in ("cost_usd", "saved_usd", "baseline_usd"):
        amounts = [getattr(entry, field) for entry in entries]
        whole = None if None in amounts else sum(amounts, Decimal(0))
        parts = [getattr(total, field) for total in totals]
        assert (None if None in parts else sum(parts, Decimal(0))) == whole
        assert getattr(ledger, field) == whole
    assert len({entry.run_id for entry in entries}) <= 1


def test_an_escalated_run_loses_what_the_draft_cost(upstream: Upstream) -> None:
    result = pair(upstream, 0.3).invoke("?")
    assert by_node(result) == {
        "draft": (DRAFT, -DRAFT, "measured"),
        "expert": (ANSWER, Decimal(0), "measured"),
    }
    ledger = result.ledger
    assert (ledger.cost_usd, ledger.cost_basis) == (DRAFT + ANSWER, "measured")
    assert (ledger.saved_usd, ledger.saved_basis) == (-DRAFT, "measured")
    assert ledger.baseline_usd == ANSWER
    check_sums(ledger)


def test_an_accepted_draft_earns_an_estimate_of_the_large_models_cost(upstream: Upstream) -> None:
    result = pair(upstream, 0.9).invoke("?")
    ledger = result.ledger
    assert (ledger.baseline_usd or 0) > 0
    assert (ledger.cost_usd, ledger.cost_basis) == (DRAFT, "measured")
    assert ledger.saved_usd == ledger.baseline_usd - DRAFT
    assert ledger.saved_basis == "estimated"
    assert by_node(result)["verify"] == (Decimal(0), ledger.baseline_usd, "estimated")
    check_sums(ledger)


def test_a_check_and_a_verdict_count_against_the_saving(upstream: Upstream) -> None:
    judged = Verdict(accept=False, cost_usd=Decimal("0.00001"))
    made = pair(upstream, 0.3, signals=["p_true"], verifier=lambda _q, _a: judged)
    result = made.invoke("?")
    found = by_node(result)
    assert found["self_check"][:2] == (DRAFT, -DRAFT)  # as many tokens as the draft
    assert found["verify"][:2] == (Decimal("0.00001"), Decimal("-0.00001"))
    assert result.ledger.saved_usd == -2 * DRAFT - Decimal("0.00001")
    check_sums(result.ledger)


def test_the_table_says_what_is_estimated(upstream: Upstream) -> None:
    with pair(upstream, 0.9) as cascade:
        accepted = cascade.invoke("?").ledger.table()
        upstream.next("small", Answer("x", p=0.1, tokens=(100, 10)))
        escalated = cascade.invoke("!").ledger.table()
    assert "≈" in accepted
    assert "0.000014" in accepted
    assert "≈" not in escalated


@pytest.mark.parametrize("models", [("small",), ("large",), ("small", "large")])
def test_each_attempt_is_an_entry_and_a_refused_one_costs_nothing(
    upstream: Upstream, models: tuple[str, ...]
) -> None:
    for model in models:
        upstream.next(model, failure(429), failure(429))
    result = pair(upstream, 0.3, tries(3)).invoke("?")
    outcomes = calls_of(result)
    for model, node in (("small", "draft"), ("large", "expert")):
        failed = ["failed", "failed"] if model in models else []
        assert [o for n, o in outcomes if n == node] == [*failed, "ok"]
    assert len(outcomes) == len(upstream.seen)
    assert result.ledger.cost_usd == DRAFT + ANSWER
    check_sums(result.ledger)


@pytest.mark.parametrize("end", [failure(503), Answer("Canberra it is", broken_after=1)])
def test_what_a_server_charges_that_failed_is_unknown(upstream: Upstream, end: Answer) -> None:
    upstream.next("large", end)
    *_, result = pair(upstream, 0.3, tries(2)).stream("?")
    assert isinstance(result, CascadeResult)
    assert [o for n, o in calls_of(result) if n == "expert"] == ["failed", "ok"]
    assert result.ledger.cost_usd is None
    assert result.ledger.known_cost_usd == DRAFT + ANSWER
    check_sums(result.ledger)


def test_a_run_that_fails_says_what_it_spent(upstream: Upstream) -> None:
    upstream.next("small", Answer("", p=0.9, tokens=(100, 10)))  # no draft to fall back on
    upstream.next("large", failure(429))
    with pytest.raises(CascadeError) as raised:
        pair(upstream, 0.3, tries(1)).invoke("?")
    assert raised.value.ledger is not None
    assert raised.value.ledger.cost_usd == DRAFT
    check_sums(raised.value.ledger)


def test_a_degraded_answer_earns_no_baseline(upstream: Upstream) -> None:
    upstream.next("large", failure(429))
    result = pair(upstream, 0.3, tries(1)).invoke("?")
    assert (result.answer, result.degraded) == ("Canberra", True)
    assert result.ledger.saved_usd == -DRAFT
    check_sums(result.ledger)


def test_a_draft_that_is_stopped_costs_what_was_written(upstream: Upstream) -> None:
    upstream.says("small", Answer("no idea at all " * 12, p=0.05, tokens=(100, 48)))
    upstream.says("large", Answer("Canberra", tokens=(100, 10)))
    small = upstream.tier("small", price=CHEAP, max_tokens=60)
    cascade = Cascade(small, upstream.tier("large", price=DEAR), middleware=[Abort()])
    *_, result = cascade.stream("?")
    assert isinstance(result, CascadeResult)
    (draft,) = [entry for entry in entries_of(result) if entry.node == "draft"]
    assert draft.cost_basis in ("estimated", "unknown")
    assert draft.cost_usd is None or draft.cost_usd > 0
    assert result.ledger.cost_basis == draft.cost_basis
    assert result.tier == "large"
    check_sums(result.ledger)


def test_an_audited_run_adds_up_to_what_the_large_model_really_costs(upstream: Upstream) -> None:
    ledger = MemoryLedger()
    with pair(upstream, 0.9, audit_rate=1.0, ledger=ledger) as cascade:
        upstream.says("large", Answer("Canberra", tokens=(100, 30)))
        cascade.invoke("?")
    entries = entries_of(ledger)
    real = Decimal("0.000425")  # 100 in, 30 out
    assert total([e for e in entries if e.node == "audit"], "cost_usd") == real
    assert total(entries, "saved_usd") == real - DRAFT - real


def test_tokens_from_the_providers_cache_have_their_own_price(upstream: Upstream) -> None:
    price = Price(input=1, output=1, cached_input="0.1")
    details = {"prompt_tokens_details": {"cached_tokens": 80}}
    upstream.says("only", Answer("x", tokens=(100, 10), details=details))
    result = Cascade(tiers=[upstream.tier("only", price=price)]).invoke("?")
    (entry,) = [e for e in entries_of(result) if e.model]
    assert (entry.input_tokens, entry.cached_tokens) == (100, 80)
    assert entry.cost_usd == Decimal("0.000038")


# --- unknown


@pytest.mark.parametrize(
    ("small", "large", "p", "cost", "saved"),
    [
        (None, DEAR, 0.95, False, False),  # a model of one's own
        (CHEAP, None, 0.95, True, False),
        (CHEAP, None, 0.1, False, False),
    ],
)
def test_what_has_no_price_is_unknown_and_never_zero(
    upstream: Upstream, small: Any, large: Any, p: float, cost: bool, saved: bool
) -> None:
    upstream.says("small", "Canberra", p=p)
    first = upstream.tier("small", provider="ollama", price=small)
    ledger = Cascade(first, upstream.tier("large", price=large)).invoke("?").ledger
    assert (ledger.cost_usd is not None, ledger.saved_usd is not None) == (cost, saved)
    assert (ledger.cost_basis != "unknown", ledger.saved_basis != "unknown") == (cost, saved)
    assert (ledger.known_cost_usd > 0) == (small is not None)
    assert large is not None or ledger.baseline_usd is None
    assert "?" in ledger.table()
    assert small is not None or "$0.000000" not in ledger.table().splitlines()[2]
    check_sums(ledger)


def test_a_machine_with_a_price_costs_its_busy_time(upstream: Upstream) -> None:
    upstream.says("small", Answer("Canberra", busy_s=0.0001))  # no more than the call took
    small = upstream.tier("small", provider="ollama", price=Price(per_hour=36))
    draft, *_ = entries_of(Cascade(small, upstream.tier("large", price=DEAR)).invoke("?"))
    assert draft.cost_usd == pytest.approx(Decimal("0.000001"))


# --- whatever happens


@pytest.mark.parametrize("seed", range(12))
async def test_sums_hold_whatever_happens(upstream: Upstream, seed: int) -> None:
    draw = random.Random(seed)

    def odd() -> Price:
        return Price(input=str(draw.random()), output=str(draw.random()))

    names = ["a", "b", "c"][: draw.randint(2, 3)]
    tiers = [upstream.tier(name, name=name, price=odd()) for name in names]
    ledger, seen = MemoryLedger(), list[Any]()
    options: dict[str, Any] = {"audit_rate": draw.choice([None, 1.0])}
    options |= {"signals": ["logprobs", "p_true"]} if draw.random() < 0.3 else {}
    options |= {"ledger": ledger, "middleware": [tries(draw.randint(1, 3))]}
    async with Cascade(tiers=tiers, **options) as cascade:
        for number in range(12):
            for name in names:
                for _ in range(draw.randint(0, 2)):
                    usage = (draw.randint(1, 99), draw.randint(1, 99))
                    said = Answer(f"{number}", p=draw.uniform(0.5, 1), tokens=usage)
                    upstream.next(name, draw.choice([said, said, failure(503), failure(400)]))
            try:
                seen.append((await cascade.ainvoke(f"question {number}")).ledger)
            except CascadeError as error:
                seen.append(error.ledger)
    for each in seen:
        check_sums(each)
    kept = entries_of(ledger)
    assert len([entry for entry in kept if entry.model]) == len(upstream.seen)
    ids = [entry.id for entry in kept if entry.id is not None]
    assert len(ids) == len(set(ids))
    known = sum((each.known_cost_usd for each in seen), Decimal(0))
    audits = sum((e.cost_usd or 0 for e in kept if e.node == "audit"), Decimal(0))
    assert sum((e.cost_usd or 0 for e in kept), Decimal(0)) == known + audits
