"""The checks of a chaos run find what they look for."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, CascadeResult, Price, Tier
from cascade.errors import LedgerError, ModelTimeoutError
from cascade.events import Event, Provisional, Retracted, Token
from cascade.ledger import LedgerView, tagged
from cascade.ledger.store import Store, open_store
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel, reply
from tests.faults.chaos_asking import Screen
from tests.faults.chaos_books import Audited, Begun, Notes, audited
from tests.faults.chaos_leaks import Held, complaints
from tests.faults.chaos_plans import Plan
from tests.faults.chaos_running import Found
from tests.faults.chaos_upstream import Seen
from tests.faults.chaos_verdicts import judged, wrong_entries

PLAN = Plan(7, "ainvoke", "pair", 1, 0.0, 0)
LEAVING = Plan(7, "cancelled", "pair", 1, 0.0, 0)


def kinds(problems: list[str]) -> set[str]:
    return {problem.partition(": ")[0] for problem in problems}


def result(answer: str = "The answer to request-7") -> CascadeResult:
    small = Tier(ScriptedModel([reply(answer, probability=0.95)]), price=Price(input=1, output=1))
    return Cascade(small, ScriptedModel("large")).invoke("request-7")


def entry(**change: Any) -> LedgerEntry:
    given: dict[str, Any] = {"node": "draft", "tier": "small", "model": "openai:small"}
    spent = {"cost_usd": Decimal("0.1"), "saved_usd": Decimal("-0.1")}
    return LedgerEntry(run_id="r", **{**given, **spent, **change})


# outcomes


def test_an_answer_is_an_outcome_with_its_books() -> None:
    outcome = judged(PLAN, result(), 0.1, ())
    assert (outcome.kind, outcome.wrong) == ("answer", ())
    assert outcome.books is not None
    assert next(iter(outcome.books.values())).keys() == {"draft", "self_check", "verify"}


def test_an_answer_to_another_request_is_wrong() -> None:
    wrong = judged(PLAN, result("The answer to request-8"), 0.1, ()).wrong
    assert kinds([*wrong]) == {"the answer to another request"}


@pytest.mark.parametrize(
    "ending",
    [KeyError("choices"), OSError("reset"), LedgerError("full"), None, asyncio.CancelledError()],
    ids=lambda ending: type(ending).__name__,
)
def test_what_is_no_documented_error_of_a_model_is_wrong(ending: object) -> None:
    outcome = judged(PLAN, ending, 0.1, ())
    assert outcome.kind == f"BARE {type(ending).__name__}"
    assert len(outcome.wrong) == 1


def test_a_documented_error_is_an_outcome_where_it_brings_its_ledger() -> None:
    error = ModelTimeoutError("late", model="openai:small")
    assert kinds([*judged(PLAN, error, 0.1, ()).wrong]) == {"an error without a ledger"}
    error.ledger = LedgerView([entry()])
    outcome = judged(PLAN, error, 0.1, ())
    assert (outcome.kind, outcome.wrong) == ("ModelTimeoutError", ())


def test_who_goes_away_is_told_of_nothing_else() -> None:
    assert judged(LEAVING, asyncio.CancelledError(), 0.1, ()).kind == "cancelled"
    assert judged(LEAVING, TimeoutError(), 0.1, ()).kind == "cancelled"


# screens


def shown(*events: Event | CascadeResult) -> Screen:
    screen = Screen()
    for event in events:
        screen.show(event)
    return screen


def test_a_screen_shows_the_answer_at_the_end() -> None:
    answer = result("It is request-7")
    screen = shown(Provisional("No", "small"), Retracted("why"), Token("It is request-7", "large"))
    screen.show(answer)
    assert screen.ended() is answer
    assert screen.wrong == []


def test_a_screen_with_other_words_than_the_answer_is_wrong() -> None:
    screen = shown(Provisional("No", "small"), Token("It is", "large"), result("It is"))
    assert kinds(screen.wrong) == {"another text on the screen than the answer"}


def test_words_that_stay_when_the_answer_fails_are_wrong() -> None:
    screen = shown(Provisional("It", "small"))
    screen.broke()
    assert kinds(screen.wrong) == {"words of an answer that failed stay on the screen"}


def test_a_stream_without_a_result_or_with_more_after_it_is_wrong() -> None:
    screen = shown()
    assert screen.ended() is None
    more = shown(Token("It is", "small"), result("It is"), Token("!", "small"))
    assert kinds(screen.wrong + more.wrong) == {
        "a stream without one result",
        "an event after the result",
    }


# entries


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"cost_usd": Decimal(-1), "saved_usd": Decimal(1)}, "cost that is negative"),
        ({"cost_usd": Decimal(999), "saved_usd": Decimal(-999)}, "cost that is absurd"),
        ({"baseline_usd": Decimal(-1), "saved_usd": None}, "baseline that is negative"),
        ({"assumed_usd": Decimal(10**9)}, "assumed cost that is absurd"),
        ({"saved_usd": Decimal(1)}, "a saving that is not baseline less cost"),
        ({"latency_ms": float("nan")}, "a latency that cannot be"),
        ({"cost_basis": "unknown"}, "a cost whose basis is not its own"),
        ({"confidence": 1.5}, "a confidence that is no probability"),
    ],
)
def test_an_entry_that_cannot_be_is_wrong(change: dict[str, Any], kind: str) -> None:
    assert kind in kinds(wrong_entries([entry(**change)]))
    assert wrong_entries([entry()]) == []


# the ledger


class World:
    """A store with one call, and what others say of it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.begun, self.notes = Begun(store), Notes(folder / "notes.jsonl")
        self.seen: dict[tuple[str, str], list[str]] = {("7", "small"): ["fine"]}

    async def call(self, **change: Any) -> None:
        with tagged(request="7"):
            attempt = await self.store.begin(run_id="r", node="draft", model="openai:small")
            self.store.append([entry(attempt_id=attempt, **change)])

    async def audited(self) -> Audited:
        return await audited(self.store, Seen(self.seen), self.begun, self.notes)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(open_store("memory://"), tmp_path)


