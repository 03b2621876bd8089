"""A router before the draft: the expected gain from the question alone.

RouteLLM's idea (arXiv 2406.18665) in this package's terms: the gain head on features that are
known before anything is drafted, marks of the prompt and its topic in few numbers (TF-IDF over
words, then a truncated SVD, learned from unlabelled prompts). Give it as `Cascade(router=…)`.
Applying needs numpy alone; fitting needs scikit-learn.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from langchain_core.messages import BaseMessage
from pydantic import NonNegativeInt, ValidationError, model_validator

from cascade.confidence.calibrators import Fitted, GainHead, Numbers
from cascade.confidence.fitting import cross_fitted_gain, fit_gain
from cascade.confidence.free import prompt_features
from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError

MAX_WORDS = 8000
PROMPTS_PER_DIMENSION = 20
MANY_PROMPTS = 1000
"""From here on a word must stand in three prompts, below in two."""

MARK_SPREAD, TOPIC_SPREAD = 0.7, 0.3
"""Prior scales of prompt marks and topics: topics are many and weak."""

_WORD = re.compile(r"\b\w\w+\b")


class _Arrays:
    """Arrays beside the fields of a record. They are equal to themselves only, so that records
    compare by their fields, where arrays would raise."""

    def __init__(self, *arrays: Array) -> None:
        self.arrays = arrays


class TextEncoder(Fitted):
    """Prompts → points in a latent space, (n, dimensions).

    Attributes:
        vocabulary: row of each word in `weights` and `components`.
        weights: inverse document frequency per word.
        components: coordinates per word.
    """

    vocabulary: dict[str, NonNegativeInt]
    weights: Numbers
    components: tuple[Numbers, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({len(row) for row in self.components}) > 1:
            raise ValueError("the components are of different lengths")
        rows = max(self.vocabulary.values(), default=-1) + 1
        if not rows <= min(len(self.weights), len(self.components)):
            raise ValueError("there are words without a weight or components")
        return self

    @property
    def dimensions(self) -> int:
        """Of the latent space."""
        return len(self.components[0]) if self.components else 0

    @cached_property
    def _kept(self) -> _Arrays:
        return _Arrays(np.array(self.weights), np.array(self.components))

    def transform(self, prompts: Sequence[str]) -> Array:
        """One row per prompt; zeros for a prompt without a known word."""
        weights, components = self._kept.arrays
        rows = np.zeros((len(prompts), self.dimensions))
        for row, prompt in zip(rows, prompts, strict=True):
            words = (word for word in _WORD.findall(prompt.lower()) if word in self.vocabulary)
            counts = Counter(words)
            if counts:
                index = np.array([self.vocabulary[word] for word in counts])
                tf_idf = (1 + np.log(np.array(list(counts.values())))) * weights[index]
                row[:] = (tf_idf / np.linalg.norm(tf_idf)) @ components[index]
        return rows


def fit_text_encoder(prompts: Sequence[str], *, dimensions: int = 50) -> TextEncoder:
    """Learn the space from prompts; labels are not needed. Needs scikit-learn.

    It has at most one dimension per `PROMPTS_PER_DIMENSION` prompts, and none when the prompts
    share no words.
    """
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - heavy
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy

    vectoriser = TfidfVectorizer(
        sublinear_tf=True,
        min_df=3 if len(prompts) >= MANY_PROMPTS else 2,
        stop_words="english",
        max_features=MAX_WORDS,
    )
    try:
        matrix = vectoriser.fit_transform(prompts)
    except ValueError:  # no word is left
        return TextEncoder(vocabulary={}, weights=(), components=())
    size = min(dimensions, len(prompts) // PROMPTS_PER_DIMENSION, matrix.shape[1] - 1)
    if size < 1:
        return TextEncoder(vocabulary={}, weights=(), components=())
    svd = TruncatedSVD(size, random_state=0).fit(matrix)
    return TextEncoder(
        vocabulary={word: int(at) for word, at in vectoriser.vocabulary_.items()},
        weights=tuple(vectoriser.idf_.tolist()),
        components=tuple(tuple(row) for row in np.asarray(svd.components_).T.tolist()),
    )


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
