"""Entries of the ledger: what one node spent and saved in one run."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Literal

from pydantic import Field

from cascade.state import Basis, Decision, Record, Usage, new_id


class LedgerEntry(Record):
    """Cost and saving of one node in one run; each attempt of a call has an entry of its own.

    `saved_usd` of a node: its own cost counts against the saving, an accepted draft earns the
    baseline (what the large model alone would have cost), the large model's answer is its own
    baseline and saves 0. The sum over the entries of a run is the saving of the run.

    Attributes:
        node: `router`, `draft`, `self_check`, `verify`, `person`, `expert`, `audit`, or the name
            of the middleware that booked it, such as `cache`.
        model: `provider:name` that was asked.
        saved_usd: negative for a cost.
        basis: the weakest of all figures of the entry.
        baseline_usd: earned, before the node's own cost.
        baseline_range: its 95 % range, where it is an estimate with one.
        assumed_usd: what budgets count where `cost_usd` is unknown.
        price: where the price came from, in words.
        outcome: how the call ended; `not_sent`: its tier was left alone; `begun`: it is under way,
            or its process died.
        note: why, in words for a person.
        decision: of a verifier, with signals and audit rate.
        loss: of an audit or shadow run: how much better the large answer is, in [−1, 1].
        at: when the node did it (of a call: when it was sent), in UTC.
        id: the same before and after the call of an attempt, so that it is in a ledger once,
            however often it is written.
    """

    run_id: str
    node: str
    tier: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    latency_ms: float = 0.0
    cost_usd: Decimal | None = None
    cost_basis: Basis = "measured"
    saved_usd: Decimal | None = None
    basis: Basis = "measured"
    baseline_usd: Decimal | None = Decimal(0)
    baseline_range: tuple[Decimal, Decimal] | None = None
    assumed_usd: Decimal | None = None
    price: str | None = None
    outcome: Literal["ok", "failed", "cancelled", "not_sent", "begun"] = "ok"
    note: str = ""
    decision: Decision | None = None
    loss: float | None = Field(default=None, ge=-1, le=1)
    at: datetime = Field(default_factory=partial(datetime.now, UTC))
    id: str = Field(default_factory=new_id)

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        known = Usage.model_fields.keys() & LedgerEntry.model_fields.keys()
        return Usage(**{name: getattr(self, name) for name in known})
