"""Draws docs/images/floors.svg: the units of the package on their floors, and who imports whom.

An import that follows from others is left out: `cli → api → models` also says `cli → models`.
"""

from __future__ import annotations

from collections import defaultdict

import floors

WIDTH, HIGH, APART = 900, 26, 54
GREY, GREEN = "#78909c", "#2e7d5b"
Place = tuple[float, float]
Places = dict[str, Place]


def imports() -> dict[str, set[str]]:
    """What each unit imports when it runs; helpers, whose names begin with `_`, are left out."""
    known = {unit for units in floors.FLOORS for unit in units if not unit.startswith("_")}
    found: dict[str, set[str]] = defaultdict(set)
    for item in floors.imports():
        upper, lower = item.units
        upwards = item.when_called and item.units in floors.UPWARD_WHEN_CALLED
        if {upper, lower} <= known and upper != lower and not item.for_types and not upwards:
            found[upper].add(lower)
    return found


def needed(joins: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports from which all others follow."""

    def below(unit: str) -> set[str]:
        return joins.get(unit, set()).union(*(below(each) for each in joins.get(unit, ())))

    return sorted(
        (upper, lower)
        for upper, lowers in joins.items()
        for lower in lowers
        if not any(lower in below(other) for other in lowers - {lower})
    )


def house() -> str:
    """The picture."""
    joins = imports()
    ways = needed(joins)
    places, height = _places(sorted({unit for way in ways for unit in way} | set(joins)))
    label = "Floors and imports: " + ", ".join(f"{upper} imports {lower}" for upper, lower in ways)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="{label}" font-family="sans-serif" font-size="13" fill="{GREY}">'
    ]
    lines += [_way(places[upper], places[lower]) for upper, lower in ways]
    for unit, (x, y) in places.items():
        wide = _wide(unit)
        lines.append(
            f'<rect x="{x - wide / 2:.0f}" y="{y - HIGH / 2:.0f}" width="{wide}" height="{HIGH}"'
            f' rx="6" fill="none" stroke="{GREY}"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{unit}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _way(start: Place, end: Place) -> str:
    """From under one box to the top of another; to a neighbour's in a bow below both."""
    (x1, y1), (x2, y2) = start, end
    y1 += HIGH / 2
    y2, bent = (y2 - HIGH / 2, (y1 + y2 - HIGH / 2) / 2) if y2 > y1 else (y1, y1 + APART)
    return (
        f'<path d="M{x1:.0f} {y1:.0f}Q{(x1 + x2) / 2:.0f} {bent:.0f} {x2:.0f} {y2:.0f}"'
        f' fill="none" stroke="{GREEN}" stroke-opacity="0.55"/>'
    )


def _places(units: list[str]) -> tuple[Places, int]:
    """The middle of each unit's box, floor by floor, and the height of all."""
    places: Places = {}
    y = HIGH
    for floor in floors.FLOORS:
        row = [unit for unit in floor if unit in units]
        gap = (WIDTH - sum(map(_wide, row))) / (len(row) + 1)
        x = gap
        for unit in row:
            places[unit] = (x + _wide(unit) / 2, y)
            x += _wide(unit) + gap
        y += APART if row else 0
    return places, y


def _wide(unit: str) -> int:
    return 8 * len(unit) + 16
