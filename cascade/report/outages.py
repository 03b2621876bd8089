"""What outages and pressure did to the requests of a period, and what outages cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from cascade._words import counted, dollars
from cascade.ledger.amounts import EXACT
from cascade.ledger.runs import STAND_IN
from cascade.report.reading import Row
from cascade.report.records import FellBack, Figures, Outage, Shed
from cascade.report.sums import NOTHING


def outages(rows: Sequence[Row]) -> tuple[Outage, ...]:
    """Runs that a larger tier drafted or answered because the one that was to was down."""
    hit: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.down is not None and row.outcome in ("accepted", "escalated"):
            hit[row.down].append(row)
    usual = [
        row
        for row in rows
        if row.down is None and row.drafted and row.outcome in ("accepted", "escalated")
    ]
    each = float(_paid(usual)) / len(usual) if usual else None
    return tuple(
        Outage(
            tier=tier,
            runs=len(there),
            cost_usd=_paid(there),
            unpriced=sum(row.unpriced_calls for row in there),
            extra_usd=None if each is None else float(_paid(there)) - each * len(there),
        )
        for tier, there in sorted(hit.items())
    )


def fell_back(rows: Sequence[Row]) -> tuple[FellBack, ...]:
    """Runs by the step of the fallback that led on."""
    steps: defaultdict[tuple[str, str], list[tuple[Row, float]]] = defaultdict(list)
    for row in rows:
        if row.fell is not None:
            step, tier, seconds = row.fell
            steps[step, tier].append((row, seconds))
    return tuple(
        FellBack(
            step=step,
            tier=tier,
            runs=len(there),
            cost_usd=_paid([row for row, _ in there]),
            seconds=sum(seconds for _, seconds in there) / len(there),
        )
        for (step, tier), there in sorted(steps.items())
    )


def shed(rows: Sequence[Row]) -> tuple[Shed, ...]:
    """What was left out under pressure, and how often."""
    times = Counter(kind for row in rows for kind in row.shed)
    return tuple(Shed(kind=kind, times=n) for kind, n in sorted(times.items()))


def bad_times(rows: Sequence[Row]) -> dict[str, Any]:
    """What a report says of all that, by the names of its fields."""
    return {"outages": outages(rows), "fell_back": fell_back(rows), "shed": shed(rows)}


def trouble(found: Figures) -> list[str]:
    """All of that in sentences."""
    return [
        *(_outage(each) for each in found.outages),
        *(_STEPS[each.step](each) for each in found.fell_back if each.step in _STEPS),
        *(f"{_SHED[each.kind]}: {each.times:,}" for each in found.shed if each.kind in _SHED),
    ]


def _outage(found: Outage) -> str:
    open_end = "+?" if found.unpriced else ""
    said = (
        f"escalated because {found.tier} was down: {counted(found.runs, 'run')}, "
        f"{dollars(found.cost_usd)}{open_end}"
    )
    if found.extra_usd is None:
        return f"{said}; no run was drafted to compare with"
    return f"{said}; estimated {dollars(found.extra_usd)} more than as many drafted runs"


def _fell(found: FellBack, what: str) -> str:
    return f"{what}: {counted(found.runs, 'run')}, {dollars(found.cost_usd)}"


_STEPS: dict[str, Callable[[FellBack], str]] = {
    STAND_IN: lambda f: _fell(f, f"{f.tier} answered as the large model was down"),
    "draft": lambda f: _fell(f, f"a draft was returned as {f.tier} was down"),
    "queue": lambda f: _fell(f, f"waited for {f.tier}, {f.seconds:.1f} s on average"),
    "ask": lambda f: _fell(f, f"a person was asked as {f.tier} was down"),
}

_SHED = {
    "audit": "accepted drafts whose chance of an audit was lowered under pressure",
    "shadow": "shadow drafts that were not made under pressure",
    "signal": "decisions that were made without a paid signal under pressure",
}


def _paid(rows: Sequence[Row]) -> Decimal:
    total = NOTHING
    for row in rows:
        total = EXACT.add(total, row.paid)
    return total
