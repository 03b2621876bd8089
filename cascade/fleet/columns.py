"""Tables of a fleet as plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["columns"]


def columns(rows: Sequence[tuple[str, Sequence[str]]], *, left: Collection[int] = ()) -> str:
    """Names to the left and figures to the right, each column as wide as it has to be.

    Args:
        rows: a name and its cells.
        left: columns, from 1, whose cells stand to the left.
    """
    cells = [[name, *given] for name, given in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    to_left = {0, *left}
    lines = [
        "  ".join(
            cell.ljust(width) if n in to_left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
