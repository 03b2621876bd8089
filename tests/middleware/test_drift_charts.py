"""Drift statistics: what they find, and how seldom they are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from cascade.middleware.drift import HarmWatch, RateWatch, SignalWatch, psi

USUAL = np.random.default_rng(0).normal(0, 1, 1000).tolist()


def watch(usual: Sequence[float] = USUAL, alpha: float = 0.001) -> SignalWatch:
    return SignalWatch(0, 200, alpha, usual)


def test_psi_by_hand() -> None:
    assert psi([10, 10], [10, 10]) == 0.0
    # With half a count each: 0.75 and 0.25 against 0.25 and 0.75.
    assert psi([1, 0], [0, 1]) == pytest.approx(2 * 0.5 * math.log(3))


def windows(shift: float, count: int, seed: int) -> int:
    """How many of so many windows of 200 values alarm."""
    rng, drift = np.random.default_rng(seed), watch()
    values = rng.normal(shift, 1, 200 * count).tolist()
    return sum(drift.add(value) is not None for value in values)


def test_a_signal_that_stays_gives_no_alarm_and_one_that_moves_does() -> None:
    assert windows(0.0, 300, 1) <= 3
    assert windows(0.6, 20, 2) == 20


def test_a_watch_learns_its_reference_and_leaves_out_what_is_no_number() -> None:
    watch = SignalWatch(reference=100, window=50, alpha=0.001)
    values = [*np.linspace(0, 1, 150), math.nan, *np.linspace(3, 4, 100)]
    found = [shift for value in values if (shift := watch.add(float(value)))]
    assert len(found) == 3, "the second window and those after it"
    parts = np.split(np.linspace(0, 1, 150), [100])
    wanted = stats.ks_2samp(*parts, method="asymp")
    assert f"Kolmogorov–Smirnov p = {wanted.pvalue:.1g}" in found[0]


def run_chart(p: float, n: int, seed: int, usual: float = 0.3) -> int | None:
    """How many requests until the chart gives an alarm; None without one."""
    chart = RateWatch(reference=1000, run_length=100_000)
    for i in range(1000):
        assert chart.add(i < 1000 * usual) is None
    happened = np.random.default_rng(seed).random(n) < p
    return next((i for i, one in enumerate(happened) if chart.add(bool(one))), None)


def test_the_chart_is_quiet_in_control_and_sees_both_sides() -> None:
    assert sum(run_chart(0.3, 2000, seed) is not None for seed in range(20)) <= 1
    for p in (0.15, 0.5):
        assert (run_chart(p, 2000, 0) or 2000) < 500
    assert run_chart(0.0, 500, 0, usual=0.0) is None
    assert run_chart(1.0, 500, 0, usual=0.0) is not None
    assert run_chart(1.0, 500, 0, usual=1.0) is None


def harm_after(*found: float | None, rate: float, harm: float = 0.05) -> HarmWatch:
    """The watch after audits of accepted drafts; None was not drawn."""
    watch = HarmWatch(harm)
    for run, each in enumerate(found):
        watch.decided(str(run), None if each is None else rate)
        watch.audited(str(run), each or 0.0)
    return watch


def run_harm(p: float, n: int, seed: int, quiet: int = 0) -> HarmWatch:
    rng, watch = np.random.default_rng(seed), HarmWatch(0.05, 0.1)
    for t in range(n):
        audited = rng.random() < 0.2
        watch.decided(str(t), 0.2 if audited else None)
        watch.audited(str(t), float(audited and rng.random() < (0.0 if t < quiet else p)))
        if watch.alarm:
            break
    return watch


def test_one_step_of_the_e_process_by_hand() -> None:
    bets = np.geomspace(0.002, 0.9, 10)
    grown = 0.75 * np.mean(1 + bets * (2.0 - 0.1) / 0.1) + 0.25
    assert harm_after(1.0, rate=0.5, harm=0.1).log_e == pytest.approx(math.log(grown))
    assert HarmWatch(0.1).log_e == pytest.approx(0.0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_e_process_has_mean_one_at_the_promised_harm(rate: float) -> None:
    # After t requests by exact expectation over both outcomes: it stays what it was.
    quiet = [None] * 5
    before, wrong, right = (
        math.exp(harm_after(*quiet, *last, rate=rate).log_e) for last in ([], [1.0], [None])
    )
    p = rate * 0.05
    assert p * wrong + (1 - p) * right == pytest.approx(before)


def test_false_alarms_at_every_look_stay_below_delta() -> None:
    assert sum(run_harm(0.05, 500, seed).alarm for seed in range(60)) <= 12  # δ = 0.1: 6 expected


def test_harm_is_found_also_when_it_comes_late() -> None:
    assert all(run_harm(0.3, 2000, seed).alarm for seed in range(5))
    late = run_harm(0.5, 3000, 1, quiet=1000)
    assert late.alarm
    assert 1000 < late.n < 2000


def test_audits_that_end_in_another_order_are_taken_in_the_order_of_decisions() -> None:
    watch = HarmWatch(0.05)
    for run in ("first", "second", "third", "second"):  # a decision made again counts once
        watch.decided(run, 0.5)
    watch.decided("escalated", None)
    watch.audited("third", 0.0)
    watch.audited("second", 1.0)
    assert watch.n == 0  # the first is open
    watch.audited("first", 0.0)
    wanted = harm_after(None, 1.0, 0.0, rate=0.5)
    wanted.decided("escalated", None)
    assert (watch.n, watch.log_e) == (wanted.n, wanted.log_e) == (4, wanted.log_e)


def test_an_audit_that_never_ends_stops_waiting_when_too_many_wait() -> None:
    watch = HarmWatch(0.05, most=3)
    for run in range(4):
        watch.decided(str(run), 0.5)
    assert watch.n == 1
    quiet = watch.log_e
    watch.audited("0", 1.0)  # too late, and counted as not made
    assert (watch.n, watch.log_e) == (1, quiet)


def test_after_its_alarm_the_watch_stands_still() -> None:
    watch = HarmWatch(0.05, 0.5)
    watch.decided("0", 0.05)
    watch.audited("0", 1.0)
    watch.decided("1", None)
    assert (watch.alarm, watch.n) == (True, 1)
