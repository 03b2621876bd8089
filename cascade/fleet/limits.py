"""Where one of each part ends: the rate that it carries, and by which law."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from cascade.fleet.inputs import Capacity, Workload
from cascade.fleet.laws import staffed, suffices
from cascade.state import Record

__all__ = ["Limit", "limits"]

CLOSE = 1e-6
"""Rates are searched to this fraction."""


class Limit(Record):
    """One part of the fleet.

    Attributes:
        part: what it is.
        law: why one of it carries no more.
        carries: requests a second that one carries.
        units: how many of it the busiest time needs.
        quota: whether it is somebody else's to give: more machines do not help.
    """

    part: str
    law: str
    carries: float
    units: int
    quota: bool = False


def limits(workload: Workload, capacity: Capacity) -> tuple[Limit, ...]:
    """The parts, the one that ends first at the head.

    All but the replicas of the small model are used to `capacity.busiest` of what they can do. How
    many replicas there are depends on the wait: they are one pool with one queue.
    """
    found = [*_gateway(workload, capacity), *_quotas(workload, capacity)]
    if capacity.replica_slots is not None:
        found.append(_replicas(workload, capacity, capacity.replica_slots))
    found += _database(workload, capacity, [limit for limit in found if "gateway" in limit.part])
    return tuple(sorted(found, key=lambda limit: limit.carries))


def _limit(
    part: str, law: str, carries: float, workload: Workload, *, quota: bool = False
) -> Limit:
    units = max(1, math.ceil(workload.busiest / carries - 1e-9))
    return Limit(part=part, law=law, carries=carries, units=units, quota=quota)


def _gateway(workload: Workload, capacity: Capacity) -> Iterator[Limit]:
    most = capacity.busiest
    yield _limit(
        "gateway, processor",
        "utilisation: ρ = λ·CPU of a request, one event loop",
        most * 1000 / capacity.gateway_cpu_ms,
        workload,
    )
    yield _limit(
        "gateway, places",
        "Little: L = λ·W within `concurrency`",
        most * capacity.gateway_concurrency / workload.request_s,
        workload,
    )
    if workload.asked_large:
        yield _limit(
            "gateway, large calls",
            "Little: L = λ·p·S within the bulkhead",
            most * capacity.large_places / (workload.asked_large * workload.large.mean_s),
            workload,
        )


def _quotas(workload: Workload, capacity: Capacity) -> Iterator[Limit]:
    tokens, calls = workload.large_tokens, workload.asked_large
    if capacity.tokens_per_minute is not None and tokens:
        carries = capacity.busiest * capacity.tokens_per_minute / 60 / tokens
        law = "quota: λ·p·(tokens in + out)·60"
        yield _limit("large model, tokens a minute", law, carries, workload, quota=True)
    if capacity.requests_per_minute is not None and calls:
        carries = capacity.busiest * capacity.requests_per_minute / 60 / calls
        yield _limit("large model, calls a minute", "quota: λ·p·60", carries, workload, quota=True)


def _replicas(workload: Workload, capacity: Capacity, slots: int) -> Limit:
    small, wanted = workload.small, _wanted(workload, capacity)
    needed = staffed(workload.busiest, small.mean_s, **wanted)
    return Limit(
        part="small model, slots",
        law="waiting: Erlang C, Allen–Cunneen, spare ∝ √load",
        carries=_carried(slots, small.mean_s, wanted),
        units=math.ceil(needed / slots),
    )


def _wanted(workload: Workload, capacity: Capacity) -> dict[str, float]:
    return {
        "cv": workload.small.cv,
        "wait_s": capacity.wait_s,
        "share": capacity.within,
        "busiest": capacity.busiest_slots,
    }


def _carried(slots: int, seconds: float, wanted: Mapping[str, float]) -> float:
    """The highest rate for which so many slots are enough."""
    low, high = 0.0, slots / seconds
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        if suffices(slots, middle, seconds, **wanted):
            low = middle
        else:
            high = middle
    return low or high


def _database(workload: Workload, capacity: Capacity, gateway: Sequence[Limit]) -> Iterator[Limit]:
    yield _limit(
        "database, rows",
        "utilisation: λ·rows of a request",
        capacity.busiest * capacity.database_rows_per_s / capacity.rows_per_request,
        workload,
    )
    processes = max(1, capacity.database_connections // capacity.gateway_connections)
    yield Limit(
        part="database, connections",
        law="pigeonholes: processes · connections",
        carries=processes * min(limit.carries for limit in gateway),
        units=math.ceil(max(limit.units for limit in gateway) / processes),
    )
