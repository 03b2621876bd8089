"""The number that an answer ends in, compared with a tolerance."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from cascade.errors import InputError
from cascade.evaluation.scorers.base import Reference, texts_of

_DIGITS = r"(?:\d{1,3}(?:[,\u202f\u00a0 ]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+]\s?)?(?:[$€£]\s?)?(?P<second>-)?(?P<digits>{_DIGITS})"
    r"(?:\s?(?:[eE]|(?:\*|×|x|\\times)\s?10\s?\^\s?\{?)(?P<exponent>[-+]?\d+)\}?)?"
    r"(?:\s(?P<part>\d+/\d+)|\s?/\s?(?P<over>\d+(?:\.\d+)?)(?![\d/]))?"
    r"\s?(?P<unit>\\?%|percent\b|°?[a-zA-Zµμ]+(?:[²³]|\^[23])?)?"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+(?:\.\d+)?)\}\{(\d+(?:\.\d+)?)\}")
_STATED = re.compile(
    r"####(?P<hash>[^\n]*)|\\boxed\{(?P<boxed>[^{}]*)\}"
    r"|\b(?:answer|ans)\s*(?:is|:|=)(?P<words>[^\n]*)",
    re.IGNORECASE,
)
_NEAR = 24
"""Characters between "the answer is" and its number."""
_PERCENT = frozenset({"%", "\\%", "percent"})
_MULTIPLES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_UNITS = {
    "length": {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3, "inches": 0.0254, "ft": 0.3048},
    "mass": {"mg": 1e-6, "g": 1e-3, "kg": 1.0, "t": 1e3, "lb": 0.45359237},
    "time": {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "volume": {"ml": 1e-3, "l": 1.0},
}
_NAMES = {
    "meter": "m",
    "metre": "m",
    "kilometer": "km",
    "kilometre": "km",
    "centimeter": "cm",
    "centimetre": "cm",
    "inch": "inches",
    "foot": "ft",
    "feet": "ft",
    "gram": "g",
    "kilogram": "kg",
    "pound": "lb",
    "lbs": "lb",
    "second": "s",
    "sec": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "liter": "l",
    "litre": "l",
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it stood in a text, with the unit behind it (`%` for per cent)."""

    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class NumericScorer:
    """1 when the answer's number is the reference's within a tolerance.

    The answer's number is what follows `####`, stands in `\\boxed{}` or after the last "answer
    is", else the last number of the text. Thousands separators, currency signs, fractions
    (`3/4`, `1 1/2`), powers of ten and "million" are read. 50 % is 50 and 0.5. Lengths, masses,
    times and volumes are converted; another unit, or none, is not compared.

    Args:
        tolerance: how far they may be apart.
        relative: as a share of the reference, instead of in its unit.
    """

    tolerance: float = 1e-6
    relative: bool = True

    def __call__(self, answer: str, reference: Reference, question: str = "") -> float:
        """1 or 0.

        Raises:
            InputError: there is no number in the reference.
        """
        found = number_in(answer)
        wanted = [_required(text) for text in texts_of(reference, "numeric")]
        return float(found is not None and any(self._same(found, want) for want in wanted))

    def _same(self, found: Quantity, wanted: Quantity) -> bool:
        compared = _in_same_unit(found, wanted)
        return any(self._close(left, right) for left, right in compared)

    def _close(self, found: float, wanted: float) -> bool:
        if self.relative:
            return math.isclose(found, wanted, rel_tol=self.tolerance, abs_tol=1e-12)
        # 0.1 + 0.2 is 0.3 here: the edge of the tolerance belongs to it.
        return abs(found - wanted) <= self.tolerance * (1 + 1e-9) + 1e-12


def number_in(text: str) -> Quantity | None:
    """The number that an answer ends in, or None where there is none."""
    text = _LATEX_FRACTION.sub(r" \1/\2 ", text).replace("−", "-").replace("**", "")
    for stated in reversed(list(_STATED.finditer(text))):
        said = next(group for group in stated.groups() if group is not None).rpartition("=")[2]
        found = _numbers(said)
        # "Answer: First we buy …" begins the reasoning and states nothing yet.
        if found and re.search(r"\d", said[:_NEAR]):
            return found[0]
    found = _numbers(text)
    return found[-1] if found else None


def _required(text: str) -> Quantity:
    found = number_in(text)
    if found is None:
        raise InputError(f"there is no number in the reference {text!r}: use another scorer.")
    return found


def _numbers(text: str) -> list[Quantity]:
    found = (_quantity(match) for match in _NUMBER.finditer(text))
    return [quantity for quantity in found if quantity is not None]


def _quantity(match: re.Match[str]) -> Quantity | None:
    value = float(re.sub(r"[,\s]", "", match["digits"]))
    if match["exponent"]:
        try:
            value *= 10.0 ** int(match["exponent"])
        except OverflowError:
            return None
    for fraction, whole in ((match["part"], value), (match["over"], 0.0)):
        if fraction is None:
            continue
        top, _, bottom = fraction.rpartition("/")
        if float(bottom) == 0:
            return None
        value = whole + (float(top) if top else value) / float(bottom)
    unit = (match["unit"] or "").lower()
    value *= _MULTIPLES.get(unit, 1.0)
    negative = (match["sign"] or "").startswith("-") or match["second"] is not None
    return Quantity(-value if negative else value, _unit(unit))


def _unit(word: str) -> str:
    if word in _PERCENT:
        return "%"
    return _NAMES.get(word) or _NAMES.get(word.removesuffix("s")) or word


def _in_same_unit(found: Quantity, wanted: Quantity) -> list[tuple[float, float]]:
    """Pairs of numbers of which one has to agree."""
    pairs = [(found.value, wanted.value)]
    if (found.unit == "%") != (wanted.unit == "%"):
        return [*pairs, (_as_share(found), _as_share(wanted))]
    for factors in _UNITS.values():
        if found.unit in factors and wanted.unit in factors:
            return [(found.value * factors[found.unit], wanted.value * factors[wanted.unit])]
    return pairs


def _as_share(quantity: Quantity) -> float:
    return quantity.value / 100 if quantity.unit == "%" else quantity.value
