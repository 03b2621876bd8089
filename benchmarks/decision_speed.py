"""How fast decisions are worked out: evaluation, calibration, and policies one by one and batched.

    python benchmarks/decision_speed.py [--json]

On synthetic rows and one core; best of three.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cascade.confidence.fitting import fit_calibrator
from cascade.evaluation.replay import Rows, accepts, replay, sweep
from cascade.policies import EconomicPolicy

ROWS, THRESHOLDS, LABELS = 100_000, 100, 10_000
BATCH, ONE_BY_ONE = 1_000_000, 20_000


def seconds(work: Callable[[], Any]) -> float:
    """The best of three."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def measure() -> dict[str, float]:
    """The figures by name."""
    rng = np.random.default_rng(0)
    confidence = rng.random(ROWS)
    small = (rng.random(ROWS) < confidence).astype(np.float64)
    large = (rng.random(ROWS) < 0.9).astype(np.float64)
    costs = rng.random(ROWS) * 1e-5, 1e-3 * (1 + rng.random(ROWS))
    grid = np.linspace(0, 1, THRESHOLDS)
    features = np.column_stack([rng.normal(size=LABELS) for _ in range(8)])
    right = (rng.random(LABELS) < 1 / (1 + np.exp(-features[:, 0]))).astype(np.float64)
    policy = EconomicPolicy(price_of_error=0.01)

    def rows(n: int) -> Rows:
        cost, p_large = 1e-3 * (1 + rng.random(n)), np.full(n, 0.9)
        return Rows(rng.random(n), escalation_cost=cost, p_large=p_large)

    many, some = rows(BATCH), rows(ONE_BY_ONE)
    return {
        "evaluate 100,000 rows at 100 thresholds, s": seconds(
            lambda: sweep(grid, confidence, small, large, *costs)
        ),
        "calibrate on 10,000 rows of 8 features, s": seconds(
            lambda: fit_calibrator(features, right)
        ),
        "decisions per second, batch": BATCH / seconds(lambda: accepts(policy, many)),
        "decisions per second, one by one": ONE_BY_ONE / seconds(lambda: replay(policy, some)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure()
    if arguments.json:
        print(json.dumps({"benchmark": "decision_speed", **figures}))
        return
    for name, value in figures.items():
        print(f"{name:<46} {value:14,.3f}")


if __name__ == "__main__":
    main()
