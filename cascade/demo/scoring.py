"""Whether an answer is right: read what it says, then compare with what is accepted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_LEAD = re.compile(r".*(?:=|:|\b(?:is|are|equals)\b)", re.IGNORECASE)
_TAIL = re.compile(r"\b(?:does|do) not\b|\bdoesn't\b|[,;.]\s|\s\(|\bor\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?")
_EDGES = " \t\"'“”‘’«»`*_.,;:!?()"
_ARTICLES = ("the ", "a ", "an ")


def is_right(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer says one of the accepted things.

    An accepted number is compared as a number; everything else word for word, without regard to
    case, quotation marks, articles, and the sentence around it.
    """
    return any(_says(answer, right) for right in accepted)


def said(answer: str) -> str:
    """What an answer says, without the sentence around it: `It is Rome.` → `rome`."""
    line = _first_line(answer)
    lead = _LEAD.match(line)
    return _bare(_TAIL.split(line[lead.end() :] if lead else line)[0])


def number_said(answer: str) -> Decimal | None:
    """The number that an answer gives: the first after the last `=` or `is`, else the first."""
    line = _first_line(answer)
    lead = _LEAD.match(line)
    found = _NUMBER.search(line, lead.end() if lead else 0)
    return _to_number(found.group()) if found else None


def _says(answer: str, right: str) -> bool:
    if _NUMBER.fullmatch(right):
        return number_said(answer) == _to_number(right)
    return said(answer) == _bare(right)


def _first_line(answer: str) -> str:
    return answer.strip().partition("\n")[0]


def _bare(text: str) -> str:
    word = text.strip(_EDGES).casefold()
    for article in _ARTICLES:
        word = word.removeprefix(article)
    return word.strip(_EDGES)


def _to_number(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("−", "-"))
