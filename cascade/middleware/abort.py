"""Abort: a draft is stopped while it is written, and escalated, once it cannot be accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from cascade._numbers import to_number
from cascade.confidence.base import WINDOW, worst_window
from cascade.confidence.signals import ROUNDING, ceiling, drafts_needed, lowest_kept
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

    def __init__(self, loss: float | None = None) -> None:
        self.loss = None if loss is None else to_number("Abort.loss", loss, above=0, below=1)

    def check(self, parts: Parts) -> None:
        """Refuse a cascade in which nothing tells when to stop."""
        drafting, calibrators = parts.tiers[:-1], parts.calibrators.values()
        names = ", ".join(tier.model.name for tier in drafting) or "no tier"
        whole = parts.judge is not None or bool(parts.settings.get("tools"))
        streams = any(tier.model.streams_logprobs for tier in drafting)
        needed = drafts_needed(self.loss or LOSS)
        unknown = 0 if self.loss else needed
        known = min((len(each.early) for each in calibrators), default=unknown)
        bounded = any(tier.max_tokens for tier in drafting) and _scores_logprobs(parts)
        problems = {
            "Abort stops what log-probs rule out; verifier=… judges whole drafts, and with tools=… "
            "any draft may call one. Leave Abort out, or let tools come with questions.": whole,
            f"Abort needs a draft whose stream has log-probs, which {names} does not give. Models "
            "of openai:, ollama: and llamacpp: do.": not streams,
            f"Abort({self.loss or LOSS}) needs calibrator=…, made on {needed} drafts or more with "
            f"log-probs that would be accepted; {known} are known. Calibrate on more, with the "
            "signal logprobs, or allow a larger loss.": known < needed,
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
        outer, values = call.on_chunk, list[float]()

        def hear(chunk: Chunk) -> str | None:
            reason = None if outer is None else outer(chunk)
            if chunk.first:
                values.clear()
            # White space before the answer does not count in the end, and none behind it stops it.
            last = ""
            for token in chunk.logprobs:
                last = token.token.strip()
                if values or last:
                    values.append(token.logprob)
            why = rule(values) if last and not reason else None
            return reason if why is None else f"stopped after {len(values)} tokens: {why}"

        return await handler(replace(call, on_chunk=hear))

    def _rule(self, call: Call) -> Callable[[Sequence[float]], str | None] | None:
        """Why to stop a draft, by its log-probabilities so far; None where it may not be."""
        run, parts, request = call.run, call.runtime.kernel.parts, call.request
        if request.tools or not (request.logprobs and call.tier.model.streams_logprobs):
            return None
        calibrator = parts.calibrators.get(call.tier.name)
        added = len(request.messages) > len(run.messages)
        if calibrator is not None and parts.holds(run.settings) and not added:
            known = calibrator.mismatch(run.messages) is None
            accepts, loss = _accepts(call, calibrated=True), self.loss or LOSS
            lowest = lowest_kept(calibrator.early if known else (), accepts, loss)
            if lowest is None:
                return None

            def unlikely(values: Sequence[float]) -> str | None:
                window = worst_window(values[-WINDOW:])
                # Where everything is accepted (time is short), another would not be any better.
                if len(values) < WINDOW or window >= lowest - ROUNDING or accepts(0.0):
                    return None
                return (
                    f"the last {WINDOW} have a mean log-prob of {window:.2f}; below {lowest:.2f} "
                    f"are at most {loss:.2%} of the drafts that would be accepted"
                )

            return unlikely
        limit = request.max_tokens
        if limit is None or LIMITS & request.extra.keys() or not _scores_logprobs(parts):
            return None
        accepts = _accepts(call, calibrated=False)

        def impossible(values: Sequence[float]) -> str | None:
            best = ceiling(math.fsum(values), limit)  # of tokens without any doubt from here on
            if accepts(best):
                return None
            return (
                f"{limit - len(values)} certain tokens more, up to max_tokens, would lift its "
                f"score to {best:.3f} at most"
            )

        return impossible


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
        situation = Situation(Assessment({}, confidence, calibrated), above)
        return kernel.decide(run, situation, kernel.policy.decide).action != "escalate"

    return accepts
