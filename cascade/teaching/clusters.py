"""Which groups of alike questions escalate most, what they cost, and what teaching them would save.

The lessons have the questions, and the ledger what they cost: `make_clusters(store, ledger)`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cascade.agents.remembering import MEMORY
from cascade.evaluation.shares import wilson
from cascade.ledger.runs import Run, runs_of
from cascade.ledger.store import Selection, Store
from cascade.state import Record
from cascade.teaching.lessons import Lesson, LessonSelection
from cascade.teaching.memory.groups import Groups
from cascade.teaching.store import LessonStore

SLACK = timedelta(hours=1)
"""A run begins so long before its lesson, at most."""

LEAST = 20
"""Requests with examples, and without, from which a gain is told."""

UNGROUPED = "unlike all others"


class Gain(Record):
    """How much more often drafts of a cluster were accepted with examples from the memory.

    Attributes:
        without, shown: share of the requests whose draft was accepted.
        avoided: share of the escalations that examples avoid; `low` to `high` from the ends of
            both shares' 95 % intervals (Wilson), which is wider than 95 %.
        requests: that it rests on, with and without.
    """

    without: float
    shown: float
    avoided: float
    low: float
    high: float
    requests: int


class Cluster(Record):
    """Questions that are alike.

    Attributes:
        name: its first question, shortened.
        task: of its questions.
        escalated: how many of them in the period.
        wrong: of these, how many answers users say are wrong.
        cost_usd: of the large model's answers, as far as it is known.
        unpriced: answers whose cost nobody knows, or whose run the ledger does not have.
        gain: where it was measured.
        expected_usd: what examples would have saved of `cost_usd` by the measured gain, with
            `expected_low_usd` at its lower end; None where nothing was measured.
        may_train: how many of its lessons may be exported by their terms, as they were given.
    """

    name: str
    task: str
    escalated: int
    wrong: int
    cost_usd: Decimal
    unpriced: int
    gain: Gain | None = None
    expected_usd: Decimal | None = None
    expected_low_usd: Decimal | None = None
    may_train: int = 0

    @property
    def most_usd(self) -> Decimal:
        """What teaching saves at most: all drafts are right and accepted, and as dear as now."""
        return self.cost_usd


class Clusters(Record):
    """What escalated in a period, by clusters, the dearest first.

    Attributes:
        since, until: the period.
        requests: in the ledger; `escalated` of them, for `escalated_usd` as far as that is known.
        with_lesson: escalated requests whose question is known.
        unpriced: escalated requests whose cost nobody knows.
    """

    since: datetime
    until: datetime
    requests: int
    escalated: int
    escalated_usd: Decimal
    unpriced: int
    with_lesson: int
    clusters: tuple[Cluster, ...]


@dataclass(slots=True)
class _Pile:
    """Lessons of one cluster, with those before the period for the gain."""

    name: str
    task: str
    now: list[Lesson] = field(default_factory=list)
    every: list[Lesson] = field(default_factory=list)


async def make_clusters(
    store: LessonStore,
    ledger: Store,
    *,
    since: datetime,
    until: datetime | None = None,
    task: str | None = None,
) -> Clusters:
    """Read lessons and ledger of a period, and put them together.

    Args:
        store: of the lessons.
        ledger: of the same runs.
        since: from when on.
        until: before when; now unless it is given.
        task: of this task alone; requests are then those that are tagged with it.

    Raises:
        UnavailableError: one of both cannot be reached.
    """
    end = until or datetime.now(UTC)
    tags = {} if task is None else {"task": task}
    entries = ledger.stored(Selection(until=end, tags=tags))
    runs = runs_of([(item.entry, item.tags) async for item in entries])
    lessons = store.lessons(LessonSelection(until=end, task=task))
    piles = _piled([lesson async for lesson in lessons], since)
    found = [_cluster(pile, runs) for pile in piles if pile.now]
    period = [run for run in runs.values() if run.begun_at >= since - SLACK]
    cost, unpriced = _cost(run for run in period if run.outcome == "escalated")
    return Clusters(
        since=since,
        until=end,
        requests=len(period),
        escalated=sum(run.outcome == "escalated" for run in period),
        escalated_usd=cost,
        unpriced=unpriced,
        with_lesson=sum(one.escalated for one in found),
        clusters=tuple(sorted(found, key=lambda one: (-one.cost_usd, -one.escalated, one.name))),
    )


def _piled(lessons: Iterable[Lesson], since: datetime) -> list[_Pile]:
    """By the groups of the memory; its tenants' questions are counted together."""
    groups = Groups()
    piles: dict[tuple[str, str], _Pile] = {}
    for lesson in lessons:
        group = groups.of((lesson.task, ""), " ".join(lesson.question.split()))
        name = UNGROUPED if group is None else group.name
        pile = piles.setdefault((lesson.task, name), _Pile(name, lesson.task))
        pile.every.append(lesson)
        if lesson.origin == "escalated" and lesson.at >= since:
            pile.now.append(lesson)
    return list(piles.values())


