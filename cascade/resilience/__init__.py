"""What stands around each call to a model: retries with a budget, a circuit breaker, a bulkhead."""

from cascade.resilience.breaking import BreakerState
from cascade.resilience.doors import OFF, Door, Doors, Passage, TierState, is_outage
from cascade.resilience.settings import Breaker, Bulkhead, Resilience, Retries

__all__ = [
    "OFF",
    "Breaker",
    "BreakerState",
    "Bulkhead",
    "Door",
    "Doors",
    "Passage",
    "Resilience",
    "Retries",
    "TierState",
    "is_outage",
]
