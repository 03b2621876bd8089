"""A calibration: what was learned about one small model on labelled examples, as a JSON file.

It knows what it was made for, how good it is and whether it should be used, and refuses to be used
for anything else. `cascade.confidence.calibrating` makes it; using it needs numpy alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from langchain_core.messages import BaseMessage
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, ValidationError

from cascade.confidence.base import FEATURES, Features, combine, score_of, shots_of, system_hash
from cascade.errors import CalibrationMismatchError, ConfigurationError
from cascade.state import Certificate, Record

Array = NDArray[np.float64]

NEIGHBOURS = 30
"""Calibration rows that tell what a further signal can do to a confidence like this one."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Fitted(Record):
    """Base of records that are computed with, and hold finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            ConfigurationError: there is none, or it holds nothing that can be computed with.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            why = getattr(error, "strerror", None)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                why = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            raise ConfigurationError(
                f"{path} is no {cls.__name__} of this version ({why}). `cascade calibrate … "
                "--out FILE` makes a Calibration, and `--stop FILE` an EarlyStop."
            ) from error


# --- from features by name to a matrix

RAW = "raw"
"""The raw score of a draft, always the first column."""

_COUNTS = {"token_count", "answer_words", *FEATURES["prompt"]}


class Column(Fitted):
    """A column of a feature matrix with its scale: the logit of a score, kept `margin` from 0 and
    1; the logarithm of a count; all else as it is."""

    name: str
    scale: Literal["logit", "log", "plain"]
    margin: Share = 0.0

    @classmethod
    def of(cls, name: str, values: Array) -> Self:
        """The column of a feature with these values: one that leaves [0, 1] is no score."""
        if name in _COUNTS:
            return cls(name=name, scale="log")
        if name in FEATURES["logprobs"] or ((values < 0.0) | (values > 1.0)).any():
            return cls(name=name, scale="plain")
        # Half of their least distance from 0 and 1. A fixed margin that suits votes would tie the
        # log-probs of a sure model.
        inside = values[(values > 0.0) & (values < 1.0)]
        least = np.minimum(inside, 1.0 - inside).min(initial=1.0) / 2
        return cls(name=name, scale="logit", margin=float(np.clip(least, 1e-6, 0.02)))

    def scaled(self, value: float) -> float:
        """A value on the column's scale; NaN stays."""
        if self.scale == "plain" or math.isnan(value):
            return value
        if self.scale == "log":
            return math.log1p(max(0.0, value))
        p = min(1.0 - self.margin, max(self.margin, value))
        return math.log(p / (1.0 - p))


def with_raw(features: Features, signals: Sequence[str]) -> Features:
    """The features that are finite, and as `RAW` the most doubtful score that the signals give."""
    known = {name: value for name, value in features.items() if math.isfinite(value)}
    raw = combine(score_of(name, features) for name in signals)
    return known if raw is None else {**known, RAW: raw}


def columns_of(rows: Sequence[Features], signals: Sequence[str]) -> tuple[Column, ...]:
    """The columns for the rows that fit, `with_raw`: the raw score, then features in the order of
    trust, of which a calibrator takes as many as there are labels for: scores, then those of the
    draft, then those of texts, which carry little each."""
    found = list(dict.fromkeys(name for row in rows for name in row if name != RAW))
    values = {n: np.array([row[n] for row in rows if n in row]) for n in (RAW, *found)}
    # The only score is the raw score already, but for what of it is clipped.
    found = [n for n in found if n not in signals or not np.array_equal(values[n], values[RAW])]
    scores = [name for name in signals if name in found]
    text = [name for of in ("text", "prompt") for name in found if name in FEATURES[of]]
    draft = [name for name in found if name not in scores and name not in text]
    return tuple(Column.of(name, values[name]) for name in (RAW, *scores, *draft, *text))


def matrix(rows: Sequence[Features], columns: Sequence[Column]) -> Array:
    """(n, d) with NaN where a feature is missing."""
    table = [[c.scaled(row.get(c.name, math.nan)) for c in columns] for row in rows]
    return np.array(table, dtype=np.float64).reshape(len(rows), len(columns))


