"""Groups of questions that are alike: evidence is of a group, since one lesson is too little."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from cascade.teaching.memory.evidence import Evidence
from cascade.teaching.memory.index import Place
from cascade.teaching.overlap import jaccard

ALIKE = 0.25
"""Share of the words of two questions that they have in common, from which they are alike."""

MOST_GROUPS = 200
"""In one place. What is unlike all of so many belongs to no group, and gets no examples."""

DROPPED_AT = -2
"""A lesson with this score is shown no more."""

_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Group:
    """Questions of one place that are alike.

    Attributes:
        name: of the group, its first question shortened.
        place: whose questions.
        evidence: whether examples help there.
        leader: the run whose question that was, where it is known.
        asked: how many of them there were.
        has_lesson: whether the leader's question is that of a lesson, as what is kept needs.
        unsaved: whether anything has changed since it was kept.
        score: of each lesson how often a copy of its answer was right, less how often one was
            wrong. A right copy speaks for both lessons: the large model has said the same twice.
    """

    name: str
    place: Place
    words: frozenset[str]
    evidence: Evidence
    leader: str = ""
    asked: int = 0
    score: dict[str, int] = field(default_factory=dict)
    has_lesson: bool = False
    unsaved: bool = False

    def led_by(self, run_id: str, question: str) -> None:
        """The group is about the question of this lesson from now on."""
        self.name, self.words, self.leader = question[:60], _words(question), run_id
        self.has_lesson = True

    def copied(self, run_ids: Collection[str], by: str, *, right: bool) -> bool:
        """Count that the answer to run `by` was a copy of these lessons; returns whether one of
        them is shown no more since."""
        for run_id in run_ids:
            self.score[run_id] = self.score.get(run_id, 0) + (1 if right else -1)
        if run_ids and right:
            self.score[by] = self.score.get(by, 0) + 1
        return not right and any(self.score[run_id] == DROPPED_AT for run_id in run_ids)

    def proven(self, run_id: str) -> bool:
        """Whether copies of a lesson were right more often than wrong."""
        return self.score.get(run_id, 0) > 0

    def suspect(self, run_ids: Iterable[str]) -> None:
        """These lessons are as unproven as new ones: their answer was wrong in another's place."""
        for run_id in run_ids:
            self.score[run_id] = min(0, self.score.get(run_id, 0))

    def shows(self, run_id: str) -> bool:
        """Whether a lesson may be shown, by what became of its copies."""
        return self.score.get(run_id, 0) > DROPPED_AT


@dataclass(slots=True)
class Groups:
    """All groups. A question belongs to the nearest group by the Jaccard index of their words, or
    begins a new one (leader clustering, Hartigan 1975).

    Attributes:
        alpha: probability of a wrong admission, of each group.
        worth: the mean gain above which trials of a group go on.
    """

    alpha: float = 0.05
    worth: float = 0.0
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
            evidence = Evidence(self.alpha, worth=self.worth)
            found = Group(question[:60], place, _words(question), evidence, run_id)
            there.append(found)
        return found

    def add(self, group: Group) -> None:
        """Take in a group that was kept."""
        self._groups.setdefault(group.place, []).append(group)

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
