"""Abort: a draft is stopped while it is written, once it cannot be accepted any more.

It is ruled out then: it goes through self-check and verifier without any cost, and is escalated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from cascade._numbers import to_number
from cascade.confidence.base import WINDOW, worst_window
from cascade.confidence.signals import ROUNDING, EarlyRow, ceiling, drafts_needed, lowest_kept
from cascade.errors import ConfigurationError
from cascade.ledger.outlook import CHARACTERS_PER_TOKEN, characters
from cascade.middleware.base import Ask, CascadeMiddleware, Slot
from cascade.models.base import Chunk
from cascade.policies.base import Situation, TierOutlook
from cascade.run import Call, Parts
from cascade.state import Assessment, Completion, Usage

LOSS = 0.01
"""Share of acceptable drafts that may be lost, where a calibration bounds it."""

LIMITS = frozenset({"max_tokens", "max_completion_tokens", "n_predict", "num_predict", "options"})
"""Parameters of a request's own that may override its `max_tokens`."""

Rule = Callable[[Sequence[float], float], str | None]
"""Says of the log-probabilities so far, and of their sum, why to stop; None to go on."""


class Abort(CascadeMiddleware):
    """Early stop of a draft that cannot be accepted any more, by the log-probs of its stream.

    Without a calibration a draft is stopped when the most certain rest could not lift its score to
    what is accepted; `max_tokens` has to be known. With one, when the mean of its last 16 tokens
    falls below what all but a share of acceptable calibration drafts stay above (`lowest_kept`).
    The policy has to accept the more confident of two drafts at least as readily. Drafts that may
    call tools are not stopped: their tokens are not all of the answer. `loss`, which needs a
    calibration, is the share of acceptable drafts that may be lost.

    Raises:
        ConfigurationError: the share has no meaning.
    """

    slot = Slot.STREAMS

    def __init__(self, loss: float | None = None, *, name: str = "abort") -> None:
        self.name = name
        self.loss = None if loss is None else to_number("Abort.loss", loss, above=0, below=1)

    def check(self, parts: Parts) -> None:
        """Refuse a cascade in which nothing tells when to stop."""
        drafting, calibrators = parts.tiers[:-1], (parts.calibrators or {}).values()
        names = ", ".join(tier.model.name for tier in drafting) or "no tier"
        tools, loss = bool((parts.settings or {}).get("tools")), self.loss or LOSS
        streams = any(tier.model.streams_logprobs for tier in drafting)
        needed = drafts_needed(loss)
        known = min((len(getattr(each, "early", ())) for each in calibrators), default=needed)
        unfounded = self.loss is not None and not calibrators
        bounded = any(tier.max_tokens for tier in drafting) and _scores_logprobs(parts)
        problems = {
            f"Abort stops what log-probs rule out; verifier={parts.judge!r} judges whole drafts. "
            "Give one of them.": parts.judge is not None,
            "Abort stops no draft that may call tools, and tools=… lets each of them. Leave one of "
            "them out; tools that come with some questions are no hindrance.": tools,
            f"Abort needs a draft whose stream has log-probs, which {names} does not give. Models "
            "of openai:, ollama: and llamacpp: do.": not streams,
            f"Abort({loss}): the calibration knows the log-probs of {known} drafts, and {needed} "
            "that would be accepted bound such a loss. Calibrate on more, with the signal "
            "logprobs, or allow more.": known < needed,
            f"Abort({loss}): a share of lost drafts needs calibrator=…, made by `calibrate`. "
            "Abort() stops what provably cannot be accepted.": unfounded,
            "Abort() without a calibration needs the signal logprobs, and to know how long a draft "
            f"may become: set max_tokens=… of {names}.": not calibrators and not bounded,
        }
        for problem, there in problems.items():
            if there:
                raise ConfigurationError(problem)

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Listen to a draft while it is written."""
        rule = self._rule(call) if call.node == "draft" and call.run.kind == "answer" else None
        if rule is None:
            return await handler(call)
        listener, outer = Listener(rule), call.on_chunk

        def hear(chunk: Chunk) -> str | None:
            reason = outer(chunk) if outer is not None else None
            return reason or listener.hear(chunk)

        return await handler(replace(call, on_chunk=hear))

    def _rule(self, call: Call) -> Rule | None:
        """When to stop a draft; None where it is not to be stopped."""
        run, kernel, request = call.run, call.runtime.kernel, call.request
        if request.tools or not (request.logprobs and call.tier.model.streams_logprobs):
            return None
        calibrator = (kernel.parts.calibrators or {}).get(call.tier.name)
        added = len(request.messages) > len(run.messages)
        if calibrator is not None and kernel.parts.holds(run.settings) and not added:
            rows = getattr(calibrator, "early", ())
            if not rows or calibrator.mismatch(run.messages) is not None:
                return None
            return unlikely(rows, _accepts(call, calibrated=True), self.loss or LOSS)
        limit = request.max_tokens
        if limit is None or LIMITS & request.extra.keys() or not _scores_logprobs(kernel.parts):
            return None
        return impossible(limit, _accepts(call, calibrated=False))


def _scores_logprobs(parts: Parts) -> bool:
    return not parts.signals or any(signal.name == "logprobs" for signal in parts.signals)


def _accepts(call: Call, *, calibrated: bool) -> Callable[[float], bool]:
    """Test of a confidence: true if its draft would not be escalated, as things stand."""
    run, kernel, request = call.run, call.runtime.kernel, call.request
    # For the cost of escalating: a prompt by its characters, an answer as long as allowed.
    tokens = characters(run.messages) // CHARACTERS_PER_TOKEN + 1
    usage = Usage(input_tokens=tokens, output_tokens=request.max_tokens or tokens)
    draft = Completion("", call.tier.model.name, usage)
    above = tuple(
        TierOutlook(tier.name, None, kernel.outlook.cost(tier, draft, run.messages))
        for tier in kernel.tiers[run.tier + 1 :]
    )

    def accepts(confidence: float) -> bool:
        seen = Assessment(confidence=confidence, calibrated=calibrated)
        situation = Situation(seen, above)
        return kernel.decide(run, situation, kernel.policy.decide).action != "escalate"

    return accepts


def impossible(limit: int, accepts: Callable[[float], bool]) -> Rule:
    """Stop where tokens without any doubt, up to the limit, would not lift the score enough."""

    def rule(values: Sequence[float], total: float) -> str | None:
        best = ceiling(total, limit)
        if accepts(best):
            return None
        return (
            f"{limit - len(values)} certain tokens more, up to max_tokens, would lift its score to "
            f"{best:.3f} at most"
        )

    return rule


def unlikely(rows: Sequence[EarlyRow], accepts: Callable[[float], bool], loss: float) -> Rule:
    """Stop where at most a share of the drafts that would be accepted had so bad a stretch."""
    lowest_of = cache(partial(lowest_kept, rows, accepts, loss))

    def rule(values: Sequence[float], total: float) -> str | None:
        del total
        if len(values) < WINDOW or (lowest := lowest_of()) is None:
            return None
        window = worst_window(values[-WINDOW:])
        # Where everything is accepted (time is short), another draft would not be any better.
        if window >= lowest - ROUNDING or accepts(0.0):
            return None
        return (
            f"the last {WINDOW} have a mean log-prob of {window:.2f}; below {lowest:.2f} are at "
            f"most {loss:.2%} of the drafts that would be accepted"
        )

    return rule


class Listener:
    """Log-probabilities of one draft while it is written; white space before the answer does not
    count in the end, and none behind it may stop it."""

    def __init__(self, rule: Rule) -> None:
        self._rule, self._total, self._heard = rule, 0.0, 0
        self._values: list[float] = []

    def hear(self, chunk: Chunk) -> str | None:
        """Take in a piece; the reason to stop, if there is one."""
        if chunk.first:
            self._values, self._total, self._heard = [], 0.0, 0
        self._heard += len(chunk.logprobs)
        for token in chunk.logprobs:
            if self._values or token.token.strip():
                self._values.append(token.logprob)
                self._total += token.logprob
        if not self._values or not chunk.logprobs or not chunk.logprobs[-1].token.strip():
            return None
        why = self._rule(self._values, self._total)
        return None if why is None else f"stopped after {self._heard} tokens: {why}"
