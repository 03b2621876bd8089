"""Figures in words, and text in columns, for whatever shows them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal

NOTHING = Decimal("1e-12")
"""Less than this is the rounding of floats."""


def dollars(amount: Decimal | float | None) -> str:
    """Three significant digits, without powers of ten; `unknown` where nobody knows."""
    if amount is None:
        return "unknown"
    value = Decimal(str(amount))
    if abs(value) < NOTHING:
        value = Decimal(0)
    sign = "−" if value < 0 else ""
    places = max(2, 2 - value.adjusted()) if value else 2
    return f"{sign}${abs(value):,.{places}f}"


def percent(share: float, digits: int = 1) -> str:
    """`73.8 %`."""
    return f"{share * 100:.{digits}f} %".replace("-", "−")


def counted(n: int, what: str) -> str:
    """`1 audit`, `2,000 audits`."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def printable(text: str) -> str:
    """The text without what could steer a terminal; lines stay lines."""
    return "".join(
        c
        if c == "\n" or not unicodedata.category(c).startswith("C")
        else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = ()
) -> str:
    """Columns as wide as they must be, the first to the left.

    Args:
        heads: the first line.
        rows: the others.
        left: further columns, from 0, whose cells stand to the left.
    """
    lines = [heads, *rows]
    wide = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 or i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, wide, strict=True))
        ).rstrip()
        for line in lines
    )
