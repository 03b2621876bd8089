"""Makes a calibration from labelled drafts, and says what it is worth.

Needs scikit-learn and scipy (extra `calibrate`). The result depends on the rows, and not on their
order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from cascade._version import __version__
from cascade.confidence.base import LabelledDraft, MadeFor, digest
from cascade.confidence.calibration import Calibration, Quality, Recommendation, Stage
from cascade.confidence.calibrators import GainHead
from cascade.confidence.columns import Columns, owner, raw_score
from cascade.confidence.early import WORST, EarlyRow
from cascade.confidence.fitting import (
    cross_fitted,
    cross_fitted_gain,
    fit_calibrator,
    fit_gain,
    fit_venn_abers,
    step_share,
)
from cascade.confidence.metrics import Array, auroc, auroc_error, brier, ece, ece_noise
from cascade.confidence.signals import wordings
from cascade.errors import ConfigurationError

LEAST_LABELS = 20
"""Below, not even a slope and a shift can be told from noise."""
LABELS_TO_VERIFY = 100
"""So many show that a raw score needs no calibration; fewer could not tell if it did."""
STANDARD_ERRORS = 1.5
"""How much better than the raw score a fit has to be, so that a calibrated score is left alone."""
TOLERATED_ECE, ECE_SLACK = 0.05, 1.2
"""A confidence counts as calibrated up to this calibration error, or up to the largest that perfect
ones show on so few rows (99 % quantile), with a slack for the noise that cross-fitting adds."""
CERTAIN = 0.005
"""Probabilities nearer to 0 and 1 count as this far, so that one wrong draft does not decide."""
CHANCE_Z, CHANCE_AREA = 1.64, 0.05
"""The AUROC has to be above one half by more than its noise (lower 95 % bound), and by so much."""
OUTLOOK_ROWS = 300
EARLY_ROWS = 5_000
"""More would bound the share of lost drafts no better than needs be."""
QUANTILES = 101


def in_order(drafts: Sequence[LabelledDraft]) -> list[LabelledDraft]:
    """The drafts by id, and by content where they have none.

    Raises:
        ConfigurationError: an id is there twice.
    """
    counts = Counter(draft.id for draft in drafts if draft.id is not None)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ConfigurationError(
            f"{len(twice)} examples are there more than once, such as {twice[0]!r}: copies would "
            "pass for evidence. Leave them out, or give each its own id."
        )
    return sorted(drafts, key=lambda draft: (draft.id or "", _content(draft)))


def _content(draft: LabelledDraft) -> str:
    return digest([dict(draft.features), draft.correct, draft.large_correct])


def halves(
    drafts: Sequence[LabelledDraft], seed: int = 0
) -> tuple[list[LabelledDraft], list[LabelledDraft]]:
    """The drafts that fit a calibration and those that prove a certificate, the same for whichever
    order they come in.

    Raises:
        ConfigurationError: an id is there twice, or each half has too few.
    """
    if len(drafts) < 2 * LEAST_LABELS:
        raise ConfigurationError(
            f"{len(drafts)} labelled drafts: with max_harm one half of them fits and the other "
            f"proves, which needs {2 * LEAST_LABELS} or more."
        )
    ordered = in_order(drafts)
    order = np.random.default_rng(seed).permutation(len(ordered))
    half = len(ordered) // 2
    return [ordered[i] for i in order[:half]], [ordered[i] for i in order[half:]]


def confidences(calibration: Calibration, drafts: Sequence[LabelledDraft]) -> Array:
    """The confidence of each draft with all signals, (n,); NaN where it has none."""
    estimates = [calibration.estimate(draft.features, calibration.signals) for draft in drafts]
    return np.array([math.nan if e is None else e.confidence for e in estimates])


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
        ConfigurationError: too few labelled drafts, or an id that is there twice.
    """
    names = [name for name, _ in signals]
    usable = [d for d in in_order(drafts) if raw_score(d.features, names) is not None]
    if len(usable) < LEAST_LABELS:
        raise ConfigurationError(
            f"{len(usable)} labelled drafts with signals: a calibration needs {LEAST_LABELS} or "
            "more, and a few hundred to be good."
        )
    correct = np.array([draft.correct for draft in usable])
    fitted = [_fit_stage(usable, correct, stage, names) for stage in _stages_of(signals)]
    stages = tuple(
        fit.stage.model_copy(update={"outlook": _outlook(fit.seen, fitted[i + 1].seen)})
        if i + 1 < len(fitted)
        else fit.stage
        for i, fit in enumerate(fitted)
    )
    last = fitted[-1]
    promise = _large(usable, last, correct)
    quality = _quality(last, correct, promise)
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
        quality=quality,
        recommendation=_recommend(last, correct, quality),
        p_large=promise.p_large,
        gain=promise.head,
        gain_share=promise.share,
        confidences=_quantiles(last.seen),
        early=_early(usable, last.seen),
        wordings=wordings(names),
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """A stage, its matrix, and the confidence of each row by a fit that has not seen it.

    `more` is how many more labels it probably takes until the stage is calibrated.
    """

    stage: Stage
    table: Array
    seen: Array
    raw: Array
    more: int


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
) -> _Fit:
    rows = [
        {name: value for name, value in draft.features.items() if owner(name, names) in taken}
        for draft in drafts
    ]
    columns = Columns.of(rows, taken)
    table = columns.matrix(rows)
    scores = [raw_score(row, taken) for row in rows]
    raw = np.array([math.nan if score is None else score for score in scores])
    seen = np.clip(cross_fitted(table, correct), 0.0, 1.0)
    calibrated, more = _evidence(raw, seen, correct)
    stage = Stage(
        signals=taken,
        columns=columns,
        calibrator=fit_calibrator(table, correct),
        calibrated=calibrated,
        band=fit_venn_abers(seen, (correct > 0.5).astype(np.float64)),
        scored=bool(np.isfinite(raw).any()),
    )
    return _Fit(stage, table, seen, raw, more)


