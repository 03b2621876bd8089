"""What became of a row, and its line in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal

__all__ = ["Record", "Status", "from_content", "to_line"]

Status = Literal["ok", "error", "waiting"]

MONEY = ("cost_usd", "counted_usd", "saved_usd", "expected_usd")


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a row.

    Attributes:
        number: of the row.
        key: of the row's question.
        status: `ok`, or `error` and why; `waiting` for an answer that comes later.
        answer: None where there is none.
        tier: who answered.
        confidence: of the last draft; None where none could be judged.
        calibrated: whether that is a probability.
        escalated: whether a tier above the first was needed.
        degraded: the large model was needed and could not be had.
        cost_usd: dollars; None where unknown.
        counted_usd: what budgets count: the cost, or what is assumed of an unknown one. None where
            nobody was asked. Of a row that has waited: since then.
        saved_usd: dollars against the large model alone; None where unknown.
        saved_basis: measured, estimated or unknown.
        run_id: of the row's run in the ledger.
        error: the kind of error and its message.
        paused: the run of a row that waits, or that failed afterwards (`cascade.jobs.continuing`).
        expected_usd: what the answer that it waits for may cost; in a plan, what escalating the
            row was expected to cost.
        output_tokens: of the answer, in a plan.
        rank: its place among all drafts by what escalating it is expected to bring per dollar,
            from 1, in a plan; None where that is nothing, or it was not ranked.
        gain: how much more probably the large model is right than its draft, in a plan.
        reason: of the decision, in a plan.
        lost: how often a process ended while it had the row under way, which was then asked
            again; None where none did. What that cost is in no figure but `counted_usd`.
    """

    number: int
    key: str
    status: Status
    answer: str | None = None
    tier: str | None = None
    confidence: float | None = None
    calibrated: bool | None = None
    escalated: bool | None = None
    degraded: bool | None = None
    cost_usd: Decimal | None = None
    counted_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    saved_basis: str | None = None
    run_id: str | None = None
    error: str | None = None
    paused: Mapping[str, Any] | None = None
    expected_usd: Decimal | None = None
    output_tokens: int | None = None
    rank: int | None = None
    gain: float | None = None
    reason: str | None = None
    lost: int | None = None


def to_line(record: Record) -> bytes:
    """A record as a line of JSON, without the line's end."""
    kept = {f.name: v for f in fields(record) if (v := getattr(record, f.name)) is not None}
    content = {k: format(v, "f") if isinstance(v, Decimal) else v for k, v in kept.items()}
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")


def from_content(content: Mapping[str, Any]) -> Record:
    """The record of a line that was decoded."""
    money = {k: Decimal(content[k]) for k in MONEY if k in content}
    return Record(**{**content, **money})
