"""How much time a run has, and how long tiers were seen to take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langchain_core.runnables.config import var_child_runnable_config

from cascade._clock import steady_time
from cascade.errors import DeadlineError, InputError, ModelError
from cascade.models import Request
from cascade.state import Run

if TYPE_CHECKING:
    from cascade.agents.hedging import Hedging

__all__ = [
    "ANSWER_BY",
    "DEVIATIONS",
    "LAST_TRY",
    "LATENCY_WEIGHT",
    "WAY_BACK",
    "WRITTEN_S",
    "Deadline",
]

ANSWER_BY = "answer_by"
"""Key of a run's `config["configurable"]`: until when whoever asks waits for the answer, in seconds
since 1970. It bounds what is done for the run, as a deadline does; what is accepted is the policy's
affair alone, so that it can go with a certificate."""

WAY_BACK = 0.02
"""Of the time that a large call may take under a deadline, kept back for answering without it."""

LAST_TRY = 0.05
"""Of a deadline: what fails in its last part so long is not tried again."""

WRITTEN_S = 0.1
"""Time for writing a call down where none is left: it is told then that it comes too late."""

LATENCY_WEIGHT = 0.2
"""Of the newest call in a tier's expected latency: it follows a change within about ten calls."""

DEVIATIONS = 2.0
"""Mean deviations above a tier's mean latency that a careful expectation takes; a first call
counts as its own mean with half of it as deviation (RFC 6298, which takes four)."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """How much time a run has, and how long tiers were seen to take.

    Args:
        seconds: from the beginning of a run to its answer; None for no deadline.
        hedging: has the large model asked beside a draft where time is short; None for never.
    """

    seconds: float | None = None
    hedging: Hedging | None = None
    _seen_s: dict[str, float] = field(default_factory=dict)
    _off_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, given: float | Deadline | None) -> Deadline:
        """The same, where only the seconds may be known."""
        return given if isinstance(given, Deadline) else cls(given)

    def left_s(self, run: Run) -> float | None:
        """Seconds until the deadline of a run, negative when it has passed.

        Raises:
            InputError: until when the caller waits is no time.
        """
        answer_by = _answer_by()
        waited = None if answer_by is None else answer_by - steady_time()
        if self.seconds is None:
            return waited
        # A clock that was set back, here or where the run began, gives nobody more time than that.
        own = min(self.seconds, run.begun_at + self.seconds - steady_time())
        return own if waited is None else min(own, waited)

    def _named(self, run: Run) -> str:
        """What the time of a run is bounded by, in words."""
        answer_by = _answer_by()
        own = self.seconds is not None
        if answer_by is None or (own and run.begun_at + (self.seconds or 0) <= answer_by):
            return f"the deadline of {self.seconds} s"
        return "the time until which its caller waits"

    def expected_s(self, tier: str) -> float | None:
        """How long a tier takes, as an exponential mean of its calls; None before the first."""
        return self._seen_s.get(tier)

    def careful_s(self, tier: str) -> float | None:
        """What most calls of a tier stay below: its mean and `DEVIATIONS` mean deviations."""
        usual = self.expected_s(tier)
        return None if usual is None else usual + DEVIATIONS * self._off_s[tier]

    def saw(self, tier: str, seconds: float, *, short: bool = False) -> None:
        """Learn from a finished call; from a `short` answer, as a word of approval, only that
        others do not take less.
        """
        if short and seconds < self._seen_s.get(tier, 0.0):
            return
        before = self._seen_s.get(tier, seconds)
        off = self._off_s.get(tier, seconds / 2)
        if tier in self._seen_s:
            off += LATENCY_WEIGHT * (abs(seconds - before) - off)
        self._off_s[tier] = off
        self._seen_s[tier] = before + LATENCY_WEIGHT * (seconds - before)

    async def begun(
        self, begin: Callable[[], Awaitable[str | None]], run: Run, model: str
    ) -> str | None:
        """What writes a call down before it is sent, with no more time than the run has.

        Raises:
            DeadlineError: the ledger's database took longer.
        """
        left = self.left_s(run)
        if left is None:
            return await begin()
        try:
            async with asyncio.timeout(max(left, WRITTEN_S)):
                return await begin()
        except TimeoutError as error:
            raise DeadlineError(
                f"{model} was not asked: {self._named(run)} has passed while the call was to be "
                "written into the ledger, whose database does not answer.",
                model=model,
                billed=False,
            ) from error

    def check_retry(self, error: ModelError, run: Run) -> None:
        """Stop at a failure that could only be tried again when it is too late.

        Raises:
            DeadlineError: the time that is left is over, or over before the provider is ready.
        """
        left = self.left_s(run)
        if left is None or not error.retryable:
            return
        wanted = error.retry_after or 0.0
        too_late = self.seconds is not None and left <= LAST_TRY * self.seconds
        if too_late or left <= wanted:
            when = "is near." if left > 0 else "has passed."
            raise DeadlineError(
                f"{error} It is not tried again: {self._named(run)} "
                + (when if left <= 0 or too_late else f"comes before its {wanted} s are over."),
                model=error.model,
                billed=error.billed,
            ) from error

    def bound(self, request: Request, run: Run, model: str, *, last: bool = False) -> Request:
        """The request with no more time than the run has.

        The `last` one leaves a moment for the way back: when it takes all of its time, there may
        be a draft to answer with.

        Raises:
            DeadlineError: it has none.
        """
        left = self.left_s(run)
        if left is None:
            return request
        if left <= 0:
            raise DeadlineError(
                f"{model} was not asked: {self._named(run)} has passed.",
                model=model,
                billed=False,
            )
        left *= 1 - WAY_BACK if last else 1
        return replace(request, timeout_s=min(left, request.timeout_s or left))


def _answer_by() -> float | None:
    """Until when whoever asks waits, in seconds since 1970; None where nobody says."""
    configurable = (var_child_runnable_config.get() or {}).get("configurable")
    given = None if configurable is None else configurable.get(ANSWER_BY)
    if given is None or (isinstance(given, int | float) and not isinstance(given, bool)):
        return given
    raise InputError(
        f'config["configurable"]["{ANSWER_BY}"] is {given!r}: give seconds since 1970, such as '
        "time.time() + 5."
    )
