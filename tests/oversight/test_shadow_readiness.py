"""Ready, not worth it, or too early: what the shadow runs of a ledger say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade import Cascade
from cascade.confidence.calibration import Calibration
from cascade.errors import CalibrationMismatchError, ConfigurationError, MissingDependencyError
from cascade.evaluation.audit.forecast import ShadowRows, easiest_threshold, forecast
from cascade.ledger import MemoryLedger
from cascade.ledger.store import Selection, open_store
from cascade.oversight import starting
from cascade.oversight.readiness import Readiness, readiness
from cascade.policies import ThresholdPolicy
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel, reply
from tests.oversight.shadowing import drafts, large, small, start

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
DRAFT_USD, LARGE_USD = Decimal("0.0001"), Decimal("0.001")


def run(
    i: int,
    *,
    p: float | None,
    loss: float | None,
    threshold: float = 0.8,
    draft_usd: Decimal | None = DRAFT_USD,
    large_usd: Decimal | None = LARGE_USD,
    small_model: str = "scripted:s",
) -> list[LedgerEntry]:
    """The entries of a shadow run; without `p` no draft came about."""
    common: dict[str, Any] = {"run_id": f"r{i}", "at": BEGUN + timedelta(minutes=i)}
    found = [
        LedgerEntry(
            node="expert", tier="large", model="scripted:l", cost_usd=large_usd,
            baseline_usd=large_usd, saved_usd=Decimal(0), **common,
        ),
        LedgerEntry(
            node="shadow", tier="small", model=small_model, cost_usd=draft_usd,
            outcome="ok" if p else "failed", **common,
        ),
    ]  # fmt: skip
    if p is None:
        return found
    result = LedgerEntry(
        node="shadow", tier="small", cost_usd=Decimal(0), confidence=p,
        action="accept" if p >= threshold else "escalate", large_usd=large_usd, loss=loss,
        signals={"logprob_mean": float(np.log(p)), "token_count": 1.0}, **common,
    )  # fmt: skip
    return [*found, result]


def rows(n: int, *, good: float = 1.0, seed: int = 0, **options: Any) -> MemoryLedger:
    """n shadow runs, in which a draft is as good as the large model with probability p·good."""
    rng = np.random.default_rng(seed)
    ledger = MemoryLedger()
    for i in range(n):
        p = float(rng.beta(6, 0.6))
        loss = float(rng.random() >= p * good)
        ledger.append(run(i, p=min(0.999, p), loss=loss, **options))
    return ledger


async def test_ready() -> None:
    found = await readiness(rows(600), max_loss=0.1, min_saving=0.2)
    assert found.verdict == "ready"
    assert found.more == 0
    assert found.proposed is not None
    assert found.proposed.saving.low > 0.2
    assert found.proposed.loss.high <= 0.1
    assert found.requests == found.compared == 600
    assert found.spent_usd == 600 * DRAFT_USD
    assert "ready" in found.text().splitlines()[0]


async def test_ready_with_the_calibration_though_not_as_it_is_set_up() -> None:
    found = await readiness(rows(500, threshold=0.999), max_loss=0.1)
    assert found.present is not None
    assert found.present.verdict == "not worth it"
    assert found.verdict == "ready"
    assert found.reason.startswith("calibrated: ")
    assert found.proposed is not None
    assert f"ThresholdPolicy({found.proposed.threshold})" in found.text()


async def test_what_is_forecast_is_what_other_rows_of_the_same_kind_show() -> None:
    inside = []
    for seed in range(6):
        found = (await readiness(rows(200, seed=seed), max_loss=0.1, threshold=0.9)).proposed
        assert found is not None
        # P(accepted and wrong) at a calibrated 0.9 is the same whatever was fitted, up to noise
        confidences = np.random.default_rng(7).beta(6, 0.6, 100_000)
        truth = float(np.mean(np.where(confidences >= 0.9, 1 - confidences, 0)))
        inside.append(found.loss.low - 0.01 <= truth <= found.loss.high + 0.01)
    assert sum(inside) >= 5


async def test_not_worth_it_when_good_drafts_cannot_be_told_from_bad_ones() -> None:
    found = await readiness(rows(800, good=0.5), max_loss=0.01)
    assert found.verdict == "not worth it"
    assert found.more == 0
    assert "Stay with the large model" in found.text()


async def test_not_worth_it_when_a_draft_costs_as_much_as_the_answer() -> None:
    found = await readiness(rows(300, draft_usd=LARGE_USD), max_loss=0.2)
    assert found.verdict == "not worth it"
    assert "saves at most" in found.reason


async def test_too_early_says_how_many_more() -> None:
    found = await readiness(rows(100), max_loss=0.05)
    assert (found.verdict, found.more and found.more > 0) == ("too early", True)
    assert f"{found.more:,} more shadow requests" in found.text()


async def test_before_any_request() -> None:
    found = await readiness(MemoryLedger())
    assert (found.verdict, found.more, found.requests) == ("too early", 30, 0)
    assert found.present is found.proposed is found.agreement is None
    assert "30 more" in found.text()


@pytest.mark.parametrize("n", [1, 2, 19, 39, 40, 59])
async def test_a_few_rows_are_too_early_whatever_they_say(n: int) -> None:
    found = await readiness(rows(n), max_loss=0.5)
    assert found.present is None or found.present.verdict != "ready" or n >= 30
    assert found.verdict == "too early" or n >= 30
    assert found.text()


async def test_a_bad_beginning_is_not_the_end_while_a_calibration_is_still_to_come() -> None:
    ledger = rows(38, draft_usd=LARGE_USD * 2)
    found = await readiness(ledger, max_loss=0.5)
    assert (found.verdict, found.more) == ("too early", 22)
    assert "for a calibration there are too few" in found.reason


async def test_the_decisions_as_they_are_may_be_ready_before_a_calibration_is() -> None:
    ledger = MemoryLedger()
    for i in range(400):
        ledger.append(run(i, p=0.95 if i % 3 else 0.2, loss=0.0 if i % 3 else 1.0))
    found = await readiness(ledger, max_loss=0.05)
    assert found.verdict == "ready"
    assert found.present is not None
    assert found.present.threshold is None
    assert found.present.escalation_rate == pytest.approx(134 / 400)
    assert found.present.saving.value == pytest.approx(266 / 400 - 0.1)
    assert "cascade.mode = 'live'" in found.text()


async def test_what_is_left_out_is_counted_and_said() -> None:
    ledger = rows(100)
    for i in range(100, 103):
        ledger.append(run(i, p=0.9, loss=None))
    for i in range(103, 108):
        ledger.append(run(i, p=None, loss=None))
    ledger.append(run(108, p=0.9, loss=0.0, draft_usd=None))
    ledger.append(run(109, p=0.9, loss=0.0, large_usd=None))
    routed = run(110, p=0.9, loss=None)
    ledger.append([routed[0], routed[2].model_copy(update={"tier": None, "action": "escalate"})])
    waiting = run(111, p=None, loss=None)
    ledger.append(
        [waiting[0], waiting[1].model_copy(update={"model": None, "outcome": "cancelled"})]
    )
    ledger.append(run(112, p=0.9, loss=0.0)[1:])  # the large model failed
    ledger.append([run(113, p=None, loss=None)[0]])  # a live run
    found = await readiness(ledger, max_loss=0.05)
    assert (found.requests, found.compared, found.not_compared) == (112, 102, 3)
    assert (found.failed, found.routed, found.not_drafted, found.unpriced) == (5, 1, 1, 2)
    assert found.present is not None
    assert found.present.saving.audits == 100 + 5 + 1
    text = found.text()
    for words in ("3 not comparable", "5 without a draft", "1 that a router", "1 not drafted"):
        assert words in text
    assert "2 with an unknown cost" in text


async def test_unknown_costs_of_all_rows_are_no_verdict() -> None:
    found = await readiness(rows(200, draft_usd=None), max_loss=0.5)
    assert (found.verdict, found.more, found.present) == ("too early", None, None)
    assert "set a price" in found.reason
    cascade = start(small_price=None)
    await cascade.abatch([f"question {i}" for i in range(50)])
    assert (await cascade.readiness()).calibration is not None  # which needs no prices
    assert "More requests alone" in found.text()


async def test_where_the_large_model_is_free_there_is_nothing_to_save() -> None:
    found = await readiness(rows(100, large_usd=Decimal(0)), max_loss=0.5)
    assert (found.verdict, found.more) == ("not worth it", 0)
    assert "nothing to save" in found.reason


async def test_a_certificate_or_why_there_is_none() -> None:
    proved = await readiness(rows(600), max_loss=0.1, max_harm=0.1)
    assert proved.certificate is not None
    assert proved.certificate.bound <= 0.1
    assert proved.certificate.n == 300
    assert "P(accepted and worse) ≤ 10.0%" in proved.text()
    refused = await readiness(rows(200, good=0.2), max_loss=0.1, max_harm=0.001)
    assert (refused.certificate, refused.refusal is not None) == (None, True)
    assert "no threshold keeps harm" in refused.text()


async def test_as_json_it_is_read_again_without_the_calibration() -> None:
    found = await readiness(rows(200), max_loss=0.1, max_harm=0.1)
    document = json.loads(found.model_dump_json())
    assert "calibration" not in document
    assert Readiness.model_validate(document).verdict == found.verdict


async def test_drafts_of_several_tiers_are_judged_as_they_were_decided() -> None:
    ledger = rows(100)
    for i in range(100, 200):
        *calls, found = run(i, p=0.95, loss=0.0)
        ledger.append([*calls, found.model_copy(update={"tier": "medium"})])
    found = await readiness(ledger, max_loss=0.1)
    assert found.proposed is None
    assert found.present is not None


async def test_drafts_without_signals_give_no_calibration() -> None:
    ledger = MemoryLedger()
    for i in range(100):
        *calls, found = run(i, p=0.95, loss=float(i % 20 == 0))
        ledger.append([*calls, found.model_copy(update={"signals": {"answer_words": 3.0}})])
    found = await readiness(ledger, max_loss=0.2)
    assert found.proposed is None
    assert found.present is not None
    assert found.verdict == "ready"


async def test_several_pairs_of_models_are_told_apart() -> None:
    ledger = rows(50)
    for i in range(50, 80):
        ledger.append(run(i, p=0.9, loss=0.0, small_model="scripted:other"))
    with pytest.raises(ConfigurationError, match="scripted:other beside scripted:l"):
        await readiness(ledger)
    cascade = start("live", ledger=ledger)
    assert (await cascade.readiness()).requests == 50
    later = Selection(since=BEGUN + timedelta(minutes=50), until=BEGUN + timedelta(minutes=60))
    assert (await readiness(ledger, later)).requests == 10
    assert (await readiness(ledger, Selection(run_id="r3", tier="small"))).requests == 0


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({"max_loss": -0.1}, "max_loss"),
        ({"max_loss": 1.0}, "max_loss"),
        ({"min_saving": 1.0}, "min_saving"),
        ({"max_harm": 0.0}, "max_harm"),
        ({"delta": 1.0}, "delta"),
        ({"threshold": 1.5}, "threshold"),
    ],
)
async def test_limits_that_cannot_be_meant(limits: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        await readiness(MemoryLedger(), **limits)  # type: ignore[arg-type]


async def test_a_ledger_that_cannot_be_read() -> None:
    class WriteOnly:
        def append(self, entries: Any) -> None:
            pass

    for store in (None, WriteOnly()):
        with pytest.raises(ConfigurationError, match="open_store"):
            await readiness(store)
    with pytest.raises(ConfigurationError, match="keeps no tags"):
        await readiness(MemoryLedger(), Selection(tags={"app": "a"}))


async def test_without_the_extra_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[calibrate\]"):
        await start().readiness()


async def test_from_a_shadow_start_to_a_live_cascade(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        shadow = start(ledger=store, tags={"app": "a"})
        await shadow.abatch([f"question {i}" for i in range(300)])
        found = await shadow.readiness(max_loss=0.1, max_harm=0.2)
        assert (found.requests, found.compared) == (300, 300)
        other = await shadow.readiness(tags={"app": "b"})
        assert other.requests == 0
    assert found.calibration is not None
    assert found.proposed is not None
    assert found.calibration.labels == "agreement with the large model"
    assert found.calibration.p_large == 1
    found.calibration.save(path)
    live = start("live", calibrator=path, policy=ThresholdPolicy(found.proposed.threshold or 0))
    result = await live.ainvoke("question 1")
    assert result.calibrated
    assert result.decision.threshold == found.proposed.threshold
    assert start("live", calibrator=path, max_harm=0.2).calibration == Calibration.load(path)
    with pytest.raises(CalibrationMismatchError):
        start("live", drafter=ScriptedModel("no", name="another"), calibrator=path)


async def test_a_calibrated_cascade_can_start_in_shadow_and_be_judged_as_it_is() -> None:
    first = start()
    await first.abatch([f"question {i}" for i in range(200)])
    made = (await first.readiness()).calibration
    assert made is not None
    second = start(calibrator=made)
    await second.abatch([f"other question {i}" for i in range(60)])
    found = await second.readiness(max_loss=0.2)
    assert found.present is not None
    assert found.present.saving.audits == 60


async def test_with_a_verifier_of_the_users_only_its_own_decisions_are_forecast() -> None:
    cascade = start(verifier=lambda question, answer: answer == "yes")
    await cascade.abatch([f"question {i}" for i in range(100)])
    found = await cascade.readiness(max_loss=0.05)
    assert (found.proposed, found.calibration) == (None, None)
    assert found.verdict == "ready"
    assert found.present is not None
    assert found.present.loss.value == 0


async def test_paid_signals_are_taken_along() -> None:
    def answers(request: Any) -> Any:
        text = str(request.messages[-1].text)
        if "True" in text:
            return reply("True", top=[("True", 0.9), ("False", 0.1)], probability=0.9)
        return drafts(request)

    drafter = ScriptedModel(answers, name="s", returns_logprobs=True)
    cascade = start(drafter=drafter, signals=["logprobs", "p_true"])
    await cascade.abatch([f"question {i}" for i in range(80)])
    found = await cascade.readiness()
    assert found.calibration is not None
    assert found.calibration.signals == ("logprobs", "p_true")
    ledger = cascade._oversight.recorder.store
    assert isinstance(ledger, MemoryLedger)
    inferred = await readiness(ledger)
    assert inferred.calibration is None
    assert inferred.proposed == found.proposed


def test_the_easiest_threshold_leaves_room_for_both_limits() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.random(2000)
    found = ShadowRows(
        confidence,
        np.full(2000, 0.1),
        np.ones(2000),
        (rng.random(2000) > confidence).astype(np.float64),
    )
    threshold = easiest_threshold(found, max_loss=0.05)
    assert threshold is not None
    assert forecast(found, threshold, max_loss=0.05).verdict == "ready"
    assert 0.7 < threshold < 0.9  # P(accepted and wrong) = (1 − t)²/2 is 0.05 at 0.68
    nobody = ShadowRows(-np.ones(5), np.ones(5), np.ones(5), np.zeros(5))
    assert easiest_threshold(nobody, max_loss=0.05) is None


def test_a_cascade_without_a_ledger_can_be_in_shadow_but_is_warned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cascade = Cascade(small(), large(), mode="shadow")
    assert cascade.invoke("q").tier == "large"
    assert "kept nowhere" in caplog.text
    assert cascade._oversight.background.wait(20)
