from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.confidence.calibration import Calibration, ModelIdentity, Quality, Stage
from cascade.confidence.calibrators import Constant
from cascade.evaluation.audit.drift import HarmProcess
from cascade.oversight import charts
from cascade.oversight.alarms import Drift
from cascade.oversight.charts import CALIBRATED, Charts, Finding, HarmChart, Usual

OPTIONS = Drift()
SIGNALS: tuple[str, ...] = ("mean_logprob", "min_logprob", "margin", "entropy", "length")


def feed(
    drawn: Charts, n: int, rng: np.random.Generator, shift: float = 0.0, rate: float = 0.3
) -> list[tuple[int, Finding]]:
    """So many decisions; what was found, and after how many."""
    found = []
    for i in range(n):
        row = rng.normal(shift, 1, len(SIGNALS))
        values = dict(zip(SIGNALS, row.tolist(), strict=True))
        confidence = 1 / (1 + math.exp(-values["margin"]))
        due = drawn.values(values, confidence, calibrated=True)
        each = [judge() for judge in due]
        each.append(drawn.decided("escalate" if rng.random() < rate else "accept"))
        found += [(i, finding) for finding in each if finding is not None]
    return found


def test_while_nothing_changes_there_is_hardly_an_alarm() -> None:
    # 17 windows of 6 charts in each of 15 runs at 0.001 each: 1.5 false alarms are expected, and
    # 8 or more come with a probability below 0.0002 (Poisson).
    found = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        found += feed(Charts(OPTIONS), 4_000, rng)
    assert len([1 for _, finding in found if finding.kind == "signals"]) < 8
    # One in 100,000 requests at most, where the reference did not happen to lie far off.
    assert len([1 for _, finding in found if finding.kind == "escalations"]) <= 2


def test_a_shifted_confidence_is_found_in_the_first_whole_window() -> None:
    rng, drawn = np.random.default_rng(1), Charts(OPTIONS)
    assert feed(drawn, 500, rng) == []
    found = feed(drawn, 200, rng, shift=0.6)
    assert {finding.chart for _, finding in found} == {*SIGNALS, "confidence"}
    assert all("PSI" in finding.text for _, finding in found)
    assert all(finding.figures["psi"] > 0.1 for _, finding in found)


@pytest.mark.parametrize(("rate", "word"), [(0.6, "rose"), (0.05, "fell")])
def test_a_change_of_the_escalation_rate_is_found_once(rate: float, word: str) -> None:
    rng, drawn = np.random.default_rng(2), Charts(OPTIONS)
    assert feed(drawn, 1_000, rng) == []
    found = [(n, f) for n, f in feed(drawn, 600, rng, rate=rate) if f.kind == "escalations"]
    ((after, finding),) = found
    assert after < 200
    assert word in finding.text
    assert finding.chart == "escalation rate"


def test_what_is_no_number_is_left_out() -> None:
    drawn = Charts(Drift(reference=50, window=20))
    for _ in range(100):
        for value in (math.nan, math.inf, None):
            assert drawn.values({"mine": math.nan}, value, calibrated=False) == []
    due = [
        judge for _ in range(70) for judge in drawn.values({"mine": 1.0}, None, calibrated=False)
    ]
    assert len(due) == 1


def test_scores_and_probabilities_are_kept_apart() -> None:
    drawn, found = Charts(Drift(reference=50, window=20)), []
    for i in range(200):
        # Both are as they always were; mixed, they would be two heaps.
        due = drawn.values({}, 0.2 if i % 2 else 0.9, calibrated=bool(i % 2))
        found += [judge() for judge in due]
    assert found
    assert not any(found)


# What a calibration says is usual -----------------------------------------------------------


def calibration(n: int = 300, stages: int = 1) -> Calibration:
    stage: dict[str, Any] = {"columns": ("raw",), "calibrator": Constant(value=0.5)}
    return Calibration(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        library_version="0",
        small=ModelIdentity(name="scripted:small"),
        large=None,
        task_hash="",
        system_hash=None,
        labels="references",
        stages=tuple(Stage(signals=("logprobs",), **stage) for _ in range(stages)),
        quality=Quality(
            n=n,
            accuracy_small=0.5,
            accuracy_large=None,
            ece=0,
            ece_raw=0,
            brier=0,
            brier_raw=0,
            auroc=0.5,
            auroc_gain=None,
        ),
        confidences=tuple(np.linspace(0.4, 0.99, 101).tolist()),
    )


def test_quantiles_of_a_calibration_stand_for_its_rows_and_for_no_more_than_they_are() -> None:
    found = [Usual.of(calibration(n)) for n in (60, 5_000)]
    assert [usual.size for usual in found if usual is not None] == [60, 101]


def test_a_calibration_tells_nothing_where_it_cannot_know() -> None:
    assert Usual.of(None) is None
    assert Usual.of(calibration(stages=2)) is None
    assert Usual.of(calibration().model_copy(update={"confidences": ()})) is None


