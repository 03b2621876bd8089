"""Raw scores of the default signals, and how several become one."""

from __future__ import annotations

import math

import pytest

from cascade.confidence import combine
from cascade.confidence.signals import LogprobSignal, PTrueSignal


def test_the_log_probability_score_is_the_geometric_mean_token_probability() -> None:
    mean = (math.log(0.5) + math.log(0.8)) / 2
    assert LogprobSignal().score({"logprob_mean": mean}) == pytest.approx(math.sqrt(0.4))


def test_the_self_check_is_its_own_score() -> None:
    assert PTrueSignal().score({"p_true": 0.3}) == 0.3


@pytest.mark.parametrize("signal", [LogprobSignal(), PTrueSignal()], ids=lambda s: s.name)
def test_features_of_other_signals_give_no_score(signal: LogprobSignal | PTrueSignal) -> None:
    assert signal.score({"token_count": 3.0}) is None


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"logprobs": 0.9}, 0.9),
        ({"logprobs": 0.9, "p_true": 0.4}, 0.4),
        ({"logprobs": 1.2}, 1.0),
        ({"mine": -3.0}, 0.0),
        ({}, None),
    ],
)
def test_the_most_doubtful_score_counts(scores: dict[str, float], expected: float | None) -> None:
    assert combine(scores) == expected
