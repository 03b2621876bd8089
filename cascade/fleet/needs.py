"""What a rate needs, costs and saves, and what ends first: by formulas, in microseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.evaluation.plan.inputs import HOURS_PER_MONTH
from cascade.fleet.inputs import Capacity, Costs, Workload
from cascade.fleet.laws import in_system, wait_quantile
from cascade.fleet.limits import Limit, limits
from cascade.ledger import ListPrice, Price
from cascade.state import Record, Usage

__all__ = ["Bill", "Needs", "needs"]

SECONDS_PER_MONTH = 3600 * HOURS_PER_MONTH


class Bill(Record):
    """Dollars of a month.

    Attributes:
        large_alone_usd: the large model answering everything, without a cascade.
        large_usd: its calls with one.
        small_usd: the small model's tokens or machines.
        rest_usd: gateways and databases, as far as they have a price.
        unpriced: parts that have none, and are in no figure.
    """

    large_alone_usd: Decimal
    large_usd: Decimal
    small_usd: Decimal
    rest_usd: Decimal
    unpriced: tuple[str, ...] = ()

    @property
    def cascade_usd(self) -> Decimal:
        """All that a cascade costs."""
        return self.large_usd + self.small_usd + self.rest_usd

    @property
    def saved_usd(self) -> Decimal:
        """What it saves; below 0 it costs more than the large model alone."""
        return self.large_alone_usd - self.cascade_usd


class Needs(Record):
    """What a fleet needs.

    Attributes:
        workload: that it is for.
        gateways: processes of `cascade serve`.
        gateway_busy: share of the time in which the event loop of one works.
        replicas: of the small model, with a wait as accepted; None where somebody else serves it.
        small_busy: share of the time in which one of their slots computes.
        small_wait_s: seconds in the queue for a slot that half, and 99 % of the requests do not
            exceed; None where somebody else serves it.
        small_in_flight: requests at the small model at a time.
        large_in_flight: calls to the large model at a time.
        large_tokens_per_minute: read and written.
        rows_per_s: written to the ledger.
        databases: servers that take them, each with its own part of the keys.
        gigabytes_per_day: by which the ledger grows, at the mean rate.
        limits: of each part, the one that ends first at the head.
        bill: of a month; None without prices.
    """

    workload: Workload
    gateways: int
    gateway_busy: float
    replicas: int | None
    small_busy: float | None
    small_wait_s: tuple[float, float] | None
    small_in_flight: float
    large_in_flight: float
    large_tokens_per_minute: float
    rows_per_s: float
    databases: int
    gigabytes_per_day: float
    limits: tuple[Limit, ...]
    bill: Bill | None

    @property
    def first(self) -> Limit:
        """The part of which one is too little first, as the rate grows."""
        return self.limits[0]

    @property
    def first_quota(self) -> Limit | None:
        """The same among what no machine helps with: somebody has to grant more of it."""
        return next((limit for limit in self.limits if limit.quota), None)


def needs(workload: Workload, capacity: Capacity, costs: Costs | None = None) -> Needs:
    """What a workload needs at its busiest time, and costs in a month.

    Raises:
        ConfigurationError: the price of a model does not tell what a call costs, or the machines
            have a price where somebody else serves the small model, or the other way round.
    """
    found = limits(workload, capacity)
    units = {limit.part: limit.units for limit in found}
    rate, small = workload.busiest, workload.small
    gateways = max(number for part, number in units.items() if part.startswith("gateway"))
    databases = max(number for part, number in units.items() if part.startswith("database"))
    replicas = units.get("small model, slots")
    slots = None if replicas is None else replicas * (capacity.replica_slots or 0)
    quantiles = [
        wait_quantile(share, rate, small.mean_s, slots, cv=small.cv)
        for share in (0.5, 0.99)
        if slots is not None
    ]
    return Needs(
        workload=workload,
        gateways=gateways,
        gateway_busy=rate / gateways * capacity.gateway_cpu_ms / 1000,
        replicas=replicas,
        small_busy=None if slots is None else in_system(rate, small.mean_s) / slots,
        small_wait_s=None if not quantiles else (quantiles[0], quantiles[1]),
        small_in_flight=in_system(rate, small.mean_s),
        large_in_flight=in_system(rate * workload.asked_large, workload.large.mean_s),
        large_tokens_per_minute=60 * rate * workload.large_tokens,
        rows_per_s=rate * capacity.rows_per_request,
        databases=databases,
        gigabytes_per_day=workload.rate * 86_400 * capacity.bytes_per_request / 1e9,
        limits=found,
        bill=None if costs is None else _bill(workload, costs, gateways, databases, replicas),
    )


def _bill(
    workload: Workload, costs: Costs, gateways: int, databases: int, replicas: int | None
) -> Bill:
    requests = Decimal(str(workload.rate)) * SECONDS_PER_MONTH
    alone = requests * _call_usd("large", costs.large, workload, workload.written_tokens)
    if costs.replica_hour_usd is not None:
        if replicas is None:
            raise ConfigurationError(
                f"replica_hour_usd={costs.replica_hour_usd} prices machines of which nobody knows "
                "how many there are: give replica_slots, the requests that one computes at a time."
            )
        small = replicas * costs.replica_hour_usd * HOURS_PER_MONTH
    else:
        assert costs.small is not None, "one of both is given"
        if replicas is not None:
            raise ConfigurationError(
                f"replica_slots are those of machines of your own, which have no price here: give "
                f"replica_hour_usd instead of {costs.small.source}."
            )
        small = requests * _call_usd("small", costs.small, workload, workload.output_tokens)
    parts = {
        "gateways": (gateways, costs.gateway_hour_usd),
        "databases": (databases, costs.database_hour_usd),
    }
    return Bill(
        large_alone_usd=_cents(alone),
        large_usd=_cents(alone * Decimal(str(workload.asked_large))),
        small_usd=_cents(small),
        rest_usd=_cents(
            sum((n * usd * HOURS_PER_MONTH for n, usd in parts.values() if usd), Decimal(0))
        ),
        unpriced=tuple(name for name, (_, usd) in parts.items() if usd is None),
    )


def _call_usd(name: str, price: Price | ListPrice, workload: Workload, written: int) -> Decimal:
    usage = Usage(input_tokens=workload.input_tokens, output_tokens=written)
    found = price.at(datetime.now(UTC)).cost(usage)
    if found is None:
        raise ConfigurationError(
            f"the price of the {name} model ({price.source}) does not tell what a call costs: give "
            "dollars per 1M input and output tokens."
        )
    return found


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"))
