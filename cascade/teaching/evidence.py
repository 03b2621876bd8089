"""Evidence whether examples help: bets on paired trials, kept for groups of alike questions.

Each request whose right answer becomes known is a pair: the small model's answer with examples, and
its answer without. One of the two is its draft; the other is tried afterwards. The right answer is
known of each escalated request, and of an accepted draft with the known chance of its audit, so
that the requests of a group are a population of which a sample is known.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, NamedTuple

Standing = Literal["candidate", "live", "dropped"]
"""Of a group: its lessons are not shown yet, are shown, or are shown no more."""

Place = tuple[str, str]
"""Task and tenant: what is asked for one is never found for another."""

BETS = tuple(0.01 * 98 ** (i / 11) for i in range(12))
"""Shares of the largest bet allowed, from 0.01 to 0.98: small ones for many pairs, large ones for
few."""

DOUBT = 0.2
"""How rarely a live group is dropped that does no harm."""

REQUESTS_KEPT = 500
"""Evidence is of the last so many requests of a group."""

TRIED_FIRST, RARER, LEAST_TRIED = 8, 4, 1 / 16
"""Known gains after which a group is asked whether there is hope, and after as many more each time
that its trials become so many times rarer, down to the least chance: it may come back."""

ALIKE = 0.25
"""Jaccard index of the words of two questions from which they are alike."""

MOST_GROUPS = 200
"""In one place. What is unlike all of so many gets no examples."""

DROPPED_AT = -2
"""A lesson with this score is shown no more."""

_WORD = re.compile(r"\w+")


class Pair(NamedTuple):
    """One request of a group.

    Attributes:
        rate: chance with which its right answer was to become known: 1 where it was escalated, that
            of its audit where its draft was accepted.
        gain: how much more the answer with examples was worth than the one without, in [−1, 1];
            None where it is not known.
        trial: chance of a trial, fixed before the request.
    """

    rate: float
    gain: float | None = None
    trial: float = 1.0


@dataclass(slots=True)
class Evidence:
    """The pairs of one group, and what they say.

    Two bets are kept on the gains, each a mixture of fixed shares (Waudby-Smith and Ramdas, arXiv
    2010.09686) on Z = gain ÷ rate where the gain is known and 0 where it is not. A group

    - goes live once the bet against "the mean gain is not above 0" has won 1/`alpha` times its
      stake. Without any gain that ever happens with a probability of at most `alpha` (Ville's
      inequality), so that it may be looked at after each request. The chance of a trial is known
      before its request, so that stakes may be in proportion to it: it cancels;
    - is dropped when, while it is live, the bet against "the mean gain is not below 0", begun anew
      wherever that is best, has won 1/`DOUBT` times its stake (CUSUM of e-values: Shin, Ramdas and
      Rinaldo, arXiv 2203.03532). It comes back by new evidence alone.

    Attributes:
        alpha: probability of a wrong admission.
        worth: mean gain above which there is hope for a group that is not shown: less would not pay
            for its trials.
        standing: of the group.
        pairs: by run, oldest first, since the standing changed.
    """

    alpha: float = 0.05
    worth: float = 0.0
    standing: Standing = "candidate"
    pairs: OrderedDict[str, Pair] = field(default_factory=OrderedDict)

    def put(self, run_id: str, pair: Pair) -> bool:
        """Take in a request, or what has become known of it; whether the standing changed."""
        self.pairs[run_id] = pair
        while len(self.pairs) > REQUESTS_KEPT:
            self.pairs.popitem(last=False)
        if not pair.gain:
            return False  # where nothing was won or lost, neither bet changes
        live = self.standing == "live"
        if not (self._lost() if live else self._won()):
            return False
        self.standing = "dropped" if live else "live"
        self.pairs.clear()  # what shows that it helps is not what shows that it still does
        return True

    @property
    def known(self) -> list[Pair]:
        """The requests whose gain is known."""
        return [pair for pair in self.pairs.values() if pair.gain is not None]

    @property
    def gain(self) -> float:
        """Mean gain, each known one weighted by the inverse of its chance (Horvitz and Thompson,
        1952); 0 where nothing is known."""
        total = sum((pair.gain or 0.0) / (pair.rate * pair.trial) for pair in self.known)
        return total / len(self.pairs) if self.pairs else 0.0

    @property
    def trial(self) -> float:
        """Chance of a trial of the next request: less than 1 for a group that is not shown and of
        which many gains are known without any hope."""
        known = self.known
        if self.standing == "live" or len(known) < TRIED_FIRST:
            return 1.0
        weights = [1 / (pair.rate * pair.trial) for pair in known]  # Hájek, 1971
        gains = [(pair.gain or 0.0) * w for pair, w in zip(known, weights, strict=True)]
        if sum(gains) / sum(weights) > self.worth:
            return 1.0
        return max(LEAST_TRIED, float(RARER) ** -(len(known) // TRIED_FIRST))

    def _won(self) -> bool:
        """Whether a mean gain of 0 or less is refuted."""
        logs = [sum(math.log1p(bet * z) for z in self._stakes()) for bet in BETS]
        return _mixture(logs) >= -math.log(self.alpha)

    def _lost(self) -> bool:
        """Whether a mean gain of 0 or more is refuted, from some request on."""
        logs = []
        for bet in BETS:
            wealth = list(accumulate(math.log1p(-bet * z) for z in self._stakes()))
            logs.append(wealth[-1] - min([0.0, *wealth[:-1]]))
        return _mixture(logs) >= -math.log(DOUBT)

    def _stakes(self) -> list[float]:
        """The known Z, as shares of the largest that there may be: 1 over the lowest rate."""
        least = min(pair.rate for pair in self.pairs.values())
        return [(pair.gain or 0.0) / pair.rate * least for pair in self.known]


def _mixture(logs: list[float]) -> float:
    """Logarithm of the mean wealth."""
    top = max(logs)
    return top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))


@dataclass(slots=True)
class Group:
    """Questions of one place that are alike.

    Attributes:
        place: task and tenant.
        question: its first question.
        evidence: whether examples help there.
        leader: the run of that question.
        asked: number of questions.
        scores: by lesson, how often a copy of its answer was right less how often one was wrong. A
            right copy speaks for both lessons: the large model has said the same twice.
        unsaved: whether anything has changed since it was kept.
    """

    place: Place
    question: str
    evidence: Evidence
    leader: str
    asked: int = 0
    scores: dict[str, int] = field(default_factory=dict)
    unsaved: bool = False
    words: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.led_by(self.leader, self.question)

    def led_by(self, run_id: str, question: str) -> None:
        """The group is about this question from now on."""
        self.leader, self.question, self.words = run_id, question, _words(question)

    @property
    def live(self) -> bool:
        """Whether its lessons are shown."""
        return self.evidence.standing == "live"

    def put(self, run_id: str, pair: Pair) -> bool:
        """Take in a request; whether the standing changed."""
        self.unsaved = True
        return self.evidence.put(run_id, pair)

    def shows(self, run_id: str) -> bool:
        """Whether a lesson may be shown, by what became of its copies."""
        return self.scores.get(run_id, 0) > DROPPED_AT

    def copied(self, run_ids: Collection[str], by: str, *, right: bool) -> None:
        """Count that the answer of run `by` was a copy of these lessons."""
        for run_id in run_ids:
            self.scores[run_id] = self.scores.get(run_id, 0) + (1 if right else -1)
        if run_ids and right:
            self.scores[by] = self.scores.get(by, 0) + 1

    def suspect(self, says: Callable[[str], bool]) -> None:
        """Lessons that say what was wrong are as unproven as new ones."""
        for run_id, score in self.scores.items():
            if score > 0 and says(run_id):
                self.scores[run_id] = 0

    def to_json(self) -> dict[str, Any]:
        """The group in runs and numbers; its words are those of its leader's lesson."""
        evidence = self.evidence
        pairs = {run_id: list(pair) for run_id, pair in evidence.pairs.items()}
        kept = {"standing": evidence.standing, "asked": self.asked}
        return {**kept, "pairs": pairs, "scores": dict(self.scores)}


