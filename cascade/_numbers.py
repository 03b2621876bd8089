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
    """A number that a user gave, also as a `Decimal` or as text.

    Args:
        name: of the option, for the error, as `deadline` or `Tier.timeout_s`.
        value: what was given.
        above: it has to be larger than this.
        least: no less than this.
        most: no more than this.
        below: it has to be smaller than this.

    Raises:
        ConfigurationError: it is no number, or none within the bounds.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, Real | Decimal | str):
            raise ValueError(value)
        number = float(value)
        if not (math.isfinite(number) and above < number < below and least <= number <= most):
            raise ValueError(value)
    except ValueError:
        bounds = _bounds(above, least, most, below)
        raise ConfigurationError(f"{_shown(name, value)}: give a number{bounds}.") from None
    return number


def to_count(name: str, value: object, *, least: int = 1) -> int:
    """A whole number that a user gave.

    Raises:
        ConfigurationError: it is none, or smaller than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{_shown(name, value)}: give a whole number, {least} or more.")
    return value


def _shown(name: str, value: object) -> str:
    owner, _, option = name.rpartition(".")
    return f"{owner}({option}={value!r})" if owner else f"{option}={value!r}"


def _bounds(above: float, least: float, most: float, below: float) -> str:
    upper = f"up to {most:g}" if most < math.inf else f"below {below:g}" if below < math.inf else ""
    if above > -math.inf:
        return f" above {above:g}" + (f", {upper}" if upper else "")
    if least > -math.inf:
        return f" from {least:g} {upper}" if upper else f", {least:g} or more"
    return ""
