from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.evaluation.shares import wilson


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.5, 10, 0.2366, 0.7634)],
)
def test_the_interval_is_wilsons(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


@given(share=st.floats(0, 1), n=st.integers(1, 10**6))
def test_an_interval_holds_its_share_and_stays_in_range(share: float, n: int) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share <= high <= 1
