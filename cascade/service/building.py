"""From a configuration to a service."""

from __future__ import annotations

from cascade.api import Cascade
from cascade.ledger.store import open_store
from cascade.service.budgets import Budgets
from cascade.service.config import CascadeConfig, ServiceConfig, TierConfig
from cascade.service.keys import Keys
from cascade.service.limits import Limits
from cascade.service.recent import Recent
from cascade.service.service import Service
from cascade.service.serving import Gate, Served
from cascade.tiers import Tier


def build_service(config: ServiceConfig) -> Service:
    """A service with all its cascades; nothing is sent yet."""
    store = None if config.ledger is None else open_store(config.ledger)
    recent = Recent(config.recent)

    def serve(name: str, cascade: CascadeConfig, tiers: tuple[TierConfig, ...]) -> Served:
        opened = Cascade(
            tiers=[_tier(tier) for tier in tiers], ledger=store, observers=[recent], name=name
        )
        gate = Gate(name, cascade.concurrency, cascade.queue, cascade.queue_timeout_s)
        return Served(name, cascade, opened, gate)

    served = {name: serve(name, given, given.tiers) for name, given in config.cascades.items()}
    return Service(config, served, store, Keys(), Budgets(), Limits(), recent)


def _tier(config: TierConfig) -> Tier:
    return Tier(
        config.model,
        name=config.name,
        base_url=config.base_url,
        api_key=config.api_key,
        options=config.options,
    )
