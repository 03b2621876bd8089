"""Scorers that compare texts: the same answer, or an answer that contains it."""

from __future__ import annotations

import re

from cascade.confidence.answers import normalise
from cascade.evaluation.scorers.base import Reference, texts_of


def exact(answer: str, reference: Reference, question: str = "") -> float:
    """1 when the answer means the same as the reference, or as one of a list of them.

    Case, punctuation, articles and the words around the answer do not count
    (`cascade.confidence.answers.normalise`).
    """
    return float(any(_same(answer, text) for text in texts_of(reference, "exact")))


def _same(answer: str, text: str) -> bool:
    left, right = normalise(answer), normalise(text)
    if left and right:
        return left == right
    # Nothing is left of "A" or "+" without articles and punctuation.
    return _plain(answer) == _plain(text)


def contains_any(answer: str, reference: Reference, question: str = "") -> float:
    """1 when the reference stands in the answer as whole words; of a list, any of them."""
    return float(any(_holds(answer, text) for text in texts_of(reference, "contains")))


def contains_all(answer: str, reference: Reference, question: str = "") -> float:
    """The share of the references that stand in the answer as whole words."""
    texts = texts_of(reference, "contains:all")
    return sum(_holds(answer, text) for text in texts) / len(texts)


def _holds(answer: str, text: str) -> bool:
    found = re.search(rf"(?<!\w){re.escape(_plain(text))}(?!\w)", _plain(answer))
    return found is not None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
