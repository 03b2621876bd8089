"""The ledger entries of the agents: of a call, and of a node that asked no model."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from cascade.state import Completion, LedgerEntry, Run, Usage
from cascade.tiers import OpenTier


def free_entry(run: Run, node: str, tier: str, note: str = "") -> LedgerEntry:
    """The entry of a node that asked no model."""
    nothing = Decimal(0)
    return LedgerEntry(
        run_id=run.id, node=node, tier=tier, cost_usd=nothing, saved_usd=nothing, note=note
    )


def why_unknown(tier: OpenTier, completion: Completion) -> str:
    """Why the cost of an answer is unknown: its price, or what the provider left out."""
    if tier.pricing.cost(Usage(input_tokens=0, output_tokens=0), 0.0) is None:
        return f"{tier.model.name}: {tier.pricing.source}"
    missing = "its usage" if not completion.usage.known else "how long it was busy"
    return f"{tier.model.name} did not report {missing}"


def call_entry(
    tier: OpenTier,
    node: str,
    run: Run,
    *,
    usage: Usage,
    latency_ms: float,
    cost: Decimal | None,
    note: str,
    outcome: Literal["ok", "failed", "cancelled"] = "ok",
    is_baseline: bool = False,
    attempt_id: str | None = None,
) -> LedgerEntry:
    """The entry of a call, however it ended."""
    saved = None if cost is None else -cost
    return LedgerEntry(
        run_id=run.id,
        node=node,
        tier=tier.name,
        model=tier.model.name,
        **usage.model_dump(),
        latency_ms=latency_ms,
        cost_usd=cost,
        saved_usd=Decimal(0) if is_baseline else saved,
        baseline_usd=cost if is_baseline else Decimal(0),
        cost_basis="unknown" if cost is None else "measured",
        basis="unknown" if cost is None else "measured",
        note=note,
        outcome=outcome,
        attempt_id=attempt_id,
    )
