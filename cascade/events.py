"""Events of a stream, and the reader who is shown them.

A rejected draft is never shown as an answer: tokens come after the decision. A reader who wants
drafts at once gets them as `Provisional`, and `Retracted` where one is rejected. `Retracted` also
withdraws tokens of a large model whose stream breaks for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cascade.state import Assessment, Decision


@dataclass(frozen=True, slots=True)
class Decided:
    """A verifier decided about a draft of `tier`."""

    tier: str
    decision: Decision
    assessment: Assessment


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer, from `tier`."""

    text: str
    tier: str


@dataclass(frozen=True, slots=True)
class Provisional:
    """A piece of a draft of `tier` about which nothing is decided yet.

    Where `Decided` accepts the draft, all its pieces are the answer, and no tokens follow.
    """

    text: str
    tier: str


@dataclass(frozen=True, slots=True)
class Retracted:
    """All that was shown so far is withdrawn; what follows replaces it."""

    reason: str


Event = Decided | Provisional | Token | Retracted
"""What agents send to a stream."""


class Piece(Protocol):
    """A piece of a streamed answer; `first` begins an attempt."""

    @property
    def text(self) -> str:
        """Text of the piece."""
        ...

    @property
    def first(self) -> bool:
        """Whether an attempt begins with it."""
        ...


class Reader:
    """Reader of one answer: in the end it was shown the answer and nothing else, whatever
    middleware repeated, replaced or masked on the way.

    Args:
        emit: takes the events.
        tier: whose answer it is.
        provisional: whether nothing is decided about the answer yet.
        shown: what was shown of it already.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        tier: str,
        *,
        provisional: bool = False,
        shown: str = "",
    ) -> None:
        self._emit, self._tier = emit, tier
        self._piece = Provisional if provisional else Token
        self.shown = shown

    def hear(self, piece: Piece) -> None:
        """Show a piece while it arrives; another attempt begins anew."""
        if piece.first:
            self.retract("asked once more")
        self.show(piece.text)

    def show(self, text: str) -> None:
        """Show a text."""
        if text:
            self.shown += text
            self._emit(self._piece(text, self._tier))

    def retract(self, reason: str) -> None:
        """Withdraw what was shown, if anything was."""
        if self.shown:
            self.shown = ""
            self._emit(Retracted(reason))

    def settle(self, text: str) -> None:
        """Make what was shown equal to the answer."""
        if not text.startswith(self.shown):
            self.retract("replaced by the answer as a whole")
        self.show(text[len(self.shown) :])
