"""What a service is told to run."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of the parts of a configuration: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TierConfig(Section):
    """One model of a cascade."""

    model: str
    name: str | None = None
    base_url: str | None = None
    api_key: str | None = Field(default=None, repr=False)
    options: Mapping[str, Any] = Field(default_factory=dict)


class CascadeConfig(Section):
    """One cascade, which clients name as their model."""

    tiers: tuple[TierConfig, ...]
    concurrency: int = 64
    queue: int = 256
    queue_timeout_s: float = 30.0
    reserve_usd: Decimal = Decimal("0.05")


class ServiceConfig(Section):
    """All of a service."""

    cascades: Mapping[str, CascadeConfig]
    allow_tiers: bool = False
    ledger: str | None = None
    exhausted: Literal["refuse", "local_only"] = "refuse"
    recent: int = 500
    auth: bool = True
