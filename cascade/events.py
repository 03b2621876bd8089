"""Events of a stream.

A rejected draft is never shown as an answer: tokens come after the decision. A reader who wants
drafts at once gets them as `Provisional`, and `Retracted` where one is rejected. `Retracted` also
withdraws tokens of a large model whose stream breaks for good.
"""

from __future__ import annotations

from dataclasses import dataclass

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
