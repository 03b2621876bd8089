"""What is simulated: gateways in front of a small model with slots and a large one, and what comes.

It is the service as it is built: requests pass the gate of their process, its event loop, the
bulkhead of a tier, and wait at the model's own queue. Left out are failures and what follows them
(retries, circuit breakers), deadlines, and requests of different kinds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from cascade.evaluation.plan.inputs import Checked
from cascade.fleet.inputs import GATEWAY_CPU_MS, Capacity, Count, Positive, Share
from cascade.fleet.needs import Needs
from cascade.fleet.times import ServiceTime
from cascade.resilience.settings import Bulkhead

__all__ = ["Balancing", "Bursts", "Scenario", "scenario_of"]

Balancing = Literal["one queue", "shortest", "random"]
"""Who computes a draft: the first free slot of any replica; a slot of the replica with the fewest
requests; one of a replica drawn at random, whether it is free or not."""


class Bursts(Checked):
    """Times in which more comes than usual (a Markov-modulated Poisson process of two states).

    The rate of the scenario is the mean over both; both last for a time drawn from an exponential
    distribution.

    Args:
        factor: rate in a burst over the rate between.
        lasts_s: mean seconds of one.
        every_s: mean seconds from one to the next.
        escalation: share that is escalated in a burst, where that is another: what comes all at
            once is often of one kind.
    """

    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    lasts_s: Positive
    every_s: Positive
    escalation: Share | None = None


class Scenario(Checked):
    """A fleet and its traffic.

    Args:
        rate: requests a second, on average. They come at random (Poisson).
        escalation: share that the large model answers, beside those that find no place at the small
            one.
        small: how long the small model takes, once it has begun.
        large: how long the large model takes; it has no queue of its own.
        bursts: times in which more comes.
        gateways: processes; each request goes to one at random.
        gateway_cpu_ms: processor time of a request: half before and after its calls, half within
            them, while they hold a place.
        network_ms: of a call, beside the model: its place is held, and no slot.
        concurrency: requests that run at a time in one process.
        queue: that may wait there; one more is refused.
        queue_timeout_s: after which one that waits is refused.
        replicas: of the small model.
        slots: requests that each computes at a time; None for any number.
        balancing: who computes a draft.
        small_bulkhead: of the small model, in each process. A call without a place is escalated.
        large_bulkhead: of the large model, in each process. Without a place the draft is the
            answer.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    rate: Positive
    escalation: Share
    small: ServiceTime
    large: ServiceTime
    bursts: Bursts | None = None
    gateways: Count = 1
    gateway_cpu_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = GATEWAY_CPU_MS
    network_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    concurrency: Count = 64
    queue: Annotated[int, Field(ge=0)] = 256
    queue_timeout_s: Positive = 30.0
    replicas: Count = 1
    slots: Count | None = None
    balancing: Balancing = "one queue"
    small_bulkhead: Bulkhead = Bulkhead()
    large_bulkhead: Bulkhead = Bulkhead()


def scenario_of(found: Needs, capacity: Capacity, bursts: Bursts | None = None) -> Scenario:
    """The fleet that was worked out, at its busiest time; audits are left out."""
    workload = found.workload
    return Scenario(
        rate=workload.busiest,
        escalation=workload.escalation,
        small=workload.small,
        large=workload.large,
        bursts=bursts,
        gateways=found.gateways,
        gateway_cpu_ms=capacity.gateway_cpu_ms,
        concurrency=capacity.gateway_concurrency,
        replicas=found.replicas or 1,
        slots=capacity.replica_slots,
        large_bulkhead=Bulkhead(most=capacity.large_places),
    )
