"""Many questions at once, in loops and threads: nothing is mixed up, shared or left behind."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError, InputError, ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.result import CascadeResult
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply


class Slow(ScriptedModel):
    """Answers after a random while, and knows how many it answers at the same time."""

    def __init__(self, *arguments: Any, seed: int = 0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.chance = random.Random(seed)
        self.running = self.most = self.cancelled = 0

    async def _complete(self, request: Request) -> Completion:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.chance.random() * 0.02)
            return await super()._complete(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def drafts(request: Request) -> Completion:
    """Every third question is doubtful; each answer has as many tokens as the number says."""
    number = int(str(request.messages[-1].text))
    probability = 0.3 if number % 3 == 0 else 0.9
    return reply(f"small {number}", probability=probability, input_tokens=number)


def house(store: MemoryLedger | None = None) -> Cascade:
    small = Slow(drafts, returns_logprobs=True, seed=1)
    large = Slow(lambda r: reply(f"large {r.messages[-1].text}", input_tokens=1), seed=2)
    return Cascade(
        Tier(small, price=Price(input=1, output=0)),
        Tier(large, price=Price(input=0, output=100)),
        ledger=store,
    )


def check(number: int, result: CascadeResult) -> None:
    tier = "large" if number % 3 == 0 else "small"
    assert (result.answer, result.tier) == (f"{tier} {number}", tier)
    draft = result.ledger.by_node()["draft"]
    assert draft.cost_usd == Decimal(number) / 1_000_000
    assert {entry.run_id for entry in result.ledger} == {result.run_id}
    assert len(result.ledger) == (4 if tier == "large" else 3)


async def test_64_questions_at_once_are_not_mixed_up() -> None:
    store = MemoryLedger()
    cascade = house(store)
    results = await asyncio.gather(*(cascade.ainvoke(str(i)) for i in range(64)))
    for number, result in enumerate(results):
        check(number, result)
    assert len({result.run_id for result in results}) == 64
    shared = [(r.message, r.ledger, r.decision, r.ledger.entries) for r in results]
    assert len({id(part) for parts in shared for part in parts}) == 4 * 64
    assert sum((r.ledger.cost_usd or 0 for r in results), Decimal(0)) == sum(
        (entry.cost_usd or 0 for entry in store.entries), Decimal(0)
    )


def test_threads_share_a_cascade() -> None:
    cascade = house()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(cascade.invoke, map(str, range(32))))
    for number, result in enumerate(results):
        check(number, result)


async def test_a_synchronous_call_works_inside_of_a_running_loop() -> None:
    cascade = house()
    check(5, cascade.invoke("5"))
    check(6, await cascade.ainvoke("6"))


def test_several_event_loops_one_after_the_other_share_a_cascade() -> None:
    cascade = house()
    for number in range(3):
        check(number, asyncio.run(cascade.ainvoke(str(number))))


def test_a_batch_keeps_the_order_of_its_questions() -> None:
    for number, result in enumerate(house().batch([str(i) for i in range(20)])):
        check(number, result)


async def test_no_more_questions_are_under_way_than_was_said() -> None:
    small = Slow(drafts, returns_logprobs=True)
    cascade = Cascade(small, ScriptedModel("x"))
    await cascade.abatch([str(i) for i in range(12)], max_concurrency=3)
    assert small.most == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_a_batch_needs_room_for_one_question(limit: int) -> None:
    with pytest.raises(ConfigurationError, match="max_concurrency"):
        house().batch(["1"], max_concurrency=limit)


def test_an_empty_batch_is_an_empty_list() -> None:
    assert house().batch([]) == []


def test_errors_of_a_batch_stand_in_their_places_when_asked_for() -> None:
    results = house().batch(["1", "", "2"], return_exceptions=True)
    assert [type(result) for result in results] == [CascadeResult, InputError, CascadeResult]


async def test_the_first_error_of_a_batch_stops_the_others() -> None:
    """They would go on costing money, and nobody would see their answers."""
    slow = Slow(drafts, returns_logprobs=True)

    def fails(request: Request) -> Completion | Exception:
        if request.messages[-1].text == "0":
            return ModelUnavailableError("down", model="m")
        return drafts(request)

    slow._answers = fails
    cascade = Cascade(tiers=[slow], retry_policy=DEFAULT_RETRY._replace(max_attempts=1))
    with pytest.raises(ModelUnavailableError):
        await cascade.abatch([str(i) for i in range(200)], max_concurrency=4)
    asked = len(slow.requests)
    assert asked < 200
    assert slow.running == 0
    await asyncio.sleep(0.05)
    assert len(slow.requests) == asked


async def test_a_cancelled_batch_leaves_nothing_running() -> None:
    slow = Slow(drafts, returns_logprobs=True)
    cascade = Cascade(tiers=[slow])
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await cascade.abatch([str(i) for i in range(500)], max_concurrency=4)
    assert slow.running == 0
    assert asyncio.all_tasks() == before


async def test_the_questions_messages_stay_as_they_were() -> None:
    question = HumanMessage("5")
    await house().ainvoke([question])
    assert question.id is None
