"""Completions with log-probs, labelled drafts with a known truth, and calibrations of them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from langchain_core.messages import ToolCall
from numpy.typing import NDArray

from cascade.confidence.calibrating import calibrate
from cascade.confidence.calibration import Calibration, MadeFor, ModelIdentity
from cascade.state import Certificate, Completion, TokenLogprob

Array = NDArray[np.float64]

SMALL = ModelIdentity(name="scripted:small", digest="s" * 20)
LARGE = ModelIdentity(name="scripted:large", digest="l" * 20)
MADE_FOR = MadeFor(small=SMALL, large=LARGE, task_hash="t", system_hash=None, labels="references")
CERTIFICATE = Certificate(
    threshold=0.6, max_harm=0.05, delta=0.1, n=100, errors=1, coverage=0.5, bound=0.04
)
SIGNALS = (("logprobs", 0), ("text", 0), ("p_true", 1))
NAMES = tuple(name for name, _ in SIGNALS)


def tokens(*chances: float) -> tuple[TokenLogprob, ...]:
    """Tokens of these probabilities."""
    return tuple(TokenLogprob("x", math.log(chance)) for chance in chances)


def token(*alternatives: tuple[str, float]) -> TokenLogprob:
    """A token whose alternatives have these probabilities; the first one is sampled."""
    top = tuple((text, math.log(chance)) for text, chance in alternatives)
    return TokenLogprob(top[0][0], top[0][1], top)


def said(
    text: str,
    *chances: float,
    calls: Sequence[ToolCall] = (),
    of_calls: Sequence[float] = (),
    finish_reason: str = "stop",
) -> Completion:
    """An answer whose tokens have these probabilities."""
    return Completion(
        text,
        "m",
        logprobs=tokens(*chances) or None,
        tool_calls=tuple(calls),
        call_logprobs=tokens(*of_calls) or None,
        finish_reason=finish_reason,
    )


class Draft(NamedTuple):
    """The features of a draft, and how right draft and large model were."""

    features: dict[str, float]
    correct: float
    large: float = 1.0


def drafts(n: int, *, seed: int = 0) -> list[Draft]:
    """Drafts whose log-probs tell a little and whose self-check tells more."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        ease = float(rng.normal())
        right = float(rng.random() < 1 / (1 + math.exp(-0.3 - 1.5 * ease)))
        mean = -abs(float(rng.normal(0.5 - 0.2 * ease, 0.3)))
        features = {
            "logprob_mean": mean,
            "logprob_min": 3 * mean,
            "token_count": float(rng.integers(1, 60)),
            "answer_words": float(rng.integers(1, 60)),
            "p_true": 1 / (1 + math.exp(-1.5 * ease - float(rng.normal(0, 0.7)))),
        }
        found.append(Draft(features, right, float(rng.random() < 0.95)))
    return found


def scored(n: int, chance: str = "s", *, seed: int = 0) -> list[Draft]:
    """Drafts with one score s, even in (0, 1), that are right with a probability of `chance`."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        s = float(rng.random())
        p = {"s": s, "reversed": 1 - s, "luck": 0.6, "hopeless": 0.04, "always": 1.0}[chance]
        found.append(Draft({"s": s}, float(rng.random() < p)))
    return found


def made(labelled: Sequence[Draft], signals: Sequence[tuple[str, int]] = SIGNALS) -> Calibration:
    features, correct, large = zip(*labelled, strict=True)
    return calibrate(features, np.array(correct), np.array(large), signals, MADE_FOR)


@lru_cache
def usual() -> Calibration:
    """A calibration of 300 drafts, made once."""
    return made(drafts(300))
