"""Stops a draft in the middle of its words, once the policy cannot accept it any more.

A stopped draft is a draft with an objection: it goes through self-check and verifier, at no cost,
and is escalated, watched and written down as every other one that is ruled out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cascade.agents.verifier import Verifier
from cascade.confidence.early import (
    ROUNDING,
    EarlyRow,
    ceiling,
    lowest_kept,
    tail_mean,
)
from cascade.confidence.logprobs import WINDOW
from cascade.ledger.shadow_cache import CHARACTERS_PER_TOKEN, characters
from cascade.models import Chunk, Request
from cascade.state import Assessment, Completion, Draft, Run, TokenLogprob, Usage
from cascade.tiers import OpenTier

LOST = 0.01
"""The default share of the drafts that would be accepted and may be lost."""

Accepts = Callable[[float], bool]
"""Whether the policy would accept, as things stand, a draft of a confidence."""

Rule = Callable[[Sequence[float], float], str | None]
"""Says of the log-probabilities so far, and their sum, why to stop; None to go on."""

LIMITS = frozenset({"max_tokens", "max_completion_tokens", "n_predict", "num_predict", "options"})
"""Parameters of a request's own that may override its `max_tokens`."""


@dataclass(slots=True)
class Watch:
    """Listens to one draft.

    Attributes:
        judge: says when to stop.
        tokens: what was heard of the answer, without white space before it.
        heard: how many tokens were heard in all.
        reason: why it was stopped.
    """

    judge: Rule
    tokens: list[TokenLogprob] = field(default_factory=list)
    heard: int = 0
    reason: str | None = None
    _values: list[float] = field(default_factory=list, init=False)
    _total: float = field(default=0.0, init=False)

    def hear(self, chunk: Chunk) -> bool:
        """Take in a piece; returns whether to stop.

        White space at the ends of an answer does not count in the end, so it is no reason now.
        """
        self.heard += len(chunk.logprobs)
        for token in chunk.logprobs:
            if self.tokens or token.token.strip():
                self.tokens.append(token)
                self._values.append(token.logprob)
                self._total += token.logprob
        if chunk.logprobs and self.tokens and self.tokens[-1].token.strip():
            why = self.judge(self._values, self._total)
            if why is not None:
                self.reason = f"stopped after {self.heard} tokens: {why}"
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class Abort:
    """Which drafts may be stopped.

    Attributes:
        share: of the drafts that would be accepted, at most lost under a calibration.
        early: what the calibrations know, by tier.
    """

    share: float = LOST
    early: Mapping[str, Sequence[EarlyRow]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopper:
    """Knows by which rule the drafts of a tier may be stopped.

    With raw scores, where acceptance has become impossible: that needs `max_tokens`, and
    log-probs among the signals. With a calibration, where too few of its drafts that would be
    accepted had so bad a stretch. Both ask the policy what it would accept; it has to accept
    the more confident of two drafts at least as readily.

    Attributes:
        verifier: that decides about finished drafts.
        abort: what is allowed.
    """

    verifier: Verifier
    abort: Abort

    @classmethod
    def of(cls, verifier: Verifier, abort: Abort | None) -> Stopper | None:
        """Who may stop drafts; None where none may be stopped."""
        return None if abort is None else cls(verifier, abort)

    def watch(self, tier: OpenTier, request: Request, run: Run) -> Watch | None:
        """Who listens to a draft; None where it is not to be stopped.

        A draft that may call tools is never stopped: its tokens are not all of its answer. Nor is
        one for which nobody else may be asked.
        """
        deaf = not (request.logprobs and tier.model.streams_logprobs)
        if deaf or request.tools or run.local_only is not None:
            return None
        calibrator = self.verifier.calibrators.get(tier.name)
        accepts = self._accepts(tier, request, run, calibrated=calibrator is not None)
        if calibrator is None:
            return self._impossible(request, accepts)
        rows = self.abort.early.get(tier.name, ())
        if not rows or calibrator.mismatch(request.messages) is not None:
            return None
        return Watch(self._unlikely(rows, accepts))

    def _impossible(self, request: Request, accepts: Accepts) -> Watch | None:
        names = [signal.name for signal in self.verifier.signals]
        limit = request.max_tokens
        if limit is None or LIMITS & request.extra.keys() or (names and "logprobs" not in names):
            return None

        def judge(values: Sequence[float], total: float) -> str | None:
            best = ceiling(total, limit)
            if accepts(best):
                return None
            return (
                f"{limit - len(values)} certain tokens more, up to max_tokens, would lift its "
                f"score to {best:.3f} at most"
            )

        return Watch(judge)

    def _unlikely(self, rows: Sequence[EarlyRow], accepts: Accepts) -> Rule:
        known: list[float | None] = []

        def judge(values: Sequence[float], total: float) -> str | None:
            del total
            window = tail_mean(values)
            if window is None:
                return None
            if not known:
                known.append(lowest_kept(rows, accepts, self.abort.share))
            lowest = known[0]
            # Where time is short everything is accepted, and nobody could answer instead.
            if lowest is None or window >= lowest - ROUNDING or accepts(0.0):
                return None
            return (
                f"the last {WINDOW} have a mean log-prob of {window:.2f}; below {lowest:.2f} are "
                f"at most {self.abort.share:.2%} of the drafts that would be accepted"
            )

        return judge

    def _accepts(self, tier: OpenTier, request: Request, run: Run, *, calibrated: bool) -> Accepts:
        # For the cost of escalating: a prompt by its characters, an answer as long as allowed.
        tokens = characters(request.messages) // CHARACTERS_PER_TOKEN + 1
        usage = Usage(input_tokens=tokens, output_tokens=request.max_tokens or tokens)
        draft = Draft(tier.name, Completion("", tier.model.name, usage))

        def accepts(confidence: float) -> bool:
            seen = Assessment(confidence=confidence, calibrated=calibrated)
            foreseen = self.verifier.foresee(run, draft, seen, request.messages)
            return foreseen.action != "escalate"

        return accepts
