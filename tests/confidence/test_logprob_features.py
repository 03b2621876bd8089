"""Features of log-probabilities, against values computed by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.confidence import logprob_features
from cascade.confidence.logprobs import WINDOW, quantile
from cascade.state import TokenLogprob


def tokens(*logprobs: float) -> list[TokenLogprob]:
    return [TokenLogprob("x", logprob) for logprob in logprobs]


def test_features_are_those_computed_by_hand() -> None:
    features = logprob_features(tokens(-0.1, -0.2, -2.0, -0.5))
    assert features == pytest.approx(
        {
            "logprob_mean": -0.7,
            "logprob_min": -2.0,
            # sorted −2, −0.5, …: 0.1 · 3 = 0.3 of the way from the first to the second
            "logprob_q10": -1.55,
            "logprob_window_min": -0.7,
            "token_count": 4.0,
        }
    )


def test_the_window_finds_the_worst_stretch_of_a_long_answer() -> None:
    good, bad = [-0.1] * 20, [-1.0] * WINDOW
    features = logprob_features(tokens(*good, *bad, *good))
    assert features["logprob_window_min"] == pytest.approx(-1.0)
    assert features["logprob_mean"] == pytest.approx((-2 - WINDOW - 2) / (40 + WINDOW))


def test_the_margin_is_that_of_the_two_most_likely_tokens_in_any_order() -> None:
    first = TokenLogprob("a", -0.3, (("b", -1.3), ("a", -0.3), ("c", -5.0)))
    second = TokenLogprob("a", -0.2, (("a", -0.2), ("b", -2.2)))
    assert logprob_features([first, second])["margin_mean"] == pytest.approx(1.5)


@pytest.mark.parametrize("top", [(), (("a", -0.1),)])
def test_without_two_alternatives_there_is_no_margin(top: tuple[tuple[str, float], ...]) -> None:
    assert "margin_mean" not in logprob_features([TokenLogprob("a", -0.1, top)])


@pytest.mark.parametrize("missing", [None, (), []])
def test_without_log_probabilities_there_are_no_features(missing: list[TokenLogprob]) -> None:
    assert logprob_features(missing) == {}


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([5.0], 0.1, 5.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([3.0, 1.0, 2.0], 0.0, 1.0),
        ([1.0, 4.0], 1.0, 4.0),
    ],
)
def test_quantiles_lie_between_order_statistics(
    values: list[float], q: float, expected: float
) -> None:
    assert quantile(values, q) == pytest.approx(expected)


@given(st.lists(st.floats(-100, 0), min_size=1, max_size=80))
def test_features_keep_their_order(logprobs: list[float]) -> None:
    features = logprob_features(tokens(*logprobs))
    slack = 1e-9
    assert features["logprob_min"] <= features["logprob_window_min"] + slack
    assert features["logprob_min"] <= features["logprob_q10"] + slack
    # The worst window is no better than the average of all windows' tokens, whatever the length.
    assert features["logprob_window_min"] <= 0.0 + slack
    assert 0.0 < math.exp(features["logprob_mean"]) <= 1.0