def owner(feature: str, signals: Collection[str]) -> str | None:
    """The signal that a feature is of: by its name where it is built in, else the longest name that
    it begins with."""
    built_in = [signal for signal, features in FEATURES.items() if feature in features]
    others = [signal for signal in signals if signal not in FEATURES]
    fitting = [s for s in others if feature == s or feature.startswith(f"{s}_")]
    return max(built_in or fitting, key=len, default=None)


# --- fitted maps from a matrix to probabilities


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -30.0, 30.0))), dtype=np.float64)


class Weight(Fitted):
    """Weight of a standardised column; a missing value counts as its mean."""

    column: NonNegativeInt
    mean: float
    scale: PositiveFloat
    weight: float


class Linear(Fitted):
    """σ(b + a·r + Σ w_j (x_j − m_j)/s_j), r the raw logit in column 0."""

    intercept: float
    raw: float = 0.0
    weights: tuple[Weight, ...] = ()

    def predict(self, table: Array) -> Array:
        """One probability per row of an (n, d) matrix."""
        z = self.intercept + self.raw * np.nan_to_num(table[:, 0])
        for w in self.weights:
            z = z + w.weight * np.nan_to_num((table[:, w.column] - w.mean) / w.scale)
        return sigmoid(z)


class FittedCalibrator(Fitted):
    """P(draft is correct): p_0 + θ·(p_1 − p_0), with slope and shift of the raw logit, or the base
    rate (arXiv 1706.04599), as p_0, a logistic regression on several columns (2410.02173) as p_1,
    and θ as `step_share` has it."""

    base: Linear
    full: Linear | None = None
    share: Share = 0.0

    def predict(self, table: Array) -> Array:
        """P(correct) per row."""
        p = self.base.predict(table)
        return p if self.full is None else p + self.share * (self.full.predict(table) - p)


class GainHead(Fitted):
    """The gain of escalating, p_L − p_S, before the large model is asked (arXiv 2404.10136,
    2604.14251). With few labels it ranks drafts as the raw score does."""

    small: Linear
    large: Linear

    def predict(self, table: Array) -> Array:
        """Expected gain p_L − p_S per row."""
        return self.large.predict(table) - self.small.predict(table)


class Stage(Fitted):
    """The confidence from the signals taken so far, which is a probability where the labels showed
    it (`calibrated`), and the base rate where no signal gives a score (not `scored`); `outlook` are
    pairs, sorted, of confidences of calibration rows here and at the next stage."""

    signals: tuple[str, ...]
    columns: tuple[Column, ...]
    calibrator: FittedCalibrator
    calibrated: bool
    outlook: tuple[tuple[Share, Share], ...] = ()
    scored: bool = True


class Quality(Fitted):
    """Quality of the confidence on rows that did not fit it, raw scores beside it; None where it
    cannot be told. `ece_noise` is what perfect probabilities would show on so few rows, and
    `auroc_gain` the AUROC of drafts that the large model would correct."""

    n: int
    accuracy_small: Share
    accuracy_large: Share
    ece: float
    ece_noise: float
    ece_raw: float
    brier: float
    brier_raw: float
    auroc: Share | None
    auroc_gain: Share | None


Code = Literal[
    "ok", "not calibrated", "small model too weak", "score is reversed", "no better than chance"
]


class Recommendation(Fitted):
    """Advice on the use of a calibration: by code, and in a sentence with the way out."""

    code: Code
    text: str

    @property
    def use(self) -> bool:
        """True if it should be used, as a raw score where it is `not calibrated`."""
        return self.code in ("ok", "not calibrated")


class ModelIdentity(Record):
    """A model by name and, where it can be had, by the digest of its weights."""

    name: str
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.name} (weights {(self.digest or '?')[:12]})"


class MadeFor(Record):
    """Bonds of a calibration: hashes of the task (tools, schema, the small tier's settings), of the
    system message and of the `shots_of` the question; None where examples had several."""

    small: ModelIdentity
    large: ModelIdentity
    task_hash: str
    system_hash: str | None
    labels: Literal["references", "people", "agreement with the large model"]
    shots: tuple[int, str] | None = None

    @property
    def binds_prompts(self) -> bool:
        """True if it is for conversations with one beginning alone."""
        return self.system_hash is not None or (self.shots is not None and self.shots[0] > 0)


