"""Ledgers as cascades write them, entry by entry, of which the truth is known."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from cascade.ledger.store import MemoryBackend, Selection, Store, Stored
from cascade.ledger.store.base import Batch
from cascade.report import Report, make_report
from cascade.state import LedgerEntry

NOON, HOUR = datetime(2026, 3, 1, 12, tzinfo=UTC), timedelta(hours=1)
SMALL, LARGE = "small-model", "large-model"
DRAFT, CENT, MORE = Decimal("0.0001"), Decimal("0.01"), Decimal("0.012")

_runs = itertools.count()


def usd(amount: float | str | Decimal) -> Decimal:
    return Decimal(str(amount))


def entry(run: str, node: str, cost: Decimal | None = Decimal(0), **fields: Any) -> LedgerEntry:
    """An entry whose cost counts against the saving, unless the fields say otherwise."""
    basis = "unknown" if cost is None else "measured"
    saved = None if cost is None else -cost
    defaults = {"at": NOON, "tier": "small", "cost_basis": basis, "basis": basis}
    return LedgerEntry(
        run_id=run, node=node, **{**defaults, "cost_usd": cost, "saved_usd": saved, **fields}
    )


def call(run: str, node: str, cost: Decimal | None, **fields: Any) -> LedgerEntry:
    """The entry of a call to a model."""
    tier = "large" if node in ("expert", "audit") else "small"
    model = LARGE if tier == "large" else SMALL
    tokens = {"input_tokens": 100, "output_tokens": 20}
    return entry(run, node, cost, **{"tier": tier, "model": model, **tokens, **fields})


class Story:
    """The entries of one run, one second after the other."""

    def __init__(self, at: datetime = NOON, run: str | None = None) -> None:
        self.run = run or f"run-{next(_runs)}"
        self.at = at
        self.entries: list[LedgerEntry] = []

    def tell(self, made: LedgerEntry) -> Story:
        self.entries.append(made.model_copy(update={"at": self.at}))
        self.at += timedelta(seconds=1)
        return self

    def draft(self, cost: Decimal | None = DRAFT, **fields: Any) -> Story:
        return self.tell(call(self.run, "draft", cost, **fields))

    def check(self, cost: Decimal | None = Decimal(0), **fields: Any) -> Story:
        return self.tell(entry(self.run, "self_check", cost, **fields))

    def accept(
        self,
        baseline: Decimal | None = CENT,
        *,
        rate: float | None = None,
        confidence: float | None = 0.9,
        node: str = "verify",
        **fields: Any,
    ) -> Story:
        ranges = (
            {}
            if baseline is None
            else {"baseline_low_usd": baseline / 5, "baseline_high_usd": baseline * 8}
        )
        return self.tell(
            entry(
                self.run,
                node,
                **{
                    "action": "accept",
                    "audit_rate": rate,
                    "confidence": confidence,
                    "baseline_usd": baseline,
                    "saved_usd": baseline,
                    "basis": "unknown" if baseline is None else "estimated",
                    **ranges,
                    **fields,
                },
            )
        )

    def decide(self, action: str, node: str = "verify", **fields: Any) -> Story:
        return self.tell(entry(self.run, node, **{"action": action, "confidence": 0.3, **fields}))

    def expert(self, cost: Decimal | None = CENT, **fields: Any) -> Story:
        baseline = {"baseline_usd": cost, "saved_usd": None if cost is None else Decimal(0)}
        return self.tell(call(self.run, "expert", cost, **{**baseline, **fields}))

    def fails(self, node: str, cost: Decimal | None = None, **fields: Any) -> Story:
        tokens = {"input_tokens": None, "output_tokens": None}
        told: dict[str, Any] = {
            "outcome": "failed",
            "note": "the server is down",
            **tokens,
            **fields,
        }
        return self.tell(call(self.run, node, cost, **told))

    def audit(
        self,
        large: Decimal | None = MORE,
        loss: float | None = 0.0,
        *,
        judge: Decimal | None = None,
        **fields: Any,
    ) -> Story:
        """The large model is asked, perhaps a judge, and the result is written down."""
        self.tell(call(self.run, "audit", large))
        if judge is not None:
            self.tell(call(self.run, "audit", judge, model="judge-model"))
        accepted = next(e for e in reversed(self.entries) if e.action == "accept")
        known = None not in (large, accepted.baseline_usd)
        correction = large - accepted.baseline_usd if known else None  # type: ignore[operator]
        return self.tell(
            entry(
                self.run,
                "audit",
                large_usd=large,
                loss=loss,
                baseline_usd=correction,
                saved_usd=correction,
                basis="estimated" if known else "unknown",
                **fields,
            )
        )

    def shadow(self, large: Decimal = CENT, loss: float = 0.0) -> Story:
        """The large model answers, the small one drafts beside it and is compared."""
        self.expert(large)
        self.tell(call(self.run, "shadow", DRAFT, tier="small", model=SMALL))
        return self.tell(
            entry(self.run, "shadow", action="accept", confidence=0.8, large_usd=large, loss=loss)
        )


async def store_of(
    stories: Iterable[Story | LedgerEntry], tags: Mapping[str, str] | None = None
) -> Store:
    """A store that holds them."""
    backend = MemoryBackend()
    entries = [e for s in stories for e in (s.entries if isinstance(s, Story) else [s])]
    stored = [Stored(f"{i:08}", made, tags or {}) for i, made in enumerate(entries)]
    await backend.write(Batch(entries=stored))
    return Store(backend)


class World:
    """Requests whose large model's cost and loss are known, also where it was not asked.

    The draft's confidence tells hard requests, which are longer; predictions are off by a factor
    that nobody knows.
    """

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        hardness = rng.random(n)
        self.large = 0.002 + 0.01 * rng.lognormal(0.6 * hardness, 0.5)
        self.predicted = 0.7 * (0.002 + 0.01 * np.exp(0.6 * hardness)) * rng.lognormal(0, 0.3, n)
        self.confidence = np.clip(1 - hardness + rng.normal(0, 0.1, n), 0, 1)
        self.loss = (rng.random(n) < 0.25 * hardness).astype(float) - (rng.random(n) < 0.02)
        self.accepted = self.confidence > 0.35
        self.draft = 0.0004

    @property
    def saved(self) -> float:
        """Before any audit is paid."""
        return float(self.large[self.accepted].sum()) - self.draft * len(self.large)

    @property
    def lost(self) -> float:
        """Per request."""
        return float(self.loss[self.accepted].sum()) / len(self.large)

    def stories(self, rate: float, seed: int) -> tuple[list[Story], float]:
        """The runs with one draw of audits, and what these cost."""
        drawn = np.random.default_rng(seed).random(len(self.large)) < rate
        stories, paid = [], 0.0
        for i, large in enumerate(self.large):
            story = Story(NOON + timedelta(minutes=i)).draft(usd(self.draft))
            if self.accepted[i]:
                story.accept(
                    usd(self.predicted[i]), rate=rate, confidence=float(self.confidence[i])
                )
                if drawn[i]:
                    story.audit(usd(large), float(self.loss[i]))
                    paid += float(large)
            else:
                story.decide("escalate").expert(usd(large))
            stories.append(story)
        return stories, paid


def reported(told: Iterable[Story | LedgerEntry], selection: Any = None, **options: Any) -> Report:
    """The report of these entries."""

    async def make() -> Report:
        with closing(await store_of(told, {"team": "search"})) as store:
            return await make_report(store, selection or Selection(), **options)

    return asyncio.run(make())
