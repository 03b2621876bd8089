"""Decide what somebody outside has decided, who looks at many drafts at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation
from cascade.state import Decision

_GIVEN: ContextVar[Decision | None] = ContextVar("cascade_given_decision", default=None)


@contextmanager
def given(decision: Decision) -> Iterator[None]:
    """What `GivenPolicy` says of the drafts that are judged inside."""
    token = _GIVEN.set(decision)
    try:
        yield
    finally:
        _GIVEN.reset(token)


@dataclass(frozen=True, slots=True)
class GivenPolicy:
    """Says of a draft what `given(…)` around the run says, as a plan over a whole batch does."""

    def decide(self, situation: Situation) -> Decision:
        """The decision from outside, with the confidence of this draft.

        Raises:
            ConfigurationError: there is none.
        """
        decision = _GIVEN.get()
        if decision is None:
            raise ConfigurationError(
                "GivenPolicy decides nothing by itself: put `with given(Decision(…))` around."
            )
        assessment = situation.assessment
        seen = {"confidence": assessment.confidence, "calibrated": assessment.calibrated}
        return decision.model_copy(update=seen)
