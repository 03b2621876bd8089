"""The charts of one cascade, drawn from decisions and audits. Needs numpy and scipy.

Decisions before there is a reference are collected to become it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cascade.evaluation.audit.drift import EscalationChart, HarmProcess, SignalDrift
from cascade.oversight.alarms import Drift, Kind, broken_promise
from cascade.state import Action

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

CONFIDENCE = "confidence"
SCORE = "uncalibrated score"
CALIBRATED = "confidence against its calibration"
MOST_WAITING = 2_000
"""Requests that wait for audits; the audit that the oldest of them waits for then counts as not
made, which may hide harm and never invents it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a chart found: an alarm before anybody reacted."""

    kind: Kind
    chart: str
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)


Judge = Callable[[], Finding | None]
"""Judges a full window of a signal; it takes a third of a millisecond, and is done later."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What a calibration says about the confidence in usual times.

    Attributes:
        confidences: quantiles of it.
        size: how many drafts are behind them, and no more than there are quantiles.
    """

    confidences: tuple[float, ...]
    size: int

    @classmethod
    def of(cls, calibration: Calibration | None) -> Usual | None:
        """What is usual; None where the calibration does not know.

        Where paid signals are taken for some drafts only, the confidence at the decision has
        another distribution than on calibration rows, which had them all.
        """
        if calibration is None or len(calibration.stages) > 1:
            return None
        size = min(calibration.quality.n, len(calibration.confidences))
        return cls(calibration.confidences, size) if size > 1 else None


class _Signal:
    """One signal: collects its reference, then window after window."""

    def __init__(self, name: str, options: Drift, drift: SignalDrift | None = None) -> None:
        self.name = name
        self._options = options
        self._drift = drift
        self._values: list[float] = []

    def add(self, value: float) -> Sequence[float]:
        """Take a value; the window to judge, when it completes one."""
        self._values.append(value)
        wanted = self._options.window if self._drift else self._options.reference
        if len(self._values) < wanted:
            return ()
        values, self._values = self._values, []
        if self._drift is not None:
            return values
        self._drift = SignalDrift(reference=tuple(values), alpha=self._options.alpha)
        return ()

    def judge(self, values: Sequence[float]) -> Finding | None:
        """What a window shows."""
        assert self._drift is not None, "a window comes after the reference"
        found = self._drift.judge(values)
        if not found.alarm or found.psi is None or found.ks_p is None:
            return None
        text = (
            f"{self.name} moved: over {len(values)} drafts PSI {found.psi:.2f}, "
            f"Kolmogorov–Smirnov p = {found.ks_p:.1g}"
        )
        return Finding("signals", self.name, text, {"psi": found.psi, "ks_p": found.ks_p})


class Charts:
    """Charts of the signals, the confidence and the escalation rate."""

    def __init__(self, options: Drift, usual: Usual | None = None) -> None:
        self._options = options
        self._signals: dict[str, _Signal] = {}
        self._rate: EscalationChart | None = None
        self._escalated = self._n = 0
        if usual is None:
            return
        drift = SignalDrift(reference=usual.confidences, size=usual.size, alpha=options.alpha)
        self._signals[CALIBRATED] = _Signal(CALIBRATED, options, drift)

    def values(
        self, signals: Mapping[str, float] | None, confidence: float | None, *, calibrated: bool
    ) -> list[Judge]:
        """Take the values of one draft; returns the windows to be judged."""
        due: list[Judge] = []
        values = {**(signals or {}), CONFIDENCE if calibrated else SCORE: confidence}
        if calibrated and CALIBRATED in self._signals:
            values[CALIBRATED] = confidence
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                continue
            chart = self._signals.get(name)
            if chart is None:
                chart = self._signals[name] = _Signal(name, self._options)
            if window := chart.add(value):
                due.append(partial(chart.judge, window))
        return due

    def decided(self, action: Action) -> Finding | None:
        """Take the decision about one draft."""
        escalated = action != "accept"
        if self._rate is None:
            self._n += 1
            self._escalated += escalated
            if self._n >= self._options.reference:
                start = EscalationChart.start(self._escalated, self._n)
                self._rate = start.model_copy(update={"run_length": self._options.run_length})
            return None
        if self._rate.alarm:
            return None
        self._rate = chart = self._rate.update(escalated)
        if not chart.alarm:
            return None
        text = (
            f"the escalation rate {'rose' if chart.up > chart.down else 'fell'}: usual are "
            f"{chart.usual_low:.1%} to {chart.usual_high:.1%}"
        )
        figures = {"usual_low": chart.usual_low, "usual_high": chart.usual_high}
        figures |= {"up": chart.up, "down": chart.down, "n": float(chart.n)}
        return Finding("escalations", "escalation rate", text, figures)


@dataclass(slots=True)
class _Request:
    """A request whose part in the e-process may still be open."""

    run_id: str
    rate: float
    harm: float | None = None
    known: bool = False


class HarmChart:
    """The e-process of harm, fed in the order in which requests were decided.

    Audits end in another order, and which of them ends first may hang on what they find; each
    request therefore waits for those before it. Only with an order fixed beforehand is the product
    an e-process at every look.
    """

    def __init__(self, max_harm: float, delta: float) -> None:
        self.process = HarmProcess(max_harm=max_harm, delta=delta)
        self._waiting: deque[_Request] = deque()
        self._open: dict[str, _Request] = {}

    @property
    def figures(self) -> dict[str, float]:
        """The state of the e-process, for `restore`."""
        process = self.process
        logs = {f"harm_log_{i}": log for i, log in enumerate(process.logs)}
        return {"harm_n": float(process.n), "harm_peak": process.peak, **logs}

    def restore(self, figures: Mapping[str, float]) -> None:
        """Go on from a state; one that is not of this version is left alone."""
        logs = tuple(figures.get(f"harm_log_{i}", math.nan) for i in range(len(self.process.logs)))
        if self.process.n or any(math.isnan(log) for log in logs):
            return
        peak = figures.get("harm_peak", 0.0)
        state = {"n": int(figures.get("harm_n", 0)), "peak": peak, "logs": logs}
        state["alarm"] = peak >= -math.log(self.process.delta)
        self.process = self.process.model_copy(update=state)

    def decided(self, run_id: str, action: Action, rate: float | None) -> Finding | None:
        """A request was decided; an accepted draft is audited with this chance.

        One that cannot be audited says nothing, and is left out; so is one that waits already,
        where a node was executed again.
        """
        if run_id in self._open:
            return None
        if action != "accept":
            self._waiting.append(_Request(run_id, 1.0, known=True))
        elif rate:
            self._open[run_id] = request = _Request(run_id, rate)
            self._waiting.append(request)
        return self._advance()

    def audited(self, run_id: str, harm: float | None) -> Finding | None:
        """What an audit found; None where it was not drawn, failed, or could not compare.

        An audit that fails counts as no harm, which may hide harm and never invents it.
        """
        request = self._open.pop(run_id, None)
        if request is not None:
            request.harm, request.known = harm, True
        return self._advance()

    def _advance(self) -> Finding | None:
        if len(self._waiting) > MOST_WAITING:
            self._waiting[0].known = True
            self._open.pop(self._waiting[0].run_id, None)
        while self._waiting and self._waiting[0].known:
            request = self._waiting.popleft()
            if not self.process.alarm:
                self.process = self.process.update(request.harm, request.rate)
                if self.process.alarm:
                    return self._found()
        return None

    def _found(self) -> Finding:
        process = self.process
        text = (
            f"{broken_promise(process.max_harm, process.n)} E = {math.exp(process.log_e):.0f} ≥ "
            f"{1 / process.delta:.0f}"
        )
        return Finding("harm", "harm", text, {"log_e": process.log_e, **self.figures})
