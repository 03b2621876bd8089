"""A router before the draft: the expected gain from the question alone.

RouteLLM's idea (arXiv 2406.18665) in this package's terms: the gain head on features that are
known before anything is drafted. Give it as `Cascade(router=…)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from langchain_core.messages import BaseMessage
from pydantic import ValidationError, model_validator

from cascade.confidence.calibrators import Fitted, GainHead
from cascade.confidence.fitting import cross_fitted_gain, fit_gain
from cascade.confidence.free import prompt_features
from cascade.confidence.metrics import Array
from cascade.confidence.text import TextEncoder, fit_text_encoder
from cascade.errors import ConfigurationError

MARK_SPREAD, TOPIC_SPREAD = 0.7, 0.3
"""Prior scales of prompt marks and topics: topics are many and weak."""


class PromptRouter(Fitted):
    """Sends questions straight to the large tier when drafting promises too little.

    Attributes:
        text: learned from unlabelled questions.
        gain: predicts p_L − p_S.
        threshold: skip the draft above this gain.
        large: name of the tier to skip to.
    """

    text: TextEncoder
    gain: GainHead
    threshold: float
    large: str = "large"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gain.width > len(prompt_features("")) + self.text.dimensions:
            raise ValueError("the gain head reads columns that are not there")
        return self

    def __call__(self, messages: Sequence[BaseMessage]) -> str | None:
        """The tier that answers first; None drafts as usual."""
        gain = float(self.predict([str(messages[-1].text)])[0])
        return self.large if gain > self.threshold else None

    def predict(self, questions: Sequence[str]) -> Array:
        """Expected gain per question, (n,)."""
        return self.gain.predict(_features(questions, self.text))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(self.model_dump_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PromptRouter:
        """Read it.

        Raises:
            ConfigurationError: there is no such file, or it is no router.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is no router of this version.") from error


def fit_prompt_router(
    questions: Sequence[str],
    small: Array,
    large: Array,
    *,
    large_share: float | None = None,
    least_gain: float | None = None,
    tier: str = "large",
) -> PromptRouter:
    """Learn a router from questions that both models answered; needs scikit-learn.

    Args:
        questions: texts.
        small: (n,) correctness of the small model, 0 to 1.
        large: (n,) correctness of the large model.
        large_share: share of questions that go straight to the large tier; the threshold is the
            quantile of cross-fitted gains.
        least_gain: or the threshold itself, as (c_L − c_S)/λ of the economic rule.
        tier: name of the large tier.

    Raises:
        ConfigurationError: not exactly one of `large_share` and `least_gain` was given, or a
            share that is none.
    """
    if (large_share is None) == (least_gain is None):
        raise ConfigurationError("give either large_share or least_gain.")
    if large_share is not None and not 0.0 <= large_share <= 1.0:
        raise ConfigurationError(f"large_share={large_share}: a share is between 0 and 1.")
    text = fit_text_encoder(questions)
    features = _features(questions, text)
    marks = features.shape[1] - text.dimensions
    spread = np.array([MARK_SPREAD] * marks + [TOPIC_SPREAD] * text.dimensions)
    if least_gain is None:
        seen = cross_fitted_gain(features, small, large, scored=False, spread=spread)
        least_gain = float(np.quantile(seen, 1.0 - float(large_share or 0.0)))
    gain = fit_gain(features, small, large, scored=False, spread=spread)
    return PromptRouter(text=text, gain=gain, threshold=least_gain, large=tier)


def _features(questions: Sequence[str], text: TextEncoder) -> Array:
    marks = np.log1p([list(prompt_features(question).values()) for question in questions])
    if not text.dimensions:
        return np.asarray(marks, dtype=np.float64)
    return np.hstack([marks, text.transform(questions)])
