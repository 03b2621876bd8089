"""LangChain's decision models: as signals and verifiers of a cascade, and a cascade as one of them,
such as the `classifier` of `ModelRouterMiddleware`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from langchain_core import decisions as core
from langchain_core.decisions import Choice, Noul, Score
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, PrivateAttr, SkipValidation

from cascade._portal import on_portal, synchronous
from cascade.agents import Verdict
from cascade.api import Cascade
from cascade.confidence import Asked, Probe, Signal
from cascade.errors import ConfigurationError, LocalOnlyError, ModelError
from cascade.integrations.chat_model import usage_of
from cascade.ledger.entries import LedgerEntry
from cascade.models import Model, Request
from cascade.models.failures import Caller
from cascade.models.langchain import QUIET, sending_once
from cascade.questions import to_messages
from cascade.run import Call, CascadeRuntime, Run, Settings, to_request
from cascade.state import Completion, Usage
from cascade.tiers import Tier, open_tier

CORRECT = Noul(instructions="Is the last answer in this conversation correct and complete?")


class AskedDecisionModel(Model):
    """A decision model with one question, as a model whose completions are its answers in JSON."""

    def __init__(self, decides: Any, question: Noul | Choice | Score) -> None:
        package = type(decides).__module__.partition(".")[0]
        self.provider, self.model = package.removeprefix("langchain_"), decides.model
        self._question: Any = question
        self._decides, self._sends_once = sending_once(decides)

    async def _complete(self, request: Request) -> Completion:
        state, question = "state", self._question
        if not isinstance(self._decides, core.BaseDecisionModel):
            from langchain_openai import decisions  # noqa: PLC0415 - it has kinds of its own

            text, criteria, state = question.instructions, question.criteria, "input"
            text = text if isinstance(text, str) else json.dumps(text)
            if isinstance(question, Choice):
                question = decisions.Choice(instructions=text, choices=criteria)
            elif isinstance(question, Score):
                question = decisions.Score(instructions=text, levels=criteria)
            else:
                question = decisions.Predicate(instructions=text)
        asked: Any = {state: list(request.messages), "questions": {"answer": question}}
        with Caller(self.name, "its server").named():
            # Its clients have one home, as those of chat models.
            response = await on_portal(self._decides.ainvoke(asked, QUIET))
        told: dict[str, Any] = dict(response.usage or ()) if self._sends_once else {}
        usage = Usage(**{name: told.get(name) for name in ("input_tokens", "output_tokens")})
        said = response.answers["answer"].model_dump_json()
        return Completion(said, response.model, usage, finish_reason="stop")


class DecisionSignal(Signal):
    """Signal of a decision model, which reads the conversation with the draft: a probability,
    missing where the model refuses to answer.

    Args:
        model: a `BaseDecisionModel`, or langchain-openai's `OpenAIDecisions`.
        question: `Noul` gives the probability of yes, `Choice` that of the label `correct`, and
            `Score` its level as a share of the highest.
        tier: options of `Tier`, such as `price` and `local`.

    Raises:
        ConfigurationError: the question gives no probability.
    """

    calls = 1

    def __init__(
        self,
        model: Any,
        question: Noul | Choice | Score = CORRECT,
        *,
        correct: str | None = None,
        name: str = "decision",
        **tier: Any,
    ) -> None:
        labels = question.criteria if isinstance(question, Choice) else {correct: None}
        known = isinstance(model, Runnable) and isinstance(question, Noul | Choice | Score)
        if not known or correct not in labels:
            raise ConfigurationError(
                f"DecisionSignal({model!r}, {question!r}, correct={correct!r}): give a decision "
                "model, not its name, and a Noul, a Score, or a Choice with the label that stands "
                "for a correct draft."
            )
        self.name, self._correct = name, correct
        self.model = Tier(AskedDecisionModel(model, question), **tier)

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The conversation with the draft."""
        return (Probe((*asked.messages, AIMessage(asked.draft.transcript))),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> dict[str, float]:
        """The probability under the signal's name."""
        match json.loads(replies[0].text):
            case {"noul": p} | {"probability": p}:
                pass
            case {"type": "choice", "probabilities": shares}:
                p = shares[self._correct]
            case {"score": score, "legend": levels}:
                p = score / (len(levels) - 1)
            case _:  # refused
                return {}
        return {self.name: min(1.0, max(0.0, float(p)))}


class SignalVerifier:
    """A signal of one call, with a model of its own, as the verifier of a cascade: the policy
    decides by the probability. Where that cannot be had, the question escalates."""

    def __init__(self, signal: Signal) -> None:
        self._signal, self._tier = signal, open_tier(signal.model, signal.name)

    async def __call__(
        self, question: str, answer: str, runtime: CascadeRuntime, *, run: Run
    ) -> Verdict:
        """Its verdict on the draft."""
        assert run.draft is not None
        asked = Asked(run.messages, run.draft, runtime)
        (probe,) = self._signal.probes(asked, ())
        request = to_request(self._tier, probe.messages, Settings())
        try:
            said = await runtime.kernel.ask(Call(run, runtime, "verify", self._tier, request))
        except ModelError as error:
            if not (error.circumstantial or isinstance(error, LocalOnlyError)):
                raise
            return Verdict(accept=False, reason=f"the verifier could not be asked: {error}")
        features: Any = self._signal.read(asked, [said])
        p = self._signal.score(features)
        why = f"the verifier gave no probability: {said.text[:80]!r}"
        return Verdict(accept=False, reason=why) if p is None else Verdict(confidence=p)


class DecisionVerifier(SignalVerifier):
    """A decision model as the verifier of a cascade, with the arguments of `DecisionSignal`."""

    def __init__(self, model: Any, question: Any = CORRECT, **options: Any) -> None:
        super().__init__(DecisionSignal(model, question, **options))


class CascadeDecisionModel(core.BaseDecisionModel):
    """The calibrated verifier of a cascade as a decision model; `model` is its name in traces.

    The first tier drafts an answer to the state, and the confidence in it is the answer: of a
    `Noul` the probability that the draft is correct; of a `Choice`, whose labels stand for the
    tiers from small to large, the tier that the policy would let answer. The large model is not
    asked. What it costs is in the ledger under the node `shadow`, and in `usage`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    cascade: SkipValidation[Cascade]
    model: str = "cascade"
    _entries: dict[str, list[LedgerEntry]] = PrivateAttr(default_factory=dict)
    _provider: Any = "cascade"

    def model_post_init(self, context: Any, /) -> None:
        """Hear what the drafts cost."""
        heard, listeners = self._entries, self.cascade.kernel.ledger.listeners
        listeners.append(lambda entry: heard.get(entry.run_id, []).append(entry))

    async def _aclassify(self, state: Any, questions: Any) -> core.ClassifierResponse:
        kernel = self.cascade.kernel
        tiers = [tier.name for tier in kernel.tiers]
        for name, question in questions.items():
            fits = isinstance(question, Choice) and len(question.criteria) == len(tiers)
            if not (fits or isinstance(question, Noul)):
                raise ConfigurationError(
                    f"the question {name!r}: a cascade answers a Noul, or a Choice with a label "
                    f"for each tier, from small to large ({', '.join(tiers)})."
                )
        given = [state] if isinstance(state, str | BaseMessage) else state
        texts = isinstance(given, Sequence) and all(isinstance(m, str | BaseMessage) for m in given)
        asked = given if texts else [HumanMessage(json.dumps(given, default=str))]
        run = kernel.begin(to_messages(asked), kind="shadow")
        runtime, entries = CascadeRuntime(kernel), self._entries.setdefault(run.id, [])
        try:
            await kernel.answer(run, runtime)
            while run.decision is not None and run.decision.action == "observe":
                run.step = "self_check"
                await kernel.answer(run, runtime)
        finally:
            del self._entries[run.id]
        decision, seen = run.decision, run.assessment
        assert decision is not None
        p = None if seen is None else 0.0 if seen.objection else seen.confidence
        if p is None:
            why = (seen and seen.missing) or decision.reason
            raise ModelError(f"there is no confidence in a draft: {why}", model=self.model)
        chosen = 0 if decision.action == "accept" else tiers.index(decision.tier or tiers[1])
        answers: dict[str, Any] = {}
        for name, question in questions.items():
            answers[name] = core.NoulAnswer(type="noul", noul=p)
            if isinstance(question, Choice):
                labels = list(question.criteria)
                shares = dict.fromkeys(labels, 0.0) | {labels[0]: p, labels[chosen or 1]: 1.0 - p}
                best: Any = {"choice": labels[chosen], "confidence": shares[labels[chosen]]}
                answers[name] = core.ChoiceAnswer(type="choice", probabilities=shares, **best)
        told: dict[str, Any] = {"model": self.model, "request_id": run.id}
        return core.ClassifierResponse(answers=answers, usage=usage_of(entries), **told)

    _classify = cast("Any", synchronous(_aclassify))
