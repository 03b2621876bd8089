"""Drift statistics: what they find, and how seldom they are wrong."""

import asyncio
import importlib
import logging
import math
import random
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from scipy import stats

from cascade import ConfigurationError, Decision, MemoryLedger
from cascade.errors import LedgerError, MissingDependencyError
from cascade.kernel import Kernel
from cascade.middleware import Audits, Drift
from cascade.middleware.background import lot
from cascade.middleware.drift import HarmWatch, RateWatch, SignalWatch, psi
from cascade.policies import CertifiedPolicy, ThresholdPolicy
from cascade.run import CascadeRuntime, Parts
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers
from tests.confidence.drafts import CERTIFICATE
from tests.middleware.cascades import ask, large, of, pair, small

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
    alarms = [each for each in range(60) if run_harm(0.05, 500, each).alarm]  # δ = 0.1: 6 expected
    assert len(alarms) <= 12


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
    assert (bool(watch.alarm), watch.n) == (True, 1)


Q = "Capital of Australia?"


def drafts(later: float, usual: int = 60) -> ScriptedModel:
    """Drafts that are less sure from some question on."""
    draw = random.Random(7)

    def draft(request: Any) -> Any:
        i = int(str(request.messages[-1].text).split()[1])
        p = (0.85 if i < usual else later) + 0.14 * draw.random()
        return reply("a draft", probability=p)

    return ScriptedModel(draft, name="small", returns_logprobs=True)


async def asked(drift: Drift, later: float, n: int = 120, **options: Any) -> MemoryLedger:
    """The ledger of 60 usual drafts, and of more that are less sure."""
    ledger = options.setdefault("ledger", MemoryLedger())
    stack = [drift, *options.pop("middleware", ())]
    made = pair(options.pop("drafts", drafts(later)), middleware=stack, **options)
    for i in range(n):
        await ask(made, f"question {i}")
    await made.aclose()
    return ledger


def short(reaction: Any = "warn", **options: Any) -> Drift:
    return Drift(reaction, reference=50, window=20, **options)


async def test_a_chart_gives_one_alarm_until_the_watch_is_reset() -> None:
    drift = short("audit")
    made = pair(drafts(0.5, usual=60), middleware=[drift], ledger=MemoryLedger())
    for i in range(300):
        await ask(made, f"question {i}")
    charts = [alarm.chart for alarm in drift.alarms]
    assert len(charts) == len(set(charts))
    assert drift.caution == "audit"
    drift.reset()
    assert (drift.alarms, drift.caution) == ((), "normal")
    for i in range(300, 500):
        await ask(made, f"question {i}")
    assert drift.alarms == ()  # what came since is usual now
    await made.aclose()


