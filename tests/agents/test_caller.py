"""Each attempt has its entry in the ledger; what was never sent has none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import MalformedResponseError, RealRequestForbiddenError, RecordingMissError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import MemoryLedger
from cascade.models import Chunk, Request
from cascade.testing import ScriptedModel

ONCE = DEFAULT_RETRY._replace(max_attempts=1)


def one_tier(model: ScriptedModel, store: MemoryLedger) -> Cascade:
    tier = Tier(model, price=Price(input=1, output=1))
    return Cascade(tiers=[tier], ledger=store, retry_policy=ONCE)


@pytest.mark.parametrize("error", [RecordingMissError("?"), RealRequestForbiddenError("?")])
async def test_what_was_never_sent_has_no_entry(error: Exception) -> None:
    store = MemoryLedger()
    with pytest.raises(type(error)):
        await one_tier(ScriptedModel([error]), store).ainvoke("?")
    assert store.entries == []


async def test_a_stream_that_ends_without_its_completion_is_a_failure_of_unknown_cost() -> None:
    class Halting(ScriptedModel):
        async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
            yield Chunk("The answer is")

    store = MemoryLedger()
    stream = one_tier(Halting("x"), store).astream("?")
    assert (await anext(stream)).text == "The answer is"  # type: ignore[union-attr]
    assert "broke off" in (await anext(stream)).reason  # type: ignore[union-attr]
    with pytest.raises(MalformedResponseError, match="without a completion"):
        await anext(stream)
    assert [(e.outcome, e.cost_usd) for e in store.entries] == [("failed", None)]


async def test_an_entry_says_what_was_used_and_how_long_it_took() -> None:
    store = MemoryLedger()
    await one_tier(ScriptedModel(["one two"], delay_s=0.01), store).ainvoke("?")
    (entry,) = store.entries
    assert (entry.node, entry.tier, entry.model) == (
        "expert",
        "scripted:scripted",
        "scripted:scripted",
    )
    assert (entry.input_tokens, entry.output_tokens) == (10, 2)
    assert entry.cost_usd == entry.baseline_usd == Decimal("0.000012")
    assert 5 < entry.latency_ms < 5000
    assert entry.at.tzinfo is not None


@pytest.mark.parametrize("retry_on", [KeyError, (KeyError,), lambda e: isinstance(e, KeyError)])
async def test_a_retry_policy_of_the_users_is_kept_in_all_its_forms(retry_on: Any) -> None:
    policy = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False, retry_on=retry_on)
    model = ScriptedModel(["x"], failures=[KeyError("a"), KeyError("b")])
    result = await Cascade(tiers=[model], retry_policy=policy).ainvoke("?")
    assert [e.outcome for e in result.ledger] == ["failed", "failed", "ok"]


async def test_nothing_piles_up_in_a_cascade_that_is_asked_again_and_again() -> None:
    cascade = Cascade(ScriptedModel(["x"], logprobs=0.5), ScriptedModel("y"))
    recorders = [
        part._agent.recorder  # type: ignore[attr-defined]
        for spec in cascade.build_graph().nodes.values()
        if hasattr(part := spec.runnable, "_agent") and hasattr(part._agent, "recorder")
    ]
    assert recorders
    for _ in range(20):
        await cascade.ainvoke("?")
        await cascade.graph.ainvoke({"messages": [("human", "?")]})
    assert all(len(recorder._pending) == 0 for recorder in recorders)
