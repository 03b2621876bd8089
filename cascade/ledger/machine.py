"""Time of machines of one's own, shared among the calls that use them at the same moment.

A machine costs per hour, however many calls it works on: eight calls at once that last ten seconds
are ten seconds of it, not eighty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from cascade.state import Basis


@dataclass(slots=True)
class _Machine:
    """`shares` grows by dt ÷ n while n calls are under way, `crowded` by dt while n > 1."""

    calls: int = 0
    last: float = 0.0
    shares: float = 0.0
    crowded: float = 0.0


class Use:
    """One call on a machine, from `BusyClock.begin` on."""

    def __init__(self, clock: BusyClock, machine: _Machine) -> None:
        self._clock, self._machine, self._calls = clock, machine, 1
        self._shares, self._crowded = clock.advance(machine, 1)

    def end(self, busy_ms: float | None = None) -> tuple[float, Basis]:
        """The milliseconds of the machine that the call is charged, and their basis.

        Alone on the machine, a call is charged the time in which the model computed, where the
        server says it; beside others, its share of each moment, and else its own time.
        """
        shares, crowded = self._clock.advance(self._machine, -self._calls)
        self._calls = 0  # ended twice, it is still one call
        share_ms = 1000 * (shares - self._shares)
        if busy_ms is None:
            return share_ms, "estimated"
        return (share_ms if crowded > self._crowded else min(busy_ms, share_ms)), "measured"


class BusyClock:
    """Clock of the machines that this process asks; safe to share between threads.

    The sum of all that is charged is never above a machine's wall time. What other processes ask of
    the same machine is not known here.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._machines: dict[str, _Machine] = {}
        self._lock = Lock()

    def begin(self, machine: str) -> Use:
        """Begin a call on a machine, right before it is sent; `end` it in any case."""
        return Use(self, self._machines.setdefault(machine, _Machine()))

    def advance(self, machine: _Machine, calls: int) -> tuple[float, float]:
        """Let so many more calls be under way on a machine from now on; for `Use`."""
        with self._lock:
            now = self._clock()
            passed = max(0.0, now - machine.last)
            if machine.calls:
                machine.shares += passed / machine.calls
            if machine.calls > 1:
                machine.crowded += passed
            machine.last = now
            machine.calls += calls
            return machine.shares, machine.crowded


machines = BusyClock()
"""Clock of this process: a machine is shared by all cascades in it."""
