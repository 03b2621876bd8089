"""Drafts with their labels, for calibrations: those that chance chose, apart from those that users
chose to speak of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cascade.ledger.runs import Run, runs_of
from cascade.ledger.store import Selection, Store
from cascade.state import LedgerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledDraft:
    """An accepted draft of which somebody knows whether it was right.

    Attributes:
        run_id: of the run in the ledger.
        confidence: that it was accepted with; None where there was none.
        calibrated: whether that is a probability.
        signals: what was known of it.
        correct: whether it was right: as good as the large model's answer, or as users say.
        weight: how many drafts it stands for: 1/π where an audit was drawn with the chance π
            (Horvitz and Thompson, 1952); 1 for what users say, who stand for nobody but themselves.
    """

    run_id: str
    confidence: float | None
    calibrated: bool
    signals: Mapping[str, float] = field(default_factory=dict)
    correct: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LabelledDrafts:
    """Labels of a ledger, from both sources, which must not be mixed.

    Attributes:
        audited: what random audits found. They are a sample of all accepted drafts, by their
            weights: a calibration or a bound may rest on them.
        said: what users said. Who is angry speaks, who is content does not, and nobody speaks who
            does not notice: their share of wrong drafts says nothing about that of all. They may
            be read, raise a question, order drafts by doubt, and be labels once somebody has drawn
            among them by chance; they are never added to `audited`.
        agreeing, differing: drafts that were audited and judged by users, by whether both say the
            same: how far the users' word can be taken for a label.
    """

    audited: tuple[LabelledDraft, ...] = ()
    said: tuple[LabelledDraft, ...] = ()
    agreeing: int = 0
    differing: int = 0


async def labelled_drafts(ledger: Store, selection: Selection | None = None) -> LabelledDrafts:
    """The labels of accepted drafts that a ledger has now.

    They are derived each time and kept nowhere else: what is deleted from the ledger is in none.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    kept = [(item.entry, item.tags) async for item in ledger.stored(selection or Selection())]
    return labels_of(kept)


def labels_of(entries: Iterable[tuple[LedgerEntry, Mapping[str, str]]]) -> LabelledDrafts:
    """The same of entries with their tags, ordered by time."""
    audited, said = [], []
    same = differ = 0
    for run in runs_of(entries).values():
        decided = run.decided
        if decided is None or decided.action != "accept" or run.outcome != "accepted":
            continue
        loss = None if run.audit is None else run.audit.loss
        wrong = run.said_wrong
        if loss is not None and decided.audit_rate:
            audited.append(_labelled(run, decided, loss <= 0, 1 / decided.audit_rate))
        if wrong is not None:
            said.append(_labelled(run, decided, not wrong, 1.0))
            if loss is not None:
                same += (loss > 0) == wrong
                differ += (loss > 0) != wrong
    return LabelledDrafts(tuple(audited), tuple(said), same, differ)


def _labelled(run: Run, decided: LedgerEntry, correct: bool, weight: float) -> LabelledDraft:
    return LabelledDraft(
        run_id=run.run_id,
        confidence=decided.confidence,
        calibrated=decided.calibrated,
        signals=dict(decided.signals or {}),
        correct=correct,
        weight=weight,
    )
