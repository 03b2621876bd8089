"""Makes a calibration from labelled drafts. Needs scikit-learn and scipy (extra `calibrate`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from cascade._version import __version__
from cascade.confidence.base import LabelledDraft, MadeFor
from cascade.confidence.calibration import (
    Calibration,
    Quality,
    Stage,
)
from cascade.confidence.columns import column_names, matrix, owner, raw_score, unbounded
from cascade.confidence.early import WORST, EarlyRow
from cascade.confidence.fitting import cross_fitted, fit_calibrator, fit_venn_abers
from cascade.confidence.gain import GainHead, cross_fitted_gain, fit_gain
from cascade.confidence.metrics import Array, auroc, brier, ece
from cascade.confidence.signals import wordings
from cascade.errors import ConfigurationError

LEAST_LABELS = 20
"""Below, not even a temperature can be told from noise."""
OUTLOOK_ROWS = 300
EARLY_ROWS = 5_000
"""More would bound the share of lost drafts no better than needs be."""
QUANTILES = 101


def calibrate(
    drafts: Sequence[LabelledDraft],
    signals: Sequence[tuple[str, int]],
    made_for: MadeFor,
) -> Calibration:
    """Fit the stages, free signals first, and measure each on rows it has not seen.

    Args:
        drafts: labelled; those without any raw score are left out.
        signals: (name, calls) of every signal, cheapest first.
        made_for: what the calibration is bound to.

    Raises:
        ConfigurationError: too few labelled drafts.
    """
    names = [name for name, _ in signals]
    usable = [draft for draft in drafts if raw_score(draft.features, names) is not None]
    if len(usable) < LEAST_LABELS:
        raise ConfigurationError(
            f"{len(usable)} labelled drafts with signals: a calibration needs {LEAST_LABELS} or "
            "more, and a few hundred to be good."
        )
    correct = np.array([draft.correct for draft in usable])
    taken = _stages_of(signals)
    fitted = [_fit_stage(usable, correct, stage, names) for stage in taken]
    stages = tuple(
        stage.model_copy(update={"outlook": _outlook(seen, fitted[i + 1][1])})
        if i + 1 < len(fitted)
        else stage
        for i, (stage, seen) in enumerate(fitted)
    )
    last, confidence = fitted[-1]
    table = matrix([draft.features for draft in usable], last.columns, last.signals, last.linear)
    promise = _large(usable, table, correct, confidence)
    return Calibration(
        created_at=datetime.now(UTC),
        library_version=__version__,
        small=made_for.small,
        large=made_for.large,
        task_hash=made_for.task_hash,
        system_hash=made_for.system_hash,
        labels=made_for.labels,
        memory=made_for.memory,
        stages=stages,
        quality=_quality(usable, correct, confidence, names, promise),
        p_large=promise.p_large,
        gain=promise.head,
        confidences=tuple(np.quantile(confidence, np.linspace(0, 1, QUANTILES)).tolist()),
        early=_early(usable, confidence),
        wordings=wordings(names),
    )


def _stages_of(signals: Sequence[tuple[str, int]]) -> list[tuple[str, ...]]:
    """Free signals together, then one paid signal more at each stage."""
    taken = tuple(name for name, calls in signals if not calls)
    stages = [taken] if taken else []
    for name, calls in signals:
        if calls:
            taken = (*taken, name)
            stages.append(taken)
    return stages


def _fit_stage(
    drafts: Sequence[LabelledDraft], correct: Array, taken: tuple[str, ...], names: Sequence[str]
) -> tuple[Stage, Array]:
    """The stage, and the confidence of each row by a fit that has not seen it."""
    rows = [
        {name: value for name, value in draft.features.items() if owner(name, names) in taken}
        for draft in drafts
    ]
    columns = column_names(rows, taken)
    linear = unbounded(rows, columns)
    table = matrix(rows, columns, taken, linear)
    seen = cross_fitted(table, correct)
    stage = Stage(
        signals=taken,
        columns=columns,
        calibrator=fit_calibrator(table, correct),
        band=fit_venn_abers(seen, (correct > 0.5).astype(np.float64)),
        linear=linear,
        scored=any(raw_score(row, taken) is not None for row in rows),
    )
    return stage, seen


def _early(drafts: Sequence[LabelledDraft], confidence: Array) -> tuple[EarlyRow, ...]:
    rows = zip(confidence.tolist(), drafts, strict=True)
    known = [(c, draft.features[WORST]) for c, draft in rows if WORST in draft.features]
    return tuple(sorted(known[:EARLY_ROWS]))


def _outlook(here: Array, after: Array) -> tuple[tuple[float, float], ...]:
    order = np.argsort(here, kind="stable")
    kept = order[np.linspace(0, len(order) - 1, min(OUTLOOK_ROWS, len(order))).astype(int)]
    return tuple((float(here[i]), float(after[i])) for i in kept)


@dataclass(frozen=True, slots=True)
class _Promise:
    """What is known of the large model: p_L, a gain head, and how well the gain is ranked."""

    p_large: float | None = None
    head: GainHead | None = None
    auroc: float | None = None


def _large(
    drafts: Sequence[LabelledDraft], table: Array, correct: Array, confidence: Array
) -> _Promise:
    """p_L, and a gain head where it ranks the gain better than a constant p_L does."""
    known = [draft.large_correct for draft in drafts if draft.large_correct is not None]
    if not known:
        return _Promise()
    rate = float(np.mean(known))
    if len(known) < len(drafts):
        return _Promise(rate)
    large = np.array(known)
    won = ((large > 0.5) & (correct <= 0.5)).astype(np.float64)
    if len(np.unique(won)) < 2:
        return _Promise(rate)
    constant = auroc(-confidence, won)
    ranked = auroc(cross_fitted_gain(table, correct, large), won)
    if ranked <= constant:
        return _Promise(rate, auroc=constant)
    return _Promise(rate, fit_gain(table, correct, large), ranked)


def _quality(
    drafts: Sequence[LabelledDraft],
    correct: Array,
    confidence: Array,
    signals: Sequence[str],
    promise: _Promise,
) -> Quality:
    raw = np.array([raw_score(draft.features, signals) for draft in drafts], dtype=np.float64)
    return Quality(
        n=len(drafts),
        accuracy_small=float(correct.mean()),
        accuracy_large=promise.p_large,
        ece=ece(confidence, correct),
        ece_raw=ece(raw, correct),
        brier=brier(confidence, correct),
        brier_raw=brier(raw, correct),
        auroc=auroc(confidence, correct),
        auroc_gain=promise.auroc,
    )


__all__ = ["LEAST_LABELS", "LabelledDraft", "MadeFor", "calibrate"]
