"""A sample of rows that both models answer: it calibrates, and bounds what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cascade.api import Cascade
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.evaluation.scorers import JudgeScorer, Scorer
from cascade.jobs.journal import Record
from cascade.jobs.rows import Row
from cascade.ledger.baseline import AS_DRAFT, BaselineModel
from cascade.ledger.lengths import Lengths, fit_baseline
from cascade.oversight.starting import made_for
from cascade.pausing import Paused

if TYPE_CHECKING:
    from cascade.confidence.calibrating import LabelledDraft
    from cascade.confidence.calibration import Calibration

__all__ = ["Asked", "Learned", "check_sample", "learned", "lot", "seen_by", "upper_bound"]

DELTA = 0.05


@dataclass(frozen=True, slots=True)
class Asked:
    """A row of the sample.

    Attributes:
        row: which one.
        paused: its draft.
        record: the large model's answer.
        agrees: from 0 to 1, whether the draft says the same.
    """

    row: Row
    paused: Paused
    record: Record
    agrees: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What a sample teaches.

    Attributes:
        calibration: P(the draft agrees with the large model).
        seen: of each row of the sample, by a fit that has not seen it.
        lengths: of the large model's answers.
    """

    calibration: Calibration | None
    seen: Sequence[float]
    lengths: BaselineModel


def check_sample(sample: int, scorer: Scorer, *, calibrates: bool) -> None:
    """Refuse a sample that cannot do what it is for.

    Raises:
        ConfigurationError: it is too small, or its answers are compared by a model.
        MissingDependencyError: scikit-learn or scipy is not installed.
    """
    if any(find_spec(package) is None for package in ("numpy", "scipy", "sklearn")):
        raise MissingDependencyError(
            "a sample is evaluated with scikit-learn and scipy: "
            'pip install "agent-cascade[calibrate]".'
        )
    from cascade.confidence.calibrating import LEAST_LABELS  # noqa: PLC0415 - needs numpy

    least = LEAST_LABELS if calibrates else 1
    if sample < least:
        raise ConfigurationError(
            f"sample={sample}: a calibration needs {least} rows or more, and a few hundred to be "
            "good. Give a larger sample, or a calibration."
        )
    if isinstance(scorer, JudgeScorer):
        raise ConfigurationError(
            f"scorer={scorer.spec}: a judge costs money that the budget does not count. Give a "
            "scorer that only computes, such as exact, numeric, choice or json."
        )


def lot(row: Row) -> bytes:
    """The rows with the smallest ones are the sample: the same in every run."""
    return blake2b(f"{row.number} {row.key}".encode(), digest_size=8, person=b"sample").digest()


async def learned(cascade: Cascade, sample: Sequence[Asked], *, calibrates: bool) -> Learned:
    """Fit what a sample can teach.

    Args:
        cascade: that drafted.
        sample: rows that the large model has answered.
        calibrates: whether a calibration is wanted.

    Raises:
        ConfigurationError: too few drafts of the sample have signals.
    """
    lengths = _lengths(sample)
    if not calibrates:
        return Learned(None, (), lengths)
    from cascade.confidence.calibrating import LabelledDraft, calibrate  # noqa: PLC0415 - heavy

    binding = await made_for(cascade.tiers, cascade.task)
    drafts = [LabelledDraft(_signals(asked), asked.agrees) for asked in sample]
    taken = {name: 0 for asked in sample for name in _taken(asked)}
    made = calibrate(drafts, list(taken.items()), binding)
    return Learned(made, _unseen(made, drafts), lengths)


def upper_bound(wrong: int, n: int) -> float:
    """A 95 % upper bound of a share of which `wrong` of `n` were seen (Clopper–Pearson)."""
    import numpy as np  # noqa: PLC0415 - heavy

    from cascade.policies.certify import clopper_pearson_upper  # noqa: PLC0415 - needs numpy

    return float(clopper_pearson_upper(np.array([float(wrong)]), n, DELTA)[0])


def _unseen(made: Calibration, drafts: Sequence[LabelledDraft]) -> list[float]:
    import numpy as np  # noqa: PLC0415 - heavy

    from cascade.confidence.columns import matrix  # noqa: PLC0415 - needs numpy
    from cascade.confidence.fitting import cross_fitted  # noqa: PLC0415 - needs scikit-learn

    stage = made.stages[-1]
    rows = [draft.features for draft in drafts]
    table = matrix(rows, stage.columns, stage.signals, stage.linear)
    seen = cross_fitted(table, np.array([draft.correct for draft in drafts]))
    return [float(confidence) for confidence in seen]


def _lengths(sample: Sequence[Asked]) -> BaselineModel:
    tokens = []
    for asked in sample:
        assert asked.paused.draft is not None, "only drafts are in the sample"
        usage, written = asked.paused.draft.usage, asked.record.output_tokens
        if usage.input_tokens is not None and usage.output_tokens is not None and written:
            tokens.append((usage.input_tokens, usage.output_tokens, written, 1.0))
    return fit_baseline(Lengths(*zip(*tokens, strict=True))) if tokens else AS_DRAFT


def _signals(asked: Asked) -> dict[str, float]:
    return {} if asked.paused.assessment is None else dict(asked.paused.assessment.signals)


def _taken(asked: Asked) -> tuple[str, ...]:
    return () if asked.paused.assessment is None else asked.paused.assessment.taken


def seen_by(paused: Paused, confidence: float) -> Paused:
    """A draft of the sample as a calibration sees it that was fitted without it."""
    assert paused.assessment is not None, "only drafts that were checked are in the sample"
    judged = replace(paused.assessment, confidence=confidence, calibrated=True, p_large=1.0)
    return replace(paused, assessment=judged)
