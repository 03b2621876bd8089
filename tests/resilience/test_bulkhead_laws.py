"""What holds for the places of a bulkhead whoever comes, leaves, or is cancelled at any moment."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cascade.resilience.bulkhead import NoPlaceError, Places
from cascade.resilience.settings import Bulkhead

MOST, WAITING = 3, 4


class Call:
    """One call: it waits for a place, holds it until it is told to end, and gives it back."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.end = asyncio.Event()
        self.holds = False
        self.refused = False
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        if not self.places.take():
            try:
                await self.places.wait()
            except NoPlaceError:
                self.refused = True
                return
        self.holds = True
        try:
            await self.end.wait()
        finally:
            self.holds = False
            self.places.give_back()


class Laws(RuleBasedStateMachine):
    """Calls come, end and are cancelled; between two steps the loop does some of its work."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.places = Places(Bulkhead(most=MOST, waiting=WAITING, wait_s=3600))
        self.calls: list[Call] = []

    def run(self, turns: int = 4) -> None:
        async def work() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(work())
        self.calls = [call for call in self.calls if not call.task.done()]

    @rule(turns=st.integers(0, 4))
    def come(self, turns: int) -> None:
        async def begin() -> Call:
            return Call(self.places)

        self.calls.append(self.loop.run_until_complete(begin()))
        self.run(turns)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), turns=st.integers(0, 4))
    def end(self, data: Any, turns: int) -> None:
        data.draw(st.sampled_from(self.calls), label="call").end.set()
        self.run(turns)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), turns=st.integers(0, 4))
    def cancel(self, data: Any, turns: int) -> None:
        data.draw(st.sampled_from(self.calls), label="call").task.cancel()
        self.run(turns)

    @precondition(lambda self: len(self.calls) > 1)
    @rule(data=st.data())
    def end_and_cancel_in_the_same_moment(self, data: Any) -> None:
        data.draw(st.sampled_from(self.calls), label="ends").end.set()
        data.draw(st.sampled_from(self.calls), label="is cancelled").task.cancel()

    @rule()
    def settle(self) -> None:
        self.run(20)
        holding = sum(call.holds for call in self.calls)
        assert self.places.running == holding, "no place is lost"
        assert self.places.waiting == len(self.calls) - holding
        assert holding == MOST or self.places.waiting == 0, "no place is free while one waits"

    @invariant()
    def there_are_never_more_than_may_be(self) -> None:
        assert sum(call.holds for call in self.calls) <= self.places.running <= MOST
        assert self.places.waiting <= WAITING

    def teardown(self) -> None:
        for call in self.calls:
            call.task.cancel()
        self.run(20)
        assert (self.places.running, self.places.waiting) == (0, 0)
        self.loop.close()


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
