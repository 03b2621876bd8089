"""Says what each model's answer to an example is worth, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from cascade.agents import Caller
from cascade.collect.examples import Example
from cascade.confidence.bindings import system_hash
from cascade.errors import InputError
from cascade.evaluation.scorers import JudgeScorer, Scorer, TextScorer
from cascade.evaluation.transcripts import Outcome, Transcript
from cascade.ledger import Recorder
from cascade.models import Model, Request
from cascade.state import CascadeState, Completion, Run
from cascade.tiers import OpenTier, open_tier

MADE_WITH = "made_with"
"""Key of a transcript: the settings, so that answers of different ones are never mixed."""


@dataclass(frozen=True, slots=True)
class Marking:
    """Says what each model's answer is worth."""

    tiers: Sequence[OpenTier]
    scorer: Scorer
    dataset: str
    agree_with_large: bool
    made_with: dict[str, Any]

    def check_reference(self, example: Example) -> None:
        """Before anything is paid: a reference that the scorer cannot read.

        Raises:
            InputError: it is one.
        """
        is_compared = not self.agree_with_large and example.reference is not None
        if is_compared and isinstance(self.scorer, TextScorer):
            self.scorer("", example.reference, example.question)

    async def transcript(self, example: Example, state: CascadeState) -> Transcript | None:
        """The outcomes of a finished run; None when nobody can say who was right.

        Raises:
            InputError: one of the models gave no answer.
            CascadeError: the scorer failed.
        """
        draft, assessment = state["draft"], state["assessment"]
        if draft is None or assessment is None:
            raise InputError(f"the small model gave no draft: {state['decision'].reason}")
        if state["degraded"]:
            raise InputError(f"the large model gave no answer: {state['decision'].reason}")
        small, large = self.tiers
        answer = str(state["messages"][-1].text)
        reference: JsonValue = answer if self.agree_with_large else example.reference
        models: dict[str, Outcome] = {}
        for tier, text in ((small, draft.completion.text), (large, answer)):
            correct = await self._worth(
                example, text, reference, state["run"], is_reference=tier is large
            )
            if correct is None:
                return None
            models[tier.model.name] = _outcome(state, tier, text, correct)
        models[small.model.name] = models[small.model.name].model_copy(
            update={
                "features": dict(assessment.signals),
                "confidence": assessment.confidence,
                "check_cost_usd": _check_cost(state),
            }
        )
        made_with = {**self.made_with, "system": system_hash(example.messages)}
        return Transcript(
            dataset=self.dataset,
            id=example.id,
            prompt=example.question,
            reference=reference,
            models=models,
        ).model_copy(update={MADE_WITH: made_with})

    async def _worth(
        self,
        example: Example,
        text: str,
        reference: JsonValue,
        run: Run,
        *,
        is_reference: bool,
    ) -> float | None:
        if example.labels and text.strip() in example.labels:
            return float(example.labels[text.strip()])
        if self.agree_with_large and (is_reference or not str(reference).strip()):
            return 1.0 if str(reference).strip() else None
        if reference is None:
            return None
        scorer = self.scorer
        if isinstance(scorer, JudgeScorer):
            scorer = replace(scorer, model=_Booked(open_tier(scorer.model, "judge"), run))
        return (await scorer.score(text, reference, question=example.question)).value


class _Booked(Model):
    """A judge whose calls go into the ledger like all others, also those that fail."""

    real = False  # the model behind it says whether it may be asked

    def __init__(self, tier: OpenTier, run: Run) -> None:
        self.provider, self.model = tier.model.provider, tier.model.model
        self._tier = tier
        self._run = run

    async def _complete(self, request: Request) -> Completion:
        return await Caller(Recorder()).ask(self._tier, request, "score", self._run)


def _check_cost(state: CascadeState) -> float | None:
    """What the signals and the user's verifier cost; None where it is not known."""
    checks = (e.cost_usd for e in state["ledger"] if e.node in ("self_check", "verify"))
    costs = [None if cost is None else float(cost) for cost in checks]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _outcome(state: CascadeState, tier: OpenTier, text: str, correct: float) -> Outcome:
    """Costs and tokens of the tier's own answer; what signals cost is in `check_cost_usd`."""
    node = "expert" if tier.name == state["messages"][-1].response_metadata["tier"] else "draft"
    entry = next(e for e in reversed(state["ledger"]) if e.node == node)
    return Outcome(
        correct=correct,
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cost_usd=None if entry.cost_usd is None else float(entry.cost_usd),
        output=text,
        latency_ms=entry.latency_ms,
    )
