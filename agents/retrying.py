"""Whether a call that has failed is sent again, and after which wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from cascade.agents.deadline import Deadline
from cascade.errors import DeadlineError, ModelError
from cascade.resilience import Door
from cascade.state import Run

__all__ = ["MAX_WAIT_S", "Again", "given_up", "judge"]

E = TypeVar("E", bound=ModelError)

MAX_WAIT_S = 60.0
"""A provider that asks to wait longer than this is treated as down."""


@dataclass(frozen=True, slots=True)
class Again:
    """What becomes of a failed attempt.

    Attributes:
        error: to be raised; it says by `given_up` that no other attempt may follow.
        wait_s: before that, since the node is tried again at once.
        note: for the attempt's ledger entry.
    """

    error: ModelError
    wait_s: float = 0.0
    note: str = ""


def judge(
    error: ModelError,
    attempt: int,
    *,
    door: Door,
    deadline: Deadline,
    run: Run,
    attempts: int,
    waits: bool,
) -> Again:
    """What becomes of an attempt that has failed. A retry is taken from the tier's budget.

    Args:
        error: what it failed with.
        attempt: its number, from 1.
        door: to the tier.
        deadline: bounds what may follow.
        run: whose attempt it is.
        attempts: that whoever asks would make.
        waits: whether attempts and waits are those of the tier's settings. With a retry policy of
            the user's, LangGraph waits as that says, and only `Retry-After` is kept here.
    """
    if not error.retryable:
        return Again(error)
    try:
        deadline.check_retry(error, run)
    except DeadlineError as late:
        return Again(late)
    asked_s = error.retry_after or 0.0
    if attempt >= attempts or asked_s > MAX_WAIT_S:
        return Again(error)
    if waits and attempt >= door.attempts:
        return Again(given_up(error))
    why = door.no_retry()
    if why is not None:
        return Again(given_up(error, why), note=why)
    left_s = deadline.left_s(run)
    own_s = door.wait_s(attempt, None if left_s is None else left_s - asked_s) if waits else 0.0
    return Again(error, asked_s + own_s)


def given_up(error: E, why: str = "") -> E:
    """The same error, after which no other attempt may follow.

    Another object: one that is raised in several places must not change in all of them.
    """
    kind = type(error)
    said = f"{str(error).rstrip('.')}. {why}" if why else str(error)
    other = kind.__new__(kind, said)
    other.__dict__.update(error.__dict__)
    other.args, other.given_up, other.__cause__ = (said,), True, error
    return other
