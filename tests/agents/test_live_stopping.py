"""Stopping a draft of the embedded model."""

from __future__ import annotations

import asyncio
import time

import pytest

from cascade import Cascade, Price, Tier
from cascade.policies import ThresholdPolicy
from cascade.testing import ScriptedModel

pytestmark = pytest.mark.live


async def test_llama_cpp_computes_no_further() -> None:
    small = Tier(
        "llamacpp:smollm2-135m",
        max_tokens=1500,
        temperature=0,
        price=Price(per_hour=1),
        options={"n_parallel": 1, "n_threads": 1, "ignore_eos": True},
    )
    policy = ThresholdPolicy(0.99)
    async with Cascade(small, ScriptedModel(["large"]), policy=policy, abort=True) as cascade:
        result = await cascade.ainvoke("Write a story about a dragon.")
        entry = result.ledger.entries[0]
        assert (entry.node, entry.outcome, result.tier) == ("draft", "cancelled", "large")
        assert entry.output_tokens is not None
        assert 0 < entry.output_tokens < 300
        assert entry.cost_basis == "estimated"
        # The only slot is free again: the next answer does not wait for 1,500 tokens.
        begun = time.perf_counter()
        again = await asyncio.wait_for(cascade.ainvoke("And one about a knight."), 60)
        assert again.ledger.entries[0].output_tokens is not None
        assert time.perf_counter() - begun < 30
