"""Records of runs, for middleware that looks on, and a log of them: one line of JSON per run."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import Any, get_args

from cascade.errors import is_control_flow
from cascade.ledger.entries import LedgerEntry, LedgerView
from cascade.middleware import Advance, CascadeMiddleware, Slot
from cascade.middleware.background import tags_of
from cascade.run import CascadeRuntime, Run
from cascade.state import Basis

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run in figures; None where there is nothing to say, or where nothing is known."""

    cascade: str
    run_id: str
    outcome: str
    tier: str | None  # that answered
    confidence: float | None
    calibrated: bool | None
    cost_usd: Decimal | None
    saved_usd: Decimal | None
    basis: Basis  # the weakest of cost and saving
    latency_ms: float  # since the run began, without the time in which it waited for a person
    error_type: str | None  # class of the error that it failed with
    tags: dict[str, str]


def _record_of(cascade: str, run: Run, error: BaseException | None) -> RunRecord:
    outcomes = {
        "cancelled": isinstance(error, asyncio.CancelledError | GeneratorExit),
        "failed": error is not None,
        "interrupted": run.step != "end",  # a person is asked, so that it may go on
        "abstained": run.answer is None,
        "degraded": run.degraded,
        "cached": run.answer is not None and run.answer.cached,
        "escalated": run.tier > 0,
    }
    outcome = next((name for name, holds in outcomes.items() if holds), "accepted")
    answered = error is None and run.step == "end"
    judged: Any = (run.assessment or run.decision) if answered else None
    # A cancelled run takes its entries later: what it has spent is not known here.
    ledger: Any = LedgerView(run.entries) if error is None else getattr(error, "ledger", None)
    bases: list[Basis] = ["unknown"] if ledger is None else [ledger.cost_basis, ledger.saved_basis]
    return RunRecord(
        cascade=cascade,
        run_id=run.id,
        outcome=outcome,
        tier=run.source if answered and outcome != "abstained" else None,
        confidence=judged and judged.confidence,
        calibrated=judged and judged.calibrated,
        cost_usd=ledger and ledger.cost_usd,
        saved_usd=ledger and ledger.saved_usd,
        basis=max(bases, key=get_args(Basis).index),
        latency_ms=max(0.0, time.time() - run.begun_at) * 1000,
        error_type=None if error is None else type(error).__name__,
        tags=tags_of(run),
    )


class RunObserver(CascadeMiddleware):
    """Base of middleware that looks on at runs; what it raises is logged, and harms no run. A run
    that waited for a person, or failed, and is resumed is seen twice, with the same id."""

    slot = Slot.GUARDS  # next to the wire it sees each attempt, and only what is really sent

    async def wrap_step(self, run: Run, runtime: CascadeRuntime, handler: Advance) -> None:
        """See how the run ends, and each entry of the ledger from the first step on."""
        name, listeners = runtime.kernel.parts.name, runtime.kernel.ledger.listeners
        if all(getattr(known, "func", None) != self.recorded for known in listeners):
            listeners.append(partial(self.recorded, name))
        failure: BaseException | None = None
        try:
            await handler(run, runtime)
        except BaseException as error:
            failure = error
            raise
        finally:
            ended = failure is not None or run.step in ("person", "end")
            if run.kind == "answer" and ended and not is_control_flow(failure):
                with harmless():
                    self.ended(_record_of(name, run, failure), run, failure)

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """A run has ended, waits for a person, or failed."""

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """An entry is in the ledger of that cascade; also after the reply."""


@contextmanager
def harmless() -> Iterator[None]:
    """Errors of what looks on go to the log."""
    try:
        yield
    except Exception:
        logger.exception("an observer of runs has failed; the runs go on")


class RunLog(RunObserver):
    """Log of runs (by default the logger `cascade.runs`): a line of JSON when one ends, INFO, or
    WARNING where it failed or was degraded, with the fields of `RunRecord`, also as attributes of
    the log record: no questions, answers or error messages. In the line, dollars are texts."""

    def __init__(self, log: logging.Logger | None = None) -> None:
        self._log = log or logging.getLogger("cascade.runs")

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """Log the run."""
        level = logging.WARNING if record.outcome in ("failed", "degraded") else logging.INFO
        if self._log.isEnabledFor(level):
            fields = asdict(record)
            self._log.log(level, "%s", json.dumps(fields, default=str), extra=fields)
