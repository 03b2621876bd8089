"""When a growing draft can be given up: two laws, and how many drafts bound a loss."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.confidence.base import WINDOW, logprob_features, worst_window
from cascade.confidence.signals import ceiling, drafts_needed, lowest_kept
from cascade.state import TokenLogprob
from tests.confidence.drafts import drafts, made

LOGPROBS = st.lists(st.floats(-20, 0), min_size=1, max_size=80)
SHARES = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.25, 1 / 3])


def features(values: list[float]) -> dict[str, float]:
    return logprob_features([TokenLogprob("x", value) for value in values])


@given(LOGPROBS, LOGPROBS)
def test_no_answer_rises_above_its_ceiling(begun: list[float], rest: list[float]) -> None:
    limit = len(begun) + len(rest)
    for whole in (begun, begun + rest, begun + [0.0] * len(rest)):
        assert math.exp(features(whole)["logprob_mean"]) <= ceiling(math.fsum(begun), limit)


@given(LOGPROBS)
def test_the_running_window_falls_to_the_feature_of_the_whole_answer(values: list[float]) -> None:
    running = [worst_window(values[n - WINDOW : n]) for n in range(WINDOW, len(values) + 1)]
    if running:
        assert min(running) == pytest.approx(features(values)["logprob_window_min"], abs=1e-9)


@given(st.lists(st.integers(-30, 0), min_size=2, max_size=150), SHARES)
def test_of_exchangeable_drafts_at_most_the_share_is_lost(worst: list[int], share: float) -> None:
    """Each of n + 1 drafts in turn is the new one, which is what exchangeable means."""
    lost = 0
    for i, window in enumerate(worst):
        others = sorted((0.9, float(other)) for other in worst[:i] + worst[i + 1 :])
        lowest = lowest_kept(others, lambda _: True, share)
        lost += lowest is not None and window < lowest
    assert lost <= share * len(worst)


@given(SHARES)
def test_the_fewest_drafts_that_bound_a_share(share: float) -> None:
    rows = [(0.9, -float(i)) for i in range(drafts_needed(share), 0, -1)]
    assert lowest_kept(rows, lambda _: True, share) == min(window for _, window in rows)
    assert lowest_kept(rows[1:], lambda _: True, share) is None
    known = [(0.2, -9.0), (0.4, -8.0), (0.6, -2.0), (0.8, -1.0)]
    assert lowest_kept(known, lambda confidence: confidence >= 0.3, 0.25) == -8.0
    assert lowest_kept(known, lambda confidence: confidence >= 0.5, 0.5) == -2.0


def test_a_calibration_knows_confidence_and_worst_stretch_of_its_drafts() -> None:
    labelled = drafts(40)
    assert made(labelled).early == ()
    for i, draft in enumerate(labelled):
        features = draft.features | {"logprob_window_min": -float(i)}
        labelled[i] = draft._replace(features=features)
    calibration = made(labelled)
    assert list(calibration.early) == sorted(calibration.early)
    assert {window for _, window in calibration.early} == {-float(i) for i in range(40)}
    again = type(calibration).model_validate_json(calibration.model_dump_json())
    assert again.early == calibration.early
