"""What holds for a circuit breaker whatever calls come and in whatever order they end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from turning import Clock

from cascade.resilience.breaking import BreakerState, CircuitBreaker
from cascade.resilience.settings import Breaker

SETTINGS = Breaker(in_a_row=3, rate=0.5, least_calls=5, window_s=20, open_s=2, most_open_s=8)
LASTS_S = 30.0

FOLLOWS: dict[BreakerState, set[BreakerState]] = {
    "closed": {"open"},
    "open": {"half_open"},
    "half_open": {"open", "closed"},
}


class Laws(RuleBasedStateMachine):
    """Any calls, any ends, any time between them."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.states: list[BreakerState] = ["closed"]
        self.opened_at = 0.0
        self.trying: dict[int, float] = {}
        self.late: set[int] = set()
        self.row = 0
        self.breaker = CircuitBreaker(SETTINGS, self.clock, self.changed)

    def changed(self, state: BreakerState, why: str) -> None:
        assert why
        assert state in FOLLOWS[self.states[-1]], f"{self.states[-1]} → {state}"
        self.states.append(state)
        self.row = 0
        if state in ("open", "closed"):
            self.trying.clear()
            self.late.clear()
        if state == "open":
            self.opened_at = self.clock.now

    @rule(target=calls)
    def enter(self) -> int | None:
        was = self.breaker.state
        ticket = self.breaker.enter(LASTS_S)
        waited = self.clock.now - self.opened_at
        if was == "closed":
            assert ticket is not None, "a closed breaker refuses nothing"
        elif was == "open":
            assert (ticket is not None) >= (waited >= SETTINGS.most_open_s)
            assert ticket is None or waited >= SETTINGS.open_s
        lost_at = self.clock.now - LASTS_S
        trying = {one: at for one, at in self.trying.items() if at > lost_at}
        if was != "closed" and ticket is not None:
            assert not trying, "one call at a time tries the server"
            self.late |= self.trying.keys()
            self.trying = {ticket: self.clock.now}
        return ticket

    @rule(call=consumes(calls), failed=st.sampled_from([True, True, False, None]))
    def leave(self, call: int | None, failed: bool | None) -> None:
        if call is None:
            return
        before = self.breaker.state
        tried, late = self.trying.pop(call, None) is not None, call in self.late
        self.late.discard(call)
        self.breaker.leave(call, failed=failed)
        if before == "half_open" and tried:
            wanted = {True: "open", False: "closed", None: "half_open"}[failed]
            assert self.breaker.state == wanted
        elif before == "half_open" and late and failed is False:
            assert self.breaker.state == "closed", "who tries it late shows that it is well too"
        elif before != "closed":
            assert self.breaker.state == before, "who does not try it changes nothing"
        if before == "closed" and self.breaker.state == "closed" and failed is False:
            self.row = 0

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def failing_in_a_row_opens_it(self) -> None:
        while self.breaker.state == "closed":
            self.row += 1
            assert self.row <= 3  # as many as open it
            ticket = self.breaker.enter(LASTS_S)
            assert ticket is not None
            self.breaker.leave(ticket, failed=True)

    @invariant()
    def it_is_in_the_state_that_it_told(self) -> None:
        assert self.breaker.state == self.states[-1]

    @invariant()
    def it_is_never_shut_for_longer_than_allowed(self) -> None:
        ready = self.breaker.ready_in_s
        assert ready is None or 0 <= ready <= SETTINGS.most_open_s


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
