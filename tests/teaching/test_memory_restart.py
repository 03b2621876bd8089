"""What trials have shown outlives the process, in each database, and is deleted like lessons."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cascade.teaching import LessonSelection, LessonStore
from cascade.teaching.memory import Evidence, Memory, Pair
from cascade.teaching.memory.groups import Group
from cascade.teaching.store import KeptGroup
from tests.teaching.making import lesson
from tests.teaching.test_memory import (
    ENOUGH,
    ask,
    cascade_of,
    copies,
    question,
    remember,
    standings,
)

KEPT = KeptGroup(
    leader="r1",
    standing="live",
    asked=9,
    unknown=2,
    least_rate=0.2,
    pairs={"r1": (1.0, 0.2, 1.0), "r2": (0.2, -0.8, 0.25)},
    score={"r1": 1, "r3": -2},
)


async def put(store: LessonStore, *run_ids: str) -> None:
    for number, run_id in enumerate(run_ids):
        at = datetime(2026, 1, 1 + number, tzinfo=UTC)
        await store.put(lesson(run_id, question(number), user=f"of {run_id}", at=at))


async def test_a_group_that_was_live_is_shown_after_a_restart(memory: LessonStore) -> None:
    store, before = memory, remember(memory)
    async with cascade_of(store, before, copies) as cascade:
        await ask(cascade, before, range(ENOUGH))
    assert standings(before) == ["live"]
    [old] = before.groups.all()

    after = remember(store)
    async with cascade_of(store, after, copies) as cascade:
        [result] = await ask(cascade, after, range(ENOUGH, ENOUGH + 1))
        [new] = after.groups.all()
        assert not result.escalated
        assert old.score.keys() <= new.score.keys()

    for changed in ({"price_of_error": 9.0}, {"examples": 1}):
        other = remember(store, **changed)
        async with cascade_of(store, other, copies) as cascade:
            [result] = await ask(cascade, other, range(ENOUGH + 1, ENOUGH + 2))
        assert result.escalated, "with other settings nothing is known yet"


async def test_groups_come_back_as_they_were_kept(store: LessonStore) -> None:
    await put(store, "r1", "r2", "r3")
    await store.keep_groups("settings", [KEPT])
    await store.keep_groups("settings", [KEPT])
    assert await store.groups("settings") == [KEPT]
    assert await store.groups("others") == []


async def test_a_deletion_takes_its_runs_out_of_the_groups(store: LessonStore) -> None:
    await put(store, "r1", "r2", "r3")
    await store.keep_groups("settings", [KEPT])
    await store.delete(LessonSelection(user="of r2"))
    [left] = await store.groups("settings")
    assert left == KEPT.without({"r2"})
    await store.keep_groups("settings", [KEPT])
    assert await store.groups("settings") == [left], "who has not heard of it brings nothing back"
    await store.delete(LessonSelection(user="of r1"))
    assert await store.groups("settings") == []
    await store.keep_groups("settings", [KEPT])
    assert await store.groups("settings") == []


@pytest.mark.parametrize("standing", ["candidate", "dropped"])
async def test_evidence_goes_on_where_it_stopped(memory: LessonStore, standing: Any) -> None:
    await put(memory, "r1")
    evidence = Evidence(standing=standing)
    for number in range(20):
        evidence.put(str(number), Pair(0.2 if number % 4 else 1.0, 0.0 if number % 2 else None))
    first = Memory(memory, patience_s=60)
    first.drafts("scripted:small")
    await first.finish()
    group = Group("", ("", ""), frozenset(), evidence, asked=30, unsaved=True)
    group.led_by("r1", question(0))
    first.groups.add(group)
    await first.aclose()

    again = Memory(memory, patience_s=60)
    again.drafts("scripted:small")
    await again.finish()
    [found] = again.groups.all()
    same = (found.evidence.requests, found.evidence.known, found.evidence.trial, found.asked)
    assert same == (20, 10, evidence.trial, 30)
    assert (found.evidence.standing, found.words) == (standing, group.words)
    assert found.evidence.least_rate == 0.2

    another = Memory(memory, patience_s=60)
    another.drafts("scripted:another")
    await another.finish()
    assert another.groups.all() == [], "what is true of one small model is not of another"


async def test_what_cannot_be_kept_is_kept_later(
    memory: LessonStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*given: Any) -> None:
        raise RuntimeError("the database is away")

    it = remember(memory)
    async with cascade_of(memory, it, copies) as cascade:
        with monkeypatch.context() as patched:
            patched.setattr(memory, "keep_groups", away)
            await ask(cascade, it, range(5))
            await it.aclose()
        assert "could not be kept" in caplog.text
    again = remember(memory)
    async with cascade_of(memory, again, copies):
        await again.finish()
        assert [group.evidence.known for group in again.groups.all()] == [2]