async def test_a_call_with_one_entry_is_right(world: World) -> None:
    await world.call()
    found = await world.audited()
    assert (found.wrong, found.calls, found.unfinished) == ([], 1, 0)


async def test_a_call_without_an_entry_is_lost(world: World) -> None:
    found = await world.audited()
    assert found.lost == 1
    assert kinds(found.wrong) == {"a call that arrived is not in the ledger"}


async def test_an_answer_that_was_not_given_is_doubled(world: World) -> None:
    await world.call()
    await world.call()
    found = await world.audited()
    assert found.doubled == 1
    assert kinds(found.wrong) == {"an answer that was not given"}


async def test_a_failed_call_need_not_have_arrived(world: World) -> None:
    world.seen.clear()
    await world.call(outcome="failed")
    found = await world.audited()
    assert (found.wrong, found.unsent) == ([], 1)


async def test_a_call_that_was_begun_and_has_no_entry_is_named(world: World) -> None:
    with tagged(request="7"):
        await world.store.begin(run_id="r", node="draft", model="openai:small")
    found = await world.audited()
    assert (found.unfinished, found.lost) == (1, 0)
    assert kinds(found.wrong) == {"a call that was begun has no entry"}


async def test_an_entry_of_a_call_that_was_not_begun_is_wrong(world: World) -> None:
    with tagged(request="7"):
        world.store.append([entry()])
    found = await world.audited()
    assert kinds(found.wrong) == {"calls that were begun are not those of the ledger"}


async def test_a_caller_who_was_told_other_figures_is_found(world: World) -> None:
    await world.call()
    told = ModelTimeoutError("late", model="openai:small")
    told.ledger = LedgerView([entry(cost_usd=Decimal("0.2"), saved_usd=Decimal("-0.2"))])
    world.notes.add(judged(PLAN, told, 0.1, ()))
    found = await world.audited()
    assert kinds(found.wrong) == {"a caller was told other figures than are kept"}


# what is left behind


async def test_what_is_held_afterwards_is_named() -> None:
    before = Held.now()
    waiting = asyncio.create_task(asyncio.sleep(3600))
    with socket.socket():
        more = Held.now().more_than(before)
    waiting.cancel()
    assert more == {"descriptor socket": 1, "task sleep": 1}


async def test_what_nobody_handles_is_heard() -> None:
    async def fail() -> None:
        raise ValueError("unheard")

    with complaints() as heard:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        unclosed: Any = socket.socket()
        unclosed = None
        warnings.warn("no resource", DeprecationWarning, stacklevel=1)
        logging.getLogger("cascade").warning("a model was down")
        logging.getLogger("cascade").error("an entry was lost")
        gc.collect()
    del unclosed
    assert kinds(heard) == {"an event loop complained", "a ResourceWarning", "cascade complained"}


def test_a_problem_is_counted_by_its_kind_with_what_its_request_has_met() -> None:
    found = Found(seed=1)
    found.object_to("late: 3 s", "request 7, ainvoke: ")
    found.object_to("late: 4 s")
    found.explain(Seen({("7", "small"): ["status 500", "fine"]}))
    assert found.problems == {"late": 2}
    assert found.examples["late"] == [
        "request 7, ainvoke: 3 s; met: small ['status 500', 'fine']",
        "4 s",
    ]
