"""Runs examples through a cascade and writes down what every model made of them.

Each example is drafted, checked with all signals, and answered by the large model too, through
the very graph that answers users; the outcomes go line by line into a file of transcripts.
Interrupted, the next run goes on where it stopped and pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from langchain_core.messages import AnyMessage
from pydantic import JsonValue

from cascade.api import Cascade
from cascade.confidence.calibrating import LabelledDraft, MadeFor
from cascade.confidence.calibration import Labels, system_hash
from cascade.errors import CascadeError, ConfigurationError, InputError
from cascade.evaluation.scorers import Scorer
from cascade.evaluation.transcripts import Outcome, Transcript, TranscriptWriter, read_pair
from cascade.ledger import LedgerView
from cascade.policies import Situation
from cascade.questions import to_messages
from cascade.setup import identify, task_hash
from cascade.state import CascadeState, Decision, LedgerEntry, Usage
from cascade.tiers import OpenTier

CHARACTERS_PER_TOKEN = 4
ASSUMED_OUTPUT_TOKENS = 200
"""For the cost shown beforehand, where the tier has no `max_tokens`."""


class AlwaysEscalate:
    """The policy of collecting: both models answer everything."""

    def decide(self, situation: Situation) -> Decision:
        """Escalate."""
        return Decision(
            action="escalate",
            reason="both models answer while examples are collected",
            confidence=situation.assessment.confidence,
        )


@dataclass(frozen=True, slots=True)
class Example:
    """One question with what is known about its answer.

    Attributes:
        id: unique; the line's number where the file has none.
        messages: the conversation.
        reference: the right answer, None when there is none.
        labels: answers that a person judged, answer → right or wrong.
    """

    id: str
    messages: list[AnyMessage]
    reference: JsonValue = None
    labels: dict[str, bool] = field(default_factory=dict)


def read_examples(path: str | Path) -> list[Example]:
    """Examples from JSON lines: `question` or `messages`, and `reference` or `labels` or neither.

    Raises:
        ConfigurationError: a line cannot be read, or two have one id; the message names it.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 (byte {error.start}).") from error
    examples = [_example(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise ConfigurationError(f"{path} has no examples in it.")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ConfigurationError(f"{path}: two examples have the id {example.id!r}.")
        seen.add(example.id)
    return examples


def _example(path: Path, number: int, line: str) -> Example:
    try:
        row: Any = json.loads(line)
        if not isinstance(row, dict):
            raise InputError("it is not a JSON object.")
        question = row.get("question", row.get("prompt", row.get("messages")))
        if question is None:
            raise InputError("it has neither 'question' nor 'messages'.")
        messages = to_messages(question)
    except (ValueError, InputError) as error:
        raise ConfigurationError(f"{path}:{number}: {error}") from error
    labels = row.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, bool) for v in labels.values()):
        raise ConfigurationError(
            f"{path}:{number}: labels maps answers to true or false, not {labels!r}."
        )
    return Example(
        str(row.get("id", number)), messages, row.get("reference", row.get("answer")), labels
    )


def expected_cost(examples: Sequence[Example], tiers: Sequence[OpenTier]) -> Decimal | None:
    """A rough guess of what collecting will cost at most, from text length and `max_tokens`.

    None when a tier has no token price.
    """
    total = Decimal(0)
    for example in examples:
        text = sum(len(str(message.text)) for message in example.messages)
        for tier in tiers:
            output = tier.settings.max_tokens or ASSUMED_OUTPUT_TOKENS
            usage = Usage(input_tokens=text // CHARACTERS_PER_TOKEN + 16, output_tokens=output)
            cost = tier.pricing.cost(usage)
            if cost is None:
                return None
            total += cost
    return total


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
    """
    done = Collected(skipped=sum(example.id in writer.ids for example in examples))
    free = asyncio.Semaphore(concurrency)

    async def one(example: Example) -> None:
        async with free:
            try:
                state: Any = await cascade.graph.ainvoke({"messages": example.messages})
                done.entries += state["ledger"]
                transcript = await _transcript(
                    example, state, cascade.tiers, scorer, dataset, agree_with_large
                )
            except CascadeError as error:
                done.failures[example.id] = str(error)
            else:
                if transcript is None:
                    done.unlabelled += 1
                else:
                    writer.write(transcript)
                    done.written += 1
            progress(done)

    await asyncio.gather(*(one(e) for e in examples if e.id not in writer.ids))
    return done


def labelled_drafts(path: str | Path, cascade: Cascade) -> list[LabelledDraft]:
    """The drafts of a file of transcripts, with their features and who was right.

    Raises:
        ConfigurationError: no row has both models of the cascade.
    """
    pair = read_pair(path, cascade.tiers[0].model.name, cascade.tiers[-1].model.name)
    return [
        LabelledDraft(outcome.features, outcome.correct, large)
        for outcome, large in zip(pair.small_outcomes, pair.large_correct, strict=True)
    ]


async def made_for(cascade: Cascade, examples: Sequence[Example], labels: Labels) -> MadeFor:
    """What a calibration of this cascade on these examples is bound to."""
    systems = {system_hash(example.messages) for example in examples}
    return MadeFor(
        small=await identify(cascade.tiers[0]),
        large=await identify(cascade.tiers[-1]),
        task_hash=task_hash(cascade.task, cascade.tiers[0]),
        system_hash=systems.pop() if len(systems) == 1 else None,
        labels=labels,
    )


async def _transcript(
    example: Example,
    state: CascadeState,
    tiers: Sequence[OpenTier],
    scorer: Scorer,
    dataset: str,
    agree_with_large: bool,
) -> Transcript | None:
    draft, assessment = state["draft"], state["assessment"]
    if draft is None or assessment is None:
        raise InputError(f"{example.id}: the small model gave no draft: {state['decision'].reason}")
    question, answer = str(example.messages[-1].text), str(state["messages"][-1].text)
    texts = {draft.tier: draft.completion.text, tiers[-1].name: answer}
    reference: JsonValue = answer if agree_with_large else example.reference
    models: dict[str, Outcome] = {}
    for tier in (tiers[0], tiers[-1]):
        text = texts[tier.name]
        if example.labels and text.strip() in example.labels:
            correct: float | None = float(example.labels[text.strip()])
        elif reference is None:
            return None
        else:
            correct = (await scorer.score(text, reference, question=question)).value
        if correct is None:
            return None
        models[tier.model.name] = _outcome(state, tier, text, correct)
    small = models[tiers[0].model.name]
    models[tiers[0].model.name] = small.model_copy(
        update={"features": dict(assessment.signals), "confidence": assessment.confidence}
    )
    return Transcript(
        dataset=dataset, id=example.id, prompt=question, reference=reference, models=models
    )


def _outcome(state: CascadeState, tier: OpenTier, text: str, correct: float) -> Outcome:
    """Costs and tokens of the tier's own answer; what signals cost is in the ledger."""
    run = state["run"]
    entry = next(
        e
        for e in reversed(state["ledger"])
        if e.run_id == run.id and e.tier == tier.name and e.node in ("draft", "expert")
    )
    return Outcome(
        correct=correct,
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cost_usd=None if entry.cost_usd is None else float(entry.cost_usd),
        output=text,
        latency_ms=entry.latency_ms,
    )


__all__ = [
    "AlwaysEscalate",
    "Collected",
    "Example",
    "collect",
    "expected_cost",
    "labelled_drafts",
    "made_for",
    "read_examples",
]
