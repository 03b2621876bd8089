"""Self-checker: takes the signals of a draft and makes one confidence of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cascade.confidence.base import Asked, LogprobSignal, Probe, Signal, combine, take
from cascade.confidence.validity import objection, repetition, speaks_of_grading
from cascade.errors import CascadeError, DeadlineError, LocalOnlyError, ModelError, is_control_flow
from cascade.run import Call, CascadeRuntime, Parts, Run, Settings, Step, to_request
from cascade.state import Assessment, Completion
from cascade.tiers import OpenTier

logger = logging.getLogger("cascade")

NODE = "self_check"

CHECKED_AT_ONCE = 8_192
"""Size of an answer and its schema up to which one is checked against the other in the event loop;
that takes a millisecond."""


class SelfChecker:
    """Self-check of a draft, as a rule with the model that wrote it.

    Without signals of the cascade's it takes the cheapest that the tier allows: log-probs, which
    are free, else one question to the model about its own answer, where no verifier of the user's
    decides. With a calibrator, which makes a probability of them, paid signals are taken one by
    one, each only when the policy asks for it.
    """

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Assess the draft, and go on to the verifier. A draft that is ruled out costs no call.

        Raises:
            ModelError: a call of a signal failed in a way that is a mistake of the set-up.
        """
        draft, before = run.draft, run.assessment or Assessment()
        assert draft is not None, "the drafter comes before the self-checker"
        tier, seen = runtime.kernel.tiers[run.tier], await _look(run, draft, before)
        ruled_out = seen.objection is not None or seen.missing is not None
        due = _due(runtime.kernel.parts, tier, draft, seen.taken, free=ruled_out)
        if draft.finish_reason == "stopped":
            due = []  # half an answer tells nothing about whole ones
        run.assessment = await _assess(run, draft, runtime, seen, due)
        if run.kind == "answer" and not any(signal.calls for signal in due):
            runtime.kernel.ledger.book(run.id, NODE, tier=tier.name, tags=run.settings.get("tags"))
        return "verify"

    async def glance(self, run: Run, runtime: CascadeRuntime) -> Assessment | None:
        """The assessment of a draft by free signals; None where there are none."""
        draft = run.draft
        assert draft is not None, "there is a draft to look at"
        kernel, seen = runtime.kernel, await _look(run, draft, Assessment())
        free = _due(kernel.parts, kernel.tiers[run.tier], draft, (), free=True)
        judged = free or seen.objection is not None
        return await _assess(run, draft, runtime, seen, free) if judged else None


async def _assess(
    run: Run, draft: Completion, runtime: CascadeRuntime, seen: Assessment, due: Sequence[Signal]
) -> Assessment:
    """The assessment by what was seen and the signals that are due, with its confidence: none where
    there is a doubt."""
    parts, tier = runtime.kernel.parts, runtime.kernel.tiers[run.tier]
    features, lost = await _take(due, run, Asked(run.messages, draft, runtime), seen.signals)
    taken = (*seen.taken, *(signal.name for signal in due))
    missing, against = lost or seen.missing, seen.objection
    found = Assessment(features, missing=missing, objection=against, taken=taken)
    if missing is not None:
        return found
    calibrator, signals = parts.calibrators.get(tier.name), due
    if calibrator is not None:
        signals = [signal for signal in parts.signals if signal.name in taken]
    if calibrator is None or draft.added_tokens or not parts.holds(run.settings):
        return _raw(found, signals, draft)
    missing = calibrator.mismatch(run.messages)
    estimate = None if missing else calibrator.estimate(features, taken)
    if estimate is None:
        lost = f"the signals of the calibration did not come back{_unseen(draft, signals)}"
        return replace(found, missing=missing or lost)
    p, p_large = estimate.confidence, estimate.p_large
    return replace(found, confidence=p, p_large=p_large, calibrated=estimate.calibrated)


async def _take(
    signals: Sequence[Signal], run: Run, asked: Asked, before: Mapping[str, float]
) -> tuple[Mapping[str, float], str | None]:
    """The features, and why there are not all of them. A check that cannot be made leaves the draft
    without a confidence, and loses no draft that is paid for."""
    kernel, features = asked.runtime.kernel, dict(before)
    for signal in signals:
        tier = kernel.helpers.get(signal.name, kernel.tiers[run.tier])
        try:
            features |= await take(signal, asked, partial(_ask, run, asked.runtime, tier))
        except LocalOnlyError:
            continue  # a helper elsewhere must not be asked: its features are missing
        except ModelError as error:
            if not (error.circumstantial or isinstance(error, DeadlineError)):
                raise
            return features, f"the self-check failed: {error}"
        except CascadeError:
            raise
        except Exception as error:
            if is_control_flow(error):
                raise
            logger.warning("the signal %r raised", signal.name, exc_info=True)
            return features, f"the signal {signal.name} raised {type(error).__name__}"
    return features, None


