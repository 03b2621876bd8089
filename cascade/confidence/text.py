"""The topic of a prompt in few numbers: latent semantic analysis, learned without labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cascade.confidence.calibration import Array, Fitted

PROMPTS_PER_DIMENSION = 20

_WORD = re.compile(r"\b\w\w+\b")


class TextEncoder(Fitted):
    """Encoder of prompts as points in a latent space: TF-IDF over words, then a truncated SVD.

    Attributes:
        words: of each its inverse document frequency, then its coordinates.
        dimensions: of the space; 0 where the prompts that it was learned from share no words.
    """

    words: Mapping[str, tuple[float, ...]] = {}
    dimensions: int = 0

    def transform(self, prompts: Sequence[str]) -> Array:
        """One row per prompt; zeros for a prompt without a known word."""
        found = [
            Counter(word for word in _WORD.findall(prompt.lower()) if word in self.words)
            for prompt in prompts
        ]
        places = {word: at for at, word in enumerate({word for counts in found for word in counts})}
        table = np.array([self.words[word] for word in places])
        rows = np.zeros((len(prompts), self.dimensions))
        for row, counts in zip(rows, found, strict=True):
            if counts:
                known = table[[places[word] for word in counts]]
                tf_idf = (1 + np.log(list(counts.values()))) * known[:, 0]
                row[:] = (tf_idf / np.linalg.norm(tf_idf)) @ known[:, 1:]
        return rows


def fit_text_encoder(prompts: Sequence[str], *, dimensions: int = 50) -> TextEncoder:
    """Learn the space, of at most one dimension per `PROMPTS_PER_DIMENSION` prompts. Needs
    scikit-learn."""
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - heavy
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy

    vectoriser = TfidfVectorizer(
        sublinear_tf=True,
        min_df=3 if len(prompts) >= 1000 else 2,
        stop_words="english",
        max_features=8000,
    )
    try:
        table = vectoriser.fit_transform(prompts)
    except ValueError:  # no word is left
        return TextEncoder()
    size = min(dimensions, len(prompts) // PROMPTS_PER_DIMENSION, table.shape[1] - 1)
    if size < 1:
        return TextEncoder()
    svd: Any = TruncatedSVD(size, random_state=0).fit(table)
    rows = np.column_stack([vectoriser.idf_, svd.components_.T]).tolist()
    words = {word: tuple(rows[at]) for word, at in vectoriser.vocabulary_.items()}
    return TextEncoder(words=words, dimensions=size)
