"""Labelled drafts with a known truth, and calibrations made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cascade.confidence.calibrating import LabelledDraft, MadeFor, calibrate
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.confidence.metrics import Array

SMALL = ModelIdentity(name="scripted:small", digest="s" * 20)
LARGE = ModelIdentity(name="scripted:large", digest="l" * 20)
MADE_FOR = MadeFor(SMALL, LARGE, "task", None, "references")
SIGNALS = (("logprobs", 0), ("text", 0), ("p_true", 1))
NAMES = tuple(name for name, _ in SIGNALS)


def scores(n: int, *, seed: int = 0, slope: float = 1.0) -> tuple[Array, Array]:
    """(n, 3) features, the logit of a score first, and labels drawn at σ(slope·x)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.5, (n, 3))
    p = 1.0 / (1.0 + np.exp(-slope * (x[:, 0] + 0.8 * x[:, 1])))
    return x, (rng.random(n) < p).astype(np.float64)


def drafts(n: int, *, seed: int = 0, large: float | None = 0.95) -> list[LabelledDraft]:
    """Drafts whose log-probs tell a little and whose self-check tells more."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        ease = float(rng.normal())
        right = float(rng.random() < 1 / (1 + math.exp(-0.3 - 1.5 * ease)))
        mean = -abs(float(rng.normal(0.5 - 0.2 * ease, 0.3)))
        features = {
            "logprob_mean": mean,
            "logprob_min": 3 * mean,
            "token_count": float(rng.integers(1, 60)),
            "answer_words": float(rng.integers(1, 60)),
            "p_true": float(np.clip(0.5 + 0.3 * ease + rng.normal(0, 0.15), 0, 1)),
        }
        better = None if large is None else float(rng.random() < large)
        made.append(LabelledDraft(features, right, better))
    return made


def made(
    labelled: Sequence[LabelledDraft], signals: Sequence[tuple[str, int]] = SIGNALS
) -> Calibration:
    return calibrate(labelled, signals, MADE_FOR)


@lru_cache
def usual() -> Calibration:
    """A calibration of 300 drafts, made once."""
    return made(drafts(300))