def _cluster(pile: _Pile, runs: Mapping[str, Run]) -> Cluster:
    known = [runs[one.run_id] for one in pile.now if one.run_id in runs]
    cost, unpriced = _cost(known)
    gain = _gain(pile.every, runs)
    return Cluster(
        name=pile.name,
        task=pile.task,
        escalated=len(pile.now),
        wrong=sum(one.answer_is_wrong is True for one in pile.now),
        cost_usd=cost,
        unpriced=unpriced + len(pile.now) - len(known),
        gain=gain,
        expected_usd=None if gain is None else cost * Decimal(str(round(gain.avoided, 6))),
        expected_low_usd=None if gain is None else cost * Decimal(str(round(gain.low, 6))),
        may_train=sum(one.terms.may_train is True for one in pile.now),
    )


def _cost(runs: Iterable[Run]) -> tuple[Decimal, int]:
    costs = [None if run.expert is None else run.expert.cost_usd for run in runs]
    return sum((c for c in costs if c is not None), Decimal(0)), costs.count(None)


def _gain(lessons: Sequence[Lesson], runs: Mapping[str, Run]) -> Gain | None:
    """From requests whose examples were shown, and those that had none: an escalated one counts
    once, an audited draft for the 1/π accepted ones that it stands for (Horvitz and Thompson)."""
    weights: defaultdict[bool, list[tuple[float, bool]]] = defaultdict(list)
    for lesson in lessons:
        run = runs.get(lesson.run_id)
        if run is None or run.decided is None or run.outcome not in ("accepted", "escalated"):
            continue
        was_accepted, rate = run.outcome == "accepted", run.decided.audit_rate
        if was_accepted and not rate:
            continue
        had = any(entry.node == MEMORY for entry in run.entries)
        weights[had].append((1.0 / rate if was_accepted and rate else 1.0, was_accepted))
    if min(len(weights[True]), len(weights[False])) < LEAST:
        return None
    without, shown = (_share(weights[which]) for which in (False, True))
    ends = [(_avoided(a, b)) for a, b in ((without[2], shown[1]), (without[1], shown[2]))]
    return Gain(
        without=without[0],
        shown=shown[0],
        avoided=_avoided(without[0], shown[0]),
        low=min(ends),
        high=max(ends),
        requests=sum(map(len, weights.values())),
    )


def _share(weighted: Sequence[tuple[float, bool]]) -> tuple[float, float, float]:
    total = sum(weight for weight, _ in weighted)
    share = sum(weight for weight, accepted in weighted if accepted) / total
    effective = total**2 / sum(weight**2 for weight, _ in weighted)
    return share, *wilson(share, effective)


def _avoided(without: float, shown: float) -> float:
    """Of the requests that escalate without examples; negative where they do harm."""
    return max(-1.0, (shown - without) / (1.0 - without)) if without < 1 else 0.0
