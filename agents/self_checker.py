"""The self-checker takes the signals of a draft and makes one confidence of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from langchain_core.messages import BaseMessage
from langgraph.errors import NodeError
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, Caller, Task, attempt_of
from cascade.agents.border import may_ask
from cascade.agents.entries import free_entry
from cascade.agents.shedding import Pressure, shed_entry
from cascade.agents.showing import shows_drafts
from cascade.confidence import Calibrator, combine, objection, repetition, speaks_of_grading
from cascade.confidence.signals import Asked, LogprobSignal, Probe, PTrueSignal, Signal, take
from cascade.errors import DeadlineError, ModelError
from cascade.events import Retracted
from cascade.models import Request
from cascade.state import Assessment, CascadeState, Completion, Draft, Run, StateUpdate
from cascade.tiers import OpenTier

NODE = "self_check"


@dataclass(frozen=True, slots=True)
class SelfChecker:
    """Checks a draft, as a rule with the model that wrote it.

    Args:
        signals: what to take, cheapest first; empty for the cheapest that the tier allows:
            log-probs, which are free, else one question to the model about its own answer.
        helpers: other models that signals ask, by the signal's name.
        calibrators: make a probability of the signals, by tier. With one, paid signals are
            taken one by one, each only when the policy asks for it.
        pressure: under which paid signals are left out, where a free one gives a confidence.
    """

    tiers: tuple[OpenTier, ...]
    caller: Caller
    task: Task
    signals: Sequence[Signal] = ()
    helpers: Mapping[str, OpenTier] = field(default_factory=dict)
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    pressure: Pressure | None = None

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> StateUpdate:
        """Assess the draft. A draft that is ruled out costs no call.

        Raises:
            ModelError: a call of a signal failed.
        """
        run, draft = state["run"], state["draft"]
        assert draft is not None, "the drafter comes before the self-checker"
        tier = self.tiers[run.tier]
        asked = Asked(state["messages"], draft.completion)
        against = draft.stopped or self._objection(asked)
        doubt = _doubt(draft)
        before = state.get("assessment") or Assessment()
        ruled_out = against is not None or doubt is not None
        due = self._due(tier, draft.completion, before.taken, ruled_out=ruled_out)
        due = self._without_shed(run, tier, due)
        signals = [] if draft.stopped else due  # half an answer tells nothing about whole ones

        async def ask(signal: Signal, probe: Probe) -> Completion:
            asked_tier = self.helpers.get(signal.name, tier)
            request = self._request(probe, asked_tier)
            return await self.caller.ask(
                asked_tier, request, NODE, run, attempt=attempt_of(runtime)
            )

        features = dict(before.signals)
        taken_here = [s for s in signals if may_ask(run, self.helpers.get(s.name, tier))]
        for signal in taken_here:
            features |= await take(signal, asked, ask)
        if not any(signal.calls for signal in taken_here):
            self.caller.recorder.record(free_entry(run, NODE, tier.name))
        taken = (*before.taken, *(signal.name for signal in signals))
        assessment = Assessment(signals=features, taken=taken, objection=against)
        judged = self._judge(tier, assessment, taken_here, asked)
        judged = self._remembered(tier, draft, judged)
        return {
            "assessment": _doubted(judged, doubt),
            "ledger": self.caller.recorder.take(run.id),
        }

    async def glance(
        self, tier: OpenTier, draft: Draft, messages: Sequence[BaseMessage]
    ) -> Assessment | None:
        """What the signals that cost nothing say of an answer; None where there are none."""
        asked = Asked(messages, draft.completion)
        free = self._due(tier, draft.completion, (), ruled_out=True)
        features: dict[str, float] = {}
        for signal in free:
            features |= await take(signal, asked, _asks_nobody)
        taken = tuple(signal.name for signal in free)
        assessment = Assessment(signals=features, taken=taken, objection=self._objection(asked))
        judged = self._remembered(tier, draft, self._judge(tier, assessment, free, asked))
        judged = _doubted(judged, _doubt(draft))
        return judged if free or judged.objection else None

    def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """A check that cannot be made leaves the draft without a confidence.

        Its signals count as taken: a policy that asks for one more does not get them again.
        """
        failure, run, draft = error.error, state["run"], state["draft"]
        lost = isinstance(failure, ModelError) and failure.circumstantial
        if not (lost or isinstance(failure, DeadlineError)) or draft is None:
            if shows_drafts():  # nothing follows that would replace its words
                runtime.stream_writer(Retracted(f"the draft could not be checked: {failure}"))
            raise failure
        entries = self.caller.recorder.take(run.id)
        before = state.get("assessment") or Assessment()
        due = self._due(self.tiers[run.tier], draft.completion, before.taken, ruled_out=False)
        assessment = Assessment(
            signals=before.signals,
            taken=(*before.taken, *(signal.name for signal in due)),
            missing=f"the self-check failed: {failure}",
        )
        return Command(goto="verify", update={"assessment": assessment, "ledger": entries})

    def _objection(self, asked: Asked) -> str | None:
        """What rules the draft out, if anything does."""
        wrong = objection(
            asked.draft,
            schema=self.task.schema,
            tools=self.task.tools,
            tool_choice=self.task.tool_choice,
        )
        return wrong or repetition(asked.messages, asked.draft)

    def _due(
        self, tier: OpenTier, draft: Completion, taken: Sequence[str], *, ruled_out: bool
    ) -> list[Signal]:
        """The signals to take now: all of them, or with a calibrator free ones before paid."""
        wanted = self.signals
        if not wanted:
            shown = not draft.tool_calls or draft.call_logprobs is not None
            has_logprobs = tier.model.returns_logprobs and shown
            wanted = (LogprobSignal() if has_logprobs else PTrueSignal(),)
        due = [signal for signal in wanted if signal.name not in taken]
        free = [signal for signal in due if not signal.calls]
        if ruled_out:
            return free
        if tier.name not in self.calibrators:
            return due
        return free or due[:1]

    def _without_shed(self, run: Run, tier: OpenTier, due: list[Signal]) -> list[Signal]:
        """The signals that are taken under the present pressure.

        A paid one is left out only where a free one gives a confidence: without any, each draft
        would go to the large model, which is no relief. With a calibrator it is the policy that
        asks for paid signals, and the verifier that leaves them out.
        """
        paid = [signal for signal in due if signal.calls]
        free = [signal for signal in due if not signal.calls]
        if not paid or self.pressure is None or tier.name in self.calibrators:
            return due
        if not any(signal.is_score for signal in free):
            return due
        pressure = self.pressure.sheds("signal", self.caller.deadline.left_s(run))
        if pressure is None:
            return due
        names = " and ".join(signal.name for signal in paid)
        what = f"{names} {'was' if len(paid) == 1 else 'were'} not taken"
        self.caller.recorder.record(shed_entry(run, "signal", tier.name, pressure, what))
        return free

    def _judge(
        self, tier: OpenTier, assessment: Assessment, signals: Sequence[Signal], asked: Asked
    ) -> Assessment:
        calibrator = self.calibrators.get(tier.name)
        if calibrator is None:
            return _raw(assessment, signals, asked.draft)
        missing = calibrator.mismatch(asked.messages)
        if missing is not None:
            return replace(assessment, missing=missing)
        estimate = calibrator.estimate(assessment.signals, assessment.taken)
        if estimate is None:
            why = _unseen(asked.draft, [s for s in self.signals if s.name in assessment.taken])
            lost = f"the signals of the calibration did not come back{why}"
            return replace(assessment, missing=lost)
        return replace(
            assessment,
            confidence=estimate.confidence,
            interval=estimate.interval,
            p_large=estimate.p_large,
            calibrated=True,
        )

    def _remembered(self, tier: OpenTier, draft: Draft, judged: Assessment) -> Assessment:
        """The assessment, in which nothing is calibrated where the draft was shown examples and the
        calibration was made without any: examples make a model surer."""
        if not draft.example_tokens:
            return judged
        known = getattr(self.calibrators.get(tier.name), "memory", None)
        return judged if known is not None else replace(judged, calibrated=False)

    def _request(self, probe: Probe, tier: OpenTier) -> Request:
        # A check is a plain question: the draft's tools and schema would stand in its way.
        task = self.task if probe.as_draft else self.task.for_check()
        request = task.request(tier, probe.messages, top_logprobs=probe.top_logprobs)
        return replace(
            request,
            max_tokens=probe.max_tokens or request.max_tokens,
            temperature=request.temperature if probe.temperature is None else probe.temperature,
        )


async def _asks_nobody(signal: Signal, probe: Probe) -> Completion:
    raise AssertionError(f"{signal.name} is free and asks for {probe}")


def _doubt(draft: Draft) -> str | None:
    """Why nothing is to rely on a draft, whatever its signals say.

    No objection: it may be about grading, and where no larger tier can be had it is an answer.
    """
    words = speaks_of_grading(draft.completion.transcript)
    if words is None:
        return draft.doubt
    return f"the answer speaks to whoever checks it: {words!r}"


def _doubted(judged: Assessment, why: str | None) -> Assessment:
    """The assessment, without a confidence where there is a doubt."""
    if why is None:
        return judged
    return replace(judged, confidence=None, interval=None, calibrated=False, missing=why)


def _raw(assessment: Assessment, signals: Sequence[Signal], draft: Completion) -> Assessment:
    scores = {signal.name: signal.score(assessment.signals) for signal in signals}
    given = {name: score for name, score in scores.items() if score is not None}
    absent = [signal for signal in signals if signal.is_score and signal.name not in given]
    names = " and ".join(signal.name for signal in absent)
    return replace(
        assessment,
        confidence=None if absent else combine(given),
        missing=f"{names} did not come back{_unseen(draft, absent)}" if absent else None,
    )


def _unseen(draft: Completion, signals: Sequence[Signal]) -> str:
    """Why log-probs are missing of a draft that calls tools."""
    if draft.call_logprobs or not draft.tool_calls or not any(s.needs_logprobs for s in signals):
        return ""
    called = " and ".join(dict.fromkeys(call["name"] for call in draft.tool_calls))
    return f": the call of {called} could not be found among the log-probs that were sent"
