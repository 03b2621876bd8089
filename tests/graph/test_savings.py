"""What each node cost and saved, as the contract says, and that the parts add up."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade import Cascade, Price, Tier
from cascade.agents import Verdict
from cascade.ledger import LedgerView
from cascade.result import CascadeResult
from cascade.testing import ScriptedModel, reply

# A draft of 10 + 1 tokens at $1 and $2 per 1M; an answer of 20 + 3 tokens at $100 and $200.
C_S, C_L = Decimal("0.000012"), Decimal("0.0026")
# The baseline of an accepted draft: the draft's tokens at the large model's prices.
B = Decimal("0.0012")


def ask(probability: float | None, **options: Any) -> CascadeResult:
    answers = [reply("Sydney", probability=probability)]
    if probability is None:
        answers.append(reply(options.pop("check"), input_tokens=30, output_tokens=1))
    small = Tier(ScriptedModel(answers), price=Price(input=1, output=2))
    large = Tier(
        ScriptedModel([reply("It is Canberra", input_tokens=20)]),
        price=Price(input=100, output=200),
    )
    return Cascade(small, large, **options).invoke("?")


def saved(result: CascadeResult) -> dict[str, Decimal | None]:
    return {node: total.saved_usd for node, total in result.ledger.by_node().items()}


def test_an_accepted_draft_saves_the_large_model_less_its_own_cost() -> None:
    result = ask(0.9)
    assert saved(result) == {"draft": -C_S, "self_check": 0, "verify": B}
    assert result.ledger.cost_usd == C_S
    assert result.ledger.saved_usd == B - C_S
    assert result.ledger.baseline_usd == B
    bases = (result.ledger.cost_basis, result.ledger.saved_basis, result.ledger.baseline_basis)
    assert bases == ("measured", "estimated", "estimated")


def test_an_escalation_loses_what_the_small_model_cost() -> None:
    result = ask(0.3)
    assert saved(result) == {"draft": -C_S, "self_check": 0, "verify": 0, "expert": 0}
    assert result.ledger.cost_usd == C_S + C_L
    assert result.ledger.saved_usd == -C_S
    assert result.ledger.baseline_usd == C_L
    bases = (result.ledger.cost_basis, result.ledger.saved_basis, result.ledger.baseline_basis)
    assert bases == ("measured", "measured", "measured")


@pytest.mark.parametrize(("word", "verify"), [("True", B), ("False", Decimal(0))])
def test_a_paid_check_counts_against_the_saving(word: str, verify: Decimal) -> None:
    check = Decimal("0.000032")
    nodes = saved(ask(None, check=word))
    assert (nodes["draft"], nodes["self_check"], nodes["verify"]) == (-C_S, -check, verify)


@pytest.mark.parametrize(("accept", "verify"), [(True, B), (False, Decimal(0))])
def test_a_verdicts_cost_counts_against_the_saving(accept: bool, verify: Decimal) -> None:
    c_v = Decimal("0.0001")
    result = ask(0.3, verifier=lambda _q, _a: Verdict(accept=accept, cost_usd=c_v))
    assert saved(result)["verify"] == verify - c_v
    assert result.ledger.saved_usd == verify - c_v - C_S


def test_without_a_price_the_saving_is_unknown_and_not_zero() -> None:
    ledger = (
        Cascade(ScriptedModel([reply("a", probability=0.9)]), ScriptedModel("b")).invoke("?").ledger
    )
    assert ledger.cost_usd is ledger.saved_usd is ledger.baseline_usd is None
    assert ledger.cost_basis == ledger.saved_basis == ledger.baseline_basis == "unknown"
    assert "price not set" in ledger.table()


def test_unknown_usage_is_unknown_cost_with_the_reason() -> None:
    small = Tier(
        ScriptedModel([reply("a", probability=0.9, input_tokens=None)]),
        price=Price(input=1, output=1),
    )
    ledger = Cascade(small, ScriptedModel("b")).invoke("?").ledger
    assert ledger.cost_usd is None
    assert ledger.entries[0].note == "scripted:scripted did not report its usage"


def test_a_price_per_hour_needs_the_busy_time() -> None:
    small = Tier(ScriptedModel([reply("a", probability=0.9)]), price=Price(per_hour=1))
    ledger = Cascade(small, ScriptedModel("b")).invoke("?").ledger
    assert ledger.entries[0].note == "scripted:scripted did not report how long it was busy"


prices = st.none() | st.builds(
    Price, input=st.decimals(0, 100, places=4), output=st.decimals(0, 100, places=4)
)
tokens = st.none() | st.integers(0, 100_000)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(prices, tokens, tokens, st.floats(0.01, 1)), min_size=1, max_size=4),
    st.none() | st.decimals(0, 1, places=6),
    st.booleans(),
)
def test_the_parts_of_a_run_add_up_whatever_is_known(
    tiers: list[Any], verdict_cost: Decimal | None, judged: bool
) -> None:
    models = [
        Tier(
            ScriptedModel(
                [reply("a", probability=p, input_tokens=read, output_tokens=written or 0)]
            ),
            name=str(i),
            price=price,
        )
        for i, (price, read, written, p) in enumerate(tiers)
    ]

    def verifier(_question: str, answer: str) -> Verdict:
        return Verdict(confidence=tiers[0][3], cost_usd=verdict_cost)

    result = Cascade(tiers=models, verifier=verifier if judged else None).invoke("?")
    view: LedgerView = result.ledger
    nodes = view.by_node().values()
    for field in ("cost_usd", "saved_usd", "baseline_usd"):
        parts = [getattr(node, field) for node in nodes]
        total = getattr(view, field)
        assert (total is None) == (None in parts)
        if total is not None:
            assert sum(parts, Decimal(0)) == total
    if view.baseline_usd is not None and view.cost_usd is not None:
        assert view.saved_usd == view.baseline_usd - view.cost_usd
