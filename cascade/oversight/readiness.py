"""Whether a shadow start may go live: what that would save and lose, read from the ledger.

Needs numpy, scipy and scikit-learn (extra `calibrate`). The large model is the reference: a draft
counts as right when it is as good as the large model's answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
from pydantic import Field

from cascade.confidence.calibrating import LEAST_LABELS, LabelledDraft, MadeFor, calibrate
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.evaluation.audit.forecast import (
    LEAST,
    Forecast,
    ShadowRows,
    Verdict,
    easiest_threshold,
    forecast,
)
from cascade.evaluation.calibration import VALID_DAYS
from cascade.ledger import LedgerStore
from cascade.ledger.store import Selection
from cascade.oversight.shadow_rows import Row, read_rows, signals_of
from cascade.oversight.shadow_text import readiness_text
from cascade.policies.certify import Refusal, certify
from cascade.state import Certificate, Record

_SEED = 0
"""Of the split into halves: the same rows are judged the same each time."""


class Readiness(Record):
    """What a shadow start has shown so far.

    All shares are relative to the large model: of its bill, and of its answers. Intervals are of
    95 %, for one look.

    Attributes:
        verdict: `ready`, `not worth it` or `too early`.
        reason: why, and of which of the two forecasts.
        more: how many more requests would probably decide it; 0 where it is decided, None where
            more of the same would not help.
        requests: shadow runs in the ledger.
        compared: of them, drafts that were compared with the large model's answer.
        not_compared: drafts that nobody could compare; they are left out.
        failed: runs in which no draft came about; they count as escalated.
        routed: runs that a router would have sent straight to the large model; likewise.
        not_drafted: runs that were not drafted, because too many were waiting.
        unpriced: runs with an unknown cost; they are left out of the forecasts.
        spent_usd: what drafting beside the large model cost, as far as it is known.
        max_loss: the quality loss per request that is allowed.
        min_saving: the share of the large-only bill that is to be saved.
        present: going live with the decisions as they were made.
        proposed: going live with `calibration` at its threshold, which were made on one half of
            the rows; the figures are those of the other half.
        calibration: for `Cascade(calibrator=…)`; None while there is too little to fit it, or
            where it is not known whose settings the rows were made with.
        agreement: share of the drafts that were as good as the large model's answer.
        certificate: what could be promised with the calibration, where `max_harm` was given.
        refusal: why nothing can be promised.
    """

    verdict: Verdict
    reason: str
    more: int | None
    requests: int
    compared: int
    not_compared: int
    failed: int
    routed: int
    not_drafted: int
    unpriced: int
    spent_usd: Decimal
    max_loss: float
    min_saving: float
    present: Forecast | None = None
    proposed: Forecast | None = None
    calibration: Calibration | None = Field(default=None, exclude=True, repr=False)
    agreement: float | None = None
    certificate: Certificate | None = None
    refusal: Refusal | None = None

    def text(self) -> str:
        """In words and figures, for people."""
        return readiness_text(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is wanted of going live; see `readiness`."""

    max_loss: float = 0.01
    min_saving: float = 0.0
    max_harm: float | None = None
    delta: float = 0.1
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_loss < 1.0:
            raise ConfigurationError(
                f"max_loss={self.max_loss}: a share of answers, from 0 to below 1, such as 0.01."
            )
        if not -1.0 < self.min_saving < 1.0:
            raise ConfigurationError(
                f"min_saving={self.min_saving}: a share of the large-only bill, below 1."
            )
        for name in ("max_harm", "delta"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise ConfigurationError(f"{name}={value}: a probability is between 0 and 1.")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ConfigurationError(f"threshold={self.threshold}: it is between 0 and 1.")


async def readiness(
    store: LedgerStore | None,
    selection: Selection | None = None,
    *,
    max_loss: float = 0.01,
    min_saving: float = 0.0,
    max_harm: float | None = None,
    delta: float = 0.1,
    threshold: float | None = None,
    signals: Sequence[tuple[str, int]] | None = None,
    made_for: MadeFor | None = None,
) -> Readiness:
    """Judge the shadow runs of a ledger.

    Args:
        store: of `open_store`, or a `MemoryLedger`.
        selection: which runs: by time and tags. Take only those of one cascade with one task.
        max_loss: quality loss per request, relative to the large model, that is allowed.
        min_saving: share of the large-only bill that has to be saved.
        max_harm: certify P(accepted and worse than the large model's answer) at most this.
        delta: chance that a certificate does not hold.
        threshold: of the calibrated confidence, instead of one that is chosen here.
        signals: (name, calls) of what the calibration is to take; None for all that the rows
            have, () for no calibration.
        made_for: what the calibration is bound to; rows of other models are left out. Without it
            there are forecasts only.

    Raises:
        ConfigurationError: a limit is none, the store cannot be read, or the runs are of several
            pairs of models.
    """
    limits = Limits(max_loss, min_saving, max_harm, delta, threshold)
    pair = None
    if made_for is not None and made_for.large is not None:
        pair = (made_for.small.name, made_for.large.name)
    rows = await read_rows(store, selection or Selection(), pair)
    # In a thread: fitting takes seconds, and the loop may be that of a service.
    return await asyncio.to_thread(judge, rows, limits, signals=signals, made_for=made_for)


def judge(
    rows: Sequence[Row],
    limits: Limits,
    *,
    signals: Sequence[tuple[str, int]] | None = None,
    made_for: MadeFor | None = None,
) -> Readiness:
    """The same from rows that are read already."""
    usable = [row for row in rows if row.usable]
    priced = [row for row in usable if row.priced]
    present = _forecast(priced, [float(row.accepted) for row in priced], 1.0, limits)
    if present is not None:
        present = present.model_copy(update={"threshold": None})
    made = _propose(usable, limits, signals_of(usable) if signals is None else signals, made_for)
    ways = [_Way("as it is set up", present, 1)] if present else []
    ways += [_Way("calibrated", made.forecast, 2)] if made and made.forecast else []
    hopeful = made is None and signals != () and len(priced) < 2 * LEAST
    verdict, reason, more = _verdict(rows, priced, ways, hopeful=hopeful)
    compared = [row.loss for row in rows if row.loss is not None]
    return Readiness(
        verdict=verdict,
        reason=reason,
        more=more,
        requests=len(rows),
        compared=len(compared),
        not_compared=sum(row.kind == "drafted" and row.loss is None for row in rows),
        failed=sum(row.kind == "failed" for row in rows),
        routed=sum(row.kind == "routed" for row in rows),
        not_drafted=sum(row.kind == "not drafted" for row in rows),
        unpriced=len(usable) - len(priced),
        spent_usd=sum((row.spent_usd for row in rows), Decimal(0)),
        max_loss=limits.max_loss,
        min_saving=limits.min_saving,
        present=present,
        proposed=made and made.forecast,
        calibration=made.calibration if made and made_for else None,
        agreement=1.0 - float(np.mean(np.maximum(compared, 0.0))) if compared else None,
        certificate=made and made.certificate,
        refusal=made and made.refusal,
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to go live; of `parts` rows one is a row of its forecast."""

    name: str
    forecast: Forecast
    parts: int


_ORDER: tuple[Verdict, ...] = ("ready", "too early", "not worth it")


@dataclass(frozen=True, slots=True)
class _Proposal:
    calibration: Calibration
    forecast: Forecast | None
    certificate: Certificate | None = None
    refusal: Refusal | None = None


def _propose(
    rows: Sequence[Row],
    limits: Limits,
    signals: Sequence[tuple[str, int]],
    made_for: MadeFor | None,
) -> _Proposal | None:
    """Fit and choose on one half, measure and prove on the other."""
    names = [name for name, _ in signals]
    order = np.random.default_rng(_SEED).permutation(len(rows))
    fitting, proving = ([rows[i] for i in part] for part in (order[::2], order[1::2]))
    labelled = [
        LabelledDraft(row.features, 1.0 - max(0.0, row.loss), 1.0)
        for row in fitting
        if row.features and row.loss is not None
    ]
    if not names or len(labelled) < LEAST_LABELS or not _one_tier(rows):
        return None
    try:
        calibration = calibrate(labelled, signals, made_for or _NOBODY)
    except ConfigurationError:
        return None  # most drafts have no score: their confidence cannot be calibrated
    threshold = limits.threshold
    if threshold is None:
        priced = [row for row in fitting if row.priced]
        confidence = np.array(_confidences(calibration, priced, names))
        threshold = easiest_threshold(
            _arrays(priced, confidence), max_loss=limits.max_loss, min_saving=limits.min_saving
        )
    priced = [row for row in proving if row.priced]
    found = None
    if threshold is not None:
        found = _forecast(priced, _confidences(calibration, priced, names), threshold, limits)
    return _certified(_Proposal(calibration, found), proving, names, limits)


def _certified(
    made: _Proposal, proving: Sequence[Row], names: Sequence[str], limits: Limits
) -> _Proposal:
    drafted = [row for row in proving if row.loss is not None]
    if limits.max_harm is None or not drafted:
        return made
    confidence = np.array(_confidences(made.calibration, drafted, names))
    found = certify(
        np.where(confidence < 0, np.nan, confidence),
        np.array([1.0 - max(0.0, row.loss or 0.0) for row in drafted]),
        max_harm=limits.max_harm,
        delta=limits.delta,
        valid_until=datetime.now(UTC) + timedelta(days=VALID_DAYS),
    )
    if isinstance(found, Refusal):
        refusal = found.model_copy(update={"halved": True})
        return _Proposal(made.calibration, made.forecast, refusal=refusal)
    calibration = made.calibration.model_copy(update={"certificates": (found,)})
    return _Proposal(calibration, made.forecast, certificate=found)


_NOBODY = MadeFor(
    small=ModelIdentity(name="unknown"),
    large=None,
    task_hash="",
    system_hash=None,
    labels="agreement with the large model",
)


def _one_tier(rows: Sequence[Row]) -> bool:
    """Whether all drafts are of one tier: a calibration is that of one model."""
    return len({row.tier for row in rows if row.tier is not None}) == 1


def _confidences(
    calibration: Calibration, rows: Sequence[Row], names: Sequence[str]
) -> list[float]:
    """Of each row; −1, below every threshold, where there is none."""
    found = (calibration.estimate(row.features, names) if row.features else None for row in rows)
    return [-1.0 if estimate is None else estimate.confidence for estimate in found]


def _arrays(rows: Sequence[Row], confidence: Array) -> ShadowRows:
    return ShadowRows(
        confidence=confidence,
        draft_usd=np.array([float(row.draft_usd or 0) for row in rows]),
        large_usd=np.array([float(row.large_usd or 0) for row in rows]),
        loss=np.array([row.loss or 0.0 for row in rows]),
    )


def _forecast(
    rows: Sequence[Row], confidence: Sequence[float], threshold: float, limits: Limits
) -> Forecast | None:
    arrays = _arrays(rows, np.array(confidence, dtype=np.float64))
    if len(rows) < 2 or not arrays.large_usd.sum() > 0:
        return None
    return forecast(arrays, threshold, max_loss=limits.max_loss, min_saving=limits.min_saving)


def _verdict(
    rows: Sequence[Row], priced: Sequence[Row], ways: Sequence[_Way], *, hopeful: bool
) -> tuple[Verdict, str, int | None]:
    """The best of the ways to go live; `hopeful` when there will be another with more rows."""
    each = len(rows) / len(priced) if priced else 1.0  # requests that a row takes

    def until(n: int) -> int:
        return max(1, math.ceil(each * (n - len(priced))))

    if not priced and any(row.usable for row in rows):
        return "too early", "no request has a known cost: set a price on both tiers", None
    if len(priced) > 1 and not any(row.large_usd for row in priced):
        return "not worth it", "the large model costs nothing: there is nothing to save", 0
    few = f"{len(priced)} shadow requests that can be judged; it takes"
    if not ways:
        return "too early", f"{few} {LEAST} or more", until(LEAST)
    best = min(ways, key=lambda way: _ORDER.index(way.forecast.verdict))
    reason = f"{best.name}: {best.forecast.reason}"
    if best.forecast.verdict == "not worth it" and hopeful:
        reason = f"{reason}; for a calibration there are too few: {few} {2 * LEAST} or more"
        return "too early", reason, until(2 * LEAST)
    if best.forecast.verdict != "too early":
        return best.forecast.verdict, reason, 0
    open_ = (way for way in ways if way.forecast.verdict == "too early")
    more = min(math.ceil(each * way.parts * way.forecast.more) for way in open_)
    return "too early", reason, max(1, more)
