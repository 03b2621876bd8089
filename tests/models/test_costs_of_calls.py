"""What real servers report, and leave out, as the ledger counts it; over HTTP."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade import Cascade, Price, Tier
from cascade.policies import DollarBudget, DollarBudgetPolicy
from cascade.result import CascadeResult
from cascade.state import LedgerEntry
from tests.servers import replies
from tests.servers.fake import FakeServer

PRICE = Price(input=1, cached_input="0.1", cache_write="1.25", output=10)
LONG = "word " * 2_000  # about 2,500 tokens


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def large(server: FakeServer) -> Tier:
    return Tier("openai:large-1", name="large", base_url=server.openai_url, price=PRICE)


async def asked(tier: Tier, messages: Any, **options: Any) -> LedgerEntry:
    async with Cascade(tiers=[tier], **options) as cascade:
        (entry,) = (await cascade.ainvoke(messages)).ledger.entries
    return entry


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_server_that_reports_no_usage_is_unknown_and_counts_in_the_budget(
    server: FakeServer, streamed: bool
) -> None:
    budget = DollarBudget(DollarBudgetPolicy(0.001))
    chunks = [chunk for chunk in replies.openai_chunks("Canberra") if "usage" not in chunk]
    server.will(replies.sse(chunks) if streamed else replies.openai_reply("Canberra", usage=None))
    async with Cascade(tiers=[large(server)], policy=budget) as cascade:
        if streamed:
            (result,) = [e async for e in cascade.astream(LONG) if isinstance(e, CascadeResult)]
        else:
            result = await cascade.ainvoke(LONG)
    (entry,) = result.ledger.entries
    assert (entry.cost_usd, entry.basis, entry.input_tokens) == (None, "unknown", None)
    assert entry.note.startswith("openai:large-1 did not report its usage")
    # 2,501 and 3 tokens by their characters
    assert entry.assumed_usd == Decimal("0.002501") + Decimal("0.00003")
    assert budget.policy == DollarBudgetPolicy(0.001).after(Decimal("0.002531"))


async def test_what_was_written_to_the_cache_and_read_from_it_is_priced(
    server: FakeServer,
) -> None:
    details = {"cached_tokens": 1_024, "cache_write_tokens": 1_376}
    usage = {
        "prompt_tokens": 2_500,
        "completion_tokens": 10,
        "prompt_tokens_details": details,
    }
    server.will(replies.openai_reply("Canberra", usage=usage))
    entry = await asked(large(server), LONG)
    assert (entry.cached_tokens, entry.cache_write_tokens) == (1_024, 1_376)
    # 100 plain, 1,024 read, 1,376 written, and 10 tokens of the answer
    assert entry.cost_usd == Decimal("0.0001") + Decimal("0.0001024") + Decimal("0.00172") + (
        Decimal("0.0001")
    )
    assert entry.saved_usd == 0
    assert entry.basis == "measured"


async def test_a_provider_that_misses_its_own_cache_is_believed(server: FakeServer) -> None:
    usage = {"prompt_tokens": 2_500, "completion_tokens": 10}
    server.will(replies.openai_reply("one", usage=usage), replies.openai_reply("two", usage=usage))
    async with Cascade(tiers=[large(server)]) as cascade:
        await cascade.ainvoke(LONG)
        turn = [HumanMessage(LONG), AIMessage("one"), HumanMessage("?")]
        (entry,) = (await cascade.ainvoke(turn)).ledger.entries
    assert entry.cost_usd == entry.baseline_usd == Decimal("0.0026")
    assert entry.saved_usd == 0
    assert entry.basis == "measured"


@pytest.mark.parametrize(("busy_ns", "known"), [(3_000_000, True), (10**13, False), (-1, False)])
async def test_an_hour_is_not_paid_that_nobody_waited_for(
    busy_ns: int, known: bool, server: FakeServer
) -> None:
    durations = {"prompt_eval_duration": 0, "eval_duration": busy_ns}
    server.will(replies.ollama_reply("Canberra", **durations))
    tier = Tier("ollama:m", name="large", base_url=server.url, price=Price(per_hour=36))
    entry = await asked(tier, "?")
    assert (entry.cost_usd is not None) == known
    assert known or "how long it was busy" in entry.note
    assert not known or entry.cost_usd == Decimal("0.00003")