def _evidence(raw: Array, seen: Array, correct: Array) -> tuple[bool, int]:
    """Whether the labels show that a confidence is a probability, and how many more it takes.

    Either the fit is better than the raw score by more than its noise, on rows that it has not
    seen; or there are labels enough to see that the raw score was calibrated already. In both
    cases its calibration error has to be that of a calibrated one, up to noise.
    """
    n = len(correct)
    if not _looks_calibrated(seen, correct):
        return False, max(n, LABELS_TO_VERIFY - n)  # as many again
    known = np.isfinite(raw)
    if not known.any():  # the base rate: as often as such drafts are right
        return n >= LABELS_TO_VERIFY, max(0, LABELS_TO_VERIFY - n)
    lower = _log_loss(raw[known], correct[known]) - _log_loss(seen[known], correct[known])
    mean, spread = float(lower.mean()), float(lower.std())
    if mean > STANDARD_ERRORS * spread / math.sqrt(len(lower)):
        return True, 0
    if n >= LABELS_TO_VERIFY and _looks_calibrated(raw[known], correct[known]):
        return True, 0
    waits = [LABELS_TO_VERIFY - n] if n < LABELS_TO_VERIFY else []
    if mean > 0:
        waits.append(math.ceil((STANDARD_ERRORS * spread / mean) ** 2) - n)
    return False, max(1, min(waits, default=n))


def _looks_calibrated(probability: Array, correct: Array) -> bool:
    bound = ECE_SLACK * float(np.quantile(ece_noise(probability), 0.99))
    return ece(probability, correct) <= max(TOLERATED_ECE, bound)


def _log_loss(probability: Array, correct: Array) -> Array:
    p = np.clip(probability, CERTAIN, 1.0 - CERTAIN)
    return np.asarray(-correct * np.log(p) - (1.0 - correct) * np.log1p(-p), dtype=np.float64)


def _early(drafts: Sequence[LabelledDraft], confidence: Array) -> tuple[EarlyRow, ...]:
    rows = zip(confidence.tolist(), drafts, strict=True)
    known = [(c, draft.features[WORST]) for c, draft in rows if WORST in draft.features]
    return tuple(sorted(known[:EARLY_ROWS]))


def _outlook(here: Array, after: Array) -> tuple[tuple[float, float], ...]:
    order = np.argsort(here, kind="stable")
    kept = order[np.linspace(0, len(order) - 1, min(OUTLOOK_ROWS, len(order))).astype(int)]
    return tuple((float(here[i]), float(after[i])) for i in kept)


