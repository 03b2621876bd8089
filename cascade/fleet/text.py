"""Fleets in plain words: a column for each rate, and the law by which each part ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from cascade._words import percent, table
from cascade.fleet.laws import in_system
from cascade.fleet.limits import Limit
from cascade.fleet.needs import Bill, Needs

if TYPE_CHECKING:
    from cascade.fleet.simulation import Simulated

__all__ = ["laws_text", "needs_text", "simulated_text", "verdict"]

Row = tuple[str, Callable[[Needs], str]]


def verdict(found: Needs) -> str:
    """What ends first, and whether it pays, in a few sentences."""
    first, rate = found.first, found.workload.busiest
    if first.units == 1:
        said = [f"One of each carries {_rate(rate)}: {first.part} ends first, at {_at(first)}."]
    else:
        said = [f"{_capital(first.part)} ends first: one carries {_at(first)} ({first.law})."]
    quota = found.first_quota
    if quota is not None and quota.units > 1:
        said.append(
            f"No machine helps with {quota.part}: the quota ends at {_at(quota)}, and "
            f"{quota.units:,} times as much is needed."
        )
    bill = found.bill
    if bill is not None and bill.saved_usd > 0:
        share = bill.saved_usd / bill.large_alone_usd
        said.append(f"It saves {_usd(bill.saved_usd)} a month, {percent(float(share))}.")
    elif bill is not None:
        said.append(
            f"It loses {_usd(-bill.saved_usd)} a month: the large model alone is cheaper. Switch "
            "it off, or accept more drafts with less machine."
        )
    if bill is not None and bill.unpriced:
        said.append(f"Without a price, and in no figure: {', '.join(bill.unpriced)}.")
    return " ".join(said)


def needs_text(fleets: Sequence[Needs]) -> str:
    """What each needs, costs and saves, side by side."""
    rows = [row for row in _ROWS if any(row[1](found) for found in fleets)]
    if any(found.bill is not None for found in fleets):
        rows += _BILL
    first, *others = [(name, *(shown(found) for found in fleets)) for name, shown in rows]
    return table(first, others)


def laws_text(fleets: Sequence[Needs]) -> str:
    """What one of each part carries, the first that ends at the head, how many of it each fleet
    needs, and by which law.

    Args:
        fleets: of one workload and one capacity, at several rates.
    """
    needed = [f"at {_figure(found.workload.rate)}/s" for found in fleets]
    rows = [
        (
            limit.part,
            _figure(limit.carries),
            *(_units(found, limit.part) for found in fleets),
            limit.law,
        )
        for limit in fleets[0].limits
    ]
    heads = ("one of", "carries/s", *needed, "law")
    return table(heads, rows, left=(len(heads) - 1,))


def simulated_text(found: Needs, simulated: Simulated) -> str:
    """A simulation beside the formulas, where there are any."""
    refused = simulated.refused + simulated.failed
    wait_s = "" if found.small_wait_s is None else _ms(found.small_wait_s[1])
    busy = "" if found.small_busy is None else percent(found.small_busy)
    simulated_busy = "" if simulated.small_busy is None else percent(simulated.small_busy)
    arrived = simulated.arrived
    rows = [
        ("requests", ["", f"{arrived:,}"]),
        ("answered/s", [_figure(found.workload.busiest), _figure(simulated.per_second)]),
        ("refused or failed", [percent(0), percent(refused / arrived)]),
        ("answered by a draft for want of a place", ["", percent(simulated.degraded / arrived)]),
        ("no place at the small model", ["", percent(simulated.shed / arrived)]),
        ("calls to the large model", [percent(found.workload.escalation), _asked(simulated)]),
        ("gateways busy", [percent(found.gateway_busy), percent(simulated.gateway_busy)]),
        ("slots busy", [busy, simulated_busy]),
        ("wait for a slot, p99", [wait_s, _ms(simulated.small_wait_p99_s)]),
        ("large calls at a time", [_escalations(found), _figure(simulated.large_in_flight)]),
        ("the most of them", ["", f"{simulated.large_in_flight_most:,}"]),
        ("answer, mean", [_ms(found.workload.request_s), _ms(simulated.mean_s)]),
        ("answer, p50", ["", _ms(simulated.p50_s)]),
        ("answer, p99", ["", _ms(simulated.p99_s)]),
    ]
    shown = [(name, *cells) for name, cells in rows if any(cells)]
    return table(("", "formulas", "simulated"), shown)


def _asked(simulated: Simulated) -> str:
    return percent(simulated.escalated / simulated.arrived)


def _escalations(found: Needs) -> str:
    workload = found.workload
    return _figure(in_system(workload.busiest * workload.escalation, workload.large.mean_s))


def _units(found: Needs, part: str) -> str:
    return f"{next(limit.units for limit in found.limits if limit.part == part):,}"


def _at(limit: Limit) -> str:
    return f"{_figure(limit.carries)} requests/s"


def _rate(rate: float) -> str:
    return f"{_figure(rate)} requests/s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _figure(value: float) -> str:
    """Three digits, and no more than are known."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{digits}f}"


def _usd(amount: Decimal) -> str:
    sign = "-" if amount < 0 else ""
    return f"{sign}${abs(amount):,.{0 if abs(amount) >= 100 else 2}f}"


def _ms(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{1000 * seconds:,.0f} ms"


def _wait(found: Needs, which: int) -> str:
    return "" if found.small_wait_s is None else _ms(found.small_wait_s[which])


_ROWS: list[Row] = [
    ("requests/s, mean", lambda found: _figure(found.workload.rate)),
    ("requests/s, busiest", lambda found: _figure(found.workload.busiest)),
    ("gateway processes", lambda found: f"{found.gateways:,}"),
    ("their event loops busy", lambda found: percent(found.gateway_busy)),
    ("at the small model at a time", lambda found: _figure(found.small_in_flight)),
    ("replicas of it", lambda found: "" if found.replicas is None else f"{found.replicas:,}"),
    (
        "their slots busy",
        lambda found: "" if found.small_busy is None else percent(found.small_busy),
    ),
    ("wait for a slot, p50", lambda found: _wait(found, 0)),
    ("wait for a slot, p99", lambda found: _wait(found, 1)),
    ("large calls at a time", lambda found: _figure(found.large_in_flight)),
    ("large tokens a minute", lambda found: _figure(found.large_tokens_per_minute)),
    ("ledger, rows/s", lambda found: _figure(found.rows_per_s)),
    ("databases", lambda found: f"{found.databases:,}"),
    ("ledger, GB a day", lambda found: _figure(found.gigabytes_per_day)),
    ("ends first, of one each", lambda found: found.first.part),
    ("at requests/s", lambda found: _figure(found.first.carries)),
]


def _bill_row(name: str, amount: Callable[[Bill], Decimal]) -> Row:
    return f"{name} a month", lambda found: "" if found.bill is None else _usd(amount(found.bill))


_BILL: list[Row] = [
    _bill_row("large alone", lambda bill: bill.large_alone_usd),
    _bill_row("large calls", lambda bill: bill.large_usd),
    _bill_row("small model", lambda bill: bill.small_usd),
    _bill_row("the rest", lambda bill: bill.rest_usd),
    _bill_row("cascade", lambda bill: bill.cascade_usd),
    _bill_row("saved", lambda bill: bill.saved_usd),
]
