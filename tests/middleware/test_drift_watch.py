from __future__ import annotations

import asyncio
import importlib
import logging
import random
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import ConfigurationError, Decision, MemoryLedger
from cascade.errors import LedgerError, MissingDependencyError
from cascade.kernel import Kernel
from cascade.middleware import Audits, Drift
from cascade.middleware.background import lot
from cascade.policies import CertifiedPolicy, ThresholdPolicy
from cascade.run import CascadeRuntime, Parts
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers
from tests.confidence.drafts import CERTIFICATE
from tests.middleware.cascades import ask, large, of, pair, small

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


async def test_what_cannot_be_drawn_harms_no_run(caplog: pytest.LogCaptureFixture) -> None:
    drift = short()
    made = pair(middleware=[drift])
    await ask(made, Q)
    drift._rate = None  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        assert (await ask(made, Q)).answer == "Canberra"
    assert "a listener of the ledger raised" in caplog.text


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


CERTIFIED = SimpleNamespace(inner=CertifiedPolicy(CERTIFICATE))
"""A policy with a certificate inside."""


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
    """A ledger that may be away when it is read."""

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
        Drift(harm="panic")  # type: ignore[arg-type]


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
