"""Totals of a ledger: exact, additive, and honest about what is unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.ledger import LedgerView, weakest
from cascade.state import Basis, LedgerEntry

NODES = ["route", "draft", "self_check", "verify", "ask", "expert"]
money = st.none() | st.decimals(-1000, 1000, allow_nan=False, allow_infinity=False)


def entry(node: str = "draft", cost: str | None = "0", **known: object) -> LedgerEntry:
    spent = None if cost is None else Decimal(cost)
    basis = "unknown" if spent is None else "measured"
    fields: dict[str, object] = {
        "run_id": "r",
        "node": node,
        "cost_usd": spent,
        "saved_usd": None if spent is None else -spent,
        "cost_basis": basis,
        "basis": basis,
        "at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return LedgerEntry.model_validate(fields | known)


@st.composite
def ledgers(draw: st.DrawFn) -> LedgerView:
    def one() -> LedgerEntry:
        cost, saved, baseline = draw(money), draw(money), draw(money)
        return LedgerEntry(
            run_id=draw(st.sampled_from(["a", "b"])),
            node=draw(st.sampled_from(NODES)),
            cost_usd=cost,
            saved_usd=saved,
            baseline_usd=baseline,
            cost_basis="unknown" if cost is None else "measured",
            basis="unknown" if None in (cost, saved, baseline) else "measured",
            latency_ms=1.0,
        )

    return LedgerView([one() for _ in range(draw(st.integers(0, 12)))])


def added(amounts: list[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


@settings(max_examples=40)
@given(ledgers())
def test_the_sum_over_nodes_is_the_run_to_the_last_decimal(view: LedgerView) -> None:
    nodes = view.by_node().values()
    with localcontext(prec=100):
        assert added([node.cost_usd for node in nodes]) == view.cost_usd
        assert added([node.saved_usd for node in nodes]) == view.saved_usd
        assert added([node.baseline_usd for node in nodes]) == view.baseline_usd
        assert sum((node.known_cost_usd for node in nodes), Decimal(0)) == view.known_cost_usd
    assert sum(node.entries for node in nodes) == len(view)


@settings(max_examples=40)
@given(ledgers())
def test_a_total_is_unknown_exactly_when_a_part_is(view: LedgerView) -> None:
    assert (view.cost_usd is None) == any(e.cost_usd is None for e in view)
    assert (view.saved_usd is None) == any(e.saved_usd is None for e in view)
    assert (view.baseline_usd is None) == any(e.baseline_usd is None for e in view)
    assert (view.cost_usd is None) == (view.cost_basis == "unknown") == (view.unknown > 0)
    assert (view.baseline_usd is None) == (view.baseline_basis == "unknown")


@given(st.permutations(["0.1", "1e-28", "1e12", "-1e12", "3e-15"]))
def test_sums_do_not_depend_on_the_order_of_the_entries(costs: list[str]) -> None:
    view = LedgerView(entry(cost=cost) for cost in costs)
    expected = "0.1000000000000030000000000001"
    assert view.cost_usd == view.known_cost_usd == Decimal(expected)
    assert view.saved_usd == -Decimal(expected)


@pytest.mark.parametrize(
    ("bases", "expected"),
    [
        ([], "measured"),
        (["measured", "measured"], "measured"),
        (["measured", "estimated"], "estimated"),
        (["estimated", "unknown", "measured"], "unknown"),
    ],
)
def test_a_sum_is_as_sure_as_its_weakest_part(bases: list[Basis], expected: Basis) -> None:
    assert weakest(bases) == expected


def test_nodes_come_in_the_order_in_which_they_ran() -> None:
    view = LedgerView([entry("verify"), entry("draft"), entry("verify")])
    assert list(view.by_node()) == ["verify", "draft"]
    assert view.by_node()["verify"].entries == 2


def test_what_is_known_is_summed_beside_what_is_not() -> None:
    view = LedgerView([entry(cost="0.5"), entry(cost=None)])
    assert view.cost_usd is None
    assert view.known_cost_usd == Decimal("0.5")
    assert view.unknown == 1


def test_an_empty_ledger_costs_nothing_and_is_sure_of_it() -> None:
    view = LedgerView([])
    assert view.cost_usd == view.saved_usd == view.baseline_usd == 0
    assert view.cost_basis == view.saved_basis == view.baseline_basis == "measured"
    assert view.by_node() == {}
    assert len(view) == 0


def test_a_known_baseline_stays_known_beside_an_unknown_cost() -> None:
    """A verdict of unknown price makes the saving unknown, not the baseline."""
    view = LedgerView(
        [entry("verify", None, baseline_usd=Decimal("0.01"), saved_usd=None, basis="unknown")]
    )
    assert view.baseline_usd == Decimal("0.01")
    assert view.baseline_basis == "estimated"
    assert view.saved_basis == "unknown"


def test_a_view_is_shown_by_its_size_and_cost() -> None:
    assert repr(LedgerView([entry(cost="0.25")])) == "LedgerView(1 entries, cost $0.250000)"


def test_the_table_of_an_accepted_draft() -> None:
    call = {"model": "m", "input_tokens": 1200, "output_tokens": 3, "latency_ms": 1234.0}
    view = LedgerView(
        [
            entry("draft", "0.000012", **call),
            entry("self_check"),
            entry(
                "verify",
                saved_usd=Decimal("0.0042"),
                baseline_usd=Decimal("0.0042"),
                basis="estimated",
            ),
        ]
    )
    assert view.table().splitlines() == [
        "node        entries  tokens in  tokens out  seconds       cost        saved",
        "──────────  ───────  ─────────  ──────────  ───────  ─────────  ───────────",
        "draft             1      1,200           3     1.23  $0.000012   −$0.000012",
        "self_check        1          –           –     0.00  $0.000000    $0.000000",
        "verify            1          –           –     0.00  $0.000000  ≈ $0.004200",
        "──────────  ───────  ─────────  ──────────  ───────  ─────────  ───────────",
        "run               3      1,200           3           $0.000012  ≈ $0.004188",
        "≈ estimated: what the large model would have cost was not measured",
    ]


def test_the_table_shows_what_is_unknown_and_why() -> None:
    view = LedgerView(
        [
            entry("draft", None, model="m", note="m: price not set"),
            entry("draft", "0.1", model="m", input_tokens=5, output_tokens=5, run_id="other"),
        ]
    )
    head, _, draft, _, total, count, note = view.table().splitlines()
    assert head.split() == [
        "node",
        "entries",
        "tokens",
        "in",
        "tokens",
        "out",
        "seconds",
        "cost",
        "saved",
    ]
    assert draft.split() == ["draft", "2", "5+?", "5+?", "0.00", "?", "?"]
    assert total.split() == ["2", "runs", "2", "5+?", "5+?", "?", "?"]
    assert count == "? the cost of 1 of 2 entries is unknown; budgets count nothing for it"
    assert note == "? unknown: m: price not set"


def test_the_table_says_why_a_saving_is_unknown_where_the_cost_is_not() -> None:
    drafted, accepted = entry("draft", "0.1", model="m"), entry("verify", "0")
    assert "saved:" not in LedgerView([drafted, accepted]).table()
    accepted = accepted.model_copy(update={"saved_usd": None, "baseline_usd": None})
    assert LedgerView([drafted, accepted]).table().splitlines()[-1] == (
        "? saved: what the large model would have cost is unknown; "
        "a price by tokens lets it be estimated, audits measure it"
    )


def test_the_table_shows_what_budgets_count_for_unknown_costs() -> None:
    guessed = entry("draft", None, model="m").model_copy(update={"assumed_usd": Decimal("0.002")})
    known = entry("draft", "0.1", model="m").model_copy(update={"assumed_usd": Decimal(5)})
    view = LedgerView([guessed, entry("draft", None, model="m"), known])
    assert view.assumed_usd == Decimal("0.002")
    assert view.known_cost_usd == Decimal("0.1")
    assert view.table().splitlines()[-1] == (
        "? the cost of 2 of 3 entries is unknown; budgets count ≈ $0.002000 for 1"
    )


def test_a_small_amount_is_not_shown_as_nothing() -> None:
    """A token of a cheap model costs less than a millionth of a dollar, and that is not zero."""
    assert "$0.00000004" in LedgerView([entry(cost="0.00000004")]).table()