def _due(
    parts: Parts, tier: OpenTier, draft: Completion, taken: Sequence[str], *, free: bool
) -> list[Signal]:
    """The signals to take now: all of them, or with a calibrator free ones before paid."""
    wanted = parts.signals
    if not wanted:
        # A server may say nothing of log-probs, and send none.
        if tier.model.returns_logprobs and draft.decisive_logprobs:
            wanted = (LogprobSignal(),)
        elif parts.judge is None:
            from cascade.confidence.signals import PTrueSignal  # noqa: PLC0415 - seldom

            wanted = (PTrueSignal(),)
    due = [signal for signal in wanted if signal.name not in taken]
    costless = [signal for signal in due if not signal.calls]
    if free:
        return costless
    return costless or due[:1] if tier.name in parts.calibrators else due


async def _ask(run: Run, runtime: CascadeRuntime, tier: OpenTier, probe: Probe) -> Completion:
    # A check is a plain question: the draft's tools and schema would stand in its way.
    plain = Settings(timeout_s=run.settings.get("timeout_s"))
    settings = run.settings if probe.as_draft else plain
    request = to_request(tier, probe.messages, settings, top_logprobs=probe.top_logprobs)
    request = replace(
        request,
        max_tokens=probe.max_tokens or request.max_tokens,
        temperature=request.temperature if probe.temperature is None else probe.temperature,
        answer=probe.answer,
        logprobs=request.logprobs or probe.answer is not None,
    )
    return await runtime.kernel.ask(Call(run, runtime, NODE, tier, request))


async def _look(run: Run, draft: Completion, before: Assessment) -> Assessment:
    """What is to be said of a draft whatever its signals say: an objection, or a doubt (`missing`),
    which may be about an answer on grading: where no larger tier can be had it is an answer."""
    words = speaks_of_grading(draft.transcript)
    doubt = None if words is None else f"the answer speaks to its checker: {words!r}"
    against = await _objection(run, draft)
    return Assessment(before.signals, taken=before.taken, objection=against, missing=doubt)


async def _objection(run: Run, draft: Completion) -> str | None:
    """Objection that rules the draft out. A large answer, or one with a large schema, is
    checked in a thread: all other runs of the event loop would wait for it."""
    if draft.finish_reason == "stopped":
        return run.stopped or "the draft was stopped before its end"
    if draft.trajectory and draft.tool_calls:
        return None  # an agent's tools are its own
    settings = run.settings
    schema, tools = settings.get("schema"), settings.get("tools") or ()
    check = partial(
        objection, draft, schema=schema, tools=tools, tool_choice=settings.get("tool_choice")
    )
    checked = [] if schema is None else [schema, draft.text]
    checked += [tool for tool in tools if tool["function"]["name"] in draft.called]
    checked += [call["args"] for call in draft.tool_calls]
    large = checked and _size(checked) > CHECKED_AT_ONCE
    wrong = await asyncio.to_thread(check) if large else check()
    return wrong or repetition(run.messages, draft)


def _size(parts: list[Any]) -> int:
    """Values and characters in JSON, counted until they are too many."""
    size, left = 0, list(parts)
    while left and size <= CHECKED_AT_ONCE:
        part = left.pop()
        size += 8 + (len(part) if isinstance(part, str) else 0)
        if isinstance(part, Mapping):
            left += part.values()
        elif isinstance(part, list):
            left += part
    return size


def _raw(assessment: Assessment, signals: Sequence[Signal], draft: Completion) -> Assessment:
    scores = [signal.score(assessment.signals) for signal in signals]
    why = []
    for signal, score in zip(signals, scores, strict=True):
        if signal.is_score and score is None:
            value = assessment.signals.get(signal.name)
            lost = f" did not come back{_unseen(draft, [signal])}"
            wide = "is outside [0, 1], a score only once it is calibrated"
            why.append(signal.name + (lost if value is None else f"={value:g} {wide}"))
    confidence = None if why else combine(scores)
    return replace(assessment, confidence=confidence, missing="; ".join(why) or None)


def _unseen(draft: Completion, signals: Sequence[Signal]) -> str:
    """Reason why log-probs are missing of a draft that calls tools."""
    if draft.call_logprobs or not draft.tool_calls or all(s.name != "logprobs" for s in signals):
        return ""
    called = " and ".join(dict.fromkeys(call["name"] for call in draft.tool_calls))
    return f": the call of {called} could not be found among the log-probs that were sent"
