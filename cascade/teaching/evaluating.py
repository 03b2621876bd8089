"""A new small model beside the old one on lessons and evaluation rows: what is asked, and of whom.

What the old model answered is taken from the recording; what is not recorded is asked, through the
graph that answers users, with its free signals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascade._together import together
from cascade.api import Cascade
from cascade.collect import AlwaysEscalate
from cascade.errors import CascadeError, ConfigurationError
from cascade.evaluation.scorers import Scorer
from cascade.evaluation.transcripts import Transcript, read_transcripts
from cascade.ledger import LedgerView, charging
from cascade.ledger.runs import Run, runs_of
from cascade.ledger.store import Selection, Store
from cascade.pausing import Paused
from cascade.state import LedgerEntry
from cascade.teaching.comparing import Answers, Paired
from cascade.teaching.exporting import TRAINING
from cascade.teaching.lessons import Lesson, LessonSelection
from cascade.teaching.overlap import Asked, Evaluated
from cascade.teaching.store import EVERYTHING, LessonStore

Source = Literal["evaluation", "lessons"]


LONGEST_RUN = timedelta(minutes=15)
"""So long before its lesson the entries of a run may begin."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a small model said.

    Attributes:
        correct: from 0 to 1; of a recording that has no text, what it says.
    """

    text: str
    confidence: float | None = None
    cost_usd: float | None = None
    correct: float | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A question with what is known of it.

    Attributes:
        reference: the large model's answer, or the right one.
        weight: how many requests it stands for.
        old: the old model's answer, where that is recorded.
        large_correct: of the large model, 1 where its answer is the reference.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    reference: Any
    weight: float = 1.0
    old: Answer | None = None
    large_usd: float | None = None
    large_correct: float = 1.0


@dataclass(slots=True)
class Questions:
    """What both models are to be compared on.

    Attributes:
        represents: whether the items, by their weights, stand for all requests.
        trained: how many were left out, since the new model may have been trained on them, or on
            something near.
        unusable: how many were left out, since there is nothing to compare an answer with.
    """

    source: Source
    items: list[Item] = field(default_factory=list)
    represents: bool = False
    trained: int = 0
    unusable: int = 0


@dataclass(slots=True)
class Answered:
    """Both models' answers, and what asking cost.

    Attributes:
        failures: questions that could not be asked, id → why; they are in no figure.
        entries: of the calls.
    """

    rows: Paired
    failures: dict[str, str]
    entries: list[LedgerEntry]

    @property
    def ledger(self) -> LedgerView:
        """What was spent."""
        return LedgerView(self.entries)


async def trained_on(store: LessonStore) -> tuple[set[str], Evaluated]:
    """The runs whose lessons are in a training file, and what finds questions near theirs."""
    runs = await store.exported(TRAINING)
    texts = [one.question async for one in store.lessons() if one.run_id in runs]
    return runs, Evaluated(texts)


async def from_lessons(
    store: LessonStore,
    old: str,
    *,
    ledger: Store | None = None,
    selection: LessonSelection = EVERYTHING,
) -> Questions:
    """Lessons that no model was trained on, with text answers.

    With a ledger they stand for all requests: an escalated one for as many as were escalated, an
    audited draft for 1/π accepted ones, π being the chance with which it was to be audited
    (Horvitz and Thompson, 1952), both scaled to what the ledger counts.

    Args:
        store: of the lessons.
        old: the old model, `provider:name`.
        ledger: of the same runs.
        selection: which lessons.
    """
    runs, near = await trained_on(store)
    done, kept = Questions("lessons"), list[Lesson]()
    every = [lesson async for lesson in store.lessons(selection)]
    rules = near.found_in([Asked(one.question, one.question) for one in every])
    for lesson, rule in zip(every, rules, strict=True):
        if lesson.run_id in runs or rule is not None:
            done.trained += 1
        elif not lesson.answer.strip() or lesson.tool_calls or lesson.answer_is_wrong:
            done.unusable += 1
        else:
            kept.append(lesson)
    known = {} if ledger is None or not kept else await _runs(ledger, kept, selection.task)
    weights = _weights(kept, known)
    done.represents = weights is not None
    for lesson in kept:
        weight = 1.0 if weights is None else weights.get(lesson.run_id, 0.0)
        if weight > 0:
            done.items.append(_item(lesson, old, known.get(lesson.run_id), weight))
        else:
            done.unusable += 1
    return done


async def _runs(ledger: Store, lessons: Sequence[Lesson], task: str | None) -> dict[str, Run]:
    """The runs of the ledger from the first lesson on."""
    since = min(lesson.at for lesson in lessons) - LONGEST_RUN
    tags = {} if task is None else {"task": task}
    found = ledger.stored(Selection(since=since, tags=tags))
    return runs_of([(item.entry, item.tags) async for item in found])


def _weights(lessons: Sequence[Lesson], runs: Mapping[str, Run]) -> dict[str, float] | None:
    """Of each run; None where accepted drafts are not represented."""
    escalated = sum(run.outcome == "escalated" for run in runs.values())
    accepted = sum(run.outcome == "accepted" for run in runs.values())
    parts: dict[str, dict[str, float]] = {"escalated": {}, "audited": {}}
    for lesson in lessons:
        run = runs.get(lesson.run_id)
        if run is None:
            continue
        rate = None if run.decided is None else run.decided.audit_rate
        if lesson.origin == "escalated":
            parts["escalated"][lesson.run_id] = 1.0
        elif rate:
            parts["audited"][lesson.run_id] = 1.0 / rate
    weights: dict[str, float] = {}
    for name, total in (("escalated", escalated), ("audited", accepted)):
        if total and not parts[name]:
            return None
        for run_id, weight in parts[name].items():
            weights[run_id] = weight * total / sum(parts[name].values())
    return weights or None


def _item(lesson: Lesson, old: str, run: Run | None, weight: float) -> Item:
    drafted = None
    if lesson.draft is not None and lesson.draft_model == old:
        cost = None if run is None else _dollars(_small_usd(run))
        drafted = Answer(lesson.draft, lesson.confidence, cost)
    return Item(
        id=lesson.run_id,
        messages=lesson.messages,
        reference=lesson.answer,
        weight=weight,
        old=drafted,
        large_usd=None if run is None else _dollars(run.large_usd),
    )


def _small_usd(run: Run) -> Decimal | None:
    """What drafting and checking cost."""
    costs = [e.cost_usd for e in run.entries if e.node in ("draft", "self_check", "verify")]
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _dollars(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


async def from_rows(
    paths: Iterable[Path], old: str, large: str | None, store: LessonStore | None = None
) -> Questions:
    """Rows of an evaluation: transcripts, whose questions are taken for a sample of all requests.

    Args:
        paths: files of transcripts.
        old: the old model, whose recorded answers are taken.
        large: whose answers are the reference where there is no right one; the only other model of
            a row where it is not said.
        store: whose exports were trained on; what is near to them is left out.
    """
    done = Questions("evaluation", represents=True)
    rows = [row for path in paths for row in read_transcripts(path)]
    near = Evaluated([]) if store is None else (await trained_on(store))[1]
    rules = near.found_in([Asked(row.prompt, row.prompt) for row in rows])
    for row, rule in zip(rows, rules, strict=True):
        item = _item_of_row(row, old, large)
        if rule is not None:
            done.trained += 1
        elif item is None:
            done.unusable += 1
        else:
            done.items.append(item)
    return done


def _item_of_row(row: Transcript, old: str, large: str | None) -> Item | None:
    others = [
        name for name, outcome in row.models.items() if name != old and outcome.approved is None
    ]
    name = large if large is not None else others[0] if len(others) == 1 else None
    outcome = None if name is None else row.models.get(name)
    said = None if outcome is None else outcome.output
    reference = row.reference if row.reference is not None else said
    if reference is None or (isinstance(reference, str) and not reference.strip()):
        return None
    recorded = row.models.get(old)
    answer = None
    if recorded is not None:
        checks = recorded.check_cost_usd if "check_cost_usd" in recorded.model_fields_set else 0.0
        known = recorded.cost_usd is not None and checks is not None
        answer = Answer(
            recorded.output or recorded.pred or "",
            recorded.confidence,
            (recorded.cost_usd or 0.0) + (checks or 0.0) if known else None,
            recorded.correct if recorded.output is None else None,
        )
    return Item(
        id=row.id,
        messages=({"role": "user", "content": row.prompt},),
        reference=reference,
        old=answer,
        large_usd=None if outcome is None else outcome.cost_usd,
        large_correct=1.0 if outcome is None or row.reference is None else outcome.correct,
    )


async def answer(
    questions: Questions, old: Any, new: Any, scorer: Scorer, *, concurrency: int = 4
) -> Answered:
    """Ask the new model all of them, and the old one what is not recorded.

    Args:
        questions: what to ask.
        old: a model, or a `Tier`.
        new: the same.
        scorer: compares answers with references.
        concurrency: questions under way at once.

    Raises:
        ConfigurationError: there are no questions.
        CascadeError: none of them could be asked.
    """
    if not questions.items:
        raise ConfigurationError(
            f"there is nothing to compare on: {questions.trained} questions are near what was "
            f"trained on, {questions.unusable} have no answer to compare with."
        )
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    free = asyncio.Semaphore(concurrency)
    entries: list[LedgerEntry] = []
    failures: dict[str, str] = {}
    options: dict[str, Any] = {"policy": AlwaysEscalate()}
    async with Cascade(old, new, **options) as first, Cascade(new, old, **options) as second:

        async def one(item: Item) -> tuple[Item, Answer, Answer] | None:
            async with free:
                with charging() as spent:  # also by calls that failed
                    try:
                        before = item.old or await _ask(first, item)
                        after = await _ask(second, item)
                        marked = [await _marked(a, item, scorer) for a in (before, after)]
                    except CascadeError as error:
                        failures[item.id] = str(error)
                        return None
                    finally:
                        entries.extend(spent)
                return item, marked[0], marked[1]

        found = [made for made in await together(map(one, questions.items)) if made]
    if not found:
        why = next(iter(failures.values()))
        raise CascadeError(f"none of {len(questions.items)} questions could be asked: {why}")
    return Answered(_paired(found, questions.represents), failures, entries)


async def _ask(cascade: Cascade, item: Item) -> Answer:
    paused = await cascade.adraft([dict(message) for message in item.messages])
    if not isinstance(paused, Paused) or paused.draft is None:
        raise CascadeError(f"no draft was made of question {item.id!r}.")
    known = LedgerView(paused.entries).cost_usd
    confidence = None if paused.assessment is None else paused.assessment.confidence
    return Answer(paused.draft.completion.text, confidence, _dollars(known))


async def _marked(given: Answer, item: Item, scorer: Scorer) -> Answer:
    """With its correctness: both models by the same scorer, so that neither is judged milder."""
    if given.correct is not None:
        return given
    question = str(item.messages[-1].get("content", ""))
    if not given.text.strip():
        value: float | None = 0.0
    else:
        value = (await scorer.score(given.text, item.reference, question=question)).value
    if value is None:
        raise CascadeError(f"the judge gave no verdict on question {item.id!r}.")
    return Answer(given.text, given.confidence, given.cost_usd, value)


def _paired(found: Sequence[tuple[Item, Answer, Answer]], represents: bool) -> Paired:
    items = [item for item, _, _ in found]
    return Paired(
        old=_answers([old for _, old, _ in found]),
        new=_answers([new for _, _, new in found]),
        weight=np.array([item.weight for item in items]),
        large_cost=np.array([_number(item.large_usd) for item in items]),
        large_correct=np.array([item.large_correct for item in items]),
        represents=represents,
    )


def _answers(given: Sequence[Answer]) -> Answers:
    return Answers(
        correct=np.array([_number(each.correct) for each in given]),
        confidence=np.array([_number(each.confidence) for each in given]),
        cost=np.array([_number(each.cost_usd) for each in given]),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
