"""Stopping a draft of the embedded model."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade.models import Request
from cascade.models.llamacpp import LlamaCppModel
from cascade.policies import ThresholdPolicy
from cascade.testing import ScriptedModel

pytestmark = pytest.mark.live


class Clocked:
    """llama.cpp, with the times at which its computations ended."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.ended: list[float] = []

    def handle_chat_completions(self, payload: Any, callback: Any) -> object:
        try:
            return self._server.handle_chat_completions(payload, callback)
        finally:
            self.ended.append(time.perf_counter())


async def test_llama_cpp_computes_no_further() -> None:
    small = LlamaCppModel(
        "smollm2-135m", options={"n_parallel": 1, "n_threads": 1, "ignore_eos": True}
    )
    await small.listening_address()  # loads it
    engine: Any = small._shared_engine()
    engine._server = clock = Clocked(engine._server)
    asked: list[float] = []

    def large(request: Request) -> str:
        asked.append(time.perf_counter())
        return "large"

    tier = Tier(small, max_tokens=1500, temperature=0, price=Price(per_hour=1))
    policy = ThresholdPolicy(0.99)
    async with Cascade(tier, ScriptedModel(large), policy=policy, abort=True) as cascade:
        result = await cascade.ainvoke("Write a story about a dragon.")
        entry = result.ledger.entries[0]
        assert (entry.node, entry.outcome, result.tier) == ("draft", "cancelled", "large")
        assert entry.output_tokens is not None
        assert 0 < entry.output_tokens < 300
        assert entry.cost_basis == "estimated"
        for _ in range(100):
            if clock.ended:
                break
            await asyncio.sleep(0.01)
        # It ends with the token that it was at: 20 to 40 ms, more where others want the processor.
        assert clock.ended[0] - asked[0] < 0.5
