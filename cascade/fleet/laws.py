"""The laws of queues: what arrives, what is served, and how long it waits between.

A load is in Erlangs: requests a second times the seconds of one, which is how many are served at
a time on average. Servers are what serves one request at a time: a slot of a small model, the
event loop of a gateway, a place under a bulkhead.
"""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = [
    "delay_in_large_pools",
    "erlang_b",
    "erlang_c",
    "in_system",
    "mean_wait",
    "staffed",
    "suffices",
    "wait_quantile",
    "waits_longer",
]

LARGE_LOAD = 1e6
"""Erlangs from which on the limit is near enough (by 1/√a), and the sum takes seconds."""

_NORMAL = NormalDist()


def in_system(rate: float, seconds: float) -> float:
    """Little's law, L = λ·W: how many are under way at a time, on average.

    It needs no distribution and no independence: Little, "A Proof for the Queuing Formula L = λW",
    Operations Research 9(3), 1961.

    Args:
        rate: requests a second.
        seconds: that one of them takes.
    """
    return rate * seconds


def erlang_b(load: float, servers: int) -> float:
    """Share of requests that find all servers busy and are lost (M/G/c/c), in [0, 1].

    The recursion B(k) = a·B(k−1) / (k + a·B(k−1)), B(0) = 1, which is stable for any size:
    Kleinrock, "Queueing Systems", volume 1, 1975, section 3.6.

    Args:
        load: a, in Erlangs.
        servers: c, 0 or more.
    """
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def erlang_c(load: float, servers: int) -> float:
    """Share of requests that have to wait (M/M/c), 1 where the servers cannot keep up.

    C = B / (1 − ρ·(1 − B)) with ρ = a/c and Erlang's B (Kleinrock, section 3.5); above `LARGE_LOAD`
    its limit, `delay_in_large_pools`.
    """
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    if load > LARGE_LOAD:
        return delay_in_large_pools((servers - load) / math.sqrt(load))
    blocked = erlang_b(load, servers)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(rate: float, seconds: float, servers: int, *, cv: float = 1.0) -> float:
    """Mean seconds in the queue of requests that arrive at random (M/G/c); infinite from a load of
    one per server on.

    Allen and Cunneen: W = C(c, a)·S / (c − a) · (1 + cv²) / 2 (Allen, "Probability, Statistics and
    Queueing Theory", 1990, section 5.3). Exact for M/M/c, and for one server, where it is the
    formula of Pollaczek and Khinchine; an approximation between.

    Args:
        rate: λ, requests a second.
        seconds: S, mean service time.
        servers: c.
        cv: standard deviation of the service time over its mean.
    """
    load = in_system(rate, seconds)
    if load >= servers:
        return math.inf
    return erlang_c(load, servers) * _wait_of_delayed(load, seconds, servers, cv)


def _wait_of_delayed(load: float, seconds: float, servers: int, cv: float) -> float:
    """Mean wait of those that wait at all."""
    return seconds / (servers - load) * (1 + cv**2) / 2


def waits_longer(
    than_s: float, rate: float, seconds: float, servers: int, *, cv: float = 1.0
) -> float:
    """Share of requests that wait longer than this, in [0, 1].

    P(W > t) ≈ C·exp(−t / E[W | W > 0]): exact for M/M/c, and for other service times the
    exponential tail with the mean of `mean_wait` (Whitt, "Approximations for the GI/G/m Queue",
    Production and Operations Management 2(2), 1993).
    """
    load = in_system(rate, seconds)
    if load >= servers:
        return 1.0
    return erlang_c(load, servers) * math.exp(
        -than_s / _wait_of_delayed(load, seconds, servers, cv)
    )


def wait_quantile(
    share: float, rate: float, seconds: float, servers: int, *, cv: float = 1.0
) -> float:
    """Seconds in the queue that this share of the requests does not exceed; the inverse of
    `waits_longer`, infinite where the servers cannot keep up.
    """
    load = in_system(rate, seconds)
    if load >= servers:
        return math.inf
    delayed = erlang_c(load, servers)
    if delayed <= 1 - share:
        return 0.0
    return _wait_of_delayed(load, seconds, servers, cv) * math.log(delayed / (1 - share))


def suffices(
    servers: int,
    rate: float,
    seconds: float,
    *,
    cv: float = 1.0,
    wait_s: float,
    share: float = 0.99,
    busiest: float = 1.0,
) -> bool:
    """Whether `share` of the requests of one queue waits no longer than `wait_s`.

    Args:
        servers: of that queue.
        rate: requests a second.
        seconds: mean service time.
        cv: standard deviation of the service time over its mean.
        wait_s: that is accepted.
        share: of the requests for which it has to hold.
        busiest: share of the time for which a server may be busy at most, on average.
    """
    load = in_system(rate, seconds)
    if load >= servers or load > busiest * servers * (1 + 1e-9):
        return False
    return waits_longer(wait_s, rate, seconds, servers, cv=cv) <= 1 - share + 1e-12


def staffed(
    rate: float,
    seconds: float,
    *,
    cv: float = 1.0,
    wait_s: float,
    share: float = 0.99,
    busiest: float = 1.0,
) -> int:
    """Fewest servers that suffice; arguments as those of `suffices`."""
    given = {"cv": cv, "wait_s": wait_s, "share": share, "busiest": busiest}
    low = max(1, math.ceil(in_system(rate, seconds) / busiest - 1e-9))
    high = low
    while not suffices(high, rate, seconds, **given):
        high += max(1, math.isqrt(high))
    while low < high:
        middle = (low + high) // 2
        if suffices(middle, rate, seconds, **given):
            high = middle
        else:
            low = middle + 1
    return high


def delay_in_large_pools(spare: float) -> float:
    """Share of requests that wait where c = a + β·√a servers stand for a load of a, as a grows.

    α(β) = 1 / (1 + β·Φ(β)/φ(β)): Halfin and Whitt, "Heavy-Traffic Limits for Queues with Many
    Exponential Servers", Operations Research 29(3), 1981, proposition 1.

    Args:
        spare: β, servers above the load in units of its square root; above 0.
    """
    density = _NORMAL.pdf(spare)
    return 0.0 if density == 0 else 1 / (1 + spare * _NORMAL.cdf(spare) / density)
