"""What a comparison of two answers takes and gives; the auditor is handed one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage

from cascade.models import Request
from cascade.state import Completion
from cascade.tiers import OpenTier


@dataclass(frozen=True, slots=True)
class Answers:
    """Two answers to one question.

    Attributes:
        run_id: of the run; what is random in the comparison is drawn from it.
        messages: the conversation, its last message being the question.
        draft: what the small model said.
        large: what the large model said.
        has_schema: whether both had to satisfy a schema; None where that is as usual.
    """

    run_id: str
    messages: Sequence[BaseMessage]
    draft: Completion
    large: Completion
    has_schema: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better the large model's answer is.

    Attributes:
        loss: 1 where only the large one is right, −1 where only the draft is, 0 where they are
            equally good, or between; None where nobody could tell.
        note: how it was found, or why there is none. It quotes neither answer.
        signals: what was seen of a judge's errors (`cascade.ledger.judges`).
    """

    loss: float | None
    note: str = ""
    signals: Mapping[str, float] = field(default_factory=dict)


Ask = Callable[[OpenTier, Request], Awaitable[Completion]]
"""Asks a model on behalf of a comparison; the call is in the ledger."""

Compare = Callable[[Answers, Ask], Awaitable[Comparison]]
"""Compares two answers.

Raises:
    ModelError: a judge was needed and could not be had.
"""
