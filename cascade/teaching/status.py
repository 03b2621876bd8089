"""What was learned, what may be done with it, which files were made of it, and what it saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from cascade.agents.remembering import MEMORY, TRIAL
from cascade.evaluation.shares import wilson
from cascade.ledger.runs import Run, runs_of
from cascade.ledger.store import Selection, Store
from cascade.state import Record
from cascade.teaching.lessons import Lesson
from cascade.teaching.memory import Groups, Memory
from cascade.teaching.store import LessonStore
from cascade.teaching.terms import permitted

SHOWN_GROUPS = 10


class OfModel(Record):
    """Lessons of one large model, by what may be done with them today."""

    model: str
    lessons: int
    may_train: int
    not_stated: int
    may_remember: int


class OfGroup(Record):
    """Alike questions.

    Attributes:
        lessons: in it; of a memory's group, the requests since its standing changed.
        standing: in the memory: `candidate`, `live` or `dropped`; None where no memory was asked.
        gain: the mean gain by its trials, of `known` requests.
    """

    name: str
    task: str
    lessons: int
    standing: str | None = None
    gain: float | None = None
    known: int = 0


class Written(Record):
    """A file that was made of lessons."""

    path: str
    at: datetime
    purpose: str
    lessons: int


class Accepted(Record):
    """Share of the requests whose draft was accepted, with its 95 % interval (Wilson)."""

    share: float
    low: float
    high: float
    requests: int


class Used(Record):
    """What the ledger says of the memory.

    Attributes:
        shown: requests that were drafted with examples; None where there were none.
        before: requests before the first of them; others are not like them.
        example_tokens: read for the examples.
        saved_usd: by requests with examples, their drafts' own cost with examples taken off;
            estimated as in `cascade report`, and without what they would have saved without.
        trials, trials_usd: calls that tried whether examples help, and their cost.
        unknown: calls among all of these of unknown cost.
    """

    shown: Accepted | None
    before: Accepted | None
    example_tokens: int
    saved_usd: Decimal
    trials: int
    trials_usd: Decimal
    unknown: int


class Status(Record):
    """What a store of lessons holds, and what came of it."""

    lessons: int
    by_task: dict[str, int]
    by_origin: dict[str, int]
    said_right: int
    said_wrong: int
    models: tuple[OfModel, ...]
    groups: tuple[OfGroup, ...]
    exports: tuple[Written, ...]
    used: Used | None = None


async def status_of(
    store: LessonStore, ledger: Store | None = None, *, memory: Memory | None = None
) -> Status:
    """What was learned and what it saved.

    Args:
        store: of the lessons.
        ledger: of the same runs; without it nothing is said of what was saved.
        memory: of a running cascade, which knows which groups are live.

    Raises:
        UnavailableError: one of both cannot be reached.
    """
    every = [lesson async for lesson in store.lessons()]
    stated = await store.terms()
    models: dict[str, Counter[str]] = {}
    for lesson in every:
        counts = models.setdefault(lesson.answer_model, Counter())
        terms = permitted(lesson.answer_model, lesson.terms, stated)
        counts["lessons"] += 1
        counts["may_train"] += terms.may_train is True
        counts["not_stated"] += terms.may_train is None
        counts["may_remember"] += terms.may_remember
    return Status(
        lessons=len(every),
        by_task=dict(Counter(lesson.task for lesson in every).most_common()),
        by_origin=dict(Counter(lesson.origin for lesson in every).most_common()),
        said_right=sum(lesson.answer_is_wrong is False for lesson in every),
        said_wrong=sum(lesson.answer_is_wrong is True for lesson in every),
        models=tuple(OfModel(model=name, **counts) for name, counts in models.items()),
        groups=_groups(every, memory),
        exports=tuple(
            Written(path=one.path, at=one.at, purpose=one.purpose, lessons=one.lessons)
            for one in await store.exports()
        ),
        used=None if ledger is None else await _used(ledger),
    )


def _groups(lessons: Iterable[Lesson], memory: Memory | None) -> tuple[OfGroup, ...]:
    if memory is not None:
        return tuple(
            OfGroup(
                name=group.name,
                task=group.place[0],
                lessons=group.evidence.requests,
                standing=group.evidence.standing,
                gain=group.evidence.gain,
                known=group.evidence.known,
            )
            for group in memory.groups.all()
        )
    groups = Groups()
    counts: Counter[tuple[str, str]] = Counter()
    for lesson in lessons:
        group = groups.of((lesson.task, ""), " ".join(lesson.question.split()))
        if group is not None:
            counts[lesson.task, group.name] += 1
    most = counts.most_common(SHOWN_GROUPS)
    return tuple(OfGroup(name=name, task=task, lessons=n) for (task, name), n in most)


async def _used(ledger: Store) -> Used:
    entries = ledger.stored(Selection())
    runs = list(runs_of([(item.entry, item.tags) async for item in entries]).values())
    shown = [run for run in runs if any(entry.node == MEMORY for entry in run.entries)]
    first = min((run.begun_at for run in shown), default=None)
    before = [run for run in runs if first is not None and run.begun_at < first]
    trials = [entry for run in runs for entry in run.entries if entry.node == TRIAL]
    own = [entry for run in shown for entry in run.entries if entry.node != TRIAL]
    tokens = (entry.signals or {} for entry in own if entry.node == MEMORY)
    costs = [entry.cost_usd for entry in [*trials, *own]]
    return Used(
        shown=_accepted(shown),
        before=_accepted(before),
        example_tokens=round(sum(signals.get("example_tokens", 0.0) for signals in tokens)),
        saved_usd=sum((e.saved_usd for e in own if e.saved_usd is not None), Decimal(0)),
        trials=len(trials),
        trials_usd=sum((e.cost_usd for e in trials if e.cost_usd is not None), Decimal(0)),
        unknown=costs.count(None),
    )


def _accepted(runs: list[Run]) -> Accepted | None:
    ended = [run for run in runs if run.outcome in ("accepted", "escalated")]
    if not ended:
        return None
    share = sum(run.outcome == "accepted" for run in ended) / len(ended)
    low, high = wilson(share, len(ended))
    return Accepted(share=share, low=low, high=high, requests=len(ended))
