"""A fleet, simulated request by request, where formulas do not reach: bursts, bounds, refusals.

The events are SimPy's; this module says what a request does between them.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random

from cascade.errors import ConfigurationError, MissingDependencyError

if find_spec("simpy") is None:
    raise MissingDependencyError(
        "a simulation needs simpy: pip install 'agent-cascade[fleet]'. The formulas do not."
    )

import simpy

from cascade.fleet.parts import Gateway, Level, Pool, Steps
from cascade.fleet.scenario import Scenario
from cascade.state import Record

__all__ = ["Simulated", "simulate"]


class Simulated(Record):
    """What became of the requests that arrived while it was looked on.

    Attributes:
        arrived: how many did.
        answered: with an answer, the draft that stood in for the large model's among them.
        refused: since too many waited at the gate, or one waited too long there (429).
        failed: since no model had a place (503).
        escalated: calls to the large model that were answered.
        shed: drafts that found no place at the small model's bulkhead, and so were escalated.
        degraded: answered by the draft, since the large model's bulkhead had no place.
        per_second: answers a second.
        mean_s, p50_s, p95_s, p99_s: from a request to its answer.
        small_wait_mean_s, small_wait_p99_s: in the small model's own queue.
        draft_wait_p99_s: there and for a place at its bulkhead together.
        gateway_busy: share of the time in which an event loop works.
        small_busy: share of the time in which a slot computes; None where their number is open.
        small_waiting, small_waiting_most: in the small model's queues at a time.
        large_in_flight, large_in_flight_most: calls to the large model at a time.
        in_system: requests under way at a time.
    """

    arrived: int
    answered: int
    refused: int
    failed: int
    escalated: int
    shed: int
    degraded: int
    per_second: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    small_wait_mean_s: float
    small_wait_p99_s: float
    draft_wait_p99_s: float
    gateway_busy: float
    small_busy: float | None
    small_waiting: float
    small_waiting_most: int
    large_in_flight: float
    large_in_flight_most: int
    in_system: float


def simulate(
    scenario: Scenario, *, seconds: float, warmup_s: float | None = None, seed: int = 0
) -> Simulated:
    """Let requests arrive for a time, and follow each to its end.

    The same scenario, times and seed give the same figures.

    Args:
        scenario: the fleet and its traffic.
        seconds: that are looked at.
        warmup_s: before that, in which it fills; a tenth of it by default.
        seed: of all that is random.

    Raises:
        ConfigurationError: the times are none, or nothing arrived within them.
    """
    warmup_s = seconds / 10 if warmup_s is None else warmup_s
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigurationError(f"seconds={seconds}: give a time above 0.")
    if not (math.isfinite(warmup_s) and warmup_s >= 0):
        raise ConfigurationError(f"warmup_s={warmup_s}: give a time of 0 or more.")
    run = _Run(scenario, warmup_s, warmup_s + seconds, seed)
    run.env.run()
    return run.found()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request brings with it."""

    hard: bool
    small_s: float
    large_s: float
    counted: bool