def _quantiles(confidence: Array) -> tuple[float, ...]:
    quantiles = np.quantile(confidence, np.linspace(0, 1, QUANTILES))
    return tuple(np.clip(quantiles, 0.0, 1.0).tolist())


@dataclass(frozen=True, slots=True)
class _Promise:
    """What is known of the large model: p_L, a gain head, and how well the gain is ranked."""

    p_large: float | None = None
    head: GainHead | None = None
    share: float = 0.0
    auroc: float | None = None


def _large(drafts: Sequence[LabelledDraft], last: _Fit, correct: Array) -> _Promise:
    """p_L, and a gain head as far as it predicts the gain better than a constant p_L does."""
    known = [draft.large_correct for draft in drafts]
    if any(value is None for value in known):
        given = [value for value in known if value is not None]
        return _Promise(float(np.mean(given)) if given else None)
    large = np.array(known, dtype=np.float64)
    rate, gain = float(large.mean()), large - correct
    won = (gain > 0.5).astype(np.float64)
    constant = rate - last.seen
    if not 0 < won.sum() < len(won):
        return _Promise(rate)
    scored = last.stage.scored
    ranked = cross_fitted_gain(last.table, correct, large, scored=scored)
    share = step_share(constant, ranked, gain)
    area = auroc(constant + share * (ranked - constant), won)
    if not share:
        return _Promise(rate, auroc=area)
    return _Promise(rate, fit_gain(last.table, correct, large, scored=scored), share, area)


def _quality(last: _Fit, correct: Array, promise: _Promise) -> Quality:
    known = np.isfinite(last.raw)
    area = auroc(last.seen, correct)
    return Quality(
        n=len(correct),
        accuracy_small=float(correct.mean()),
        accuracy_large=promise.p_large,
        ece=ece(last.seen, correct),
        ece_noise=float(ece_noise(last.seen).mean()),
        ece_raw=ece(last.raw[known], correct[known]) if known.any() else None,
        brier=brier(last.seen, correct),
        brier_raw=brier(last.raw[known], correct[known]) if known.any() else None,
        auroc=None if math.isnan(area) else area,
        auroc_gain=promise.auroc,
    )


def _recommend(last: _Fit, correct: Array, quality: Quality) -> Recommendation:
    """Whether the figures speak for using it."""
    area, n = quality.auroc, quality.n
    known = np.isfinite(last.raw)
    raw = auroc(last.raw[known], correct[known]) if known.any() else math.nan
    if not math.isnan(raw) and raw < 0.5 - CHANCE_Z * _error(raw, correct[known]):
        return Recommendation(
            code="score is reversed",
            text="do not use it: the higher the score, the more often the draft is wrong "
            f"(AUROC {raw:.2f}). Look whether it means the opposite.",
        )
    if float(np.quantile(last.seen, 0.95)) < 0.5:
        return Recommendation(
            code="small model too weak",
            text=f"do not use it: {quality.accuracy_small:.0%} of {n} drafts are right, and hardly "
            "one is more likely right than wrong. Take another small model.",
        )
    if area is not None and area < 0.5 + max(CHANCE_AREA, CHANCE_Z * _error(area, correct)):
        more = _labels_to_tell(area, correct)
        after = f"bring {more} more labels, or " if more else ""
        return Recommendation(
            code="no better than chance",
            text=f"do not use it: on {n} labels the confidence tells right from wrong drafts no "
            f"better than chance (AUROC {area:.2f}): {after}take other signals.",
            more_labels=more,
        )
    if last.stage.calibrated:
        return Recommendation(code="ok", text="the confidence is calibrated on these examples.")
    return Recommendation(
        code="not calibrated",
        text=f"{n} labels do not show that the confidence is a probability (ECE {quality.ece:.3f}, "
        f"noise {quality.ece_noise:.3f}); it is a raw score, marked calibrated=False: to tell, it "
        f"takes about {last.more} more labels.",
        more_labels=last.more,
    )


def _error(area: float, correct: Array) -> float:
    right = int((correct > 0.5).sum())
    return auroc_error(area, right, len(correct) - right)


def _labels_to_tell(area: float, correct: Array) -> int | None:
    """How many more labels would show that an AUROC like this one is above one half."""
    if area < 0.5 + CHANCE_AREA:
        return None
    n = len(correct)
    return max(1, math.ceil(n * (CHANCE_Z * _error(area, correct) / (area - 0.5)) ** 2) - n)