def test_against_a_calibration_the_first_window_is_judged_already() -> None:
    rng, usual = np.random.default_rng(3), Usual.of(calibration())
    for low, high, alarms in ((0.4, 0.99, 0), (0.4, 0.6, 1)):
        drawn, found = Charts(OPTIONS, usual), []
        for value in rng.uniform(low, high, 200):
            found += [j() for j in drawn.values({}, float(value), calibrated=True)]
        assert [f.chart for f in found if f is not None] == [CALIBRATED] * alarms


def test_edges_that_the_folds_of_a_calibration_blurred_are_no_alarm() -> None:
    # Its quantiles come from several fits, of which one was bolder than the one that is used.
    rng, quantiles = np.random.default_rng(4), np.linspace(0.3, 0.8, 101)
    quantiles[92:] = np.linspace(0.85, 0.99, 9)
    usual = Usual(tuple(quantiles.tolist()), 101)
    drawn = Charts(OPTIONS, usual)
    found = [
        judge()
        for value in np.clip(rng.uniform(0.3, 0.84, 2_000), 0.3, 0.8)
        for judge in drawn.values({}, float(value), calibrated=True)
    ]
    assert len(found) > 10
    assert not any(found)


# Harm -----------------------------------------------------------------------------------------

requests = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([None, 0.0, 1.0])),
    max_size=25,
)


@settings(max_examples=60)
@given(requests, st.randoms())
def test_in_whatever_order_audits_end_the_process_is_that_of_the_requests(
    asked: list[tuple[bool, float, float | None]], chance: Any
) -> None:
    process, chart = HarmProcess(max_harm=0.05, delta=0.0001), HarmChart(0.05, 0.0001)
    for i, (accepted, rate, harm) in enumerate(asked):
        process = process.update(harm if accepted else None, rate if accepted else 1.0)
        chart.decided(str(i), "accept" if accepted else "escalate", rate)
    audited = [(str(i), harm) for i, (accepted, _, harm) in enumerate(asked) if accepted]
    chance.shuffle(audited)
    for run_id, harm in audited:
        chart.audited(run_id, harm)
    if not process.alarm:
        assert chart.process == process


def test_an_audit_waits_for_those_before_it() -> None:
    chart = HarmChart(0.05, 0.05)
    chart.decided("first", "accept", 0.5)
    chart.decided("second", "accept", 0.5)
    chart.audited("second", 1.0)
    assert chart.process.n == 0
    chart.audited("first", None)
    assert chart.process.n == 2


def test_a_decision_that_is_made_again_holds_up_nothing() -> None:
    chart = HarmChart(0.05, 0.05)
    chart.decided("first", "accept", 0.5)
    chart.decided("first", "accept", 0.5)
    chart.audited("first", None)
    assert chart.process.n == 1
    chart.decided("second", "escalate", None)
    assert chart.process.n == 2


def test_what_cannot_be_audited_says_nothing_and_an_unknown_audit_neither() -> None:
    chart = HarmChart(0.05, 0.05)
    chart.decided("no auditor", "accept", None)
    chart.decided("no budget", "accept", 0.0)
    chart.audited("of an earlier process", 1.0)
    assert chart.process.n == 0
    chart.decided("escalated", "escalate", None)
    assert chart.process.n == 1


def test_an_audit_that_never_comes_holds_up_nothing_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(charts, "MOST_WAITING", 10)
    chart = HarmChart(0.05, 0.05)
    chart.decided("lost", "accept", 0.5)
    for i in range(10):
        chart.decided(str(i), "escalate", None)
    assert chart.process.n == 11
    chart.audited("lost", 1.0)  # too late
    assert chart.process.n == 11


def harmful(n: int) -> tuple[HarmChart, list[Finding]]:
    chart, found = HarmChart(0.05, 0.05), []
    for i in range(n):
        each = [chart.decided(str(i), "accept", 1.0), chart.audited(str(i), 1.0)]
        found += [finding for finding in each if finding is not None]
    return chart, found


def test_harm_gives_one_alarm() -> None:
    chart, (finding,) = harmful(30)
    assert chart.process.n < 10
    assert "more accepted drafts are wrong than the 5.0%" in finding.text
    assert finding.figures["log_e"] >= math.log(20)


@pytest.mark.parametrize("n", [0, 2, 30])
def test_the_state_of_the_process_travels_in_figures(n: int) -> None:
    before, _ = harmful(n)
    after = HarmChart(0.05, 0.05)
    after.restore(before.figures)
    assert after.process == before.process


def test_a_state_that_cannot_be_read_or_comes_too_late_changes_nothing() -> None:
    chart = HarmChart(0.05, 0.05)
    chart.restore({"harm_n": 7.0})
    assert chart.process.n == 0
    before, _ = harmful(2)
    chart.decided("0", "escalate", None)
    chart.restore(before.figures)
    assert chart.process.n == 1
