"""A calibration: what was learned about one small model on labelled examples, as a JSON file.

It knows what it was made for, and refuses to be used for anything else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal

from langchain_core.messages import BaseMessage
from pydantic import BeforeValidator, Field, ValidationError

from cascade.confidence.base import Estimate, Labels, ModelIdentity, digest, system_hash
from cascade.confidence.calibrators import FittedCalibrator, Numbers, VennAbersBand
from cascade.confidence.columns import matrix, raw_score
from cascade.confidence.early import EarlyRow
from cascade.confidence.gain import GainHead
from cascade.confidence.sound import LARGEST, problem_of, unsound_number
from cascade.errors import CalibrationMismatchError, ConfigurationError
from cascade.state import Certificate, Record

NEIGHBOURS = 30
"""Calibration rows that tell what a further signal can do to a confidence like this one."""

NumberOrNaN = Annotated[float, BeforeValidator(lambda v: float("nan") if v is None else v)]
"""JSON has no NaN: it is written as null."""


class Stage(Record):
    """The confidence from the signals taken so far.

    Attributes:
        signals: taken when this stage applies.
        columns: of the feature matrix, `raw` first.
        calibrator: gives P(draft is correct).
        band: Venn–Abers intervals, where there were labels to spare for them.
        outlook: (confidence here, confidence at the next stage) on calibration rows, sorted.
        linear: columns that left [0, 1] on calibration rows: they stay on their own scale.
        scored: whether any signal so far gives a score; without one all that is known is how
            often such drafts are right.
    """

    signals: tuple[str, ...]
    columns: tuple[str, ...]
    calibrator: FittedCalibrator
    band: VennAbersBand | None = None
    outlook: tuple[tuple[float, float], ...] = ()
    linear: tuple[str, ...] = ()
    scored: bool = True


class Quality(Record):
    """How good the confidence is on rows that did not fit it; raw scores beside it.

    `auroc` is NaN where all drafts were right, or all wrong.
    """

    n: int
    accuracy_small: float
    accuracy_large: float | None
    ece: float
    ece_raw: float
    brier: float
    brier_raw: float
    auroc: NumberOrNaN
    auroc_gain: float | None


class Calibration(Record):
    """Signals → P(draft is correct), with what it was made for and how good it is.

    Attributes:
        task_hash: of tools, schema and the small tier's settings.
        system_hash: of the system message; None when the examples had several.
        labels: who said which answers are right.
        memory: version of the memory whose examples the drafts may have been shown; None where
            there was none. Without one, no draft that was shown examples is calibrated by this.
        p_large: share of right answers of the large model, None when it was not asked.
        gain: predicts p_L − p_S per question, where that was better than a constant p_L.
        confidences: quantiles of the confidence of drafts, for an escalation budget.
        certificates: proved on drafts that fitted nothing of this.
        wordings: of the checks among the signals, by name: in other words a check has other
            answers.
        early: of drafts with log-probs, sorted: the confidence that they got in the end, by a fit
            that has not seen them, and their worst stretch, for `Cascade(abort=…)`.
    """

    format: Literal[1] = 1
    created_at: datetime
    library_version: str
    small: ModelIdentity
    large: ModelIdentity | None
    task_hash: str
    system_hash: str | None
    labels: Labels
    memory: str | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)
    quality: Quality
    p_large: float | None = None
    gain: GainHead | None = None
    confidences: Numbers = ()
    certificates: tuple[Certificate, ...] = ()
    early: tuple[EarlyRow, ...] = ()
    wordings: Mapping[str, str] = Field(default_factory=dict)

    @property
    def signals(self) -> tuple[str, ...]:
        """All signals, in the order in which they are taken."""
        return self.stages[-1].signals

    @property
    def calibrated(self) -> bool:
        """Whether the labels showed that the confidence from all signals is a probability."""
        return True

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file.

        Raises:
            ConfigurationError: there is no such file, or it is no calibration of this format, or
                what it says cannot be computed with.
        """
        try:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(LARGEST)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path} is no calibration: it is not text.") from error
        return cls.read(text, str(path))

    @classmethod
    def read(cls, text: str, called: str) -> Calibration:
        """Read what a file of this name says.

        Raises:
            ConfigurationError: it is no calibration of this format, or what it says cannot be
                computed with.
        """
        try:
            read = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigurationError(
                f"{called} is no calibration of this version: {place}: {first['msg']}. "
                "Make it again with `cascade calibrate`."
            ) from error
        number = unsound_number(text)
        problem = problem_of(read) if number is None else f"{number} is no number"
        if problem is not None:
            raise ConfigurationError(
                f"{called} cannot be computed with: {problem}. "
                "Make it again with `cascade calibrate`."
            )
        return read

    def check(self, small: ModelIdentity, large: ModelIdentity, task_hash: str) -> None:
        """Refuse another model or task.

        Raises:
            CalibrationMismatchError: with what differs.
        """
        for what, made_for, found in (("small", self.small, small), ("large", self.large, large)):
            if made_for is None:
                continue
            if made_for.name != found.name:
                raise CalibrationMismatchError(
                    f"the calibration was made for the {what} model {made_for.name}, "
                    f"not for {found.name}: calibrate again."
                )
            if made_for.digest and found.digest and made_for.digest != found.digest:
                raise CalibrationMismatchError(
                    f"the weights of {found.name} have changed since the calibration "
                    f"({made_for.digest[:12]} → {found.digest[:12]}): calibrate again."
                )
        if self.task_hash != task_hash:
            raise CalibrationMismatchError(
                "the calibration was made with other tools, another response_format or other "
                "settings of the small tier: calibrate again, or restore them."
            )

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why this conversation is not of the kind it was made on, or None."""
        if self.system_hash is None or self.system_hash == system_hash(messages):
            return None
        return "the calibration was made with another system message: calibrate again"

    def estimate(self, features: Mapping[str, float], taken: Sequence[str]) -> Estimate | None:
        """P(correct) from the signals taken so far; None when no score came back."""
        stage = self._stage(taken)
        if stage is None or (stage.scored and raw_score(features, stage.signals) is None):
            return None
        row = matrix([features], stage.columns, stage.signals, stage.linear)
        confidence = float(stage.calibrator.predict(row)[0])
        p_large = self.p_large
        if self.gain is not None and len(self.gain.mean) == row.shape[1]:
            p_large = min(1.0, max(0.0, confidence + float(self.gain.predict(row)[0])))
        return Estimate(
            confidence=confidence,
            interval=None if stage.band is None else stage.band.interval(confidence),
            p_large=p_large,
        )

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """Where the next signal led from confidences like this one."""
        stage = self._stage(taken)
        if stage is None or not stage.outlook:
            return ()
        here = itemgetter(0)
        start = bisect_left(stage.outlook, confidence, key=here)
        end = bisect_right(stage.outlook, confidence, key=here)
        middle = (start + end) // 2  # of the equal ones, where there are some
        first = max(0, min(middle - NEIGHBOURS // 2, len(stage.outlook) - NEIGHBOURS))
        return tuple(after for _, after in stage.outlook[first : first + NEIGHBOURS])

    def _stage(self, taken: Sequence[str]) -> Stage | None:
        fitting = [stage for stage in self.stages if set(stage.signals) <= set(taken)]
        return fitting[-1] if fitting else None


__all__ = [
    "Calibration",
    "Labels",
    "ModelIdentity",
    "Quality",
    "Stage",
    "digest",
    "system_hash",
]
