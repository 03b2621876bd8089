"""Drift: a watch over signals, escalations and audits, which hears the entries of the ledger, and
what is done about later decisions at an alarm."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Any, Literal, get_args

from cascade._numbers import to_count, to_number
from cascade.confidence.base import digest
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.ledger.entries import LedgerEntry
from cascade.middleware.background import Background, call_user, lot, patience
from cascade.middleware.base import CascadeMiddleware, Decide, Slot, go_to
from cascade.policies.base import Situation, promises
from cascade.run import CascadeRuntime, Kernel, Run
from cascade.state import Decision, Record

try:
    import numpy as np
    from scipy import special, stats
except ImportError as error:
    raise MissingDependencyError(f"{error}: in a clone, pip install '.[calibrate]'.") from error

logger = logging.getLogger("cascade")

Reaction = Literal["warn", "audit", "large_only"]
"""Reaction to an alarm: tell; audit more accepted drafts; accept nothing, so that nothing is
drafted either."""

Caution = Literal["normal", Reaction]
"""Caution of the cascade: the strictest reaction since the last reset."""

CAUTIONS: tuple[Caution, ...] = get_args(Caution)

Kind = Literal["signals", "escalations", "harm"]
"""Subject of an alarm: a signal moved, the escalation rate did, or more accepted drafts are
wrong than was promised."""

RETRY_S = 15.0
"""Seconds until a ledger that could not be read is asked again."""


class Alarm(Record):
    """Something is not as it was: on which chart (a signal's name, `escalation rate`, `harm`), what
    was found, and how careful the cascade is since then."""

    kind: Kind
    chart: str
    text: str
    caution: Caution


class Drift(CascadeMiddleware):
    """Watch over questions and drafts, and the reaction where they are no longer what they were.

    Signals are compared window by window with the first decisions, the confidence with that of the
    calibration, the escalation rate runs through a CUSUM, and audits through an e-process against
    `max_harm`. Each chart gives one alarm until `reset`: a warning in the log, an entry of node
    `drift` in the ledger, and a call of `on_alarm`. The caution survives a restart where the ledger
    can be read; charts begin anew.

    Args:
        reaction: to every kind of alarm that has none of its own.
        signals, escalations, harm: reactions of their own.
        max_harm: P(accepted and wrong) that audits must not show to be exceeded; by default that of
            the policy's certificate. Without either, harm is not watched.
        reference: decisions from which is learned what is usual; `window`, values of a signal that
            are compared with it at a time.
        on_alarm: is called with each alarm, after the reply; it may be async.

    Attributes:
        alarms: those of this process since the last reset, oldest first.
        alpha: chance of a false alarm of one signal in one window.
        run_length: requests between false alarms of the escalation rate, on average, at least.
        delta: chance that a harm of `max_harm` or less is ever called more.
        audit_factor: from `audit` on, audits are so many times as frequent.
    """

    # Around audits, whose rate it raises, and within deadlines, which have the last word.
    slot = Slot.PROMPTS

    alpha = 0.001
    run_length = 100_000.0
    delta = 0.05
    audit_factor = 4.0

    def __init__(
        self,
        reaction: Reaction = "warn",
        *,
        signals: Reaction | None = None,
        escalations: Reaction | None = None,
        harm: Reaction | None = None,
        max_harm: float | None = None,
        reference: int = 500,
        window: int = 200,
        on_alarm: Callable[[Alarm], Awaitable[None] | None] | None = None,
    ) -> None:
        self.reactions: dict[Kind, Reaction] = {
            "signals": signals or reaction,
            "escalations": escalations or reaction,
            "harm": harm or reaction,
        }
        for value in self.reactions.values():
            if value not in get_args(Reaction):
                words = ", ".join(get_args(Reaction))
                raise ConfigurationError(f"Drift({value!r}): give one of {words}.")
        if max_harm is not None:
            max_harm = to_number("Drift.max_harm", max_harm, above=0, below=1)
        # Below, chance and change are not told apart.
        self.reference = to_count("Drift.reference", reference, least=50)
        self.window = to_count("Drift.window", window, least=20)
        self.max_harm, self.on_alarm = max_harm, on_alarm
        self.caution: Caution = "normal"
        self.alarms: tuple[Alarm, ...] = ()
        self._lock, self._background = RLock(), Background()
        self._kernel: Kernel | None = None
        self._restored, self._retry_at = False, 0.0

    def reset(self) -> None:
        """Back to normal: all charts begin anew, and what comes now is usual."""
        with self._lock:
            before, self.caution, self._restored = self.caution, "normal", True
            self.alarms = ()
            if self._kernel is not None:
                self._begin(self._kernel)
        self._tell(f"reset from {before}")

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> None:
        """Begin to listen, as careful as before a restart; under `large_only` go straight to the
        large model."""
        kernel = runtime.kernel
        with self._lock:
            if self._kernel is None:
                self._kernel = kernel
                self._begin(kernel)
                kernel.ledger.listeners.append(self._hear)
        if self._kernel is not kernel:
            raise ConfigurationError(
                "this Drift watches another cascade: give each of them one of its own."
            )
        if not self._restored and time.monotonic() >= self._retry_at:
            store = kernel.ledger.store
            async with patience(f"{self.name}: the ledger"):
                told = [] if store is None else await store.of_run(self._run_id)
                with self._lock:
                    if told and not self._restored:
                        before = [one for one in CAUTIONS if told[-1].note.startswith(f"{one}:")]
                        self.caution = max([self.caution, *before], key=CAUTIONS.index)
                    self._restored = True
                if self.caution != "normal":
                    logger.warning("%s: still at %s; reset() ends it", self.name, self.caution)
            if not self._restored:  # until then each question would wait for it
                self._retry_at = time.monotonic() + RETRY_S
        if self.caution == "large_only" and run.kind == "answer":
            reason = "after an alarm of drift only the large model answers"
            go_to(run, kernel.tiers, len(kernel.tiers) - 1, reason)

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Decide as carefully as the alarms demand."""
        decision, caution = handler(situation), self.caution
        if caution in ("normal", "warn") or situation.last or decision.once:
            return decision  # `once`: for want of time, or of a larger model
        if caution == "large_only" and decision.action in ("accept", "observe"):
            reason = f"{decision.reason}; but after an alarm only the large model answers"
            update = {"action": "escalate", "tier": None, "audit_rate": None, "reason": reason}
            return decision.model_copy(update=update)
        rate = decision.audit_rate and min(1.0, decision.audit_rate * self.audit_factor)
        return decision.model_copy(update={"audit_rate": rate})

    async def aclose(self) -> None:
        """Finish telling of alarms."""
        await self._background.finish()

    def _begin(self, kernel: Kernel) -> None:
        """Begin all charts anew."""
        self._names = [tier.name for tier in kernel.tiers]
        models = [tier.model.name for tier in kernel.tiers]
        self._run_id = f"{self.name}:{digest([kernel.parts.name, self._names, models])}"
        self._watch = partial(SignalWatch, self.reference, self.window, self.alpha)
        self._signals: dict[str, SignalWatch] = {}
        self._rate = RateWatch(self.reference, self.run_length)
        max_harm = self.max_harm or promises(kernel.policy)
        self._harm = None if max_harm is None else HarmWatch(max_harm, self.delta)
        made = kernel.parts.calibrators.get(self._names[0])
        # Where paid signals are taken for some drafts only, the confidence at the decision has
        # another distribution than on calibration rows, which had all of them.
        if made and len(made.stages) == 1 and made.quality.n >= len(made.confidences) > 0:
            self._signals["confidence"] = self._watch(made.confidences)

    def _hear(self, entry: LedgerEntry) -> None:
        """Draw an entry into the charts; what fails here is logged, and fails no run."""
        decision, harm = entry.decision, self._harm
        with self._lock:
            if entry.node == "verify" and decision and decision.action != "observe":
                if entry.tier == self._names[0]:
                    self._decided(decision)
                accepted, rate = decision.action == "accept", decision.audit_rate
                # One that cannot be audited is left out, an escalated one counts at the last draft.
                if harm and (rate if accepted else entry.tier == self._names[-2:][0]):
                    drawn = accepted and rate and lot(entry.run_id, "audit") < rate
                    harm.decided(entry.run_id, rate if drawn else None)
            elif harm and entry.node == "audit" and entry.model is None:
                # A failed one counts as no harm, which may hide some and never invents it.
                harm.audited(entry.run_id, max(0.0, entry.loss or 0.0))
            if harm:
                self._alarm("harm", "harm", harm.alarm)

    def _decided(self, decision: Decision) -> None:
        """Draw a decision about a draft of the first tier."""
        if self.caution != "large_only":  # then the rate is what that makes of it
            escalated = decision.action != "accept"
            self._alarm("escalations", "escalation rate", self._rate.add(escalated))
        values, p = dict(decision.signals or {}), decision.confidence
        values["confidence" if decision.calibrated else "score"] = math.nan if p is None else p
        for name, value in values.items():
            moved = self._signals.setdefault(name, self._watch()).add(value)
            self._alarm("signals", name, moved and f"{name} moved: {moved}")

    def _alarm(self, kind: Kind, chart: str, text: str | None) -> None:
        if text is None or chart in {alarm.chart for alarm in self.alarms}:
            return
        self.caution = max([self.caution, self.reactions[kind]], key=CAUTIONS.index)
        alarm = Alarm(kind=kind, chart=chart, text=text, caution=self.caution)
        self.alarms += (alarm,)
        self._tell(text)
        if self.on_alarm is not None:
            self._background.start(partial(call_user, self.on_alarm, alarm))

    def _tell(self, text: str) -> None:
        note = f"{self.caution}: {text}"  # its first word is what a restart reads
        logger.warning("%s: %s", self.name, note)
        if self._kernel is not None:
            self._kernel.ledger.book(self._run_id, "drift", note=note)
            self._kernel.ledger.take(self._run_id)  # no run takes it


# --- charts, which say in words what they found where that is an alarm

NOTABLE_PSI, NOTABLE_ODDS = 0.1, 1.5
"""A smaller shift of a signal, or of the escalation rate either way, is no cause for alarm."""

_BETS = np.geomspace(0.002, 0.9, 10)


def psi(reference: Sequence[int], recent: Sequence[int]) -> float:
    """Population stability index Σ (p − q)·ln(p/q) of two histograms; half a count is added."""
    p, q = (np.asarray(counts, dtype=np.float64) + 0.5 for counts in (reference, recent))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))


