"""From a ledger to the traffic that it has seen: the best source of a fleet's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from cascade.errors import InputError
from cascade.fleet.inputs import Workload
from cascade.fleet.times import MeasuredTimes
from cascade.ledger.runs import ANSWERING
from cascade.state import LedgerEntry, Record

__all__ = ["Traffic", "traffic_of"]

HOUR_S = 3600
FEWEST_HOURS = 2.0
"""In less time the busiest hour is the mean."""

MOST_TIMES = 100_000
"""So many times of a model are kept; the earlier ones are as good as the later ones."""


class Traffic(Record):
    """What a ledger has seen.

    Attributes:
        runs: questions that a model answered, by a draft or by the large one.
        seconds: from the first to the last.
        workload: as it was: rate, peak (of the hours), escalation, times and tokens.
    """

    runs: int
    seconds: float
    workload: Workload


class _Seen:
    """What has been counted so far."""

    def __init__(self) -> None:
        self.drafted: set[str] = set()
        self.escalated: set[str] = set()
        self.audits = 0
        self.times: Mapping[bool, list[float]] = {False: [], True: []}
        self.tokens: Counter[str] = Counter()
        self.hours: Counter[int] = Counter()
        self.first: datetime | None = None
        self.last: datetime | None = None

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry; those of calls that gave no answer say nothing of a service time."""
        if entry.outcome != "ok" or entry.model is None:
            return
        if entry.node == "audit":
            self.audits += 1
        large = entry.node in ANSWERING
        if not large and entry.node != "draft":
            return
        if entry.run_id not in self.drafted and entry.run_id not in self.escalated:
            self.hours[int(entry.at.timestamp() // HOUR_S)] += 1
            self.first = entry.at if self.first is None else min(self.first, entry.at)
            self.last = entry.at if self.last is None else max(self.last, entry.at)
        (self.escalated if large else self.drafted).add(entry.run_id)
        if len(self.times[large]) < MOST_TIMES:
            self.times[large].append(entry.latency_ms)
        if entry.input_tokens is not None and entry.output_tokens is not None:
            kind = "large" if large else "small"
            self.tokens[f"{kind} n"] += 1
            self.tokens[f"{kind} in"] += entry.input_tokens
            self.tokens[f"{kind} out"] += entry.output_tokens

    def mean_tokens(self, kind: str, way: str) -> int | None:
        """Tokens of a call, on average; None where nobody told them."""
        n = self.tokens[f"{kind} n"]
        return round(self.tokens[f"{kind} {way}"] / n) if n else None


async def traffic_of(entries: AsyncIterator[LedgerEntry]) -> Traffic:
    """The traffic behind a ledger's entries, in any order.

    The times are those of calls as the gateway saw them: what a call waited for in a queue of the
    model's server is in them, so that they are taken best while it was not full.

    Raises:
        InputError: there are too few answers of either model to tell how long it takes.
    """
    seen = _Seen()
    async for entry in entries:
        seen.add(entry)
    runs = len(seen.drafted | seen.escalated)
    small, large = (seen.times[each] for each in (False, True))
    if not small or not large or seen.first is None or seen.last is None:
        raise InputError(
            f"the ledger has {len(small)} drafts and {len(large)} answers of the large model: give "
            "--small-s and --large-s, and the rest, instead of --ledger."
        )
    seconds = (seen.last - seen.first).total_seconds()
    if seconds <= 0:
        raise InputError("all answers of the ledger have the same time: give --rate, and the rest.")
    rate = runs / seconds
    enough = seconds >= FEWEST_HOURS * HOUR_S
    peak = max(seen.hours.values()) / HOUR_S / rate if enough else 1.0
    accepted = len(seen.drafted - seen.escalated)
    tokens: dict[str, Any] = {
        "input_tokens": seen.mean_tokens("small", "in"),
        "output_tokens": seen.mean_tokens("small", "out"),
        "large_output_tokens": seen.mean_tokens("large", "out"),
    }
    workload = Workload(
        rate=rate,
        peak=max(1.0, peak),
        escalation=len(seen.escalated) / runs,
        audited=min(1.0, seen.audits / accepted) if accepted else 0.0,
        small=MeasuredTimes.of_ms(small),
        large=MeasuredTimes.of_ms(large),
        **{name: value for name, value in tokens.items() if value is not None},
    )
    return Traffic(runs=runs, seconds=seconds, workload=workload)
