"""What a user said is gone from all that is made of it: store, memory, files to come, labels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cascade import Cascade, Price, Tier
from cascade.cli import app
from cascade.errors import ConfigurationError
from cascade.ledger import MemoryLedger, tagged
from cascade.ledger.store import open_store
from cascade.oversight import Audits
from cascade.policies import ThresholdPolicy
from cascade.teaching import Lessons, LessonSelection, Terms, labelled_drafts, open_lessons
from cascade.teaching.card import card_of
from cascade.teaching.evaluating import from_lessons
from cascade.teaching.exporting import ExportOptions, export
from cascade.teaching.memory import Memory
from cascade.testing import ScriptedModel, reply
from tests.teaching.test_deletion import PLANTED, holding

ALLOWED = {"scripted:*": Terms(may_train=True)}
TOPICS = ("anchors", "beacons", "compasses", "dinghies", "engines", "flags", "gangways", "hulls")


def question(user: str, topic: str, number: int) -> str:
    said = PLANTED if user == "ada" else "nothing"
    return f"Tell {said} about {topic} of yard {number}, in the words of {topic} makers"


def cascade_of(lessons: Lessons, memory: Memory, ledger: Any) -> Cascade:
    """Every second draft is accepted and audited, the others are escalated."""

    def small(request: Any) -> Any:
        sure = "even" in str(request.messages[-1].content)
        return reply(f"{request.messages[-1].content}!", probability=0.95 if sure else 0.2)

    def large(request: Any) -> Any:
        return reply(f"An answer to {request.messages[-1].content}")

    price = Price(input=1, output=1)
    return Cascade(
        Tier(ScriptedModel(small, name="small", returns_logprobs=True), price=price),
        Tier(ScriptedModel(large, name="large"), price=price),
        lessons=lessons,
        memory=memory,
        ledger=ledger,
        policy=ThresholdPolicy(0.8),
        signals=["logprobs"],
        audit_rate=Audits(rate=1.0, compare=lambda question, draft, large: 0.0),
    )


async def lived(cascade: Cascade, lessons: Lessons, memory: Memory) -> None:
    for number, topic in enumerate(TOPICS):
        for user in ("ada", "bob")[: 1 if topic == TOPICS[-1] else 2]:
            for text in (question(user, topic, number), f"even {question(user, topic, number)}"):
                with tagged(user=user):
                    result = await cascade.ainvoke(text)
                await cascade.afeedback(result.run_id, correct=True, comment=text, by=user)
    await cascade.audits_done()
    await lessons.aclose()
    await memory.finish()
    await memory.aclose()


async def test_a_planted_string_is_nowhere_after_a_deletion(tmp_path: Path) -> None:
    kept, made = tmp_path / "kept", tmp_path / "made"
    kept.mkdir()
    made.mkdir()
    ledger_url, url = f"sqlite:///{kept}/ledger.db", f"sqlite:///{kept}/lessons.db"
    options = ExportOptions(near=1.0)
    async with open_store(ledger_url, texts="all") as ledger, open_lessons(url) as store:
        lessons, memory = Lessons(store, terms=ALLOWED), Memory(store, patience_s=60)
        async with cascade_of(lessons, memory, ledger) as cascade:
            await lived(cascade, lessons, memory)
            asked = question("ada", TOPICS[-1], 7)  # that bob asks nothing about
            # It is everywhere, else the test shows nothing.
            await export(store, made / "before.jsonl", options, card=card_of)
            assert any(PLANTED in lesson.answer for lesson in await memory.near(asked))
            assert holding(made) == ["before.jsonl", "before.validation.jsonl"]
            assert len((await labelled_drafts(ledger)).audited) == 2 * len(TOPICS) - 1

            command = ["lessons", "delete", url, "--user", "ada", "--ledger", ledger_url]
            done = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert done.exit_code == 0, done.output
            for name in holding(made):
                assert f"exported before: {made / name}" in done.stderr
                (made / name).unlink()  # what the command cannot do

            near = [lesson.answer for lesson in await memory.near(asked)]
            assert near
            assert not any(PLANTED in answer for answer in near)
            held = [(group.name, *group.words) for group in memory.groups.all()]
            assert not any(PLANTED.casefold() in text.casefold() for each in held for text in each)
            drafts = await labelled_drafts(ledger)
            assert len(drafts.audited) == len(TOPICS) - 1
            questions = await from_lessons(store, "scripted:small", ledger=ledger)
            said = [str(item.messages) + str(item.reference) for item in questions.items]
            assert not any(PLANTED in text for text in said)
            await export(store, made / "after.jsonl", options, card=card_of)
            assert (made / "after.jsonl").stat().st_size > 0
            assert holding(made) == []
    assert holding(tmp_path) == []


async def test_nothing_of_the_only_user_can_be_exported_any_more(tmp_path: Path) -> None:
    async with open_lessons("memory://") as store:
        lessons, memory = Lessons(store, terms=ALLOWED), Memory(store, patience_s=60)
        async with cascade_of(lessons, memory, MemoryLedger()) as cascade:
            with tagged(user="ada"):
                await cascade.ainvoke(question("ada", "masts", 1))
            await lessons.aclose()
        await store.delete(LessonSelection(user="ada"))
        with pytest.raises(ConfigurationError, match="of 0 lessons none is left"):
            await export(store, tmp_path / "x.jsonl", ExportOptions(), card=card_of)
    assert not (tmp_path / "x.jsonl").exists()
