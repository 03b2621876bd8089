"""Runs the examples, and goes on where an earlier run stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade._together import together
from cascade.api import Cascade
from cascade.collect.examples import Example
from cascade.collect.marking import MADE_WITH, Marking
from cascade.errors import CascadeError, ConfigurationError
from cascade.evaluation.scorers import Scorer
from cascade.evaluation.transcripts import TranscriptWriter, read_transcripts
from cascade.ledger import LedgerView, collecting
from cascade.policies import Situation
from cascade.setup import task_hash
from cascade.state import Decision, LedgerEntry
from cascade.tiers import OpenTier

GIVE_UP_AFTER = 20
"""Failures without one success: the set-up is wrong, and each further question costs money."""


class AlwaysEscalate:
    """The policy of collecting: both models answer everything."""

    def decide(self, situation: Situation) -> Decision:
        """Escalate."""
        return Decision(
            action="escalate",
            reason="both models answer while examples are collected",
            confidence=situation.assessment.confidence,
        )


@dataclass(slots=True)
class Collected:
    """What came of collecting.

    Attributes:
        written: examples whose outcomes are in the file now and were not before.
        skipped: examples that were there already.
        unlabelled: examples left out because nobody can say whether an answer is right.
        failures: examples that failed, id → why; the next run tries them again.
        entries: what was spent.
    """

    written: int = 0
    skipped: int = 0
    unlabelled: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    entries: list[LedgerEntry] = field(default_factory=list)

    @property
    def ledger(self) -> LedgerView:
        """What was spent, per node."""
        return LedgerView(self.entries)


async def collect(
    examples: Sequence[Example],
    cascade: Cascade,
    scorer: Scorer,
    writer: TranscriptWriter,
    *,
    dataset: str = "examples",
    agree_with_large: bool = False,
    concurrency: int = 8,
    progress: Callable[[Collected], None] = lambda _: None,
) -> Collected:
    """Answer examples with both models and write their transcripts.

    An example whose answers nobody could judge is left out before it is asked.

    Args:
        examples: what to ask.
        cascade: made with `AlwaysEscalate` and all signals that may be wanted.
        scorer: compares answers with references.
        writer: knows which examples are done.
        dataset: name of the set in the transcripts.
        agree_with_large: take the large model's answer as the reference; what is certified then
            is the loss relative to it.
        concurrency: examples under way at once.
        progress: called after each example.

    Raises:
        ConfigurationError: the cascade has not two tiers of different models, the concurrency
            is below 1, or the file holds answers to other questions or of other models or settings.
        CascadeError: nothing but failures: `GIVE_UP_AFTER` of them and no success.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    _check_pair(cascade)
    made_with = _settings(cascade, scorer, agree_with_large=agree_with_large)
    marking = Marking(cascade.tiers, scorer, dataset, agree_with_large, made_with)
    _check_resumable(examples, cascade.tiers, made_with, writer)
    done = Collected(skipped=sum(example.id in writer.ids for example in examples))
    todo = [example for example in examples if example.id not in writer.ids]
    free = asyncio.Semaphore(concurrency)

    async def one(example: Example) -> None:
        async with free:
            if not (agree_with_large or example.labels or example.reference is not None):
                done.unlabelled += 1
            else:
                with collecting() as entries:
                    try:
                        await answered(example)
                    except CascadeError as error:
                        done.failures[example.id] = str(error)
                    finally:
                        done.entries += entries
            progress(done)
            _check_hope(done)

    async def answered(example: Example) -> None:
        marking.check_reference(example)
        state: Any = await cascade.graph.ainvoke({"messages": example.messages})
        transcript = await marking.transcript(example, state)
        if transcript is None:
            done.unlabelled += 1
        else:
            writer.write(transcript)
            done.written += 1

    try:
        await together(one(example) for example in todo)
    except CascadeError as error:
        error.ledger = done.ledger
        raise
    return done


def _check_pair(cascade: Cascade) -> None:
    if cascade.options["reuse"] is not None:
        raise ConfigurationError(
            "examples are collected with what the large model answers alone: make the cascade "
            "without reuse=…."
        )
    if len(cascade.tiers) != 2:
        raise ConfigurationError(
            f"examples are collected with a small and a large model, not with {cascade!r}."
        )
    if cascade.tiers[0].model.name == cascade.tiers[1].model.name:
        raise ConfigurationError(
            f"small and large are both {cascade.tiers[0].model.name}: transcripts tell answers "
            "apart by the model's name, so two different ones are needed."
        )


def _settings(cascade: Cascade, scorer: Scorer, *, agree_with_large: bool) -> dict[str, Any]:
    small, large = cascade.tiers
    how = ", agreement with the large model" if agree_with_large else ""
    return {
        "small": task_hash(cascade.task, small),
        "large": task_hash(cascade.task, large),
        "signals": [f"{signal.name} {signal.wording}".strip() for signal in cascade.signals],
        "scorer": scorer.spec + how,
    }


def _check_resumable(
    examples: Sequence[Example],
    tiers: Sequence[OpenTier],
    made_with: dict[str, Any],
    writer: TranscriptWriter,
) -> None:
    """Refuse to go on in a file whose answers are of another question, model or setting."""
    asked = {example.id: example.question for example in examples if example.id in writer.ids}
    wanted = {tier.model.name for tier in tiers}
    for record in read_transcripts(writer.path) if asked else ():
        before = (record.model_extra or {}).get(MADE_WITH, made_with)
        other = [name for name, value in made_with.items() if before.get(name, value) != value]
        if record.id not in asked:
            continue
        if wanted - set(record.models):
            why = f"is of {' and '.join(record.models)}"
        elif record.prompt != asked[record.id]:
            why = f"answers another question, {record.prompt[:60]!r}"
        elif other:
            why = f"was made with another setting ({', '.join(other)})"
        else:
            continue
        raise ConfigurationError(
            f"{writer.path} cannot be continued: its example {record.id!r} {why}. Delete it, or "
            "write to another file (--work)."
        )


def _check_hope(done: Collected) -> None:
    if done.written or done.skipped or len(done.failures) < GIVE_UP_AFTER:
        return
    *_, last = done.failures.values()
    raise CascadeError(
        f"the first {len(done.failures)} examples all failed, and no more are asked. The last "
        f"one: {last}"
    )
