"""A calibration: what was learned about one small model on labelled examples, as a JSON file.

It knows what it was made for, how good it is and whether it should be used, and refuses to be used
for anything else. `cascade.confidence.calibrating` makes it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Literal, Self

from langchain_core.messages import BaseMessage
from pydantic import Field, ValidationError, model_validator

from cascade.confidence.base import Estimate, Features, Labels, ModelIdentity, system_hash
from cascade.confidence.calibrators import (
    Fitted,
    FittedCalibrator,
    GainHead,
    Share,
    VennAbersBand,
)
from cascade.confidence.columns import Columns, raw_score
from cascade.confidence.early import EarlyRow
from cascade.errors import CalibrationMismatchError, ConfigurationError
from cascade.state import Certificate

LARGEST = 64 * 2**20
"""Bytes of a file; usual ones have less than a hundred thousand."""
NEIGHBOURS = 30
"""Calibration rows that tell what a further signal can do to a confidence like this one."""


class Stage(Fitted):
    """The confidence from the signals taken so far.

    Attributes:
        signals: taken when this stage applies.
        columns: of the feature matrix.
        calibrator: gives P(draft is correct).
        calibrated: whether the labels showed that this is a probability.
        band: Venn–Abers intervals.
        outlook: (confidence here, confidence at the next stage) on calibration rows, sorted.
        scored: whether any signal so far gives a score; without one all that is known is how
            often such drafts are right.
    """

    signals: tuple[str, ...]
    columns: Columns
    calibrator: FittedCalibrator
    calibrated: bool
    band: VennAbersBand | None = None
    outlook: tuple[tuple[Share, Share], ...] = ()
    scored: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.calibrator.width > len(self.columns.names):
            raise ValueError("the calibrator reads columns that are not there")
        if list(self.outlook) != sorted(self.outlook, key=itemgetter(0)):
            raise ValueError("the outlook is not sorted")
        return self


class Quality(Fitted):
    """How good the confidence is on rows that did not fit it; raw scores beside it.

    Attributes:
        n: labelled drafts.
        accuracy_small: share of right drafts.
        accuracy_large: share of right answers of the large model, None when it was not asked.
        ece: expected calibration error; `ece_noise` is what perfect probabilities would show on so
            few rows, `ece_raw` that of the raw score (None without one).
        brier: mean squared error; `brier_raw` that of the raw score.
        auroc: how well right drafts are told from wrong ones; None where all were one of them.
        auroc_gain: the same for drafts that the large model would correct.
    """

    n: int
    accuracy_small: Share
    accuracy_large: Share | None
    ece: float
    ece_noise: float
    ece_raw: float | None
    brier: float
    brier_raw: float | None
    auroc: Share | None
    auroc_gain: Share | None


class Recommendation(Fitted):
    """Whether to use a calibration.

    Attributes:
        code: the reason, for machines. `ok`; `not calibrated`: the labels do not show that the
            confidence is a probability, and it is used as a raw score; the others speak against
            any use.
        text: the reason in a sentence, with the way out.
        more_labels: how many more it probably takes to know better, None where more would not
            help or nothing is missing.
    """

    code: Literal[
        "ok",
        "not calibrated",
        "small model too weak",
        "score is reversed",
        "no better than chance",
    ]
    text: str
    more_labels: int | None = None

    @property
    def use(self) -> bool:
        """Whether it should be used at all."""
        return self.code in ("ok", "not calibrated")


class Calibration(Fitted):
    """Signals → P(draft is correct), with what it was made for and how good it is.

    Attributes:
        task_hash: of tools, schema and the small tier's settings.
        system_hash: of the system message; None when the examples had several.
        labels: where the labels come from.
        memory: version of the memory whose examples the drafts may have been shown; None where
            there was none. Without one, no draft that was shown examples is calibrated by this.
        stages: free signals first, then one paid signal more in each.
        p_large: share of right answers of the large model, None when it was not asked.
        gain: predicts p_L − p_S per question, where that was better than a constant p_L.
        gain_share: how far to go from the constant to it (`step_share`).
        confidences: quantiles of the confidence of drafts, for an escalation budget.
        certificates: proved on drafts that fitted nothing of this.
        wordings: of the checks among the signals, by name: in other words a check has other
            answers.
        early: of drafts with log-probs, sorted: the confidence that they got in the end, by a fit
            that has not seen them, and their worst stretch, for the early stop of drafts.
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
    recommendation: Recommendation
    p_large: Share | None = None
    gain: GainHead | None = None
    gain_share: Share = 0.0
    confidences: tuple[Share, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    early: tuple[EarlyRow, ...] = ()
    wordings: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gain is not None and self.gain.width > len(self.stages[-1].columns.names):
            raise ValueError("the gain head reads columns that are not there")
        for promise in self.certificates:
            figures = (promise.max_harm, promise.delta, promise.coverage, promise.bound)
            shares = all(0 <= share <= 1 for share in (*figures, promise.threshold))
            if not shares or not 0 <= promise.errors <= promise.n:
                raise ValueError("the figures of a certificate are none")
        return self

    @property
    def signals(self) -> tuple[str, ...]:
        """All signals, in the order in which they are taken."""
        return self.stages[-1].signals

    @property
    def calibrated(self) -> bool:
        """Whether the labels showed that the confidence from all signals is a probability."""
        return self.stages[-1].calibrated

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file.

        Raises:
            ConfigurationError: there is no such file, or it is no calibration of this format, or
                its figures cannot be computed with.
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
        """Read the text of a file of this name.

        Raises:
            ConfigurationError: it is no calibration of this format, or its figures cannot be
                computed with.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigurationError(
                f"{called} is no calibration of this version: {place}: {first['msg']}. "
                "Make it again with `cascade calibrate`."
            ) from error

    def check(self, small: ModelIdentity, large: ModelIdentity, task_hash: str) -> None:
        """Refuse to be used for anything that it was not made for.

        Certificates are void with it: a promise holds for these models and this task.

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

    def estimate(self, features: Features, taken: Sequence[str]) -> Estimate | None:
        """P(correct) from the signals taken so far; None when no score came back."""
        stage = self._stage(taken)
        if stage is None or (stage.scored and raw_score(features, stage.signals) is None):
            return None
        row = stage.columns.matrix([features])
        confidence = float(stage.calibrator.predict(row)[0])
        p_large = self.p_large
        if p_large is not None and self.gain is not None and stage is self.stages[-1]:
            predicted = confidence + float(self.gain.predict(row)[0])
            p_large = p_large + self.gain_share * (predicted - p_large)
            p_large = min(1.0, max(0.0, p_large))
        return Estimate(
            confidence=confidence,
            interval=None if stage.band is None else stage.band.interval(confidence),
            p_large=p_large,
            calibrated=stage.calibrated,
        )

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """Confidences to which the next signal led from ones like this, on calibration rows."""
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
