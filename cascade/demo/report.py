"""What the demo's answers add up to: accuracies, savings, and the curve of cost and quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from cascade.evaluation.shares import wilson


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question, answered by the small model, the large one and the cascade.

    What the large model alone would have answered is None where nobody asked it. Costs are
    dollars, None where they are unknown; the cascade's includes the draft's.
    """

    id: str
    kind: str
    question: str
    answer: str
    small_answer: str
    large_answer: str | None
    small_correct: bool
    large_correct: bool | None
    cascade_correct: bool
    escalated: bool
    confidence: float | None
    small_cost: Decimal | None
    large_cost: Decimal | None
    cascade_cost: Decimal | None
    small_ms: float
    large_ms: float | None
    cascade_ms: float


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with Wilson's 95 % interval (Wilson 1927)."""

    count: int
    n: int

    @property
    def rate(self) -> float:
        """The share; 0 of nothing."""
        return self.count / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound; everything is possible where nothing was seen."""
        if not self.n:
            return 0.0, 1.0
        return wilson(self.rate, self.n)


@dataclass(frozen=True, slots=True)
class Line:
    """The figures of one kind of question, or of all of them."""

    kind: str
    n: int
    small: Share
    large: Share | None
    cascade: Share
    escalated: Share
    accepted_right: Share


@dataclass(frozen=True, slots=True)
class Point:
    """A way to answer all questions: what it costs per question, and how often it is right.

    `threshold` is the confidence from which on drafts are accepted; None where that is none of
    them, and where no threshold decides.
    """

    cost: float
    accuracy: float
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost against quality.

    Attributes:
        unit: of the costs: dollars per question, or the share of questions that the large
            model answers, where a price is unknown.
        points: the cascade at every threshold, from accepting all drafts to accepting none.
        small: the small model alone.
        large: the large model alone.
        oracle: escalating exactly where it turns a wrong answer into a right one.
        operating: where the cascade stood in this run.
    """

    unit: Literal["dollars", "large share"]
    points: tuple[Point, ...]
    small: Point
    large: Point
    oracle: Point
    operating: Point


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run. Costs are totals in dollars, None where a part is unknown."""

    overall: Line
    kinds: tuple[Line, ...]
    auroc: float | None
    small_cost: Decimal | None
    large_cost: Decimal | None
    cascade_cost: Decimal | None
    small_ms: float
    large_ms: float | None
    cascade_ms: float
    curve: Curve | None

    @property
    def saved_share(self) -> float | None:
        """Part of the large model's cost that the cascade saved; negative: it cost more."""
        if self.cascade_cost is None or not self.large_cost:
            return None
        return float(1 - self.cascade_cost / self.large_cost)


def summarise(outcomes: Sequence[Outcome]) -> Report:
    """Add the outcomes up.

    Raises:
        ValueError: there are none.
    """
    if not outcomes:
        raise ValueError("no outcomes: a report needs at least one answered question")
    by_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    n = len(outcomes)
    return Report(
        overall=_line("all", outcomes),
        kinds=tuple(_line(kind, group) for kind, group in by_kind.items()),
        auroc=auroc([(o.confidence, o.small_correct) for o in outcomes]),
        small_cost=_total(o.small_cost for o in outcomes),
        large_cost=_total(o.large_cost for o in outcomes),
        cascade_cost=_total(o.cascade_cost for o in outcomes),
        small_ms=sum(o.small_ms for o in outcomes) / n,
        large_ms=_mean_or_none([o.large_ms for o in outcomes]),
        cascade_ms=sum(o.cascade_ms for o in outcomes) / n,
        curve=cost_quality(outcomes),
    )


def _line(kind: str, outcomes: Sequence[Outcome]) -> Line:
    n = len(outcomes)
    large = [o.large_correct for o in outcomes]
    accepted = [o for o in outcomes if not o.escalated]
    return Line(
        kind=kind,
        n=n,
        small=Share(sum(o.small_correct for o in outcomes), n),
        large=None if None in large else Share(sum(map(bool, large)), n),
        cascade=Share(sum(o.cascade_correct for o in outcomes), n),
        escalated=Share(sum(o.escalated for o in outcomes), n),
        accepted_right=Share(sum(o.small_correct for o in accepted), len(accepted)),
    )


def auroc(scored: Iterable[tuple[float | None, bool]]) -> float | None:
    """Probability that a right draft has a higher confidence than a wrong one; ties count half.

    Drafts without a confidence are left out. None without both right and wrong ones.
    """
    known = [(score, right) for score, right in scored if score is not None]
    rights = [score for score, right in known if right]
    wrongs = [score for score, right in known if not right]
    if not rights or not wrongs:
        return None
    wins = sum((r > w) + (r == w) / 2 for r in rights for w in wrongs)
    return wins / (len(rights) * len(wrongs))


@dataclass(frozen=True, slots=True)
class _Choice:
    """One question of which both answers are known: what each costs, whether it is right."""

    confidence: float
    small_right: bool
    large_right: bool
    small: float
    large: float


def cost_quality(outcomes: Sequence[Outcome]) -> Curve | None:
    """The curve over all thresholds; None where the large model's answers are not known.

    A draft without a confidence is always escalated.
    """
    if any(o.large_correct is None for o in outcomes):
        return None
    priced = all(
        None not in (o.small_cost, o.large_cost, o.cascade_cost) and o.large_cost for o in outcomes
    )
    choices = [_choice(o, priced=priced) for o in outcomes]
    helped = [c.large_right and not c.small_right for c in choices]
    thresholds = sorted({c.confidence for c in choices if c.confidence >= 0})
    operating = [float(o.cascade_cost or 0) if priced else float(o.escalated) for o in outcomes]
    return Curve(
        unit="dollars" if priced else "large share",
        points=tuple(_at(choices, threshold) for threshold in [*thresholds, math.inf]),
        small=Point(_mean(c.small for c in choices), _mean(c.small_right for c in choices)),
        large=Point(_mean(c.large for c in choices), _mean(c.large_right for c in choices)),
        oracle=Point(
            _mean(c.small + c.large * helps for c, helps in zip(choices, helped, strict=True)),
            _mean(c.small_right or c.large_right for c in choices),
        ),
        operating=Point(_mean(operating), _mean(o.cascade_correct for o in outcomes)),
    )


def _choice(outcome: Outcome, *, priced: bool) -> _Choice:
    return _Choice(
        confidence=-1.0 if outcome.confidence is None else outcome.confidence,
        small_right=outcome.small_correct,
        large_right=bool(outcome.large_correct),
        small=float(outcome.small_cost or 0) if priced else 0.0,
        large=float(outcome.large_cost or 0) if priced else 1.0,
    )


def _at(choices: Sequence[_Choice], threshold: float) -> Point:
    accepted = [c.confidence >= threshold for c in choices]
    pairs = list(zip(choices, accepted, strict=True))
    return Point(
        cost=_mean(c.small + (0 if keep else c.large) for c, keep in pairs),
        accuracy=_mean(c.small_right if keep else c.large_right for c, keep in pairs),
        threshold=threshold if math.isfinite(threshold) else None,
    )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _total(amounts: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total
