"""Drift statistics: what they find, and how seldom they are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from cascade.errors import ConfigurationError
from cascade.policies.drift import HarmProcess, HarmQueue, RateWatch, SignalWatch, psi

REFERENCE = tuple(np.random.default_rng(0).normal(0, 1, 1000).tolist())


def watch(usual: Sequence[float] = REFERENCE, size: int | None = None) -> SignalWatch:
    return SignalWatch(0, 200, 0.001, usual, size)


def test_psi_by_hand() -> None:
    assert psi([10, 10], [10, 10]) == 0.0
    # With half a count each: 0.75 and 0.25 against 0.25 and 0.75.
    assert psi([1, 0], [0, 1]) == pytest.approx(2 * 0.5 * math.log(3))


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    recent = np.random.default_rng(1).normal(0.2, 1, 300)
    wanted = stats.ks_2samp(REFERENCE, recent, method="asymp").pvalue
    found = watch()
    assert found.judge(recent.tolist()).ks_p == pytest.approx(wanted, rel=0.2)
    assert found.judge(REFERENCE).ks_p == 1.0


def windows(shift: float, count: int, seed: int) -> int:
    """How many of so many windows of 200 values alarm."""
    rng, drift = np.random.default_rng(seed), watch()
    return sum(drift.judge(rng.normal(shift, 1, 200).tolist()).alarm for _ in range(count))


def test_a_signal_that_stays_gives_no_alarm_and_one_that_moves_does() -> None:
    assert windows(0.0, 300, 1) <= 3
    assert windows(0.6, 20, 2) == 20


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


def test_a_watch_learns_its_reference_and_leaves_out_what_is_no_number() -> None:
    watch = SignalWatch(reference=100, window=50, alpha=0.001)
    values = [*np.linspace(0, 1, 150), math.nan, *np.linspace(3, 4, 50)]
    found = [shift for value in values if (shift := watch.add(float(value)))]
    assert [shift.psi > 0.1 for shift in found] == [True] * len(found)
    assert len(found) == 2, "the second window and the third"


def run_harm(p: float, n: int, seed: int, rate: float = 0.2, quiet: int = 0) -> HarmProcess:
    rng, process = np.random.default_rng(seed), HarmProcess(max_harm=0.05, delta=0.1)
    for t in range(n):
        audited = rng.random() < rate
        harmed = bool(rng.random() < (0.0 if t < quiet else p)) if audited else None
        process = process.update(harmed, rate)
        if process.alarm:
            break
    return process


def test_one_step_of_the_e_process_by_hand() -> None:
    found = HarmProcess(max_harm=0.1).update(True, 0.5)
    bets = np.geomspace(0.002, 0.9, 10)
    grown = 0.75 * np.mean(1 + bets * (2.0 - 0.1) / 0.1) + 0.25
    assert found.log_e == pytest.approx(math.log(grown))
    assert HarmProcess(max_harm=0.1).log_e == pytest.approx(0.0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_e_process_has_mean_one_at_the_promised_harm(rate: float) -> None:
    # After t requests by exact expectation over both outcomes: it stays 1.
    start = HarmProcess(max_harm=0.05)
    for _ in range(5):
        start = start.update(None, rate)
    p = rate * 0.05
    after = p * math.exp(start.update(True, rate).log_e)
    after += (1 - p) * math.exp(start.update(None, rate).log_e)
    assert after == pytest.approx(math.exp(start.log_e))


def test_false_alarms_at_every_look_stay_below_delta() -> None:
    assert sum(run_harm(0.05, 500, seed).alarm for seed in range(60)) <= 12  # δ = 0.1: 6 expected


def test_harm_is_found_also_when_it_comes_late() -> None:
    assert all(run_harm(0.3, 2000, seed).alarm for seed in range(5))
    late = run_harm(0.5, 3000, 1, quiet=1000)
    assert late.alarm
    assert 1000 < late.n < 2000


def test_an_impossible_rate_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="audit rate"):
        HarmProcess(max_harm=0.05).update(True, 0.0)
    with pytest.raises(ConfigurationError, match=r"a harm of 1\.5"):
        HarmProcess(max_harm=0.05).update(1.5, 0.1)


def test_quantiles_stand_for_as_many_values_as_are_behind_them() -> None:
    recent = np.random.default_rng(5).normal(0.6, 1, 200).tolist()
    found = [watch(size=n).judge(recent) for n in (None, 1000, 30)]
    assert [each.alarm for each in found] == [True, True, False]
    assert found[0].ks_p == found[1].ks_p
    assert {each.psi for each in found} == {found[0].psi}


def test_quantiles_have_no_counts_and_give_no_alarm_by_them() -> None:
    gap = [*np.linspace(-1, 1, 190).tolist(), *[3.0] * 10]
    even = np.linspace(-1, 1, 1000).tolist()
    known = watch(even)
    wide = [value * 1.6 for value in gap]
    counted = known.judge(wide)
    assert counted.psi is not None
    assert counted.psi > 0.1
    assert counted.alarm
    assert not watch(even, size=20).judge(wide).alarm


def process() -> HarmProcess:
    return HarmProcess(max_harm=0.05)


def test_audits_that_end_in_another_order_are_taken_in_the_order_of_decisions() -> None:
    queue = HarmQueue(process())
    for run in ("first", "second", "third"):
        queue.decided(run, 0.5)
    queue.decided("escalated", None)
    queue.audited("third", 0.0)
    queue.audited("second", 1.0)
    assert queue.process.n == 0  # the first is open
    queue.audited("first", None)
    wanted = process()
    for harm, rate in ((None, 0.5), (1.0, 0.5), (0.0, 0.5), (None, 1.0)):
        wanted = wanted.update(harm, rate)
    assert queue.process == wanted


def test_a_decision_that_is_made_again_counts_once() -> None:
    queue = HarmQueue(process())
    queue.decided("blocks", 0.5)
    for _ in range(3):
        queue.decided("run", None)
    queue.audited("blocks", 0.0)
    assert queue.process.n == 2


def test_an_audit_that_never_ends_stops_waiting_when_too_many_wait() -> None:
    queue = HarmQueue(process(), most=3)
    for run in range(4):
        queue.decided(str(run), 0.5)
    assert queue.process.n == 1
    assert not queue.audited("0", 1.0)  # too late, and counted as not made


def test_the_queue_says_when_the_process_gave_its_alarm() -> None:
    queue = HarmQueue(HarmProcess(max_harm=0.05, delta=0.5))
    queue.decided("0", 0.05)
    assert queue.audited("0", 1.0)
    assert queue.decided("1", None)
    assert queue.process.n == 1  # after its alarm it stands still