class _Run:
    """One simulation, and what it has counted."""

    def __init__(self, scenario: Scenario, begins: float, ends: float, seed: int) -> None:
        self.scenario, self.begins, self.ends = scenario, begins, ends
        self.env = simpy.Environment()
        # Streams of their own: other bounds meet the same requests, at the same times.
        self.arriving, self.asking, self.choosing = (
            Random(f"{name} {seed}")  # noqa: S311 - nobody has to be unable to guess it
            for name in ("arrivals", "requests", "choices")
        )
        self.escalation = scenario.escalation
        self.own_s = scenario.gateway_cpu_ms / 4000
        self.call_s = 2 * self.own_s / (1 + scenario.escalation)
        self.gateways = [Gateway(self.env, scenario) for _ in range(scenario.gateways)]
        self.pool = Pool(
            self.env,
            self.choosing,
            replicas=scenario.replicas,
            slots=scenario.slots,
            balancing=scenario.balancing,
        )
        names = ("loops", "computing", "waiting", "large", "under way")
        self.levels = {name: Level(self.env, begins, ends) for name in names}
        counted = ("arrived", "answered", "refused", "failed", "escalated", "shed", "degraded")
        self.counts: dict[str, int] = dict.fromkeys(counted, 0)
        self.taken: list[float] = []
        self.waited: list[float] = []
        self.held: list[float] = []
        self.env.process(self._arrivals())

    def _arrivals(self) -> Steps:
        bursts, rng, env = self.scenario.bursts, self.arriving, self.env
        calm = self.scenario.rate
        until, in_burst = math.inf, False
        if bursts is not None:
            share = bursts.lasts_s / (bursts.lasts_s + bursts.every_s)
            calm /= 1 - share + share * bursts.factor
            until = rng.expovariate(1 / bursts.every_s)
        rate = calm
        while True:
            due = env.now + rng.expovariate(rate)
            if bursts is not None and due > until:
                # Exponential times have no memory: what is left of one is another.
                yield env.timeout(until - env.now)
                in_burst = not in_burst
                rate = calm * bursts.factor if in_burst else calm
                until = env.now + rng.expovariate(
                    1 / (bursts.lasts_s if in_burst else bursts.every_s)
                )
                own = bursts.escalation if in_burst else None
                self.escalation = self.scenario.escalation if own is None else own
                continue
            if due >= self.ends:
                return
            yield env.timeout(due - env.now)
            env.process(self._request())

    def _count(self, name: str, counted: bool) -> None:
        self.counts[name] += counted

    def _request(self) -> Steps:
        env, begun = self.env, self.env.now
        counted = begun >= self.begins
        self._count("arrived", counted)
        asked = _Asked(
            hard=self.asking.random() < self.escalation,
            small_s=self.scenario.small.draw(self.asking),
            large_s=self.scenario.large.draw(self.asking),
            counted=counted,
        )
        gateway = self.choosing.choice(self.gateways)
        self.levels["under way"].add(1)
        place = yield from gateway.gate.take()
        if place is None:
            self._count("refused", counted)
        else:
            yield from self._work(gateway, self.own_s)
            answered = yield from self._answer(gateway, asked)
            yield from self._work(gateway, self.own_s)
            gateway.gate.give_back(place)
            self._count("answered" if answered else "failed", counted)
            if answered and counted:
                self.taken.append(env.now - begun)
        self.levels["under way"].add(-1)

    def _answer(self, gateway: Gateway, asked: _Asked) -> Steps:
        """Draft, and escalate; returns whether there is an answer."""
        levels, begun = self.levels, self.env.now
        place = yield from gateway.small.take()
        drafted = place is not None
        if place is not None:
            held = self.env.now - begun
            yield from self._call(gateway)
            waited = yield from self.pool.serve(
                asked.small_s, levels["waiting"], levels["computing"]
            )
            gateway.small.give_back(place)
            if asked.counted:
                self.waited.append(waited)
                self.held.append(held + waited)
        else:
            self._count("shed", asked.counted)
        if drafted and not asked.hard:
            return True
        place = yield from gateway.large.take()
        if place is None:
            self._count("degraded", asked.counted and drafted)
            return drafted
        yield from self._call(gateway)
        levels["large"].add(1)
        yield self.env.timeout(asked.large_s)
        levels["large"].add(-1)
        gateway.large.give_back(place)
        self._count("escalated", asked.counted)
        return True

    def _call(self, gateway: Gateway) -> Steps:
        """What a call takes beside the model."""
        yield from self._work(gateway, self.call_s)
        if self.scenario.network_ms:
            yield self.env.timeout(self.scenario.network_ms / 1000)

    def _work(self, gateway: Gateway, seconds: float) -> Steps:
        if seconds:
            with gateway.loop.request() as request:
                yield request
                self.levels["loops"].add(1)
                yield self.env.timeout(seconds)
                self.levels["loops"].add(-1)

    def found(self) -> Simulated:
        scenario, levels = self.scenario, self.levels
        if not self.counts["arrived"]:
            raise ConfigurationError(
                f"seconds={self.ends - self.begins:g}: nothing arrived at {scenario.rate:g} "
                "requests/s. Give more seconds."
            )
        slots = None if scenario.slots is None else scenario.slots * scenario.replicas
        return Simulated(
            **self.counts,
            per_second=self.counts["answered"] / (self.ends - self.begins),
            mean_s=statistics.fmean(self.taken) if self.taken else math.nan,
            p50_s=quantile(self.taken, 0.5),
            p95_s=quantile(self.taken, 0.95),
            p99_s=quantile(self.taken, 0.99),
            small_wait_mean_s=statistics.fmean(self.waited) if self.waited else math.nan,
            small_wait_p99_s=quantile(self.waited, 0.99),
            draft_wait_p99_s=quantile(self.held, 0.99),
            gateway_busy=levels["loops"].mean / scenario.gateways,
            small_busy=None if slots is None else levels["computing"].mean / slots,
            small_waiting=levels["waiting"].mean,
            small_waiting_most=levels["waiting"].most,
            large_in_flight=levels["large"].mean,
            large_in_flight_most=levels["large"].most,
            in_system=levels["under way"].mean,
        )


def quantile(values: list[float], share: float) -> float:
    """The value that this share does not exceed, between neighbours in proportion; NaN of none."""
    if len(values) < 2:
        return values[0] if values else math.nan
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    return cuts[round(1000 * share) - 1]
