"""What the entry of a call says of its cost, and what is assumed where nobody knows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, Price, Tier
from cascade.agents.base import Caller
from cascade.errors import ModelError, ModelUnavailableError, StreamInterruptedError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import DatedPrice, MemoryLedger, Recorder
from cascade.models import Chunk, Request
from cascade.state import Completion, LedgerEntry, Run, Usage
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tier

PRICE = Price(input=1, output=10)
RUN = Run("run", "question")
CALL: Any = {"name": "find", "args": {}, "id": "1", "type": "tool_call"}
QUESTION = "q" * 400  # about 100 tokens


async def entries(
    *answers: Completion | Exception, price: Price | DatedPrice | None = PRICE, **request: Any
) -> list[LedgerEntry]:
    """The entries of calls to one tier, one after the other."""
    store = MemoryLedger()
    caller, tier = Caller(Recorder(store)), open_tier(Tier(ScriptedModel(answers), price=price))
    for _ in answers:
        try:
            asked = Request((HumanMessage(QUESTION),), **request)
            await caller.ask(tier, asked, "draft", RUN)
        except ModelError:
            pass
    return store.entries


def timed(busy_ms: float | None, **usage: Any) -> Completion:
    return replace(reply("x", **usage), busy_ms=busy_ms)


async def test_an_entry_says_by_which_price_it_was_counted() -> None:
    (entry,) = await entries(reply("x"))
    assert entry.price == "set by you"
    dated = DatedPrice({"2020-01-01": PRICE, "9999-01-01": Price(input=9, output=9)})
    (entry,) = await entries(reply("x"), price=dated)
    assert (entry.price, entry.cost_usd) == (
        "set by you, valid from 2020-01-01",
        Decimal("0.00002"),
    )
    (entry,) = await entries(reply("x"), price=None)
    assert "price not set" in (entry.price or "")


async def test_a_call_of_ones_own_machine_has_its_marginal_cost_beside_it() -> None:
    price = Price.local(hardware_per_hour=1, utilisation="0.5", kw=1, kwh="0.2")
    (entry,) = await entries(timed(3_600_000), price=price)
    assert (entry.cost_usd, entry.marginal_usd) == (Decimal("2.2"), Decimal("0.2"))
    assert entry.saved_usd == Decimal("-2.2")
    (entry,) = await entries(timed(3_600_000), price=Price(per_hour=1))
    assert (entry.cost_usd, entry.marginal_usd) == (1, None)


async def test_tool_calls_and_cache_writes_are_in_the_entry() -> None:
    usage = Usage(input_tokens=2000, output_tokens=1, cached_tokens=100, cache_write_tokens=900)
    price = Price(input=1, output=0, cache_write=2, cached_input=0, per_tool_call="0.01")
    answer = replace(reply("x", tool_calls=[CALL, CALL]), usage=usage)
    (entry,) = await entries(answer, price=price)
    assert (entry.tool_calls, entry.cache_write_tokens) == (2, 900)
    assert entry.cost_usd == Decimal("0.0228")


async def test_missing_usage_is_assumed_from_the_texts() -> None:
    (entry,) = await entries(replace(reply("a" * 80), usage=Usage()))
    assert (entry.cost_usd, entry.basis) == (None, "unknown")
    assert entry.note == "scripted:scripted did not report its usage"
    # 400 and 80 characters at 4 a token, and one to be sure
    assert entry.assumed_usd == Decimal("0.000101") + Decimal("0.00021")


async def test_what_the_provider_did_count_is_used() -> None:
    (entry,) = await entries(reply("a" * 80, input_tokens=500, output_tokens=None))
    assert entry.cost_usd is not None
    half = replace(reply("a" * 80), usage=Usage(input_tokens=500))
    (entry,) = await entries(half)
    assert entry.assumed_usd == Decimal("0.0005") + Decimal("0.00021")
    half = replace(reply("a" * 80), usage=Usage(output_tokens=7))
    (entry,) = await entries(half)
    assert entry.assumed_usd == Decimal("0.000101") + Decimal("0.00007")


async def test_a_failed_call_is_assumed_as_long_as_is_usual() -> None:
    failure = ModelUnavailableError("broke", model="m", billed=None)
    known = reply("x", input_tokens=200, output_tokens=30)
    first, second, third = await entries(known, replace(known, usage=known.usage), failure)
    assert first.assumed_usd is second.assumed_usd is None
    # this tier reads two characters a token, and writes 30 tokens as a rule
    assert third.assumed_usd == Decimal("0.000201") + Decimal("0.0003")
    assert third.cost_usd is None


async def test_short_prompts_do_not_make_a_long_one_dear() -> None:
    store = MemoryLedger()
    broken = ModelUnavailableError("broke", model="m", billed=None)
    short, long = (reply("x", input_tokens=n, output_tokens=0) for n in (9, 1009))
    model = ScriptedModel([short, long, broken])
    caller, tier = Caller(Recorder(store)), open_tier(Tier(model, price=PRICE))
    for question in ("2+2?", "q" * 4000):  # eight tokens stand around every prompt
        await caller.ask(tier, Request((HumanMessage(question),)), "draft", RUN)
    with pytest.raises(ModelUnavailableError):
        await caller.ask(tier, Request((HumanMessage("q" * 4000),)), "draft", RUN)
    assert store.entries[-1].assumed_usd == pytest.approx(Decimal("0.001"), rel=Decimal("0.05"))


async def test_a_first_failure_is_assumed_as_long_as_is_allowed() -> None:
    failure = ModelUnavailableError("broke", model="m", billed=None)
    (entry,) = await entries(failure, max_tokens=50)
    assert entry.assumed_usd == Decimal("0.000101") + Decimal("0.0005")
    # where nothing limits it, at least the prompt was read
    (entry,) = await entries(failure)
    assert entry.assumed_usd == Decimal("0.000101")


async def test_a_refusal_costs_nothing_and_nothing_is_assumed() -> None:
    (entry,) = await entries(ModelUnavailableError("no", model="m", billed=False), max_tokens=50)
    assert (entry.cost_usd, entry.assumed_usd) == (0, None)


async def test_a_machine_that_says_no_time_is_assumed_to_take_the_usual() -> None:
    price = Price.local(hardware_per_hour=3600)
    first, second, third = await entries(timed(None), timed(2000), timed(None), price=price)
    assert (first.cost_usd, first.assumed_usd) == (None, None)
    assert second.cost_usd == 2
    assert (third.cost_usd, third.assumed_usd) == (None, 2)


async def test_without_a_price_nothing_can_be_assumed() -> None:
    (entry,) = await entries(reply("x"), price=None, max_tokens=50)
    assert (entry.cost_usd, entry.assumed_usd) == (None, None)


class Breaking(ScriptedModel):
    """Says two pieces, then breaks or hangs."""

    def __init__(self, hangs: bool) -> None:
        super().__init__("never")
        self.hangs = hangs
        self.said = asyncio.Event()

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        yield Chunk("a" * 1_000)
        yield Chunk("b" * 200)
        self.said.set()
        if self.hangs:
            await asyncio.sleep(60)
        raise StreamInterruptedError("the stream broke off.", model="m", billed=None)


async def heard(model: Breaking) -> LedgerEntry:
    store = MemoryLedger()
    once = DEFAULT_RETRY._replace(max_attempts=1)
    cascade = Cascade(tiers=[Tier(model, price=PRICE)], ledger=store, retry_policy=once)

    async def listen() -> None:
        async for _ in cascade.astream(QUESTION):
            pass

    listening = asyncio.create_task(listen())
    await model.said.wait()
    if model.hangs:
        listening.cancel()
    with pytest.raises((StreamInterruptedError, asyncio.CancelledError)):
        await listening
    (entry,) = store.entries
    return entry


@pytest.mark.parametrize(
    ("hangs", "outcome", "note"),
    [
        (False, "failed", "the stream broke off; 1,200 characters had arrived"),
        (True, "cancelled", "cancelled while it ran; 1,200 characters had arrived"),
    ],
)
async def test_a_broken_stream_says_how_much_had_arrived(
    hangs: bool, outcome: str, note: str
) -> None:
    entry = await heard(Breaking(hangs))
    assert (entry.outcome, entry.note, entry.cost_usd) == (outcome, note, None)
    # nothing is known of its usual length, but so much was written
    assert entry.assumed_usd == Decimal("0.000101") + Decimal("0.003")
