"""Certificates: against a loop, against known values, and against simulated truth."""

from datetime import UTC, datetime, tzinfo
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from cascade import Cascade
from cascade.confidence.calibration import ModelIdentity
from cascade.errors import ConfigurationError
from cascade.middleware.calibrated import task_hash
from cascade.policies import CertifiedPolicy, NextSignal, Refusal, Situation, certify
from cascade.state import Assessment, Certificate
from cascade.testing import ScriptedModel
from tests.confidence.drafts import CERTIFICATE, SIGNALS, drafts
from tests.confidence.drafts import made as calibrated

Array = NDArray[np.float64]
rows = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=60)


@given(st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_the_labels_needed_are_enough_and_one_fewer_is_not(harm: float, delta: float) -> None:
    refused = certify(np.ones(1), np.zeros(1), max_harm=harm, delta=delta)
    assert isinstance(refused, Refusal)
    n = refused.labels_needed
    assert 1 - delta ** (1 / n) <= harm + 1e-9
    assert n == 2 or 1 - delta ** (1 / (n - 1)) > harm


def brute_force(
    confidence: Array, correct: Array, harm: float, delta: float
) -> tuple[float, int, float] | None:
    """Walk down from the strictest threshold, with SciPy's exact binomial test, and stop at the
    first that fails."""
    best = None
    n = len(confidence)
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        wrong = int(((confidence >= threshold) & (correct < 0.5)).sum())
        high = binomtest(wrong, n, alternative="less").proportion_ci(1 - delta, "exact").high
        if high > harm:
            break
        best = (threshold, wrong, high)
    return best


@given(rows, st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([0.05, 0.3]))
def test_the_threshold_is_the_lowest_from_which_on_all_pass_whatever_the_order(
    drafts: list[tuple[int, bool]], harm: float, delta: float
) -> None:
    confidence = np.array([c / 8 for c, _ in drafts])
    correct = np.array([right for _, right in drafts], np.float64)
    found = certify(confidence, correct, max_harm=harm, delta=delta)
    order = np.random.default_rng(len(drafts)).permutation(len(drafts))
    assert certify(confidence[order], correct[order], max_harm=harm, delta=delta) == found
    expected = brute_force(confidence, correct, harm, delta)
    if expected is None:
        assert isinstance(found, Refusal)
        return
    assert isinstance(found, Certificate)
    assert (found.threshold, found.errors, found.bound) == pytest.approx(expected)
    assert found.coverage == pytest.approx((confidence >= found.threshold).mean())


@pytest.mark.parametrize(
    ("slope", "shift", "harm"),
    [(1.0, 0.0, 0.1), (3.0, 1.0, 0.1), (0.3, 1.5, 0.2), (1.0, 2.0, 0.05)],
)
def test_a_certificate_holds_as_often_as_promised(slope: float, shift: float, harm: float) -> None:
    """Truth P(right | c) = σ(shift + slope·logit c), with c even in 101 steps."""
    draws, n, delta = 400, 150, 0.1
    levels = np.linspace(0.005, 0.995, 101)
    right = 1 / (1 + np.exp(-shift - slope * np.log(levels / (1 - levels))))
    true_harm = np.cumsum((1 - right)[::-1])[::-1] / len(levels)
    rng = np.random.default_rng(7)
    violations = 0
    for _ in range(draws):
        at = rng.integers(0, len(levels), n)
        correct = (rng.random(n) < right[at]).astype(np.float64)
        found = certify(levels[at], correct, max_harm=harm, delta=delta)
        if isinstance(found, Certificate):
            violations += true_harm[np.searchsorted(levels, found.threshold)] > harm
    assert violations <= binom.ppf(0.999, draws, delta)


async def test_a_certificate_that_ends_while_it_is_used_promises_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = ScriptedModel("Sydney", name="small", logprobs=0.97), ScriptedModel("Canberra")
    plain = Cascade(*models)
    names = {
        "small": ModelIdentity(name="scripted:small"),
        "large": ModelIdentity(name="scripted:scripted"),
    }
    bound = {**names, "task_hash": task_hash(plain.settings, plain.tiers[0])}
    proof = CERTIFICATE.model_copy(update={"valid_until": datetime(2099, 1, 1, tzinfo=UTC)})
    made = calibrated(drafts(300), SIGNALS[:2])
    made = made.model_copy(update={**bound, "certificates": (proof,)})
    cascade = Cascade(*models, calibrator=made, max_harm=0.05)
    assert "harm ≤ 5.0%" in (await cascade.ainvoke("?")).decision.reason

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime(2100, 1, 1, tzinfo=tz)

    monkeypatch.setattr("cascade.policies.certified.datetime", Later)
    monkeypatch.setattr("cascade.middleware.calibrated.CHECK_EVERY_S", 0.0)
    result = await cascade.ainvoke("?")
    assert (result.tier, result.calibrated) == ("large", False)


def test_a_draft_without_confidence_is_never_accepted_but_counts() -> None:
    confidence = np.array([0.9] * 60 + [np.nan] * 40)
    found = certify(confidence, np.array([1.0] * 60 + [0.0] * 40), max_harm=0.05)
    assert isinstance(found, Certificate)
    assert (found.n, found.errors, found.coverage) == (100, 0, 0.6)
    assert isinstance(certify(np.full(90, np.nan), np.ones(90), max_harm=0.05), Refusal)
    for label in (0.5, np.nan):  # does not say right
        assert isinstance(certify(np.ones(90), np.full(90, label), max_harm=0.05), Refusal)


@pytest.mark.parametrize(
    ("confidence", "correct", "options"),
    [([], [], {}), ([0.5], [1.0, 1.0], {}), ([1.5], [1.0], {}), ([0.5], [1.0], {"max_harm": 1.0})],
)
def test_what_cannot_be_certified_is_refused(
    confidence: list[float], correct: list[float], options: dict[str, float]
) -> None:
    with pytest.raises(ConfigurationError):
        certify(np.array(confidence), np.array(correct), **({"max_harm": 0.1} | options))


@pytest.mark.parametrize(
    ("confidence", "calibrated", "left", "action", "words"),
    [
        (0.6, True, None, "accept", "harm ≤ 5.0% with 90% confidence"),
        (0.59, True, None, "escalate", "harm ≤ 5.0% with 90% confidence"),
        (1.0, False, None, "escalate", "calibrated confidences only"),
        (0.99, True, NextSignal("p_true", ()), "observe", "p_true"),  # its signals first
    ],
)
def test_the_certified_threshold_decides_about_calibrated_confidences(
    confidence: float, calibrated: bool, left: NextSignal | None, action: str, words: str
) -> None:
    assessment = Assessment(confidence=confidence, calibrated=calibrated)
    decision = CertifiedPolicy(CERTIFICATE).decide(Situation(assessment, next_signal=left))
    assert decision.action == action
    assert words in decision.reason
