"""Time of machines of one's own, shared among the calls that use them at the same moment.

A machine costs per hour, however many calls it works on: eight calls at once that last ten seconds
are ten seconds of it, not eighty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from cascade.state import Basis


class Machine:
    """Clock of one machine that this process asks; safe to share between threads.

    The sum of all that is charged is never above its wall time. What other processes ask of it is
    not known here.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._lock = clock, Lock()
        self._calls, self._last = 0, 0.0
        self._shares = 0.0  # grows by dt ÷ n while n calls are under way
        self._crowded = 0.0  # grows by dt while n > 1

    def begin(self) -> Use:
        """Begin a call, right before it is sent; `end` it in any case."""
        return Use(self)

    def advance(self, calls: int) -> tuple[float, float]:
        """Let so many more calls be under way from now on; for `Use`."""
        with self._lock:
            now = self._clock()
            passed = max(0.0, now - self._last)
            self._shares += passed / self._calls if self._calls else 0.0
            self._crowded += passed if self._calls > 1 else 0.0
            self._last = now
            self._calls += calls
            return self._shares, self._crowded


class Use:
    """One call on a machine, from `Machine.begin` on."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._calls = machine, 1
        self._shares, self._crowded = machine.advance(1)

    def end(self, busy_ms: float | None = None) -> tuple[float, Basis]:
        """The milliseconds of the machine that the call is charged, and their basis.

        Alone on the machine, a call is charged the time in which the model computed, where the
        server says it; beside others, its share of each moment, and else its own time.
        """
        shares, crowded = self._machine.advance(-self._calls)
        self._calls = 0  # ended twice, it is still one call
        share_ms = 1000 * (shares - self._shares)
        if busy_ms is None:
            return share_ms, "estimated"
        return (share_ms if crowded > self._crowded else min(busy_ms, share_ms)), "measured"


_machines: dict[str, Machine] = {}


def machine_of(server: str) -> Machine:
    """The machine of a server, which all cascades of this process share."""
    return _machines.setdefault(server, Machine())
