"""What a fleet is worked out from: the traffic, what one of each part can do, and what it costs."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, model_validator

from cascade.evaluation.plan.inputs import Checked
from cascade.fleet.times import LognormalTime, MeasuredTimes
from cascade.ledger import ListPrice, Price

__all__ = [
    "BYTES_PER_REQUEST",
    "DATABASE_ROWS_PER_S",
    "GATEWAY_CPU_MS",
    "ROWS_PER_REQUEST",
    "Capacity",
    "Costs",
    "Workload",
]

GATEWAY_CPU_MS = 2.6
"""Of one worker of `cascade serve` with a ledger in SQLite and 1.3 calls a request, 512 requests at
once: the table of docs/gateway.md, `python benchmarks/gateway.py --rounds 3 --requests 800`."""

ROWS_PER_REQUEST = 7.9
"""Rows that a request with 1.3 calls inserts into PostgreSQL (5.6) and deletes there (2.3): a line
for each call before it is sent, which its entry takes away, and an entry for each node:
`python benchmarks/fleet.py --ledger`."""

BYTES_PER_REQUEST = 2_630
"""What they take there with their indexes; the same command. Texts are not kept."""

DATABASE_ROWS_PER_S = 10_000
"""What PostgreSQL took beside its clients on two cores was 13,400 from one process and 16,700 from
four (`python benchmarks/ledger_store.py --kills 0`). A server of its own takes more: measure it."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Dollars = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Workload(Checked):
    """What comes, and how long models take for it.

    Args:
        rate: requests a second, on average over a month.
        peak: rate of the busiest time over that; machines stand for it, tokens are paid by `rate`.
        escalation: share of the requests that the large model answers.
        audited: share of the accepted drafts that the large model is asked about as well.
        small: how long the small model takes for a draft and its check, once it has begun.
        large: how long the large model takes.
        input_tokens: of a request.
        output_tokens: of the small model's answer.
        large_output_tokens: of the large model's, where it is longer or shorter.
    """

    rate: Positive
    peak: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    escalation: Share
    audited: Share = 0.0
    small: LognormalTime | MeasuredTimes
    large: LognormalTime | MeasuredTimes
    input_tokens: int = Field(default=400, ge=0)
    output_tokens: int = Field(default=150, ge=0)
    large_output_tokens: int | None = Field(default=None, ge=0)

    @property
    def busiest(self) -> float:
        """Requests a second at the busiest time."""
        return self.rate * self.peak

    @property
    def asked_large(self) -> float:
        """Calls to the large model per request."""
        return self.escalation + self.audited * (1 - self.escalation)

    @property
    def written_tokens(self) -> int:
        """Output tokens of a large answer."""
        given = self.large_output_tokens
        return self.output_tokens if given is None else given

    @property
    def large_tokens(self) -> float:
        """Tokens of the large model per request, read and written."""
        return self.asked_large * (self.input_tokens + self.written_tokens)

    @property
    def request_s(self) -> float:
        """Mean seconds from a request to its answer, where nobody waits for anything."""
        return self.small.mean_s + self.escalation * self.large.mean_s


class Capacity(Checked):
    """What one of each part can do, and how long may be waited for it.

    Args:
        replica_slots: requests that one replica of the small model computes at a time; None for a
            model that somebody else serves.
        gateway_cpu_ms: processor time of the gateway per request; it is one event loop.
        gateway_concurrency: `concurrency` of the cascade in `cascade serve`, per process.
        large_places: `resilience.tiers.large.bulkhead.most`, per process.
        tokens_per_minute: that the large model's provider allows, read and written; None for any.
        requests_per_minute: that it allows; None for any.
        rows_per_request: that a request inserts into the ledger and deletes there.
        bytes_per_request: that they take.
        database_rows_per_s: that one PostgreSQL server takes.
        database_connections: that it allows (`max_connections`).
        gateway_connections: that one gateway process holds under load (the same command).
        wait_s: seconds in the small model's queue that are accepted.
        within: share of the requests for which that has to hold.
        busiest: share of each limit that is used at the busiest time. What is left is for chance.
        busiest_slots: the same of the slots. The wait alone would let a large pool be busy nearly
            all the time, and leave nothing for a replica that fails or a rate that was guessed.
    """

    replica_slots: Count | None = None
    gateway_cpu_ms: Positive = GATEWAY_CPU_MS
    gateway_concurrency: Count = 64
    large_places: Count = 256
    tokens_per_minute: Count | None = None
    requests_per_minute: Count | None = None
    rows_per_request: Positive = ROWS_PER_REQUEST
    bytes_per_request: Positive = BYTES_PER_REQUEST
    database_rows_per_s: Positive = DATABASE_ROWS_PER_S
    database_connections: Count = 100
    gateway_connections: Count = 6
    wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.25
    within: Annotated[float, Field(gt=0, lt=1)] = 0.99
    busiest: Annotated[float, Field(gt=0, le=1)] = 0.7
    busiest_slots: Annotated[float, Field(gt=0, le=1)] = 0.9


class Costs(Checked):
    """What it costs. A part without a price is named, and never taken for free.

    Args:
        large: price of the large model.
        small: price of the small model's tokens, where somebody else serves it.
        replica_hour_usd: dollars per hour of one replica of the small model, busy or not.
        gateway_hour_usd: dollars per hour of one gateway process.
        database_hour_usd: dollars per hour of one database server.
    """

    large: Price | ListPrice
    small: Price | ListPrice | None = None
    replica_hour_usd: Dollars | None = None
    gateway_hour_usd: Dollars | None = None
    database_hour_usd: Dollars | None = None

    @model_validator(mode="after")
    def _small_has_a_price(self) -> Costs:
        if (self.small is None) == (self.replica_hour_usd is None):
            raise ValueError(
                "the small model is paid by its tokens or by its machines: give small, or "
                "replica_hour_usd."
            )
        return self