async def test_a_callback_may_fail_and_be_async(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    async def tell(alarm: Any) -> None:
        told.append(alarm)
        raise ValueError("no mail today")

    with caplog.at_level(logging.ERROR):
        await asked(short(on_alarm=tell), 0.5)
    assert told
    assert "has failed" in caplog.text


async def test_the_confidence_is_compared_with_that_of_the_calibration() -> None:
    calibrator = SimpleNamespace(
        confidences=tuple(0.8 + i / 1_000 for i in range(100)),
        stages=(None,),
        quality=SimpleNamespace(n=400),
    )
    drift = short()
    kernel = await watching(drift, calibrators={"small": calibrator})
    for i in range(40):
        verified(kernel, f"run {i}", confidence=0.3 + i / 1_000, calibrated=True)
    (alarm,) = drift.alarms
    assert alarm.chart == "confidence"


async def test_a_question_that_must_stay_here_is_drafted_and_not_accepted() -> None:
    drift, answers = short("large_only"), large(local=False)
    made = pair(small(), answers, middleware=[drift])
    drift.caution = "large_only"
    result = await ask(made, Q, local_only=True)
    assert (result.tier, result.decision.once) == ("small", True)  # as there is nothing better
    assert answers.requests == []


async def test_audits_are_more_frequent_from_audit_on() -> None:
    drift, ledger = short("audit"), MemoryLedger()
    made = pair(ledger=ledger, middleware=[drift, Audits(0.1)])
    for caution in ("normal", "audit"):
        drift.caution = caution  # type: ignore[assignment]
        await ask(made, Q)
    await made.aclose()
    rates = [entry.decision.audit_rate for entry in of(ledger, "verify")]
    assert rates == [0.1, pytest.approx(0.4)]


def verified(
    kernel: Kernel,
    run_id: str,
    action: Any = "accept",
    rate: float | None = None,
    tier: str = "small",
    **fields: Any,
) -> None:
    decision = Decision(action=action, reason="", audit_rate=rate, **fields)
    kernel.ledger.book(run_id, "verify", tier=tier, decision=decision)


async def watching(drift: Drift, policy: Any = None, **parts: Any) -> Kernel:
    tiers = open_tiers(small(), large())
    kernel = Kernel(Parts(tiers, policy or ThresholdPolicy(), middleware=[drift], **parts))
    await drift.before_run(kernel.begin([HumanMessage(Q)]), CascadeRuntime(kernel))
    return kernel


CERTIFIED = CertifiedPolicy(CERTIFICATE)


@pytest.mark.parametrize(
    ("wrong", "max_harm", "policy", "alarms"),
    [(0.5, 0.05, None, 1), (0.02, 0.05, None, 0), (0.5, None, CERTIFIED, 1), (0.5, None, None, 0)],
)
async def test_more_harm_than_promised_is_an_alarm(
    wrong: float, max_harm: float | None, policy: Any, alarms: int
) -> None:
    drift = short(max_harm=max_harm)
    kernel = await watching(drift, policy)
    draw = random.Random(3)
    for i in range(200):
        verified(kernel, f"run {i}", rate=1.0)
        loss = float(draw.random() < wrong)
        kernel.ledger.book(f"run {i}", "audit", tier="small", loss=loss)
    assert [alarm.kind for alarm in drift.alarms] == ["harm"] * alarms
    if alarms:
        assert "than the 5.0% of all requests that was promised" in drift.alarms[0].text


async def test_results_wait_for_those_before_them_and_failed_audits_hold_up_nothing() -> None:
    drift = short(max_harm=0.05)
    kernel = await watching(drift)
    harm = drift._harm
    drawn = next(f"run {i}" for i in range(99) if lot(f"run {i}", "audit") < 0.5)
    passed = next(f"run {i}" for i in range(99) if lot(f"run {i}", "audit") >= 0.5)
    verified(kernel, drawn, rate=0.5)
    verified(kernel, passed, rate=0.5)  # not drawn: nothing is to come
    verified(kernel, "escalated", action="escalate")
    verified(kernel, "not to be audited")
    verified(kernel, "once more", action="observe")
    assert harm.n == 0
    kernel.ledger.book(drawn, "audit", tier="small", outcome="failed")
    assert harm.n == 3


class Unsteady(MemoryLedger):
    away, read = False, 0

    async def of_run(self, run_id: str) -> Any:
        self.read += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise LedgerError("no database")
        return await super().of_run(run_id)


async def test_all_questions_at_once_after_a_restart_wait_for_the_caution() -> None:
    ledger = Unsteady()
    await asked(short("large_only"), 0.5, ledger=ledger)
    made = pair(middleware=[short("large_only")], ledger=ledger)
    results = await asyncio.gather(*(made.ainvoke(Q) for _ in range(3)))
    assert [result.tier for result in results] == ["large"] * 3


async def test_the_caution_survives_until_a_reset(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Unsteady()
    await asked(short("audit"), 0.5, ledger=ledger)
    drift, reads, ledger.away = short("audit"), ledger.read, True
    made = pair(middleware=[drift], ledger=ledger)
    with caplog.at_level(logging.WARNING):
        await ask(made, Q)
        await ask(made, Q)
    assert (drift.caution, ledger.read) == ("normal", reads + 1)
    assert "cannot be used" in caplog.text
    ledger.away, drift._retry_at = False, 0.0  # a quarter of a minute later
    await ask(made, Q)
    assert drift.caution == "audit"
    drift.reset()
    third = short("audit")
    await ask(pair(middleware=[third], ledger=ledger), Q)
    assert third.caution == "normal"


def test_a_reaction_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="give one of"):
        short("panic")


async def test_one_watch_is_for_one_cascade() -> None:
    drift = short()
    await ask(pair(middleware=[drift]), Q)
    with pytest.raises(ConfigurationError, match="another cascade"):
        await ask(pair(middleware=[drift]), Q)


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cascade.middleware.drift")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingDependencyError, match="calibrate"):
        importlib.import_module("cascade.middleware.drift")
    monkeypatch.setitem(sys.modules, "cascade.calibrate", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[calibrate\]'"):
        pair().calibrate([])
