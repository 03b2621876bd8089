"""Jobs: every row once, in its place, within the budget, and gone on with where they stopped."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError, LedgerError, ModelUnavailableError
from cascade.jobs import Done, Journal, Row, engine, made_with, run_job
from cascade.jobs.engine import GIVE_UP_AFTER
from cascade.ledger import MemoryLedger
from cascade.middleware import Retries
from cascade.policies import Situation, ThresholdPolicy
from cascade.state import Decision
from cascade.testing import ScriptedModel, reply

PRICE = Price(input=1, output=1)


def rows(n: int) -> list[Row]:
    return [Row(i, {"id": i}, f"question {i}") for i in range(n)]


def pair(small: Any = None, **options: Any) -> Cascade:
    small = small or scripted(lambda request: reply(answer(request), probability=0.95))
    large = ScriptedModel("from the large model", name="large")
    tiers = [Tier(model, price=PRICE, max_tokens=10) for model in (small, large)]
    return Cascade(tiers=tiers, **options)


def scripted(says: Any, **how: Any) -> ScriptedModel:
    return ScriptedModel(says, returns_logprobs=True, **how)


def answer(request: Any) -> str:
    return str(request.messages[-1].text).upper()


async def run(cascade: Cascade, given: list[Row], path: Path, **options: Any) -> Done:
    with Journal(path, made_with(cascade)) as journal:
        return await run_job(cascade, given, journal, **options)


async def test_sums_are_those_of_the_ledger_whose_entries_carry_the_rows(tmp_path: Path) -> None:
    store = MemoryLedger()
    done = await run(pair(ledger=store), rows(5), tmp_path / "j")
    cost = sum((entry.cost_usd or Decimal(0) for entry in store.entries), Decimal(0))
    saved = sum((entry.saved_usd or Decimal(0) for entry in store.entries), Decimal(0))
    assert (done.spent_usd, done.saved_usd) == (cost, saved)
    assert {tags["row"] for tags in store.tags.values()} == {"0", "1", "2", "3", "4"}


async def test_another_question_is_asked_again_and_another_cascade_begins_anew(
    tmp_path: Path,
) -> None:
    with Journal(tmp_path / "j", {"settings": "of a job that has asked nothing"}):
        pass
    await run(pair(), rows(3), tmp_path / "j")
    changed = [*rows(2), Row(2, {}, "another one")]
    again = await run(pair(), changed, tmp_path / "j")
    assert (again.resumed, again.answered) == (2, 1)
    await run(pair(), rows(1), tmp_path / "j")
    with pytest.raises(ConfigurationError, match="begun with other settings"):
        await run(pair(price_of_error=0.5), rows(1), tmp_path / "j")


async def test_what_cannot_be_kept_to_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    small = ScriptedModel("x")
    cascade = Cascade(small, ScriptedModel("y", name="large"))
    with pytest.raises(ConfigurationError, match="concurrency=0"):
        await run(cascade, rows(1), tmp_path / "j", concurrency=0)
    with pytest.raises(ConfigurationError, match=r"a budget needs a price.*scripted:"):
        await run(cascade, rows(3), tmp_path / "j", budget_usd=Decimal(1))
    assert small.requests == []


async def test_rows_that_all_fail_end_the_job_and_unread_ones_do_not(tmp_path: Path) -> None:
    def down(request: Any) -> Any:
        raise ModelUnavailableError("down", model="m")

    tiers = [Tier(ScriptedModel(down)), Tier(ScriptedModel(down, name="large"))]
    dead = Cascade(tiers=tiers, middleware=[Retries(1)])
    unread = [Row(n, {}, problem="no JSON") for n in range(2 * GIVE_UP_AFTER)]
    done = await run(dead, unread, tmp_path / "unread")
    assert (done.failed, done.stopped) == (2 * GIVE_UP_AFTER, None)
    done = await run(dead, rows(500), tmp_path / "j", concurrency=4)
    assert "rows in a row failed" in str(done.stopped)
    assert GIVE_UP_AFTER <= done.failed < GIVE_UP_AFTER + 4


async def test_a_job_of_models_that_never_wait_hears_a_stop_all_the_same(tmp_path: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    done = await run(pair(), rows(200), tmp_path / "j", concurrency=4, stop=stop)
    assert done.stopped == "it was interrupted"
    assert done.answered <= 4


async def test_a_row_that_waits_for_budget_is_not_begun_after_a_stop(tmp_path: Path) -> None:
    stop = asyncio.Event()

    def slow(request: Any) -> Any:
        asyncio.get_running_loop().call_soon(stop.set)  # when the others wait already
        return reply("x", probability=0.95)

    cascade = pair(scripted(slow, delay_s=0.05))
    given = rows(9)
    for_one = engine.guessed(given[0], cascade.tiers) * Decimal("1.5")
    done = await run(cascade, given, tmp_path / "j", budget_usd=for_one, concurrency=3, stop=stop)
    assert (done.answered, done.stopped) == (1, "it was interrupted")


async def test_a_person_who_is_needed_is_an_error_with_the_drafts_cost(tmp_path: Path) -> None:
    class Asks(ThresholdPolicy):
        def decide(self, situation: Situation) -> Decision:
            return Decision(action="ask", reason="a person is to say")

    done = await run(pair(policy=Asks(0.8)), rows(1), tmp_path / "j")
    with Journal(tmp_path / "j", made_with(pair(policy=Asks(0.8)))) as journal:
        record = journal.find(0)
    assert str(record.error).startswith("PersonNeededError")
    assert record.cost_usd == done.spent_usd > 0


async def test_a_journal_that_cannot_be_written_ends_the_job_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, record: Any) -> None:
        raise LedgerError("no room")

    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(LedgerError, match="no room"):
        await run(pair(), rows(9), tmp_path / "j", concurrency=3)
