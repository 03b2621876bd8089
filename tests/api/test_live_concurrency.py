"""Many questions at once on a real small model."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ModelNotFoundError
from cascade.ledger import MemoryLedger
from cascade.models.llamacpp import find_weights
from cascade.testing import ScriptedModel, reply

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live


async def test_64_questions_at_once_are_not_mixed_up() -> None:
    store = MemoryLedger()
    large = ScriptedModel(
        lambda request: reply(f"large: {request.messages[-1].text}"), name="l", local=False
    )
    async with Cascade(
        Tier("llamacpp:smollm2-135m", max_tokens=4, temperature=0, price=Price(per_hour=1)),
        Tier(large, price=Price(input=100, output=100)),
        ledger=store,
    ) as cascade:
        questions = [f"Say the number {i}." for i in range(64)]
        results = await asyncio.gather(*(cascade.ainvoke(question) for question in questions))
    assert len({id(result) for result in results}) == len({r.run_id for r in results}) == 64
    for question, result in zip(questions, results, strict=True):
        drafts = [entry for entry in result.ledger if entry.node == "draft"]
        assert [entry.outcome for entry in drafts] == ["ok"]
        assert {entry.run_id for entry in result.ledger} == {result.run_id}
        assert result.ledger.cost_usd == sum(
            (entry.cost_usd or Decimal(0) for entry in result.ledger), Decimal(0)
        )
        if result.escalated:
            assert result.answer == f"large: {question}"
        else:
            assert not result.answer.startswith("large")
            assert result.confidence is not None
            assert result.confidence >= 0.8
    assert sorted(e.run_id for e in store.entries) == sorted(
        entry.run_id for result in results for entry in result.ledger
    )
    assert len(large.requests) == sum(result.escalated for result in results)
    assert any(result.escalated for result in results)
