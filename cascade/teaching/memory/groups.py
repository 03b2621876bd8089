"""Groups of questions that are alike: evidence is of a group, since one lesson is too little."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from cascade.teaching.memory.evidence import Evidence
from cascade.teaching.memory.index import Place
from cascade.teaching.overlap import jaccard

ALIKE = 0.25
"""Share of the words of two questions that they have in common, from which they are alike."""

MOST_GROUPS = 200
"""In one place. What is unlike all of so many belongs to no group, and gets no examples."""

_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Group:
    """Questions of one place that are alike.

    Attributes:
        name: of the group, its first question shortened.
        place: whose questions.
        evidence: whether examples help there.
        leader: the run whose question that was, where it is known.
        score: of each lesson how often an answer after it was right, less how often a wrong answer
            was a copy of it.
    """

    name: str
    place: Place
    words: frozenset[str]
    evidence: Evidence
    leader: str = ""
    score: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Groups:
    """All groups. A question belongs to the nearest group by the Jaccard index of their words, or
    begins a new one (leader clustering, Hartigan 1975).

    Attributes:
        alpha: probability of a wrong admission, of each group.
    """

    alpha: float = 0.05
    _groups: dict[Place, list[Group]] = field(default_factory=dict)

    def of(self, place: Place, question: str, run_id: str = "") -> Group | None:
        """The group of a question; None where there are too many groups already.

        Args:
            place: whose question.
            question: as it was asked.
            run_id: of it, by which `forget` knows it.
        """
        found = self.find(place, question)
        there = self._groups.setdefault(place, [])
        if found is None and len(there) < MOST_GROUPS:
            found = Group(question[:60], place, _words(question), Evidence(self.alpha), run_id)
            there.append(found)
        return found

    def find(self, place: Place, question: str) -> Group | None:
        """The group that a question belongs to; None where it would begin one."""
        words, there = _words(question), self._groups.get(place, [])
        alike = [jaccard(words, group.words) for group in there]
        return there[alike.index(max(alike))] if alike and max(alike) >= ALIKE else None

    def forget(self, run_ids: Collection[str]) -> None:
        """Leave out what came from these runs; a group goes with the question that it began with,
        whose words it holds."""
        for place, there in list(self._groups.items()):
            self._groups[place] = [group for group in there if group.leader not in run_ids]
        for group in self.all():
            group.evidence.forget(run_ids)
            for run_id in run_ids:
                group.score.pop(run_id, None)

    def all(self) -> list[Group]:
        """Every group, in the order of their first questions."""
        return [group for groups in self._groups.values() for group in groups]


def _words(question: str) -> frozenset[str]:
    return frozenset(_WORD.findall(question.casefold()))
