from __future__ import annotations

import numpy as np
import pytest

from cascade.evaluation.audit.forecast import ShadowRows, forecast


def shadow(n: int, *, draft_usd: float = 0.1, wrong: float = 0.01, seed: int = 0) -> ShadowRows:
    rng = np.random.default_rng(seed)
    confidence = rng.random(n)
    loss = (rng.random(n) < wrong).astype(float)
    return ShadowRows(confidence, np.full(n, draft_usd), rng.lognormal(0, 0.3, n), loss)


def test_the_figures_by_hand() -> None:
    rows = ShadowRows(
        np.array([0.9, 0.1]), np.array([0.1, 0.1]), np.array([1.0, 3.0]), np.array([0.0, 1.0])
    )
    found = forecast(rows, 0.5, max_loss=0.05)
    assert found.saving.value == pytest.approx((1.0 - 0.2) / 4.0)
    assert found.loss.value == 0.0  # the wrong one would have been escalated
    assert found.escalation_rate == 0.5
    assert found.verdict == "too early"


@pytest.mark.parametrize(
    ("rows", "max_loss", "verdict"),
    [
        (shadow(2000), 0.05, "ready"),
        (shadow(2000, draft_usd=2.0), 0.05, "not worth it"),
        (shadow(2000, wrong=0.5), 0.05, "not worth it"),
        (shadow(60, wrong=0.05), 0.05, "too early"),
        (shadow(10), 0.05, "too early"),
        (shadow(0), 0.05, "too early"),
    ],
)
def test_the_verdict(rows: ShadowRows, max_loss: float, verdict: str) -> None:
    found = forecast(rows, 0.5, max_loss=max_loss)
    assert found.verdict == verdict, found
    assert (found.more > 0) == (verdict == "too early")
    assert found.reason


def test_the_intervals_cover_what_comes_after() -> None:
    world = shadow(200_000, wrong=0.1, seed=9)
    accepted = world.confidence >= 0.5
    truth = (world.large_usd[accepted].sum() - world.draft_usd.sum()) / world.large_usd.sum()
    lost = np.where(accepted, world.loss, 0).mean()
    held = []
    for seed in range(300):
        rows = shadow(100, wrong=0.1, seed=100 + seed)
        found = forecast(rows, 0.5, max_loss=0.05)
        held.append(
            (
                found.saving.low <= truth <= found.saving.high,
                found.loss.low <= lost <= found.loss.high,
            )
        )
    assert np.mean(held, axis=0).min() >= 0.92
