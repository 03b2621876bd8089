"""Row 18: lessons, feedback, memory."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, ConfigurationError, MemoryLedger, Price
from cascade.errors import UnknownRunError
from cascade.ledger import tagged
from tests.acceptance import commands, edition
from tests.acceptance.upstream import Answer, Seen, Upstream

PRICE = Price(input=1, output=1)
QUESTION = "What is the capital of Australia?"


@pytest.fixture
def lessons(tmp_path: Path) -> edition.Taught:
    return edition.lessons(f"sqlite:///{tmp_path}/lessons.db", may_train=True)


def pair(upstream: Upstream, p: float = 0.3, **options: Any) -> Cascade:
    upstream.says("small", Answer("Sydney", p=p))
    upstream.says("large", "Canberra")
    small, large = (upstream.tier(name, price=PRICE) for name in ("small", "large"))
    return edition.cascade(small, large, **options)


# --- lessons


async def test_what_the_large_model_answered_in_the_small_ones_place_is_a_lesson(
    upstream: Upstream, lessons: edition.Taught
) -> None:
    async with pair(upstream, lessons=lessons.keeper) as cascade:
        with tagged(user="ada", task="capitals"):
            result = await cascade.ainvoke(QUESTION)
    (lesson,) = await lessons.all()
    assert (lesson.run_id, lesson.question) == (result.run_id, QUESTION)
    assert (lesson.draft, lesson.answer) == ("Sydney", "Canberra")
    assert (lesson.user, lesson.task, lesson.origin) == ("ada", "capitals", "escalated")


async def test_an_accepted_draft_is_one_once_it_was_audited(
    upstream: Upstream, lessons: edition.Taught
) -> None:
    options: dict[str, Any] = {"audit_rate": 1.0, "ledger": MemoryLedger()}
    async with pair(upstream, 0.95, lessons=lessons.keeper, **options) as cascade:
        await cascade.ainvoke(QUESTION)
    (lesson,) = await lessons.all()
    assert (lesson.draft, lesson.answer, lesson.origin) == ("Sydney", "Canberra", "audited")
    assert lesson.loss == 1.0


async def test_an_accepted_draft_alone_is_none(upstream: Upstream, lessons: edition.Taught) -> None:
    async with pair(upstream, 0.95, lessons=lessons.keeper) as cascade:
        await cascade.ainvoke(QUESTION)
    assert await lessons.all() == []


async def test_what_stays_on_this_machine_is_none(
    upstream: Upstream, lessons: edition.Taught
) -> None:
    options: dict[str, Any] = {"private": lambda messages: True, "lessons": lessons.keeper}
    upstream.says("middle", "Canberra")
    tiers = [upstream.tier(name, name=name, price=PRICE) for name in ("small", "middle")]
    upstream.says("small", Answer("Sydney", p=0.3))
    async with edition.cascade(tiers=tiers, **options) as cascade:
        assert (await cascade.ainvoke(QUESTION)).tier == "middle"
    assert await lessons.all() == []


async def test_a_run_may_say_that_it_is_none(upstream: Upstream, lessons: edition.Taught) -> None:
    async with pair(upstream, lessons=lessons.keeper) as cascade:
        with tagged(lessons="no"):
            await cascade.ainvoke(QUESTION)
    assert await lessons.all() == []


def test_deleting_a_users_lessons_leaves_nothing_in_the_file(
    upstream: Upstream, lessons: edition.Taught, tmp_path: Path
) -> None:
    with pair(upstream, lessons=lessons.keeper) as cascade:
        with tagged(user="ada"):
            cascade.invoke("hers: zanzibar")
        with tagged(user="bob"):
            cascade.invoke("his: timbuktu")
    done = commands.cascade(
        "lessons", "delete", f"sqlite:///{tmp_path}/lessons.db", "--user", "ada", "--json"
    )
    assert done.json["lessons"] == 1
    assert [lesson.question for lesson in asyncio.run(lessons.all())] == ["his: timbuktu"]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"zanzibar" not in kept
    assert b"timbuktu" in kept


def test_lessons_are_exported_as_chats_to_train_on(
    upstream: Upstream, lessons: edition.Taught, tmp_path: Path
) -> None:
    with pair(upstream, lessons=lessons.keeper) as cascade:
        for topic in ("zanzibar", "timbuktu", "ouagadougou", "antananarivo", "ulaanbaatar"):
            cascade.invoke(f"Where in the whole wide world is {topic}?")
    asyncio.run(lessons.aclose())
    out = tmp_path / "train.jsonl"
    commands.cascade(
        *("teach", "export", f"sqlite:///{tmp_path}/lessons.db", "--output", out, "--json"),
        *("--validation", "0"),
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 5
    for row in rows:
        assert [message["role"] for message in row["messages"]][-2:] == ["user", "assistant"]
        assert row["messages"][-1]["content"] == "Canberra"


def test_answers_whose_terms_nobody_stated_are_not_exported(
    upstream: Upstream, tmp_path: Path
) -> None:
    unstated = edition.lessons(f"sqlite:///{tmp_path}/lessons.db")
    with pair(upstream, lessons=unstated.keeper) as cascade:
        cascade.invoke(QUESTION)
    asyncio.run(unstated.aclose())
    out = tmp_path / "train.jsonl"
    commands.cascade(
        *("teach", "export", f"sqlite:///{tmp_path}/lessons.db", "--output", out), code=None
    )
    assert not out.exists() or out.read_text() == ""


# --- feedback


async def test_what_a_user_says_of_an_answer_is_kept_with_its_lesson(
    upstream: Upstream, lessons: edition.Taught
) -> None:
    ledger = MemoryLedger()
    async with pair(upstream, lessons=lessons.keeper, ledger=ledger) as cascade:
        result = await cascade.ainvoke(QUESTION)
        for _ in range(2):
            await cascade.afeedback(result.run_id, correct=False, comment="No!", by="ada")
    (lesson,) = await lessons.all()
    (verdict,) = lesson.verdicts
    assert (verdict.comment, verdict.by) == ("No!", "ada")
    (entry,) = [e for e in edition.entries_of(ledger) if e.node == "feedback"]
    assert (entry.run_id, entry.cost_usd) == (result.run_id, Decimal(0))


def test_feedback_works_with_a_ledger_alone(upstream: Upstream, sqlite_url: str) -> None:
    ledger = edition.open_ledger(sqlite_url)
    with pair(upstream, ledger=ledger) as cascade:
        result = cascade.invoke(QUESTION)
        cascade.feedback(result.run_id, correct=True)
        with pytest.raises(ConfigurationError):
            cascade.feedback(result.run_id, correct=True, comment="words have no place there")
    ledger.close()


def test_feedback_about_a_run_that_nobody_knows_is_told_so(
    upstream: Upstream, sqlite_url: str
) -> None:
    ledger = edition.open_ledger(sqlite_url)
    with pair(upstream, ledger=ledger) as cascade, pytest.raises(UnknownRunError, match="no-such"):
        cascade.feedback("no-such-run", correct=True)
    ledger.close()


# --- memory


async def test_a_memory_shows_what_it_learned_once_that_is_known_to_help(
    upstream: Upstream, lessons: edition.Taught
) -> None:
    """The small model knows no house rule, and finds it in an example."""

    def drafts(seen: Seen) -> Answer:
        shown = len(seen.body["messages"]) > 1
        return Answer("60 days" if shown else "no idea", p=0.95 if shown else 0.3)

    ledger = MemoryLedger()
    memory = lessons.memory()
    options: dict[str, Any] = {"audit_rate": 0.2, "ledger": ledger, "memory": memory}
    async with pair(upstream, lessons=lessons.keeper, **options) as cascade:
        upstream.says("small", drafts)
        upstream.says("large", "60 days")
        results = []
        for i in range(100):
            asked = f"Within how many days may a member of the club return item number {i}?"
            results.append(await cascade.ainvoke(asked))
            await lessons.finish(memory)
    assert [result.tier for result in results[:3]] == ["large"] * 3
    assert (results[-1].tier, results[-1].answer) == ("small", "60 days")
    shown = [seen for seen in upstream.asked("small") if len(seen.body["messages"]) > 1]
    assert "60 days" in " ".join(shown[-1].texts)
    assert {"trial"} & {entry.node for entry in edition.entries_of(ledger)}


async def test_a_baseline_counts_no_examples(upstream: Upstream, lessons: edition.Taught) -> None:
    """The large model alone would not have read what a memory adds to a draft's prompt."""
    memory = lessons.memory()

    def drafts(seen: Seen) -> Answer:
        shown = len(seen.body["messages"]) > 1
        return Answer("60 days", p=0.95 if shown else 0.3)

    options: dict[str, Any] = {"audit_rate": 0.2, "ledger": MemoryLedger(), "memory": memory}
    async with pair(upstream, lessons=lessons.keeper, **options) as cascade:
        upstream.says("small", drafts)
        upstream.says("large", "60 days")
        for i in range(100):
            asked = f"Within how many days may a member of the club return item number {i}?"
            result = await cascade.ainvoke(asked)
            await lessons.finish(memory)
    large = Decimal("0.000017")  # 15 words and 2 words
    assert result.tier == "small"
    assert result.ledger.baseline_usd is not None
    assert large * Decimal("0.7") < result.ledger.baseline_usd < large * Decimal("1.5")
    assert (result.ledger.cost_usd or 0) > 2 * large