@dataclass(slots=True)
class SignalWatch:
    """Windows of so many values of a signal, compared with its first values, or with `usual` ones.

    An alarm needs a PSI of at least 0.1 that is beyond chance (PSI ≈ (1/n + 1/m)·χ²), or such a
    Kolmogorov–Smirnov distance, each with half of `alpha`, the chance of a false alarm per window.
    """

    reference: int
    window: int
    alpha: float
    usual: Sequence[float] = ()
    _values: list[float] = field(default_factory=list)

    def add(self, value: float) -> str | None:
        """Take a value; what has moved in the window that it completes."""
        if math.isfinite(value):
            self._values.append(value)
        if len(self._values) < (self.window if self.usual else self.reference):
            return None
        usual, recent, self._values = self.usual, self._values, []
        if not usual:
            self.usual = recent
            return None
        edges = np.unique(np.quantile(usual, np.linspace(0.1, 0.9, 9)))
        before, now = (
            np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1).tolist()
            for part in (usual, recent)
        )
        tested: Any = stats.ks_2samp(usual, recent, method="asymp")
        index, p = psi(before, now), float(tested.pvalue)
        noise = 1.0 / len(usual) + 1.0 / len(recent)
        chance = noise * float(special.chdtri(len(edges), self.alpha / 2))
        moved = index >= max(NOTABLE_PSI, chance) or p < self.alpha / 2
        return f"PSI {index:.2f}, Kolmogorov–Smirnov p = {p:.1g}" if moved else None


