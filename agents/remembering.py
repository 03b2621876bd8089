"""Examples for a small model: earlier questions with the large model's answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage, SystemMessage

from cascade.agents.entries import free_entry
from cascade.ledger.shadow_cache import characters
from cascade.observing import Observer
from cascade.state import Completion, Draft, LedgerEntry, Run

TRIAL = "trial"
"""Node of the entry of a call after the reply that shows whether examples help."""

NO_MEMORY = "no_memory"
"""Node of the entry of a draft that went without examples since the memory could not be asked."""

MEMORY = "memory"
"""Node of the entry of examples that a draft was shown; its signals say how many, and how many of
the prompt's tokens they are."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """Examples for one question.

    Attributes:
        messages: a question and its answer each, the nearest last.
        version: of the memory that they are from.
    """

    messages: tuple[BaseMessage, ...]
    version: str

    def before(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The conversation with the examples after its system messages."""
        place = next(
            (i for i, m in enumerate(messages) if not isinstance(m, SystemMessage)), len(messages)
        )
        return [*messages[:place], *self.messages, *messages[place:]]

    def draft(self, tier: str, completion: Completion, messages: Sequence[BaseMessage]) -> Draft:
        """A draft that was made with them, and how many of its prompt's tokens they were."""
        counted = completion.usage.input_tokens or 0
        shown = characters(self.messages)
        share = shown / max(1, shown + characters(messages))
        return Draft(tier, completion, example_tokens=round(counted * share))

    def entry(self, run: Run, draft: Draft) -> LedgerEntry:
        """What is written down of them: their cost is a part of the draft's."""
        n = len(self.messages) // 2
        entry = free_entry(run, MEMORY, draft.tier, f"{n} examples of memory {self.version}")
        signals = {"examples": float(n), "example_tokens": float(draft.example_tokens)}
        return entry.model_copy(
            update={"signals": signals, "attempt_id": f"{MEMORY}-{run.id}-{run.tier}"}
        )


@dataclass(frozen=True, slots=True)
class Unread:
    """The memory could not be asked in time.

    Attributes:
        reason: why.
    """

    reason: str

    def entry(self, run: Run, tier: str) -> LedgerEntry:
        """What is written down of it."""
        entry = free_entry(run, NO_MEMORY, tier, self.reason)
        return entry.model_copy(update={"attempt_id": f"{NO_MEMORY}-{run.id}-{run.tier}"})


@dataclass(frozen=True, slots=True)
class Tried:
    """What the small model says when it is asked once more.

    Attributes:
        text: its answer.
        accepted: whether it would have been accepted, by the signals that cost nothing; None where
            those say nothing.
    """

    text: str
    accepted: bool | None


def memory_of(options: Mapping[str, object]) -> str | None:
    """The version of the memory among the options of a cascade; None where there is none."""
    memory = options.get("memory")
    return memory.version if isinstance(memory, Remembers) else None


Again = Callable[[Remembered | None], Awaitable[Tried]]
"""Asks the small model once more, with other examples; the call is in the ledger of its run."""

Foresee = Callable[[Run, Draft, Sequence[BaseMessage]], Awaitable[bool | None]]
"""Whether a draft would be accepted, by the signals that cost nothing; None where they say
nothing."""


class Remembers(Observer, ABC):
    """Knows examples, and looks on to see whether they help."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Of all that may be shown now; a calibration notes it."""

    @abstractmethod
    def drafts(self, model: str) -> None:
        """Told before anything is asked which model drafts, as `provider:name`: what helps one may
        harm another."""

    @abstractmethod
    async def examples(
        self, run: Run, messages: Sequence[BaseMessage], again: Again
    ) -> Remembered | Unread | None:
        """Those for a question; None where there are none that are known to help. Never raises."""

    @abstractmethod
    def doubt(self, run_id: str, answer: str) -> str | None:
        """Why a draft that was shown examples is not to be relied on; None where it may be. Never
        raises."""

    @abstractmethod
    async def aclose(self) -> None:
        """Return once nothing is asked any more. It goes on looking afterwards."""
