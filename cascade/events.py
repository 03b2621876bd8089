"""What a stream tells while a question is on its way.

A rejected draft is never shown: tokens come after the decision. Should a stream of the large
model break for good after tokens were shown, `Retracted` withdraws them.
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
class Retracted:
    """All tokens shown so far are withdrawn; what follows replaces them."""

    reason: str


Event = Decided | Token | Retracted
"""What agents send to a stream."""
