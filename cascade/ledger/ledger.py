"""Ledger: one entry for each attempt of a call, and for each node that asked no model.

It stands below all middleware. The entry of a call is begun in the store before anything is sent
and completed whichever way the call ends. LangGraph writes no state for a failed attempt, so
entries are kept here as well until their run takes them into its state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from inspect import iscoroutinefunction
from threading import Lock
from typing import Any

from langchain_core.messages import BaseMessage

from cascade.errors import CascadeError, ConfigurationError, ModelError, NotSentError
from cascade.ledger.base import LedgerStore, current_tags
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.outlook import CHARACTERS_PER_TOKEN, Outlook, PricedTier, characters
from cascade.ledger.prices import has_price
from cascade.state import Basis, Completion, Usage, new_id

logger = logging.getLogger("cascade")

MAX_PENDING_RUNS = 10_000
"""Runs whose entries wait for `take`; the oldest of more are forgotten, which the store has."""

NOTHING, NO_TOKENS = Decimal(0), {"input_tokens": 0, "output_tokens": 0}
NO_ANSWER = Completion("", "")

BACKGROUND = ("audit", "shadow")
"""Nodes of background runs, which bear the id of the run that was answered: its state takes their
entries no more, and theirs must not take its own."""


class Machine:
    """Clock of one machine, thread-safe: eight calls at once that last ten seconds are ten seconds
    of it, not eighty. The sum of all that is charged is never above its wall time."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._lock = clock, Lock()
        self._calls, self._now, self._shares = 0, 0.0, 0.0  # of the calls under way, dt ÷ calls

    def begin(self) -> Callable[[float | None], tuple[float, Basis]]:
        """Begin a call, and return what ends it, once: of the milliseconds in which the model
        computed, where the server says them, it makes those that are charged, with their basis:
        alone on the machine the server's, else the share of each moment."""
        began, before = self._advance(1)

        def end(busy_ms: float | None) -> tuple[float, Basis]:
            now, shares = self._advance(-1)
            share, wall = shares - before, now - began
            if busy_ms is None:
                return 1000 * share, "estimated"
            alone = share > 0.999_999 * wall
            return (min(busy_ms, 1000 * share) if alone else 1000 * share), "measured"

        return end

    def _advance(self, calls: int) -> tuple[float, float]:
        with self._lock:
            last, self._now = self._now, max(self._now, self._clock())
            if self._calls:
                self._shares += (self._now - last) / self._calls
            self._calls += calls
            return self._now, self._shares


machines: dict[str, Machine] = {}
"""Machines by server, which all cascades of this process share."""


@dataclass(slots=True)
class Attempt:
    """A call that is under way, with what its entry needs: characters `heard` of the answer, a
    `note` why it was stopped, and whether it has `continued` another tier's work, and costs more or
    less than alone."""

    run_id: str
    node: str
    tier: PricedTier
    messages: Sequence[BaseMessage]
    max_tokens: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    completion: Completion = NO_ANSWER
    heard: int = 0
    note: str = ""
    continued: bool = False
    id: str = field(default_factory=new_id)
    at: datetime = field(default_factory=partial(datetime.now, UTC))
    started: float = field(default_factory=time.perf_counter)


