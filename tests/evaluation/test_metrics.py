from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import (
    aiq,
    apgr,
    audc,
    aurc,
    bootstrap,
    cpt,
    deferral_curve,
    excess_aurc,
    nauc,
)
from cascade.evaluation.replay import Drafts, accepts, replay
from cascade.policies import CertifiedPolicy, EconomicPolicy, Policy, ThresholdPolicy
from cascade.state import Certificate

SMALL = np.array([1.0, 1.0, 0.0, 0.0])
LARGE = np.array([1.0, 1.0, 1.0, 1.0])
PERFECT = np.array([0.0, 0.1, 0.8, 0.9])


def test_the_curve_goes_from_all_small_to_all_large() -> None:
    curve = deferral_curve(PERFECT, SMALL, LARGE, 0.1 * np.ones(4), 1.1 * np.ones(4))
    assert curve.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 1, 1, 1]
    assert curve.cost == pytest.approx([0.4, 1.4, 2.4, 3.4, 4.4])
    assert deferral_curve(0 * PERFECT, SMALL, LARGE).share.tolist() == [0, 1]


def test_a_perfect_order_is_1_a_random_one_0_and_the_worst_minus_1() -> None:
    assert nauc(PERFECT, SMALL, LARGE) == pytest.approx(1)
    assert nauc(0 * PERFECT, SMALL, LARGE) == pytest.approx(0)
    assert nauc(-PERFECT, SMALL, LARGE) == pytest.approx(-1)
    assert np.isnan(nauc(PERFECT, LARGE, LARGE))


def test_areas_and_calls_of_a_known_curve() -> None:
    curve = deferral_curve(PERFECT, SMALL, LARGE, np.zeros(4), np.ones(4))
    assert audc(curve) == pytest.approx(0.875)
    assert apgr(curve) == pytest.approx(0.75)
    assert cpt(curve, 0.5) == pytest.approx(0.25)
    assert cpt(curve, 0.8) == pytest.approx(0.4)
    assert cpt(curve, 0.0) == 0
    assert aiq(curve) == pytest.approx(0.875)


def test_without_a_gap_nothing_can_be_recovered() -> None:
    curve = deferral_curve(PERFECT, SMALL, SMALL)
    assert np.isnan(apgr(curve))
    assert np.isnan(cpt(curve, 0.5))
    assert aiq(curve) == 0.5


def test_the_hull_takes_no_point_below_a_chord() -> None:
    curve = deferral_curve(-PERFECT, SMALL, LARGE, np.zeros(4), np.ones(4))
    assert aiq(curve) == pytest.approx(0.75)


def test_risk_over_coverage_of_a_perfect_and_a_useless_confidence() -> None:
    assert aurc(-PERFECT, SMALL) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert excess_aurc(-PERFECT, SMALL) == pytest.approx(0)
    assert aurc(0 * PERFECT, SMALL) == pytest.approx(0.5)


def test_intervals_hold_what_they_are_of_and_shrink_with_the_rows() -> None:
    values = np.random.default_rng(0).random(9000)

    def width(n: int) -> float:
        found = bootstrap(lambda rows: {"m": float(values[:n][rows].mean())}, n)["m"]
        assert found.low < found.value < found.high
        return found.high - found.low

    assert width(9000) == pytest.approx(width(1000) / 3, rel=0.4)
    assert np.isnan(bootstrap(lambda rows: {"x": np.nan}, 5)["x"].low)


# Replay ---------------------------------------------------------------------------------------

CERTIFICATE = Certificate(
    threshold=0.6, max_harm=0.1, delta=0.1, n=9, errors=0, coverage=0.5, bound=0.1
)
POLICIES: list[Policy] = [
    ThresholdPolicy(0.5),
    ThresholdPolicy(0.5, uncalibrated=0.9),
    CertifiedPolicy(CERTIFICATE),
    EconomicPolicy(price_of_error=0.01, p_large=0.95),
]
unknown = st.floats(0, 1) | st.just(float("nan"))


@given(
    rows=st.lists(st.tuples(unknown, st.floats(1e-5, 0.02) | st.just(float("nan")), unknown)),
    calibrated=st.booleans(),
)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_columns_decide_as_the_policy_itself_does(
    policy: Policy, rows: list[tuple[float, float, float]], calibrated: bool
) -> None:
    columns: NDArray[np.float64] = np.array(rows, dtype=np.float64).reshape(-1, 3)
    drafts = Drafts(columns[:, 0], calibrated, columns[:, 1], columns[:, 2])
    decided = [decision.action == "accept" for decision in replay(policy, drafts)]
    assert accepts(policy, drafts).tolist() == decided


def test_what_is_unknown_of_all_rows_may_be_left_out() -> None:
    drafts = Drafts(np.array([0.9, 0.1]))
    assert accepts(ThresholdPolicy(0.5), drafts).tolist() == [True, False]
    assert not accepts(EconomicPolicy(price_of_error=1), drafts).any()


def test_a_policy_of_others_is_replayed_row_by_row_alone() -> None:
    class Mine:
        decide = ThresholdPolicy(0.5).decide

    drafts = Drafts(np.array([0.9]))
    assert replay(Mine(), drafts)[0].action == "accept"
    with pytest.raises(ConfigurationError, match="Mine cannot be replayed on columns"):
        accepts(Mine(), drafts)
