"""Evidence whether examples help: bets on paired trials, kept for groups of alike questions.

Each request whose right answer becomes known may be a pair: the small model's answer with examples,
and its answer without. One of the two is its draft; the other is tried afterwards.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

BETS = tuple(0.01 * 98 ** (i / 11) for i in range(12))
"""Shares of the largest bet allowed, from 0.01 to 0.98: small ones for many pairs, large ones for
few."""

ALPHA, DOUBT = 0.05, 0.2
"""Chance that a group without any gain ever goes live, and that a live one is dropped that does no
harm."""

TRIED_FIRST, RARELY = 8, 1 / 16
"""Pairs after which a group without a gain is tried rarely, and the chance of a trial then: it may
come back."""

ALIKE = 0.25
"""Jaccard index of the words of two questions from which they are alike."""

MOST_GROUPS, MOST_LESSONS, MOST_PAIRS = 200, 500, 500
"""Groups of a task and tenant, after which new questions get no examples, and the newest lessons
and pairs that a group keeps."""

_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Group:
    """Questions that are alike, with the words of each by the run of its lesson, and the evidence
    whether these lessons help: pairs of a gain, how much more the answer with examples was worth,
    in [−1, 1], and a rate, the chance (1, or that of an audit) that the right answer becomes known.

    Bets are a mixture of fixed shares (Waudby-Smith and Ramdas, arXiv 2010.09686) on gain ÷ rate,
    which is 0 where the gain does not become known. A group

    - goes live once the bet against "the mean gain is not above 0" has won 1/`ALPHA` times its
      stake: without any gain that ever happens with a probability of at most `ALPHA` (Ville's
      inequality). The chance of a trial is known before its request, so that it cancels;
    - is dropped when, while it is live, the bet against "the mean gain is not below 0", begun anew
      wherever that is best, has won 1/`DOUBT` times its stake (CUSUM of e-values: Shin, Ramdas and
      Rinaldo, arXiv 2203.03532). It comes back by new evidence alone.
    """

    words: frozenset[str] = frozenset()
    lessons: dict[str, frozenset[str]] = field(default_factory=dict)
    live: bool = False
    pairs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_PAIRS))

    def near(self, question: str) -> list[str]:
        """Its lessons, the nearest to a question first; of two that are as near, the newer."""
        words, newest_first = words_of(question), reversed(self.lessons.items())
        nearest = sorted(newest_first, key=lambda lesson: -jaccard(words, lesson[1]))
        return [run_id for run_id, _ in nearest]

    @property
    def trial(self) -> float:
        """Chance of a trial of the next request."""
        hopeless = sum(gain / rate for gain, rate in self.pairs) <= 0
        rare = not self.live and len(self.pairs) >= TRIED_FIRST and hopeless
        return RARELY if rare else 1.0

    def put(self, gain: float, rate: float = 1.0) -> bool:
        """Take in a pair; whether the group went live, or was dropped."""
        self.pairs.append((gain, rate))
        least = min(rate for _, rate in self.pairs)  # the largest stake there may be is 1
        sign, logs = -1 if self.live else 1, list[float]()
        for bet in BETS:
            won = (math.log1p(sign * bet * gain / rate * least) for gain, rate in self.pairs)
            wealth = list(accumulate(won))
            logs.append(wealth[-1] - (min([0.0, *wealth[:-1]]) if self.live else 0.0))
        top = max(logs)
        mean = top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))
        if mean < -math.log(DOUBT if self.live else ALPHA):
            return False
        self.live = not self.live
        self.pairs.clear()  # what shows that it helps is not what shows that it still does
        return True


def group_of(question: str, groups: Iterable[Group]) -> Group | None:
    """The group that a question belongs to, the nearest by the words of its first one (leader
    clustering, Hartigan 1975); None where it would begin one."""
    words = words_of(question)
    near = [(jaccard(words, group.words), group) for group in groups]
    alike, found = max(near, key=lambda pair: pair[0], default=(0.0, None))
    return found if alike >= ALIKE else None


def add_lesson(run_id: str, question: str, groups: list[Group]) -> None:
    """Take in a lesson, unless it is there, or there are too many groups."""
    group, words = group_of(question, groups), words_of(question)
    if group is None:
        if len(groups) == MOST_GROUPS:
            return
        groups.append(group := Group(words))
    group.lessons.setdefault(run_id, words)
    if len(group.lessons) > MOST_LESSONS:
        del group.lessons[next(iter(group.lessons))]


def words_of(question: str) -> frozenset[str]:
    """The words of a question, in lower case."""
    return frozenset(_WORD.findall(question.casefold()))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a ∩ b| / |a ∪ b|; 0 of two empty sets."""
    both = len(a & b)
    return both / (len(a) + len(b) - both) if both else 0.0
