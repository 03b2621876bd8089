"""The topic of a prompt in few numbers: TF-IDF over words, then a truncated SVD.

Latent semantic analysis, learned from unlabelled prompts. Applying needs numpy alone; fitting needs
scikit-learn.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Self

import numpy as np
from pydantic import NonNegativeInt, model_validator

from cascade.confidence.calibrators import Fitted, Numbers
from cascade.confidence.metrics import Array

MAX_WORDS = 8000
PROMPTS_PER_DIMENSION = 20
MANY_PROMPTS = 1000
"""From here on a word must stand in three prompts, below in two."""

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
