"""Sample entries."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from cascade.ledger.entries import LedgerEntry
from cascade.state import Decision


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def entry(run: str = "r", **fields: Any) -> LedgerEntry:
    return LedgerEntry(**{"run_id": run, "node": "draft", **fields})


def call(run: str = "r", **fields: Any) -> LedgerEntry:
    """A call that is about to be sent."""
    return entry(run, outcome="begun", tier="small", model="m", **fields)


def decided(run: str) -> LedgerEntry:
    """An entry with every field that a call or a decision may set."""
    cost = Decimal("0.000123456789")
    return LedgerEntry(
        run_id=run,
        node="verify",
        tier="small",
        model="ollama:qwen2.5:3b",
        input_tokens=200,
        output_tokens=100,
        cached_tokens=50,
        reasoning_tokens=0,
        cache_write_tokens=0,
        latency_ms=12.5,
        cost_usd=cost,
        saved_usd=-cost,
        baseline_usd=10 * cost,
        baseline_range=(5 * cost, 20 * cost),
        basis="estimated",
        price="list price of 2026-11-01",
        decision=Decision(
            action="accept",
            reason="P(correct) 0.93 is above 0.80",
            confidence=0.93,
            calibrated=True,
            signals={"mean_logprob": -0.05, "min_logprob": -1.25, "length": 100.0},
            audit_rate=0.05,
        ),
    )
