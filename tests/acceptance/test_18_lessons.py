"""Row 18: lessons, feedback, memory."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import ConfigurationError, MemoryLedger
from cascade.errors import UnknownRunError
from cascade.ledger import tagged
from cascade.ledger.store import open_store
from cascade.middleware import LocalOnly
from cascade.teaching import Memory
from tests.acceptance import commands, setups
from tests.acceptance.setups import entries_of, pair
from tests.acceptance.upstream import Answer, Seen, Upstream

QUESTION = "What is the capital of Australia?"
SAYS = ("Sydney", "Canberra")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lessons.db"


@pytest.fixture
def lessons(address: str) -> setups.Taught:
    return setups.lessons(address, may_train=True)


# --- lessons


async def test_what_the_large_model_answered_in_the_small_ones_place_is_a_lesson(
    upstream: Upstream, lessons: setups.Taught
) -> None:
    async with pair(upstream, 0.3, lessons.keeper, says=SAYS) as cascade:
        with tagged(user="ada", task="capitals"):
            result = await cascade.ainvoke(QUESTION)
        with tagged(lessons="no"):
            await cascade.ainvoke("What is not to be kept?")
    (lesson,) = await lessons.all()
    assert (lesson.run_id, lesson.question) == (result.run_id, QUESTION)
    assert (lesson.draft, lesson.answer, lesson.origin) == (*SAYS, "escalated")
    assert (lesson.user, lesson.task) == ("ada", "capitals")


@pytest.mark.parametrize("audit_rate", [1.0, None])
async def test_an_accepted_draft_is_one_only_once_it_was_audited(
    upstream: Upstream, lessons: setups.Taught, audit_rate: float | None
) -> None:
    options: dict[str, Any] = {"audit_rate": audit_rate, "ledger": MemoryLedger()}
    async with pair(upstream, 0.95, lessons.keeper, says=SAYS, **options) as cascade:
        await cascade.ainvoke(QUESTION)
    found = [(each.draft, each.answer, each.origin, each.loss) for each in await lessons.all()]
    assert found == ([(*SAYS, "audited", 1.0)] if audit_rate else [])


async def test_what_stays_on_this_machine_is_none(
    upstream: Upstream, lessons: setups.Taught
) -> None:
    private = LocalOnly(private=lambda messages: True)
    async with pair(upstream, 0.3, private, lessons.keeper) as cascade:
        assert (await cascade.ainvoke(QUESTION)).tier == "large"  # which is on this machine, too
    assert await lessons.all() == []


def test_deleting_a_users_lessons_leaves_nothing_in_the_file(
    upstream: Upstream, lessons: setups.Taught, address: str, tmp_path: Path
) -> None:
    with pair(upstream, 0.3, lessons.keeper, says=SAYS) as cascade:
        for user, question in (("ada", "hers: zanzibar"), ("bob", "his: timbuktu")):
            with tagged(user=user):
                cascade.invoke(question)
    done = commands.cascade("lessons", "delete", address, "--user", "ada", "--json")
    assert done.json["lessons"] == 1
    assert [lesson.question for lesson in asyncio.run(lessons.all())] == ["his: timbuktu"]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (b"zanzibar" in kept, b"timbuktu" in kept) == (False, True)


@pytest.mark.parametrize("may_train", [True, False, None])
def test_lessons_are_exported_as_chats_where_their_terms_permit_it(
    upstream: Upstream, address: str, tmp_path: Path, may_train: bool | None
) -> None:
    lessons, out = setups.lessons(address, may_train=may_train), tmp_path / "train.jsonl"
    with pair(upstream, 0.3, lessons.keeper, says=SAYS) as cascade:
        for topic in ("zanzibar", "timbuktu", "ouagadougou"):
            cascade.invoke(f"Where in the whole wide world is {topic}?")
    asyncio.run(lessons.store.aclose())
    given = ("teach", "export", address, "--output", out, "--validation", "0", "--json")
    commands.cascade(*given, code=0 if may_train else None)
    rows = [json.loads(line) for line in (out.read_text() if out.exists() else "").splitlines()]
    assert len(rows) == (3 if may_train else 0)
    for row in rows:
        question, answer = row["messages"][-2:]
        assert question["role"] == "user"
        assert (answer["role"], answer["content"]) == ("assistant", "Canberra")


# --- feedback


async def test_what_a_user_says_of_an_answer_is_kept_with_its_lesson(
    upstream: Upstream, lessons: setups.Taught
) -> None:
    ledger = MemoryLedger()
    async with pair(upstream, 0.3, lessons.keeper, ledger=ledger) as cascade:
        result = await cascade.ainvoke(QUESTION)
        for _ in range(2):
            await cascade.afeedback(result.run_id, correct=False, comment="No!", by="ada")
    ((verdict,),) = [lesson.verdicts for lesson in await lessons.all()]
    assert (verdict.comment, verdict.by) == ("No!", "ada")
    (entry,) = [e for e in entries_of(ledger) if e.node == "feedback"]
    assert (entry.run_id, entry.cost_usd) == (result.run_id, Decimal(0))


def test_a_ledger_alone_takes_verdicts_and_no_words(upstream: Upstream, sqlite_url: str) -> None:
    with open_store(sqlite_url) as ledger, pair(upstream, ledger=ledger) as cascade:
        result = cascade.invoke(QUESTION)
        cascade.feedback(result.run_id, correct=True)
        with pytest.raises(ConfigurationError):
            cascade.feedback(result.run_id, correct=True, comment="words have no place there")
        with pytest.raises(UnknownRunError, match="no-such-run"):
            cascade.feedback("no-such-run", correct=True)


# --- memory


async def test_a_memory_shows_what_it_learned_once_that_is_known_to_help(
    upstream: Upstream, lessons: setups.Taught
) -> None:
    """The small model knows no house rule, and finds it in an example."""

    def drafts(seen: Seen) -> Answer:
        shown = len(seen.body["messages"]) > 1
        return Answer("60 days" if shown else "no idea", p=0.95 if shown else 0.3)

    memory, ledger, results = Memory(lessons.store, patience_s=600), MemoryLedger(), []
    options: dict[str, Any] = {"audit_rate": 0.2, "ledger": ledger}
    async with pair(upstream, 0.95, lessons.keeper, memory, **options) as cascade:
        upstream.says("small", drafts)
        upstream.says("large", "60 days")
        for i in range(100):
            asked = f"Within how many days may a member of the club return item number {i}?"
            results.append(await cascade.ainvoke(asked))
            await lessons.keeper.aclose()
            await memory.finish()
    last = results[-1]
    assert [result.tier for result in results[:3]] == ["large"] * 3
    assert (last.tier, last.answer) == ("small", "60 days")
    # The large model alone would have read no examples: 14 words, and 2 words of an answer.
    large = Decimal("0.0000375")
    assert large * Decimal("0.7") < (last.ledger.baseline_usd or 0) < large * Decimal("1.5")
    assert "trial" in {entry.node for entry in entries_of(ledger)}