@dataclass(slots=True)
class Groups:
    """All groups of a memory. A question belongs to the nearest by the Jaccard index of their
    words, or begins a new one (leader clustering, Hartigan 1975).

    Attributes:
        alpha: probability of a wrong admission, of each group.
        worth: mean gain above which trials of a group go on.
    """

    alpha: float = 0.05
    worth: float = 0.0
    _groups: dict[Place, list[Group]] = field(default_factory=dict)

    def find(self, place: Place, question: str) -> Group | None:
        """The group that a question belongs to; None where it would begin one."""
        words = _words(question)
        there = self._groups.get(place, ())
        near = [(jaccard(words, group.words), group) for group in there]
        alike, found = max(near, key=lambda pair: pair[0], default=(0.0, None))
        return found if alike >= ALIKE else None

    def of(self, place: Place, question: str, run_id: str) -> Group | None:
        """The group of a question, perhaps a new one; None where there are too many."""
        found, there = self.find(place, question), self._groups.setdefault(place, [])
        if found is None and len(there) < MOST_GROUPS:
            found = Group(place, question, Evidence(self.alpha, self.worth), run_id)
            there.append(found)
        return found

    def restore(self, place: Place, question: str, leader: str, kept: Mapping[str, Any]) -> None:
        """Take in a group that was kept, unless there is one for its question."""
        group = None if self.find(place, question) else self.of(place, question, leader)
        if group is not None:
            group.asked, group.evidence.standing = kept["asked"], kept["standing"]
            group.evidence.pairs.update((run, Pair(*pair)) for run, pair in kept["pairs"].items())
            group.scores.update(kept["scores"])

    def forget(self, run_ids: Collection[str]) -> None:
        """Leave out what came from these runs; a group goes with the question that it began
        with."""
        for place, there in self._groups.items():
            self._groups[place] = [group for group in there if group.leader not in run_ids]
        for group in self.all():
            for run_id in run_ids:
                group.evidence.pairs.pop(run_id, None)
                group.scores.pop(run_id, None)

    def all(self) -> list[Group]:
        """Every group, in the order of their first questions."""
        return [group for groups in self._groups.values() for group in groups]


def _words(question: str) -> frozenset[str]:
    return frozenset(_WORD.findall(question.casefold()))


def jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    """|a ∩ b| / |a ∪ b|; 0 of two empty sets."""
    both = len(a & b)
    return both / (len(a) + len(b) - both) if both else 0.0
