"""The topic of a prompt in few numbers: TF-IDF over words, then a truncated SVD.

Latent semantic analysis, learned from unlabelled prompts; applying needs numpy alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cascade.confidence.calibrators import Numbers
from cascade.confidence.metrics import Array, Kept
from cascade.state import Record

MAX_WORDS = 8000
PROMPTS_PER_DIMENSION = 20
MANY_PROMPTS = 1000
"""From here on a word must stand in three prompts, below in two."""

_WORD = re.compile(r"\b\w\w+\b")


class TextEncoder(Record):
    """Prompts → points in a latent space, (n, dimensions)."""

    vocabulary: dict[str, int]
    weights: Numbers
    components: tuple[Numbers, ...]

    @property
    def dimensions(self) -> int:
        """Of the latent space."""
        return len(self.components[0]) if self.components else 0

    @cached_property
    def _kept(self) -> Kept:
        return Kept((np.array(self.weights), np.array(self.components)))

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
