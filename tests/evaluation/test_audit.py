"""Estimators from audits: by hand, by coverage, and that no bound lies below what was measured."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.evaluation import audit
from cascade.evaluation.report import NUMBERS, RUNS


def runs(audited: Any, **columns: Any) -> Any:
    """Accepted drafts, of which the large model's cost (2) and loss are known where audited."""
    made: Any = np.recarray(len(audited), RUNS)
    usual = {"predicted": 1.0, "low": 0.25, "high": 4.0, "measured": 0.0, "large": 2.0}
    for name in NUMBERS:
        made[name] = columns.get(name, usual.get(name, np.nan))
    made.outcome = columns.get("outcome", "accepted")
    for name in ("large", "loss"):
        made[name] = np.where(audited, made[name], np.nan)
    return made


def test_the_hajek_mean_weighs_by_the_inverse_rate() -> None:
    s = audit.Sample(np.array([0.5, 0.25, 0.5]), np.array([3.0, 0.0, np.nan]))
    assert s.mean(s.found) == pytest.approx(1.0)  # (2·3 + 4·0)/6
    assert (s.n, s.total) == (2, 3)
    assert s.size == pytest.approx(36 / 20)
    assert audit.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert (audit.wilson(0.0, 10)[0], audit.wilson(1.0, 10)[1]) == (0.0, 1.0)


def test_measured_and_estimated_parts_add_up_to_the_saving() -> None:
    outcome = [*["accepted"] * 4, "escalated"]
    known: dict[str, Any] = {"rate": 0.5, "outcome": outcome, "measured": [0, 0, 0, 0, 3]}
    known["predicted"] = [1, 1, 1, 1, np.nan]
    found = audit.account(runs([1, 1, 0, 0, 0], **known), 5.5)
    assert found.measured_usd == 2.0 + 2.0 + 3.0 - 5.5
    assert found.estimated_usd == pytest.approx(4.0)  # predictions 1 + 1, each 1 too low
    assert found.saving.value == pytest.approx(5.5)
    assert found.share.value == pytest.approx(0.5)
    assert found.saving.low < 5.5
    assert found.saving.method == "difference estimator, t, 2 audits"


def test_few_audits_and_agreement_of_all_prove_nothing() -> None:
    one = audit.account(runs([1, *[0] * 9], rate=0.1, predicted=2.0), 0.0).saving
    assert one.high > one.value == 20.0
    found = audit.quality_of(runs([1, 1, *[0] * 18], rate=0.1, loss=0.0)).loss
    assert (found.low, found.high) == (-1.0, 1.0)
    assert "only 2 audits" in found.method
    shown = runs([0, 0, 0, 0], rate=0.1, outcome=["accepted", "accepted", "escalated", "shadow"])
    nothing = audit.quality_of(shown).loss
    assert (nothing.low, nothing.high, nothing.method) == (-0.5, 0.5, audit.NO_AUDITS)
    # (1 − 0.1)^K = 0.025: 35 losses among the 100 could have stayed unseen.
    s = audit.Sample(np.full(100, 0.1), np.where(np.arange(100) < 10, 0.0, np.nan))
    assert s.bounded(np.zeros(10), -1.0, 1.0).high == pytest.approx(0.35, abs=0.011)


def test_where_every_draft_was_audited_the_bound_is_what_was_measured() -> None:
    all_seen = runs([1] * 100, rate=1.0, loss=np.arange(100) < 2)
    quality = audit.quality_of(all_seen)
    for found in (quality.loss, quality.error_rate):
        assert (found.low, found.value, found.high) == pytest.approx((0.02, 0.02, 0.02))
        assert found.basis == "measured"
    saving = audit.account(all_seen, 1.0).saving
    assert (saving.low, saving.value, saving.high) == (199.0, 199.0, 199.0)
    assert (saving.basis, saving.method) == ("measured", "exact")


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=60
    ),
    st.sampled_from([0.02, 0.5, 0.98, 1.0]),
    st.booleans(),
)
def test_an_interval_holds(drafts: list[tuple[float, bool]], rate: float, with_proxy: bool) -> None:
    values, seen = np.array([v for v, _ in drafts]), np.array([s for _, s in drafts])
    known: dict[str, Any] = {"rate": rate, "loss": values, "large": 2 + values}
    made = runs(seen, **known, confidence=1 - np.clip(values + 0.1, -1, 1) if with_proxy else 1)
    quality, saved = audit.quality_of(made), audit.account(made, 2.0)
    for figure in (quality.loss, quality.error_rate, saved.saving, saved.share, saved.baseline):
        if figure.value is not None:
            assert figure.low <= figure.value <= figure.high
    assert saved.measured_usd + saved.estimated_usd == pytest.approx(saved.saving.value)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.9, 0.98])
def test_intervals_cover_the_truth(rate: float) -> None:
    rng = np.random.default_rng(7)
    loss = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.02, 0.86, 0.12])
    cost = 1.0 + rng.lognormal(0.0, 0.5, 300)
    known: dict[str, Any] = {"rate": rate, "loss": loss, "large": cost, "high": 8.0}
    known["predicted"] = 0.7 * cost * rng.lognormal(0, 0.3, 300)
    truths, held = (loss.mean(), np.maximum(loss, 0.0).mean(), cost.sum()), np.zeros(3)
    for _ in range(300):
        made = runs(rng.random(300) < rate, **known)
        quality, bill = audit.quality_of(made), audit.account(made, 0.0).baseline
        for i, found in enumerate((quality.loss, quality.error_rate, bill)):
            held[i] += found.low - 1e-9 <= truths[i] <= found.high + 1e-9
    assert held.min() / 300 >= 0.94  # as 95 % intervals do with all but certainty


def test_a_good_proxy_narrows_the_loss() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random(2000) < 0.2).astype(float)
    known: dict[str, Any] = {"rate": 0.1, "loss": truth}
    seen, noise = rng.random(2000) < 0.1, rng.normal(0, 0.1, 2000)
    without = audit.quality_of(runs(seen, **known)).loss
    found = audit.quality_of(runs(seen, **known, confidence=1 - truth * 0.8 + noise)).loss
    assert found.method.startswith("PPI++")
    assert found.high - found.low < without.high - without.low
    assert found.low <= truth.mean() <= found.high
