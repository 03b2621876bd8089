"""The parts of a simulated fleet: what counts over time, places with a bound, replicas."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from typing import Any

import simpy
from simpy.resources.resource import Request

from cascade.fleet.scenario import Balancing, Scenario

__all__ = ["Gateway", "Level", "Places", "Pool", "Steps"]

Steps = Generator[simpy.Event, Any, Any]
"""A process of the simulation."""


class Level:
    """A number that changes over time, and its mean over a part of it."""

    def __init__(self, env: simpy.Environment, begins: float, ends: float) -> None:
        self._env, self._begins, self._ends = env, begins, ends
        self._now = 0
        self._since = 0.0
        self._area = 0.0
        self.most = 0

    def add(self, change: int) -> None:
        """It is so much more, or less, from now on."""
        self._account()
        self._now += change
        if self._begins <= self._env.now <= self._ends:
            self.most = max(self.most, self._now)

    @property
    def mean(self) -> float:
        """Its mean over time."""
        self._account()
        return self._area / (self._ends - self._begins)

    def _account(self) -> None:
        begun, ended = max(self._since, self._begins), min(self._env.now, self._ends)
        self._area += self._now * max(0.0, ended - begun)
        self._since = self._env.now


class Places:
    """So many at a time, so many wait, for so long: a bulkhead, or the gate of a cascade."""

    def __init__(self, env: simpy.Environment, most: int, waiting: int, wait_s: float) -> None:
        self._env, self._waiting, self._wait_s = env, waiting, wait_s
        self._resource = simpy.Resource(env, most)

    def take(self) -> Generator[simpy.Event, Any, Request | None]:
        """A place, once there is one; None where too many wait, or it takes too long."""
        resource = self._resource
        if resource.count == resource.capacity and len(resource.queue) >= self._waiting:
            return None
        request = resource.request()
        if not request.triggered:
            yield request | self._env.timeout(self._wait_s)
            if not request.triggered:
                request.cancel()
                return None
        return request

    def give_back(self, request: Request) -> None:
        """It is free again."""
        self._resource.release(request)


class Gateway:
    """One process: its gate, its event loop, and its bulkheads."""

    def __init__(self, env: simpy.Environment, scenario: Scenario) -> None:
        given = scenario
        self.gate = Places(env, given.concurrency, given.queue, given.queue_timeout_s)
        self.loop = simpy.Resource(env, 1)
        small, large = given.small_bulkhead, given.large_bulkhead
        self.small = Places(env, small.most, small.waiting, small.wait_s)
        self.large = Places(env, large.most, large.waiting, large.wait_s)


class Pool:
    """The replicas of the small model."""

    def __init__(
        self,
        env: simpy.Environment,
        rng: Random,
        *,
        replicas: int,
        slots: int | None,
        balancing: Balancing,
    ) -> None:
        self._env, self._rng, self._balancing = env, rng, balancing
        together = balancing == "one queue"
        each = 0 if slots is None else slots * replicas if together else slots
        queues = 1 if together else replicas
        self._queues = [simpy.Resource(env, each) for _ in range(queues)] if each else []

    def serve(
        self, seconds: float, waiting: Level, busy: Level
    ) -> Generator[simpy.Event, Any, float]:
        """Compute for so long, once there is a slot; returns the seconds that it was waited for."""
        if not self._queues:
            busy.add(1)
            yield self._env.timeout(seconds)
            busy.add(-1)
            return 0.0
        begun = self._env.now
        queue = self._chosen()
        with queue.request() as request:
            if not request.triggered:
                waiting.add(1)
                yield request
                waiting.add(-1)
            waited = self._env.now - begun
            busy.add(1)
            yield self._env.timeout(seconds)
            busy.add(-1)
        return waited

    def _chosen(self) -> simpy.Resource:
        if self._balancing == "random":
            return self._rng.choice(self._queues)
        return min(self._queues, key=lambda queue: queue.count + len(queue.queue))
