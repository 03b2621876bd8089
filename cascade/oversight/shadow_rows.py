"""The shadow runs of a ledger, one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from cascade.confidence.columns import owner
from cascade.confidence.signals import BUILT_IN, to_signals
from cascade.errors import ConfigurationError
from cascade.ledger import LedgerStore, MemoryLedger
from cascade.ledger.runs import Run, runs_of
from cascade.ledger.store import Selection, Store
from cascade.oversight.shadow import NODE
from cascade.state import LedgerEntry

Kind = Literal["drafted", "failed", "routed", "not drafted"]

Pair = tuple[str, str]
"""Names of the small and of the large model."""


@dataclass(frozen=True, slots=True)
class Row:
    """One shadow run.

    Attributes:
        kind: whether there is a draft, and if not, why: no tier could, a router went past it, or
            too many were waiting.
        tier: of the draft.
        accepted: whether the draft would have been the answer.
        features: signals of the draft; None where there are none, or the draft is ruled out.
        draft_usd: what drafting and checking cost, None where unknown.
        spent_usd: the same as far as it is known.
        large_usd: what the large model's answer cost, None where unknown.
        loss: of the draft against the large model's answer, None where not compared.
    """

    kind: Kind
    tier: str | None
    accepted: bool
    features: Mapping[str, float] | None
    draft_usd: Decimal | None
    spent_usd: Decimal
    large_usd: Decimal | None
    loss: float | None

    @property
    def usable(self) -> bool:
        """Whether it says what a live run would have cost in quality."""
        return self.kind in ("failed", "routed") or self.loss is not None

    @property
    def priced(self) -> bool:
        """Whether both of its costs are known."""
        return self.draft_usd is not None and self.large_usd is not None


async def read_rows(
    store: LedgerStore | None, selection: Selection, pair: Pair | None = None
) -> list[Row]:
    """The finished shadow runs that are meant.

    Args:
        store: of `open_store`, or a `MemoryLedger`.
        selection: by time, tags or run.
        pair: only those of these two models.

    Raises:
        ConfigurationError: the store cannot be read, or there are several pairs of models.
    """
    entries = [
        item
        for node in (NODE, "expert")
        for item in await _read(store, replace(selection, node=node))
    ]
    entries.sort(key=lambda item: item[0].at)
    found = [
        (_pair_of(run), _row_of(run))
        for run in runs_of(entries).values()
        if run.expert is not None and run.outcome == "shadow"
    ]
    if pair is not None:
        return [row for models, row in found if models in (pair, (None, pair[1]))]
    pairs = {models for models, _ in found if models[0] is not None}
    if len(pairs) > 1:
        listed = "; ".join(sorted(f"{small} beside {large}" for small, large in pairs))
        raise ConfigurationError(
            f"the shadow runs are of several pairs of models ({listed}): say which, by the models "
            "(--small, --large), by tags or by time."
        )
    return [row for _, row in found]


async def _read(
    store: LedgerStore | None, selection: Selection
) -> list[tuple[LedgerEntry, Mapping[str, str]]]:
    if isinstance(store, Store):
        async with aclosing(store.stored(selection)) as stored:
            return [(item.entry, item.tags) async for item in stored]
    if isinstance(store, MemoryLedger) and not selection.tags:
        return [(entry, {}) for entry in store.entries if _is_meant(entry, selection)]
    if isinstance(store, MemoryLedger):
        raise ConfigurationError(
            f"a MemoryLedger keeps no tags, and {dict(selection.tags)} are asked for: give "
            "open_store('sqlite:///ledger.db')."
        )
    raise ConfigurationError(
        "shadow runs are read from the ledger: give Cascade(ledger=open_store("
        "'sqlite:///ledger.db')), or a MemoryLedger."
    )


def _is_meant(entry: LedgerEntry, selection: Selection) -> bool:
    return (
        entry.node == selection.node
        and selection.run_id in (None, entry.run_id)
        and selection.tier in (None, entry.tier)
        and (selection.since is None or entry.at >= selection.since)
        and (selection.until is None or entry.at < selection.until)
    )


def _pair_of(run: Run) -> tuple[str | None, str | None]:
    drafts = (e.model for e in run.entries if e.node == NODE and e.model is not None)
    return next(drafts, None), run.expert.model if run.expert else None


def _row_of(run: Run) -> Row:
    beside = [entry for entry in run.entries if entry.node == NODE]
    result = next((entry for entry in reversed(beside) if entry.action is not None), None)
    costs = [entry.cost_usd for entry in beside]
    known = [cost for cost in costs if cost is not None]
    large = run.expert.cost_usd if run.expert else None
    kind: Kind = "failed" if any(e.model is not None for e in beside) else "not drafted"
    if result is not None:
        kind = "routed" if result.tier is None else "drafted"
    return Row(
        kind=kind,
        tier=result.tier if result else None,
        accepted=result is not None and result.action == "accept",
        features=result.signals if result else None,
        draft_usd=None if None in costs else sum(known, Decimal(0)),
        spent_usd=sum(known, Decimal(0)),
        large_usd=result.large_usd if result else large,
        loss=result.loss if result else None,
    )


def signals_of(rows: Sequence[Row]) -> tuple[tuple[str, int], ...]:
    """(name, calls) of the signals that the rows have, free ones first.

    A feature that is of no built-in signal is one of its own, which costs no call.
    """
    features = dict.fromkeys(name for row in rows for name in row.features or ())
    owners = dict.fromkeys(owner(name, tuple(BUILT_IN)) or name for name in features)
    built_in = to_signals([name for name in owners if name in BUILT_IN])
    own = [(name, 0) for name in owners if name not in BUILT_IN]
    return (*own, *((signal.name, signal.calls) for signal in built_in))
