"""What observers see: runs, nodes, calls, and how a run ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

from cascade.state import Completion, Decision, LedgerEntry

CACHED = "cached"
"""Key of an answer's `response_metadata`: the run that made it, where it came from a cache."""

Outcome = Literal[
    "accepted",
    "escalated",
    "degraded",
    "abstained",
    "cached",
    "interrupted",
    "failed",
    "cancelled",
    "abandoned",
]
"""How a run ended: the first tier's answer stood, or a larger tier's; the draft was returned
because the large model could not be had; no answer on purpose; the answer of an earlier run
was taken; a person was asked; an error; the
caller gave up; the caller went away between two nodes."""


TierEventKind = Literal[
    "breaker_opened",
    "breaker_half_open",
    "breaker_closed",
    "not_sent",
    "no_place",
    "retried",
    "retry_refused",
]
"""What can happen to the calls of a tier: its circuit breaker changed its state, refused a call, or
there was no place for one; a failed call is sent again, or is not since the budget is used up."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a finished state says of its run.

    Attributes:
        outcome: accepted, escalated, degraded, abstained or cached.
        tier: who answered; None where nobody did.
        escalated: whether a tier above the first was needed.
        confidence: of the last draft that was judged; None where none could be.
        calibrated: whether `confidence` is a probability or a raw score.
        decision: the last one.
        answer: None where the policy abstained.
    """

    outcome: Outcome
    tier: str | None
    escalated: bool
    confidence: float | None
    calibrated: bool
    decision: Decision
    answer: AIMessage | None


def ending_of(state: Mapping[str, Any]) -> Ending:
    """Read the ending of a run from its finished state."""
    decision, escalated = state["decision"], state["run"].tier > 0
    assessment, last = state.get("assessment"), state["messages"][-1]
    abstained = decision.action == "abstain"
    answer = last if isinstance(last, AIMessage) and not abstained else None
    outcome: Outcome = "escalated" if escalated else "accepted"
    if abstained:
        outcome = "abstained"
    elif state.get("degraded", False):
        outcome = "degraded"
    if answer is not None and CACHED in answer.response_metadata:
        outcome = "cached"
    return Ending(
        outcome=outcome,
        tier=answer.response_metadata.get("tier") if answer is not None else None,
        escalated=escalated,
        confidence=assessment.confidence if assessment else None,
        calibrated=assessment.calibrated if assessment else False,
        decision=decision,
        answer=answer,
    )


def after(state: Mapping[str, Any], update: Mapping[str, Any] | None) -> dict[str, Any]:
    """The state that a node leaves: `messages` and `ledger` grow, the rest is replaced."""
    update = update or {}
    grown = {key: [*state.get(key, ()), *update.get(key, ())] for key in ("messages", "ledger")}
    return {**state, **update, **grown}


@dataclass(eq=False, slots=True)
class ObservedRun:
    """One question on its way through a cascade.

    Attributes:
        id: of the run in the ledger.
        cascade: name of the cascade.
        messages: the conversation when the run began.
        conversation: `thread_id` of a graph with a checkpointer.
        entries: ledger entries of the run so far, those of failed attempts among them.
        outcome: once it has ended.
        ending: once it has ended with an answer or on purpose without one.
        error: what it failed with.
        seconds: how long it took, once it has ended.
    """

    id: str
    cascade: str
    messages: Sequence[BaseMessage]
    tags: Mapping[str, str]
    conversation: str | None
    entries: list[LedgerEntry] = field(default_factory=list)
    outcome: Outcome | None = None
    ending: Ending | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    begun_s: float = field(default_factory=time.perf_counter)


@dataclass(eq=False, slots=True)
class ObservedNode:
    """A node at work.

    Attributes:
        run: the run that is under way; None for work after the reply.
        entries: what it wrote into the ledger so far.
        decision: what the node decided.
        error: what it failed with.
        retried: whether another attempt follows the error.
        interrupted: whether it is no error, and a person is asked.
    """

    name: str
    run_id: str
    cascade: str
    run: ObservedRun | None = None
    entries: list[LedgerEntry] = field(default_factory=list)
    decision: Decision | None = None
    error: BaseException | None = None
    retried: bool = False
    interrupted: bool = False
    _ending: Ending | None = None

    def returned(
        self, state: Mapping[str, Any], update: Mapping[str, Any] | None, *, last: bool
    ) -> None:
        """The node has done its work.

        Args:
            state: what it was given.
            update: what it returned.
            last: whether the run ends with it.
        """
        self.decision = (update or {}).get("decision")
        if last:
            self._ending = ending_of(after(state, update))

    @property
    def ending(self) -> Ending | None:
        """How the run ended, after its last node."""
        return self._ending


@dataclass(eq=False, slots=True)
class ObservedCall:
    """One request to a model.

    Attributes:
        model: the model as the cascade names it, without its provider.
        within: the node at work that asks; None after the reply.
        completion: what it answered.
        error: what the request failed with.
        entry: its ledger entry; None where nothing was sent.
    """

    run_id: str
    cascade: str
    node: str
    tier: str
    provider: str
    model: str
    messages: Sequence[BaseMessage]
    max_tokens: int | None = None
    temperature: float | None = None
    within: ObservedNode | None = None
    completion: Completion | None = None
    error: BaseException | None = None
    entry: LedgerEntry | None = None
    begun_s: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long the request took, as the ledger has it."""
        if self.entry is not None:
            return self.entry.latency_ms / 1000
        return time.perf_counter() - self.begun_s


@dataclass(eq=False, slots=True)
class TierEvent:
    """Something that concerns a tier, and as a rule not one call alone.

    Attributes:
        model: the model as `provider:name`.
        why: in words; empty where nothing has changed, and a cascade finds a breaker in this state
            as it asks the tier for the first time.
        within: the node at work that it happened in; None after the reply, and where another
            cascade that asks the same server has met it.
    """

    cascade: str
    tier: str
    model: str
    kind: TierEventKind
    why: str
    within: ObservedNode | None = None
