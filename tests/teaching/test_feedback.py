"""What users say of answers: where it goes, and what it counts for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, MemoryLedger
from cascade.errors import ConfigurationError, InputError, UnknownRunError
from cascade.judging import keep_feedback, to_feedback
from cascade.ledger import tagged
from cascade.ledger.runs import runs_of
from cascade.ledger.store import Selection, Store, open_store
from cascade.ledger.verdicts import FEEDBACK, Feedback, entry_of
from cascade.oversight import Audits
from cascade.report import Said, make_report
from cascade.teaching import LabelledDrafts, Lessons, LessonStore, labelled_drafts
from cascade.testing import reply
from tests.teaching.making import cascade_with, lesson

SURE = reply("4", probability=0.99)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


async def said(ledger: Store, run_id: str | None = None) -> list[Any]:
    found = await ledger.query(Selection(run_id=run_id, node=FEEDBACK))
    return [dict(entry.signals or {}) for entry in found]


async def test_a_verdict_goes_to_the_lesson_and_its_figures_to_the_ledger(
    memory: LessonStore, ledger: Store
) -> None:
    cascade = cascade_with(Lessons(memory), ledger=ledger)
    with tagged(user="ada"):
        result = await cascade.ainvoke("2 + 2?")
    words = {"comment": "It is five.", "correction": {"answer": "5"}}
    assert await cascade.afeedback(result.run_id, correct=False, score=0.1, by="bob", **words)
    found = await memory.get(result.run_id)
    assert found is not None
    (verdict,) = found.verdicts
    assert (verdict.correct, verdict.score, verdict.by) == (False, 0.1, "bob")
    assert (verdict.comment, verdict.correction) == ("It is five.", {"answer": "5"})
    assert found.answer_is_wrong
    assert await said(ledger, result.run_id) == [{"wrong": 1.0, "score": 0.1}]
    (stored,) = [s async for s in ledger.stored(Selection(node=FEEDBACK))]
    assert stored.tags == {"user": "ada"}
    assert "bob" not in stored.entry.model_dump_json()
    assert "five" not in stored.entry.model_dump_json()


async def test_an_accepted_answer_can_be_judged_though_it_is_no_lesson(
    memory: LessonStore, ledger: Store
) -> None:
    cascade = cascade_with(Lessons(memory), draft=SURE, ledger=ledger)
    result = await cascade.ainvoke("2 + 2?")
    assert await cascade.afeedback(result.run_id, correct=False)
    assert await memory.count() == 0
    assert [it.run_id for it in await memory.verdicts()] == [result.run_id]


async def test_the_same_again_changes_nothing_and_another_replaces_it(
    memory: LessonStore, ledger: Store
) -> None:
    cascade = cascade_with(Lessons(memory), ledger=ledger)
    run_id = (await cascade.ainvoke("2 + 2?")).run_id
    assert await cascade.afeedback(run_id, correct=False)
    assert not await cascade.afeedback(run_id, correct=False)
    assert await cascade.afeedback(run_id, correct=True)
    assert await cascade.afeedback(run_id, correct=False)
    assert await cascade.afeedback(run_id, correct=True, by="bob")
    assert await cascade.afeedback(run_id, score=0.2, key="tone")
    found = await memory.get(run_id)
    assert found is not None
    assert {(it.key, it.by, it.correct) for it in found.verdicts} == {
        ("correct", "user", False),
        ("correct", "bob", True),
        ("tone", "user", None),
    }
    assert [it["wrong"] for it in await said(ledger)] == [1.0, 0.0, 1.0, 0.0]


async def test_a_verdict_that_is_taken_back_counts_no_more(
    memory: LessonStore, ledger: Store
) -> None:
    cascade = cascade_with(Lessons(memory), draft=SURE, ledger=ledger)
    run_id = (await cascade.ainvoke("2 + 2?")).run_id
    await cascade.afeedback(run_id, correct=False)
    assert len((await labelled_drafts(ledger)).said) == 1
    assert await cascade.afeedback(run_id, comment="never mind")
    assert (await labelled_drafts(ledger)).said == ()
    assert (await make_report(ledger)).said == {}


async def test_an_older_verdict_does_not_replace_a_newer_one(memory: LessonStore) -> None:
    await memory.put(lesson("r1"))
    now = datetime.now(UTC)
    assert await memory.judge(Feedback(run_id="r1", correct=True, at=now))
    late = Feedback(run_id="r1", correct=False, at=now - timedelta(seconds=1))
    assert not await memory.judge(late)
    found = await memory.get("r1")
    assert found is not None
    assert found.verdicts[0].correct is True
    first = entry_of(Feedback(run_id="r1", correct=True, at=now), ())
    assert first is not None
    assert entry_of(late, [first]) is None


@pytest.mark.parametrize("kept", ["ledger", "lessons", "memory ledger"])
async def test_a_run_that_nobody_knows_is_told(
    memory: LessonStore, ledger: Store, kept: str
) -> None:
    options: dict[str, Any] = {"ledger": {"ledger": ledger}, "lessons": {}}.get(
        kept, {"ledger": MemoryLedger()}
    )
    lessons = Lessons(memory) if kept == "lessons" else None
    cascade = cascade_with(lessons, **options)
    run_id = (await cascade.ainvoke("2 + 2?")).run_id
    with pytest.raises(UnknownRunError, match="no run 'x'"):
        await cascade.afeedback("x", correct=True)
    assert await cascade.afeedback(run_id, correct=True)
    assert not await cascade.afeedback(run_id, correct=True)


async def test_one_may_not_judge_the_runs_of_another(memory: LessonStore, ledger: Store) -> None:
    lessons = Lessons(memory)
    with tagged(key="key_1"):
        run_id = (await cascade_with(lessons, ledger=ledger).ainvoke("2 + 2?")).run_id
    verdict = Feedback(run_id=run_id, correct=False)
    for place in (ledger, None):
        with pytest.raises(UnknownRunError):
            await keep_feedback(verdict, place, lessons, within={"key": "key_2"})
    assert await memory.verdicts() == []
    assert await keep_feedback(verdict, ledger, lessons, within={"key": "key_1"})


async def test_a_run_takes_so_many_verdicts_and_no_more(
    memory: LessonStore, ledger: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.judging.MOST_SAID", 3)
    monkeypatch.setattr("cascade.teaching.writing.MOST_SAID", 3)
    cascade = cascade_with(None, ledger=ledger)
    run_id = (await cascade.ainvoke("2 + 2?")).run_id
    for number in range(3):
        assert await cascade.afeedback(run_id, correct=bool(number % 2))
        assert await memory.judge(Feedback(run_id="r1", correct=True, by=str(number)))
    with pytest.raises(InputError, match="judged 3 times"):
        await cascade.afeedback(run_id, correct=True)
    with pytest.raises(InputError, match="judged 3 times"):
        await memory.judge(Feedback(run_id="r1", correct=True, by="4"))
    assert await memory.judge(Feedback(run_id="r1", correct=False, by="2"))


async def test_words_need_lessons_and_verdicts_need_some_place(ledger: Store) -> None:
    cascade = cascade_with(None, ledger=ledger)
    run_id = (await cascade.ainvoke("2 + 2?")).run_id
    for words in ({"comment": "no"}, {"value": "bad"}, {"correction": "5"}, {"key": "tone"}):
        with pytest.raises(ConfigurationError, match="lessons="):
            await cascade.afeedback(run_id, score=0.0, **words)  # type: ignore[arg-type]
    assert await cascade.afeedback(run_id, correct=False)
    with pytest.raises(ConfigurationError, match="no place"):
        await cascade_with(None).afeedback(run_id, correct=False)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "says nothing"),
        ({"score": 5}, "score=5"),
        ({"score": float("nan"), "key": "tone"}, "score"),
        ({"correct": "perhaps"}, "correct"),
        ({"correct": True, "run_id": ""}, "run_id"),
        ({"correct": True, "by": ""}, "by"),
        ({"comment": "x" * 20_001}, "comment"),
        ({"comment": "\ud800"}, "comment"),
        ({"correct": True, "surprise": 1}, "surprise"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        to_feedback({"run_id": "r1", **fields})


def test_sync_callers_have_the_same(ledger: Store) -> None:
    with cascade_with(None, ledger=ledger) as cascade:
        result = cascade.invoke("2 + 2?")
        assert cascade.feedback(result.run_id, correct=True)
        assert not cascade.feedback(result.run_id, correct=True)


@pytest.mark.parametrize(("score", "wrong"), [(0.0, True), (0.49, True), (0.5, False), (1, False)])
def test_a_score_below_a_half_says_wrong(score: float, wrong: bool) -> None:
    assert Feedback(run_id="r", score=score).wrong is wrong
    assert Feedback(run_id="r", score=score, correct=True).wrong is False
    assert Feedback(run_id="r", score=score, key="tone").wrong is None


async def ask(cascade: Cascade, n: int) -> list[str]:
    return [(await cascade.ainvoke(f"{number}?")).run_id for number in range(n)]


async def test_users_and_audits_are_kept_apart(ledger: Store) -> None:
    audits = Audits(rate=0.5)
    cascade = cascade_with(None, draft=SURE, answer="5", audit_rate=audits, ledger=ledger)
    ids = await ask(cascade, 12)
    await cascade.aclose()
    for run_id in ids[:4]:
        await cascade.afeedback(run_id, correct=True)
    found = await labelled_drafts(ledger)
    assert {draft.run_id for draft in found.said} == set(ids[:4])
    assert all(draft.correct and draft.weight == 1 for draft in found.said)
    assert found.audited
    assert all(not draft.correct and draft.weight == 2 for draft in found.audited)
    both = {draft.run_id for draft in found.audited} & set(ids[:4])
    assert (found.agreeing, found.differing) == (0, len(both))
    before = await make_report(ledger)
    assert before.audits == len(found.audited)


async def test_a_report_shows_what_users_said_and_lets_nothing_rest_on_it(ledger: Store) -> None:
    accepting = cascade_with(None, draft=SURE, ledger=ledger)
    ids = await ask(accepting, 10)
    before = await make_report(ledger)
    for run_id in ids[:3]:
        await accepting.afeedback(run_id, correct=run_id != ids[0])
    after = await make_report(ledger)
    assert after.said == {"accepted": Said(answers=10, judged=3, wrong=1, low=0.1, high=0.8)}
    assert "3 verdicts about 10 accepted drafts, 1 of them wrong" in after.text()
    assert "no random sample" in after.html()
    changed = {"said", "last"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)


async def test_a_verdict_of_a_later_period_makes_no_request_of_that_period(ledger: Store) -> None:
    cascade = cascade_with(None, draft=SURE, ledger=ledger)
    run_id = (await cascade.ainvoke("2 + 2?")).run_id
    await cascade.afeedback(run_id, correct=False)
    (entry,) = await ledger.query(Selection(node=FEEDBACK))
    later = entry.model_copy(update={"at": entry.at + timedelta(days=3), "attempt_id": "later"})
    ledger.append([later])
    period = Selection(since=entry.at + timedelta(days=2))
    assert (await make_report(ledger, period)).requests == 0
    assert await labelled_drafts(ledger, period) == LabelledDrafts()
    assert runs_of([(later, {})]) == {}