class Ledger:
    """Ledger of what a cascade spends and saves; without a store, in its runs alone. Its
    `listeners` are called with each entry the moment it arises; what one raises is logged.

    Raises:
        ConfigurationError: the store is none.
    """

    def __init__(self, store: LedgerStore | None, outlook: Outlook) -> None:
        if store is not None and not isinstance(store, LedgerStore):
            raise ConfigurationError(
                f"ledger={store!r} is no store: give open_store('sqlite:///ledger.db') or "
                "MemoryLedger()."
            )
        if store is not None and iscoroutinefunction(store.append):
            raise ConfigurationError(
                f"append of {type(store).__name__} is async: nothing would await it and every "
                "entry would be lost. Write `def append(self, entries, tags)`."
            )
        self.store, self.outlook = store, outlook
        self.listeners: list[Callable[[LedgerEntry], None]] = []
        self._pending: OrderedDict[str, list[LedgerEntry]] = OrderedDict()
        self._usual: dict[str, tuple[int, float, float]] = {}  # tier → answers, tokens, dollars
        self._lock = Lock()

    @asynccontextmanager
    async def attempt(self, attempt: Attempt) -> AsyncIterator[Attempt]:
        """Book a call that is made within; set `completion` when its answer is there.

        Raises:
            LedgerError: the store cannot write the attempt down, so that it must not be sent.
        """
        attempt.tags = {**current_tags(), **attempt.tags}
        if self.store is not None:
            await _begin(self.store, attempt)
        hourly, server = attempt.tier.pricing.per_hour is not None, attempt.tier.model.server
        end = machines.setdefault(server or "this machine", Machine()).begin() if hourly else None
        try:
            yield attempt
        except BaseException as error:
            if end is not None:
                end(None)
            asked = isinstance(error, ModelError) or not isinstance(error, CascadeError)
            if asked and not isinstance(error, NotSentError):
                self.record(self._failed(attempt, error), attempt.tags)
            elif self.store is not None:  # requests are forbidden, a recording has none
                self.store.withdraw(attempt.id)
            raise
        assert attempt.completion is not NO_ANSWER, "an attempt that raised nothing has an answer"
        busy = (None, "measured") if end is None else end(attempt.completion.busy_ms)
        self.record(self._answered(attempt, *busy), attempt.tags)

    def book(
        self, run_id: str, node: str, *, tags: Mapping[str, str] | None = None, **fields: Any
    ) -> None:
        """Book a node that asked no model: it costs and saves nothing unless `fields` say so."""
        given = {"run_id": run_id, "node": node, "cost_usd": NOTHING, "saved_usd": NOTHING}
        self.record(LedgerEntry(**given | fields), {**current_tags(), **(tags or {})})

    def record(self, entry: LedgerEntry, tags: Mapping[str, str]) -> None:
        """Hand an entry to the store at once, and keep it for `take`. Where the store fails, the
        log has the entry instead: what was asked is paid for."""
        if self.store is not None:
            try:
                self.store.append([entry], tags)
            except Exception as error:  # noqa: BLE001 - a store of the user's raises what it likes
                lost = entry.model_dump_json(exclude_defaults=True, exclude={"note", "decision"})
                logger.error("the ledger's store did not take an entry (%s): %s", error, lost)
        for listener in self.listeners:
            try:
                listener(entry)
            except Exception:  # the call is paid for, and its entry must arrive
                logger.exception("a listener of the ledger raised; the entry stands")
        if entry.node not in BACKGROUND:
            with self._lock:
                self._pending.setdefault(entry.run_id, []).append(entry)
                while len(self._pending) > MAX_PENDING_RUNS:
                    self._pending.popitem(last=False)

    def take(self, run_id: str) -> list[LedgerEntry]:
        """The entries of a run that are not in its state yet, oldest first."""
        with self._lock:
            return self._pending.pop(run_id, [])

    # --- the figures of an entry

    def _answered(self, attempt: Attempt, busy_ms: float | None, basis: Basis) -> LedgerEntry:
        tier, completion, usage = attempt.tier, attempt.completion, attempt.completion.usage
        if completion.cached:
            # The large model alone, behind the same cache, would have found its answer there too.
            note = "taken from the cache of its chat model"
            return _entry(attempt, NOTHING, "measured", note=note, **NO_TOKENS)
        stopped = completion.finish_reason == "stopped"
        more: dict[str, Any] = usage.model_dump(exclude={"cache_write_1h_tokens"})
        more |= {"outcome": "cancelled" if stopped else "ok", "note": attempt.note}
        cost = tier.pricing.cost(usage, busy_ms, attempt.at)
        if cost is None and completion.cost_usd is not None:
            cost, more["price"] = completion.cost_usd, "as its own ledger says"
        if cost is None:
            priced = has_price(tier.pricing, 0.0)
            why = " did not report its usage" if priced else f": {tier.pricing.source}"
            more["note"] = "; ".join(filter(None, [attempt.note, f"{tier.model.name}{why}"]))
            more["assumed_usd"] = self._assumed(attempt)
        else:
            n, tokens, dollars = self._usual.get(tier.name, (0, 0.0, 0.0))
            tokens += usage.output_tokens or 0
            self._usual[tier.name] = n + 1, tokens, dollars + float(cost)
        if attempt.node == "expert" and not stopped:
            more |= self._own_baseline(attempt, cost)
        return _entry(attempt, cost, "estimated" if stopped else basis, **more)

    def _own_baseline(self, attempt: Attempt, cost: Decimal | None) -> dict[str, Any]:
        """Baseline and saving of an answer of the large model, which is its own baseline, or of
        another in its place, which earns an estimate that is never above its own cost."""
        baseline, more = cost, {"basis": "estimated"} if attempt.continued else {}
        if attempt.tier.name != self.outlook.tiers[-1].name:
            earned = self.outlook.earned(attempt.completion, cost, attempt.messages)
            baseline, more = earned["baseline_usd"], {"basis": "estimated"}
        elif not more and cost is not None and attempt.tier.pricing.per_hour is None:
            baseline = self.outlook.measured(attempt.completion.usage, attempt.messages) or cost
            if baseline != cost:
                note = "the large model alone would have found more of the prompt in its cache"
                more = {"basis": "estimated", "note": note}
        if cost is None or baseline is None:
            return {"baseline_usd": None, "basis": "unknown"}
        baseline = min(baseline, cost)
        return {"baseline_usd": baseline, "saved_usd": baseline - cost or NOTHING, **more}

    def _failed(self, attempt: Attempt, error: BaseException) -> LedgerEntry:
        outcome, note = "failed", f"{type(error).__name__}: {error}"
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            outcome, note = "cancelled", "cancelled while it ran"
        if attempt.heard:
            note = f"{note.rstrip('.')}; {attempt.heard:,} characters had arrived"
        if isinstance(error, ModelError) and error.billed is False:
            return _entry(attempt, NOTHING, "measured", note=note, outcome=outcome, **NO_TOKENS)
        more = {"note": note, "outcome": outcome, "assumed_usd": self._assumed(attempt)}
        return _entry(attempt, None, "unknown", **more)

    def _assumed(self, attempt: Attempt) -> Decimal | None:
        """Dollars that a call of unknown cost is taken to have cost: the prompt by its characters,
        the answer as long as is known, or usual, or allowed, and at least what had arrived; by the
        hour, what a call of this tier usually costs."""
        n, tokens, dollars = self._usual.get(attempt.tier.name, (0, 0.0, 0.0))
        usage, answer = attempt.completion.usage, attempt.completion.transcript
        sent, output = usage.input_tokens, usage.output_tokens
        if sent is None:
            sent = characters(attempt.messages) // CHARACTERS_PER_TOKEN + 1
        if output is None:
            arrived = max(attempt.heard, len(answer)) // CHARACTERS_PER_TOKEN
            output = max(arrived, round(tokens / n) if n else attempt.max_tokens or 0)
        used = Usage(input_tokens=sent, output_tokens=output)
        assumed = attempt.tier.pricing.cost(used, None, attempt.at)
        return Decimal(str(dollars / n)) if assumed is None and n else assumed


async def _begin(store: LedgerStore, attempt: Attempt) -> None:
    begun = _entry(attempt, None, "unknown", outcome="begun")
    beginning = asyncio.ensure_future(store.begin(begun, attempt.tags))
    try:
        # Shielded: cancelled while the row is written in a thread, it would stay begun.
        await asyncio.shield(beginning)
    except asyncio.CancelledError:
        with suppress(Exception):
            await beginning
            store.withdraw(attempt.id)
        raise


def _entry(attempt: Attempt, cost: Decimal | None, basis: Basis, /, **more: Any) -> LedgerEntry:
    tier, known = attempt.tier, "unknown" if cost is None else basis
    took_ms = attempt.completion.latency_ms or 1000 * (time.perf_counter() - attempt.started)
    fields = {name: getattr(attempt, name) for name in ("run_id", "node", "at", "id")}
    fields |= {"tier": tier.name, "model": tier.model.name, "price": tier.pricing.source}
    fields |= {"cost_usd": cost, "cost_basis": known, "latency_ms": took_ms}
    fields |= {"saved_usd": None if cost is None else -cost, "basis": known}
    return LedgerEntry(**fields | more)
