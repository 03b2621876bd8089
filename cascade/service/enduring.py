"""From a configuration to what stands around calls to models."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from cascade.resilience import Breaker, Bulkhead, Doors, Resilience, Retries
from cascade.service.config import ResilienceConfig, TierResilience

__all__ = ["Known", "to_doors"]

Known = dict[Hashable, Any]
"""What is known of servers, for all cascades of a service: a cascade that is made anew, since its
calibration has changed, does not have to learn again that a server is down."""


def to_doors(config: ResilienceConfig, known: Known) -> Doors:
    """The doors of a cascade.

    Raises:
        ConfigurationError: settings contradict each other.
    """
    tiers = {name: _settings(tier) for name, tier in config.tiers.items()}
    return Doors(_settings(config, tiers), known)


def _settings(config: TierResilience, tiers: dict[str, Resilience] | None = None) -> Resilience:
    retries, breaker, bulkhead = config.retries, config.breaker, config.bulkhead
    limits: dict[str, Any] = {}
    if breaker is not False:
        limits = {name: None if value is False else value for name, value in breaker}
    return Resilience(
        retries=None if retries is False else Retries(**dict(retries)),
        breaker=None if breaker is False else Breaker(**limits),
        bulkhead=None if bulkhead is False else Bulkhead(**dict(bulkhead)),
        tiers=tiers or {},
    )