class Estimate(NamedTuple):
    """P(draft is correct), a raw score unless `calibrated`, and P(large model is correct)."""

    confidence: float
    p_large: float | None = None
    calibrated: bool = True


class Calibration(Fitted, MadeFor):
    """Signals → P(draft is correct), with what it was made for and how good it is.

    Attributes:
        stages: free signals first, then one paid signal more in each.
        gain, gain_share: a head, and how far to go from a constant p_L to it (`step_share`).
        confidences: quantiles of the confidence of drafts, for an escalation budget.
        certificates: proved on drafts that fitted nothing of this.
        early: of drafts with log-probs, sorted, for their early stop.
        wordings: of the checks among the signals, by name.
    """

    format: Literal[1] = 1
    created_at: datetime
    library_version: str
    stages: tuple[Stage, ...] = Field(min_length=1)
    quality: Quality
    recommendation: Recommendation
    p_large: Share
    gain: GainHead | None = None
    gain_share: Share = 0.0
    confidences: tuple[Share, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    early: tuple[tuple[float, float], ...] = ()
    wordings: Mapping[str, str] = Field(default_factory=dict)

    @property
    def signals(self) -> tuple[str, ...]:
        """All signals, in the order in which they are taken."""
        return self.stages[-1].signals

    @property
    def calibrated(self) -> bool:
        """True if the labels showed that the confidence from all signals is a probability."""
        return self.stages[-1].calibrated

    def check(self, small: ModelIdentity, large: ModelIdentity, task_hash: str) -> None:
        """Refuse to be used for anything that it, with its certificates, was not made for.

        Raises:
            CalibrationMismatchError: with what differs.
        """
        for what, known, found in (("small", self.small, small), ("large", self.large, large)):
            digests = {known.digest, found.digest} - {None}
            if known.name != found.name or len(digests) > 1:
                raise CalibrationMismatchError(
                    f"the calibration was made for the {what} model {known}, not for {found}: "
                    "calibrate again."
                )
        if self.task_hash != task_hash:
            raise CalibrationMismatchError(
                "the calibration was made with other tools, another response_format or other "
                "settings of the small tier (temperature, max_tokens, options): give the same, or "
                "calibrate again."
            )

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        """Reason why this conversation is not of the kind it was made on, or None."""
        if self.system_hash not in (None, system_hash(messages)):
            return "the calibration was made with another system message: calibrate again"
        if self.shots is not None and self.shots != shots_of(messages, self.shots[0]):
            return "the calibration was made with other examples before the question: show them"
        return None

    def estimate(self, features: Features, taken: Sequence[str]) -> Estimate | None:
        """P(correct) from the signals taken so far; None when no score came back."""
        stage = self._stage(taken)
        known = {} if stage is None else with_raw(features, stage.signals)
        if stage is None or (stage.scored and RAW not in known):
            return None
        row = matrix([known], stage.columns)
        confidence = float(stage.calibrator.predict(row)[0])
        p_large = self.p_large
        if self.gain is not None and stage is self.stages[-1]:
            predicted = confidence + float(self.gain.predict(row)[0])
            p_large = min(1.0, max(0.0, p_large + self.gain_share * (predicted - p_large)))
        return Estimate(confidence, p_large, stage.calibrated)

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """Confidences to which the next signal led from ones like this, on calibration rows."""
        stage = self._stage(taken)
        pairs = () if stage is None else stage.outlook
        here = [confidence for confidence, _ in pairs]
        # In the middle of the equal ones, where there are some.
        middle = (bisect_left(here, confidence) + bisect_right(here, confidence)) // 2
        first = max(0, min(middle - NEIGHBOURS // 2, len(here) - NEIGHBOURS))
        return tuple(after for _, after in pairs[first : first + NEIGHBOURS])

    def _stage(self, taken: Sequence[str]) -> Stage | None:
        known = (stage for stage in self.stages[::-1] if {*stage.signals} <= {*taken})
        return next(known, None)
