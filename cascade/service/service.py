"""What one running service holds: its cascades, keys, budgets and the last requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

from fastapi import Request

from cascade.api import Cascade
from cascade.ledger.store import Store
from cascade.service.budgets import Budgets
from cascade.service.config import ServiceConfig
from cascade.service.faults import ServiceError
from cascade.service.flight import Flights
from cascade.service.guesses import Guesses
from cascade.service.keys import Key, Keys
from cascade.service.last_calls import LastCalls
from cascade.service.limits import Limits
from cascade.service.metrics import Metrics
from cascade.service.recent import Recent
from cascade.service.reload import Reloads
from cascade.service.serving import Served
from cascade.service.shared import Shared, SharedBudgets
from cascade.teaching import Lessons

logger = logging.getLogger("cascade")


@dataclass(eq=False, kw_only=True)
class Service:
    """One service; `app.state.service`.

    Attributes:
        config: what it was told.
        served: every public model name with its cascade and its gate. A single tier, where
            `allow_tiers` shows it, is a cascade of that tier alone, named `cascade/tier`.
        store: the ledger's store, shared by all cascades; None where nothing is kept.
        lessons: keeps the lessons of all cascades; None where none are.
        keys: who may ask.
        budgets: what they may spend.
        shared: what it shares with other replicas; None where the ledger is not in PostgreSQL.
        recent: the last finished requests.
        flights: the requests that are under way.
        last_calls: how the last call of each tier ended.
        reloads: how the last loading of each calibration went.
        metrics: for Prometheus.
        limits: how often keys may ask.
        guesses: wrong keys by address.
    """

    config: ServiceConfig
    served: Mapping[str, Served]
    store: Store | None
    lessons: Lessons | None
    keys: Keys
    budgets: Budgets | SharedBudgets
    shared: Shared | None
    recent: Recent
    flights: Flights
    last_calls: LastCalls
    reloads: Reloads
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    guesses: Guesses = field(default_factory=Guesses)

    @property
    def draining(self) -> bool:
        """Whether it is shutting down and lets no request in."""
        return self.flights.draining

    async def aclose(self) -> None:
        """Finish audits under way, but not for ever, close all models, and write what the ledger
        has left. The lease lasts until then: what is put aside for audits is not yet lost.
        """
        leased = nullcontext() if self.shared is None else self.shared.replica.living()
        try:
            async with leased, asyncio.timeout(self.config.shutdown_grace_s):
                for served in self.served.values():
                    await served.aclose()
        except TimeoutError:
            grace_s = self.config.shutdown_grace_s
            logger.warning("shutdown: work after replies was left after %g s", grace_s)
        finally:
            if self.shared is not None:
                await self.shared.aclose()
            await self.keys.aclose()
            if self.lessons is not None:
                await self.lessons.store.aclose()
            if self.store is not None:
                await self.store.aclose()

    @property
    def cascades(self) -> Mapping[str, Cascade]:
        """The cascades by public model name, as they are now; single tiers among them."""
        return {name: served.cascade for name, served in self.served.items()}

    def models(self, key: Key | None) -> list[str]:
        """The model names that a key may ask for."""
        return [name for name in self.served if key is None or key.may_use(name)]

    def model(self, name: str, key: Key | None) -> Cascade:
        """The cascade that a client calls by this name.

        To run it, take the one that `admitted.slot(name)` gives: it is kept open until then.

        Raises:
            ServiceError: 404, there is no such model; 403, the key may not use it.
        """
        return self.serving(name, key).cascade

    def serving(self, name: str, key: Key | None) -> Served:
        """The cascade behind a name with its gate; raises as `model`."""
        served = self.served.get(name)
        if served is None or (key is not None and not key.may_use(name)):
            names = ", ".join(self.models(key)) or "none"
            if served is None:
                raise ServiceError(
                    404,
                    f"there is no model {name!r}: this key may use {names}.",
                    code="model_not_found",
                    param="model",
                )
            raise ServiceError(
                403,
                f"this key may not use the model {name!r}: it may use {names}.",
                "permission_error",
                "model_not_allowed",
                "model",
            )
        return served


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service
