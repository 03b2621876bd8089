"""When two answers are the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Context, Decimal

Normaliser = Callable[[str], str]
"""Maps answers that mean the same to the same string."""

_FINAL = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*(.+)", re.IGNORECASE)
_NOISE = re.compile(r"[^\w\s.%+-]")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """The answer without case, punctuation, articles and the words around it.

    Takes what follows the last "answer is" or "answer:", else the whole text; a number loses its
    thousands separators and trailing zeros. Made for short answers; longer ones need semantic
    agreement.
    """
    stated = _FINAL.findall(text)
    answer = (stated[-1] if stated else text).strip().casefold()
    words = _NOISE.sub(" ", re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer))
    answer = _tidy(_ARTICLE.sub(" ", words)) or _tidy(words)  # "A" alone is an option
    return _number(answer) or answer


def _tidy(words: str) -> str:
    return re.sub(r"^[. ]+(?!\d)", "", " ".join(words.split()).rstrip(". "))


def _number(answer: str) -> str | None:
    """A number with all its digits: two long ones that differ in the last are two answers."""
    if not _NUMBER.fullmatch(answer):
        return None
    number = Decimal(answer)
    # The default context would round it to 28 digits.
    return f"{number.normalize(Context(prec=len(answer))):f}" if number else "0"
