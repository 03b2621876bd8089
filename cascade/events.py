"""Events of a stream, and the reader who is shown them.

A rejected draft is never shown as an answer: tokens come after the decision. A reader who wants
drafts at once gets them as `Provisional`, and `Retracted` where one is rejected. `Retracted` also
withdraws tokens of a large model whose stream breaks for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
"""Events that agents send to a stream."""


class Reader:
    """Reader of one answer of a tier: in the end it was shown the answer and nothing else, whatever
    middleware repeated, replaced or masked on the way.

    Args:
        emit: takes the events, `Token`s or, before the decision, pieces of another kind.
        tier: whose answer it is.
        shown: what was shown of it already.
        piece: kind of event that shows a piece.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        tier: str,
        shown: str = "",
        piece: type[Token | Provisional] = Token,
    ) -> None:
        self.shown = shown
        self._emit, self._tier, self._piece = emit, tier, piece

    def hear(self, chunk: Any) -> None:
        """Show a `models.Chunk` as it arrives; the first of another attempt withdraws the rest."""
        if chunk.first:
            self.retract("asked once more")
        self._show(chunk.text)

    def _show(self, text: str) -> None:
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
        self._show(text[len(self.shown) :])