class RateWatch:
    """Two-sided Bernoulli CUSUM of the escalation rate (Reynolds and Stoumbos 1999).

    Args:
        reference: first decisions, which are usual: a rate within their 95 % interval
            (Clopper–Pearson) gives no alarm.
        run_length: requests between false alarms, at least: a CUSUM of likelihood ratios with
            limit h has an average run length of e^h or more (Lorden 1971).
    """

    def __init__(self, reference: int, run_length: float) -> None:
        self._reference, self._limit = reference, math.log(2.0 * run_length)
        self._escalated = self._n = 0
        self._low = self._high = self._up = self._down = 0.0

    def add(self, escalated: bool) -> str | None:
        """Take a decision; how the rate has changed, at an alarm."""
        self._n += 1
        if self._n <= self._reference:
            self._escalated += escalated
            if self._n == self._reference:
                usual = stats.binomtest(self._escalated, self._n).proportion_ci()
                self._low, self._high = max(usual.low, 1e-6), min(usual.high, 1 - 1e-6)
            return None
        self._up = max(0.0, self._up + _ratio(self._high, NOTABLE_ODDS, escalated))
        self._down = max(0.0, self._down + _ratio(self._low, 1 / NOTABLE_ODDS, escalated))
        if max(self._up, self._down) < self._limit:
            return None
        word = "rose" if self._up > self._down else "fell"
        return f"the escalation rate {word}: usual are {self._low:.1%} to {self._high:.1%}"


