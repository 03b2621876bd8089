"""The draw of audits: fixed by the run, uniform over runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.ledger.draws import constant_rate, drawn, lot, weight


@given(st.text(), st.text())
def test_a_run_draws_the_same_lot_again_and_again(run_id: str, seed: str) -> None:
    assert lot(run_id, seed) == lot(run_id, seed)
    assert 0.0 <= lot(run_id, seed) < 1.0


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_as_many_runs_are_drawn_as_the_rate_says(rate: float) -> None:
    n = 20_000
    hits = sum(drawn(f"run-{i}", rate) for i in range(n))
    # Five standard deviations of the binomial.
    assert abs(hits - n * rate) < 5 * (n * rate * (1 - rate)) ** 0.5


def test_who_is_drawn_at_a_low_rate_is_drawn_at_a_higher_one() -> None:
    runs = [f"run-{i}" for i in range(2000)]
    assert {r for r in runs if drawn(r, 0.1)} < {r for r in runs if drawn(r, 0.3)}


def test_the_lots_of_two_seeds_and_of_two_purposes_are_independent() -> None:
    runs = [f"run-{i}" for i in range(4000)]
    by_seed = sum(drawn(r, 0.5, "a") == drawn(r, 0.5, "b") for r in runs)
    by_purpose = sum((lot(r, purpose="x") < 0.5) == (lot(r, purpose="y") < 0.5) for r in runs)
    assert 1800 < by_seed < 2200
    assert 1800 < by_purpose < 2200


def test_nobody_is_drawn_without_a_chance_and_everybody_with_certainty() -> None:
    assert not any(drawn(f"run-{i}", None) for i in range(100))
    assert all(drawn(f"run-{i}", 1.0) for i in range(100))


def test_the_weight_is_spread_over_the_root_of_the_cost() -> None:
    assert weight(0.5, 4.0) == 0.25


def test_a_rate_without_any_cost_is_the_wanted_one() -> None:
    assert constant_rate(0.0, 1.0, 0.5, 0.1) == 0.1
