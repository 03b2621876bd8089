"""Numbers that users give: one way to read them, and one error."""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Real

from cascade.errors import ConfigurationError


def to_number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A number that a user gave, also as a `Decimal` or as text, within bounds of which `least` and
    `most` are allowed; `name` is that of the option, as `deadline` or `Tier.timeout_s`."""
    if not isinstance(value, bool) and isinstance(value, Real | Decimal | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and above < number < below and least <= number <= most:
            return number
    bounds = {"above": above, "no less than": least, "no more than": most, "below": below}
    told = ", ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    raise ConfigurationError(f"{_shown(name, value)}: give a number{' ' * bool(told)}{told}.")


def to_count(name: str, value: object, *, least: int = 1) -> int:
    """A whole number that a user gave."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{_shown(name, value)}: give a whole number, {least} or more.")
    return value


def _shown(name: str, value: object) -> str:
    owner, _, option = name.rpartition(".")
    return f"{owner}({option}={value!r})" if owner else f"{option}={value!r}"
