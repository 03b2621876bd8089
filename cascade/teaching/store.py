"""Where lessons are kept, and how what is made of them learns that some have to go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from cascade._closing import Closing
from cascade.ledger.verdicts import Feedback
from cascade.teaching.lessons import Lesson, LessonSelection
from cascade.teaching.terms import Terms

EVERYTHING = LessonSelection()


class Gone(NamedTuple):
    """Lessons that were deleted: whatever was made of them has to forget them.

    Attributes:
        until: the number of the last deletion among them; ask for those after it next time.
        run_ids: of the runs whose lessons and verdicts are gone, oldest deletion first.
    """

    until: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What a deletion has taken.

    Attributes:
        lessons: how many lessons.
        verdicts: how many verdicts of users.
        exports: files that were written before and hold some of these lessons: nobody can take
            them back from here, and whoever has them has to be told.
        scrubbed: whether the database's own files hold nothing of it any more. False where another
            process kept the journal open all the time, or that took too long; it goes with the next
            deletion, or when the last process closes the database.
    """

    lessons: int
    verdicts: int
    exports: tuple[str, ...] = ()
    scrubbed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that was made of lessons, as it was noted down.

    Attributes:
        path: where it was written.
        at: when.
        purpose: what for, such as `training`.
        lessons: how many lessons are in it.
    """

    path: str
    at: datetime
    purpose: str
    lessons: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGroup:
    """What is known of a group of questions that are alike, in runs and numbers: no words.

    Attributes:
        leader: the run whose question the group is about; it has a lesson.
        standing: of the group.
        asked: how many questions there were.
        unknown: of how many requests the gain is not known.
        least_rate: the lowest chance with which one was to become known.
        pairs: of each run with a known gain the chance that its right answer became known, the
            gain, and the chance of its trial, oldest first.
        score: of each lesson how often copies of it were right, less how often they were wrong.
    """

    leader: str
    standing: str
    asked: int
    unknown: int = 0
    least_rate: float = 1.0
    pairs: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    score: Mapping[str, int] = field(default_factory=dict)

    def without(self, run_ids: Collection[str]) -> KeptGroup:
        """The same without these runs."""
        return replace(
            self,
            pairs={key: pair for key, pair in self.pairs.items() if key not in run_ids},
            score={key: score for key, score in self.score.items() if key not in run_ids},
        )


class Dependent(Protocol):
    """What is made of lessons and kept in memory or elsewhere: an index, a set of pairs.

    A dependent derives from the store and is never the only place of anything. It remembers the
    number of the last deletion that it has heard of (0 when it was built of nothing) and calls
    `catch_up` before each use that may show a lesson to anybody: deletions are also made by other
    processes, such as `cascade lessons delete`.
    """

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Delete all that came from these runs, wherever it is kept. It may be told twice."""
        ...


class LessonStore(Closing, ABC):
    """Keeps lessons, the verdicts of users, and which files were made of them.

    Made by `open_lessons`. All methods may be called in any event loop and thread; whatever
    cannot be reached raises `cascade.ledger.store.UnavailableError`.

    **Who builds on it** (a memory, an export, a set of calibration pairs) follows three rules:

    1. Read lessons from here each time, or keep copies that `Dependent.forget` deletes.
    2. Call `await store.catch_up(dependent, after)` before copies are used; it costs one small
       query. `await store.changes()` says by one number whether anything is new.
    3. Note down each file with lessons in it by `note_export`, so that a deletion can name it.

    What is read here has been redacted, and is of no run that had to stay on this machine. What may
    be done with an answer is `lesson.terms.within(…)` the terms that are stated today: `permitted`.
    """

    @abstractmethod
    async def put(self, lesson: Lesson) -> bool:
        """Keep a lesson; returns whether it is new.

        A run's first lesson stays: the same may come twice. A run that was deleted has none any
        more, also where its lesson comes late. The verdicts of the record are not kept: `judge`
        does that.
        """

    @abstractmethod
    async def get(self, run_id: str) -> Lesson | None:
        """The lesson of a run with its verdicts; None where there is none."""

    @abstractmethod
    def lessons(self, selection: LessonSelection = EVERYTHING) -> AsyncGenerator[Lesson]:
        """The lessons that are meant with their verdicts, ordered by time, then id."""

    @abstractmethod
    async def count(self, selection: LessonSelection = EVERYTHING) -> int:
        """How many lessons are meant."""

    @abstractmethod
    async def judge(self, feedback: Feedback, *, tags: Mapping[str, str] | None = None) -> bool:
        """Keep a verdict of a user, in place of an earlier one of the same run, key and judge.

        Args:
            feedback: what was said. Its run need not have a lesson: a draft that was accepted can
                be wrong.
            tags: of the run; where they are not given, those of its lesson.

        Returns:
            whether anything changed. The same again changes nothing, nor does one that is older
            than what is there. A run that was deleted takes none.
        """

    @abstractmethod
    async def verdicts(self, selection: LessonSelection = EVERYTHING) -> list[Feedback]:
        """The verdicts about the runs that are meant, oldest first, also of runs without a lesson.

        `task`, `cascade` and `origin` are a lesson's: a selection by one of them means verdicts
        about runs with a lesson alone. `since` and `until` are about the verdict's own time.
        """

    @abstractmethod
    async def delete(
        self,
        selection: LessonSelection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> Deleted:
        """Delete lessons and verdicts for good, and write down which runs they were of.

        Args:
            selection: what to delete.
            older_than: delete what is older than this, for retention.
            everything: must be True to delete all there is.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """

    @abstractmethod
    async def gone(self, after: int = 0) -> Gone:
        """Which runs were deleted since deletion number `after`."""

    @abstractmethod
    async def changes(self) -> int:
        """A number that grows with each lesson, verdict, terms or deletion, of all processes."""

    @abstractmethod
    async def state_terms(self, model: str, terms: Terms) -> None:
        """State the terms of a model, in place of what was stated before.

        Args:
            model: as `provider:name`; `provider:*` for all of a provider.
            terms: what its vendor allows.
        """

    @abstractmethod
    async def terms(self) -> Mapping[str, Terms]:
        """The terms that were stated, by model."""

    @abstractmethod
    async def note_export(self, path: str, run_ids: Sequence[str], *, purpose: str) -> None:
        """Write down that a file was made of the lessons of these runs."""

    @abstractmethod
    async def exports(self) -> list[Export]:
        """The files that were noted down, oldest first."""

    @abstractmethod
    async def exported(self, purpose: str) -> set[str]:
        """The runs whose lessons are in a file of this purpose."""

    @abstractmethod
    async def keep_groups(self, settings: str, groups: Sequence[KeptGroup]) -> None:
        """Keep what is known of groups, in place of what was kept of the same leaders.

        What was deleted meanwhile is left out, and so is a group whose leader was.

        Args:
            settings: whose groups: what was found with other settings says nothing about these.
            groups: to keep.
        """

    @abstractmethod
    async def groups(self, settings: str) -> list[KeptGroup]:
        """The groups that were kept for these settings, by their leaders."""

    async def catch_up(self, dependent: Dependent, after: int) -> int:
        """Let a dependent forget what was deleted since deletion number `after`.

        Returns:
            the number to give the next time.
        """
        gone = await self.gone(after)
        if gone.run_ids:
            await dependent.forget(gone.run_ids)
        return gone.until