def _ratio(p: float, odds: float, happened: bool) -> float:
    other = odds * p / (1 - p + odds * p)
    return math.log(other / p) if happened else math.log((1 - other) / (1 - p))


class HarmWatch:
    """E_t = Π (1 + η(A·W/π − α)), mixed over bets η and over the time when harm set in.

    While E[accepted · harm] ≤ α (`max_harm`) at every request, P(E ever reaches 1/δ) ≤ δ (Ville).
    Half of the stake is put in at t = 1, 2, … in parts of 1/(t(t+1)), so that it is not lost when
    harm comes late. Requests count in the order of their decisions, since that in which audits end
    may hang on what they find: each waits for those before it, in a queue of `most`. Beyond that
    the oldest audit counts as not made, which may hide harm and never invents it.
    """

    def __init__(self, max_harm: float, delta: float = 0.05, *, most: int = 2_000) -> None:
        self.max_harm, self.delta, self.n = max_harm, delta, 0
        self.alarm: str | None = None
        self._logs = np.full(len(_BETS), -1e300)
        self._most = most
        self._waiting: dict[str, tuple[float, float | None]] = {}

    @property
    def log_e(self) -> float:
        """log E_t, the stake that is still kept back included."""
        if not self.n:
            return 0.0
        mixed = float(np.logaddexp.reduce(self._logs)) - math.log(len(_BETS))
        return float(np.logaddexp(-math.log(2.0 * (self.n + 1)), mixed))

    def decided(self, run_id: str, rate: float | None) -> None:
        """Take a decision with the chance π of the audit that it was drawn for; None where no audit
        is to come."""
        if not self.alarm:
            self._waiting.setdefault(run_id, (1.0, 0.0) if rate is None else (rate, None))
            self._advance()

    def audited(self, run_id: str, harm: float) -> None:
        """Take the harm that an audit found, from 0 to 1; 0 where it failed."""
        if run_id in self._waiting:
            self._waiting[run_id] = (self._waiting[run_id][0], harm)
        self._advance()

    def _advance(self) -> None:
        while self._waiting and not self.alarm:
            run_id, (rate, harm) = next(iter(self._waiting.items()))
            if harm is None and len(self._waiting) <= self._most:
                return
            del self._waiting[run_id]
            self.n += 1
            stake = math.log(0.5 / (self.n * (self.n + 1)) + (0.5 if self.n == 1 else 0.0))
            # The largest bet is fixed by α alone, so that it is known before the request.
            gain = ((harm or 0.0) / rate - self.max_harm) / self.max_harm
            self._logs = np.logaddexp(self._logs, stake) + np.log1p(_BETS * gain)
            if self.log_e >= -math.log(self.delta):
                promised = f"the {self.max_harm:.1%} of all requests that was promised"
                self.alarm = (
                    f"more accepted drafts are wrong than {promised}: after {self.n:,} requests "
                    f"E = {math.exp(self.log_e):.0f} ≥ {1 / self.delta:.0f}"
                )
