"""Totals of entries with their basis, and the table."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cascade.ledger.entries import LedgerEntry, LedgerView
from tests.ledger.samples import entry


def accepted() -> list[LedgerEntry]:
    """A run whose draft was accepted."""
    draft = entry(
        model="ollama:q", input_tokens=1_200, output_tokens=80, latency_ms=1500,
        cost_usd="0.0002", saved_usd="-0.0002",
    )  # fmt: skip
    verify = entry(
        node="verify", cost_usd="0", saved_usd="0.004", baseline_usd="0.004",
        baseline_range=("0.001", "0.02"), basis="estimated",
    )  # fmt: skip
    return [draft, verify]


def test_an_unknown_part_makes_the_whole_unknown_and_the_rest_is_still_known() -> None:
    unset = {"basis": "unknown", "cost_basis": "unknown", "assumed_usd": "0.01"}
    unknown = entry(node="expert", outcome="failed", note="timed out", **unset)
    view = LedgerView([*accepted(), unknown])
    assert (view.cost_usd, view.cost_basis) == (None, "unknown")
    assert (view.saved_usd, view.known_cost_usd) == (None, Decimal("0.0002"))
    table = view.table()
    assert "? the cost of 1 of 3 entries is unknown; budgets count $0.010000 for it" in table
    assert "? unknown: timed out" in table


def test_the_table_of_an_accepted_draft_says_what_is_estimated() -> None:
    assert LedgerView(accepted()).table().splitlines() == [
        "node    entries  tokens in  tokens out  seconds       cost        saved",
        "──────  ───────  ─────────  ──────────  ───────  ─────────  ───────────",
        "draft         1      1,200          80     1.50  $0.000200   −$0.000200",
        "verify        1          –           –     0.00  $0.000000  ≈ $0.004000",
        "──────  ───────  ─────────  ──────────  ───────  ─────────  ───────────",
        "run           2      1,200          80     1.50  $0.000200  ≈ $0.003800",
        "≈ saved: $0.004000 rests on estimates of what the large model costs",
    ]


def test_the_table_tells_missing_usage_and_missing_prices_of_the_large_model() -> None:
    unpriced = entry(node="verify", cost_usd="0", baseline_usd=None, basis="unknown")
    half = entry(
        node="expert", model="m", cost_usd="0.1", cost_basis="estimated",
        saved_usd="-0.1", basis="estimated",
    )  # fmt: skip
    table = LedgerView([unpriced, half, entry(model="m", input_tokens=5)]).table()
    assert "5+?" in table
    assert "≈ $0.100000" in table
    assert "≈ cost: not all" in table
    assert "? saved: the large model's cost is unknown" in table
    assert "budgets count $0.000000 for it" in table


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "$0.000000"), ("0.00000012", "$0.00000012"), ("-1234.5", "−$1234.500000")],
)
def test_little_money_keeps_two_digits(amount: str, shown: str) -> None:
    assert f"cost {shown}" in repr(LedgerView([entry(cost_usd=amount)]))
