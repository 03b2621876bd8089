"""When two answers are the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable

Normaliser = Callable[[str], str]
"""Maps answers that mean the same to the same string."""

_FINAL = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*(.+)", re.IGNORECASE)
_NOISE = re.compile(r"[^\w\s.%+-]")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """The answer without case, punctuation, articles and the words around it.

    Takes what follows the last "answer is" or "answer:", else the whole text; a number loses its
    thousands separators and trailing zeros. Made for short answers; longer ones need semantic
    agreement.
    """
    stated = _FINAL.findall(text)
    answer = (stated[-1] if stated else text).strip().casefold()
    answer = re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer)
    answer = _ARTICLE.sub(" ", _NOISE.sub(" ", answer))
    answer = " ".join(answer.split()).strip(". ")
    try:
        return f"{float(answer):g}"
    except ValueError:
        return answer
