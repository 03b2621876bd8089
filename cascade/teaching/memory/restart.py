"""What is known of groups, as it is kept over a restart."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import cast

from cascade.teaching.lessons import Lesson
from cascade.teaching.memory.evidence import Evidence, Pair, Standing
from cascade.teaching.memory.groups import Group, Groups
from cascade.teaching.memory.shelf import place_of
from cascade.teaching.store import KeptGroup, LessonStore

SAVE_EVERY_S = 5.0
"""Seconds between two times that what trials have shown is kept; and once more at the end."""

logger = logging.getLogger("cascade")


@dataclass(slots=True)
class Keeper:
    """Keeps the groups of a memory in the store of its lessons.

    Attributes:
        store: of the lessons.
        groups: of the memory.
        counting: held while they change.
    """

    store: LessonStore
    groups: Groups
    counting: Lock
    _settings: str | None = None
    _again: float = 0.0

    async def restore(self, settings_of: Callable[[], str]) -> bool:
        """Take in what was kept with these settings, once; returns whether it was now."""
        if self._settings is not None:
            return False
        settings, before = settings_of(), list[Group]()
        for found in await self.store.groups(settings):
            leader = await self.store.get(found.leader)
            if leader is not None:
                before.append(restored(found, leader, self.groups))
        with self.counting:
            for group in before:
                self.groups.add(group)
        self._settings = settings
        return True

    async def save(self, *, now: bool = False) -> None:
        """Keep what has changed; not more often than every few seconds, unless it is to be now.
        Never raises: what could not be kept is tried again."""
        if self._settings is None or not (now or time.monotonic() >= self._again):
            return
        self._again = time.monotonic() + SAVE_EVERY_S
        with self.counting:
            changed = [group for group in self.groups.all() if group.unsaved and group.has_lesson]
            found = [kept(group) for group in changed]
            for group in changed:
                group.unsaved = False
        are_kept = False
        try:
            if found:
                await self.store.keep_groups(self._settings, found)
            are_kept = True
        except Exception:
            logger.exception("memory: what trials have shown could not be kept")
        finally:  # also where nobody waits for it any more
            if not are_kept:
                for group in changed:
                    group.unsaved = True


def kept(group: Group) -> KeptGroup:
    """A group as it is kept: the words of its questions are those of its leader's lesson."""
    evidence = group.evidence
    pairs = evidence.pairs
    return KeptGroup(
        leader=group.leader,
        standing=evidence.standing,
        asked=group.asked,
        unknown=evidence.requests - len(pairs),
        least_rate=evidence.least_rate,
        pairs={key: (pair.rate, pair.gain or 0.0, pair.trial) for key, pair in pairs.items()},
        score=dict(group.score),
    )


def restored(found: KeptGroup, lesson: Lesson, among: Groups) -> Group:
    """A group that was kept, by the lesson of its leader."""
    pairs = OrderedDict((f"unknown {n}", Pair(found.least_rate)) for n in range(found.unknown))
    pairs |= {key: Pair(rate, gain, trial) for key, (rate, gain, trial) in found.pairs.items()}
    standing = cast(Standing, found.standing)
    evidence = Evidence(among.alpha, worth=among.worth, standing=standing, _pairs=pairs)
    group = Group("", place_of(lesson), frozenset(), evidence, asked=found.asked)
    group.score.update(found.score)
    group.led_by(found.leader, lesson.question)
    return group
