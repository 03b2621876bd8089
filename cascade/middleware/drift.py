"""Drift: a watch over signals, escalations and audits, and what is done at an alarm.

The watch hears ledger entries, as a listener of the ledger: decisions of the verifier with their
signals, and results of audits. What it does about an alarm is a wrap around later decisions.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from cascade.errors import CascadeError, ConfigurationError
from cascade.middleware.background import Background, fingerprint, lot
from cascade.middleware.base import CascadeMiddleware, Decide, Slot
from cascade.policies.base import Situation
from cascade.policies.certified import promises
from cascade.run import Answer, CascadeRuntime, Kernel, Run
from cascade.state import Decision, LedgerEntry, Record

if TYPE_CHECKING:
    from cascade.policies.drift import HarmQueue

logger = logging.getLogger("cascade")

Reaction = Literal["warn", "audit", "tighten", "large_only"]
"""What is done at an alarm: tell; audit more accepted drafts; accept less as well; accept nothing,
so that nothing is drafted either."""

Caution = Literal["normal", "audit", "tighten", "large_only"]
"""How careful the cascade is: the strictest reaction since the last reset."""

CAUTIONS: tuple[Caution, ...] = get_args(Caution)

Kind = Literal["signals", "escalations", "harm"]
"""What an alarm is about: a signal moved, the escalation rate did, or more accepted drafts are
wrong than was promised."""

NODE = "drift"

PATIENCE_S = 2.0
"""Seconds that a question waits to know the caution before a restart."""

RETRY_S = 15.0
"""Seconds until a ledger that could not be read is asked again."""


class Alarm(Record):
    """Something is not as it was.

    Attributes:
        kind: what it is about.
        chart: the signal's name, `escalation rate`, or `harm`.
        text: what was found, in words.
        caution: how careful the cascade is since then.
    """

    kind: Kind
    chart: str
    text: str
    caution: Caution
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Drift(CascadeMiddleware):
    """Watches whether questions and drafts still are what they were, and reacts where not.

    Signals and confidence are compared window by window with the first decisions, and with the
    calibration's (PSI and Kolmogorov–Smirnov); the escalation rate runs through a CUSUM; audits,
    where there are any, through an e-process against `max_harm` (`cascade.policies.drift`). Each
    chart gives one alarm until `reset`: a warning in the log, an entry of node `drift` in the
    ledger, an item of `alarms`, and a call of `on_alarm`. What `tighten` accepts is a part of what
    was accepted before, so a certificate holds on. The caution survives a restart where the ledger
    can be read; charts begin anew.

    Args:
        reaction: to every kind of alarm that has none of its own.
        signals, escalations, harm: reactions of their own.
        max_harm: P(accepted and wrong) that audits must not show to be exceeded; by default that of
            the policy's certificate. Without either, harm is not watched.
        reference: decisions from which is learned what is usual.
        window: values of a signal that are compared with it at a time.
        on_alarm: is called with each alarm, after the reply; it may be async.

    Attributes:
        alpha: chance of a false alarm of one signal in one window.
        run_length: requests between false alarms of the escalation rate, on average, at least.
        delta: chance that a harm of `max_harm` or less is ever called more.
        error_odds: under `tighten` the odds of an error count so many times as high.
        audit_factor: from `audit` on, audits are so many times as frequent.

    Raises:
        ConfigurationError: a value has no meaning, or it watches another cascade already.
        MissingDependencyError: numpy or scipy is not installed.
    """

    # Around audits, whose rate it raises, and within deadlines, which have the last word.
    slot = Slot.PROMPTS

    alpha = 0.001
    run_length = 100_000.0
    delta = 0.05
    error_odds = 2.0
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
        name: str = "drift",
    ) -> None:
        import cascade.policies.drift  # noqa: F401, PLC0415 - says where scipy is missing

        self.reactions: dict[Kind, Reaction] = {
            "signals": signals or reaction,
            "escalations": escalations or reaction,
            "harm": harm or reaction,
        }
        for value in self.reactions.values():
            if value not in get_args(Reaction):
                words = ", ".join(map(repr, get_args(Reaction)))
                raise ConfigurationError(f"Drift({value!r}): give one of {words}.")
        if max_harm is not None and not 0 < max_harm < 1:
            raise ConfigurationError(f"Drift(max_harm={max_harm!r}): a number between 0 and 1.")
        if reference < 50 or window < 20:
            raise ConfigurationError(
                f"Drift(reference={reference!r}, window={window!r}): chance and change are told "
                "apart from 50 and 20 values on."
            )
        self.name, self.max_harm, self.on_alarm = name, max_harm, on_alarm
        self.reference, self.window = reference, window
        self._lock = RLock()
        self._background = Background()
        self._kernel: Kernel | None = None
        self._restored, self._retry_at = False, 0.0
        self._caution: Caution = "normal"
        self._alarms: list[Alarm] = []

    @property
    def caution(self) -> Caution:
        """How careful the cascade is at present."""
        return self._caution

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms of this process since the last reset, oldest first."""
        return tuple(self._alarms)

    def reset(self) -> None:
        """Back to normal: all charts begin anew, and what comes now is usual."""
        with self._lock:
            before, self._caution, self._restored = self._caution, "normal", True
            self._alarms.clear()
            if self._kernel is not None:
                self._charts = Charts(self, self._kernel)
        self._tell(f"reset from {before}")

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """Begin to listen, and under `large_only` go straight to the large model."""
        kernel = runtime.kernel
        if kernel is not self._kernel:
            self._watch(kernel)
        if not self._restored:
            await self._restore(kernel)
        shut = run.settings.get("local_only") and not kernel.tiers[-1].local
        if self._caution == "large_only" and run.kind == "answer" and not shut:
            run.tier = len(kernel.tiers) - 1
            reason = "after an alarm of drift only the large model answers"
            run.decision = Decision(action="escalate", reason=reason)
        return None

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Decide as carefully as the alarms demand."""
        caution, confidence = self._caution, situation.assessment.confidence
        if caution == "normal" or situation.last:
            return handler(situation)
        why = "only the large model answers" if caution == "large_only" else ""
        if caution == "tighten" and confidence is not None:
            odds = f"the odds of an error count {self.error_odds:g}-fold"
            decision = handler(self._doubted(situation))
            reason = f"{decision.reason}; after an alarm {odds}"
            decision = decision.model_copy(update={"confidence": confidence, "reason": reason})
            # Also where it was decided before the alarm, and only the answer was kept.
            why = odds if self._doubt(confidence) < (decision.threshold or 0.0) else ""
        else:
            decision = handler(situation)
        if decision.once:
            return decision  # for want of time, or of a larger model
        last_word = decision.action == "accept" or caution == "large_only"
        if why and last_word and decision.action in ("accept", "observe"):
            reason = f"{decision.reason}; but after an alarm {why}"
            update = {"action": "escalate", "tier": None, "audit_rate": None, "reason": reason}
            return decision.model_copy(update=update)
        if decision.audit_rate is None:
            return decision
        rate = min(1.0, decision.audit_rate * self.audit_factor)
        return decision.model_copy(update={"audit_rate": rate})

    async def aclose(self) -> None:
        """Finish telling of alarms."""
        await self._background.finish()

    def _doubt(self, p: float) -> float:
        """A confidence with the odds of an error multiplied: p / (p + k·(1 − p)). It keeps the
        order of confidences, and makes none higher."""
        return p / (p + self.error_odds * (1.0 - p))

    def _doubted(self, situation: Situation) -> Situation:
        seen, signal = situation.assessment, situation.next_signal
        assert seen.confidence is not None
        ends = seen.interval and (self._doubt(seen.interval[0]), self._doubt(seen.interval[1]))
        seen = replace(seen, confidence=self._doubt(seen.confidence), interval=ends)
        if signal is not None:
            signal = replace(signal, outlook=tuple(map(self._doubt, signal.outlook)))
        return replace(situation, assessment=seen, next_signal=signal)

    # --- alarms

    def _watch(self, kernel: Kernel) -> None:
        with self._lock:
            if self._kernel is None:
                self._kernel, self._charts = kernel, Charts(self, kernel)
                kernel.ledger.listeners.append(self._hear)
            elif self._kernel is not kernel:
                raise ConfigurationError(
                    "this Drift watches another cascade: give each of them one of its own."
                )

    def _hear(self, entry: LedgerEntry) -> None:
        """Draw an entry into the charts; what fails here must not fail the run."""
        try:
            with self._lock:
                for kind, chart, text in self._charts.draw(entry, self._caution):
                    self._alarm(kind, chart, text)
        except Exception:
            logger.exception("%s: an entry could not be drawn", self.name)

    def _alarm(self, kind: Kind, chart: str, text: str) -> None:
        reaction = self.reactions[kind]
        if reaction != "warn":
            self._caution = _stricter(self._caution, reaction)
        alarm = Alarm(kind=kind, chart=chart, text=text, caution=self._caution)
        self._alarms.append(alarm)
        self._tell(text)
        if self.on_alarm is not None:
            self._background.start(partial(_call, self.on_alarm, alarm))

    def _tell(self, text: str) -> None:
        note = f"{self._caution}: {text}"  # its first word is what a restart reads
        logger.warning("%s: %s", self.name, note)
        if self._kernel is not None:
            ledger, run_id = self._kernel.ledger, self._run_id(self._kernel)
            ledger.book(run_id, NODE, note=note)
            ledger.take(run_id)  # no run takes it

    def _run_id(self, kernel: Kernel) -> str:
        return f"{self.name}:{fingerprint(kernel)}"

    async def _restore(self, kernel: Kernel) -> None:
        """Learn how careful the cascade was before a restart."""
        store = kernel.ledger.store
        if time.monotonic() < self._retry_at:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                events = [] if store is None else await store.of_run(self._run_id(kernel))
        except (CascadeError, TimeoutError) as error:
            self._retry_at = time.monotonic() + RETRY_S
            logger.warning("%s: the ledger cannot be read: %r", self.name, error)
            return
        word: Any = events[-1].note.partition(":")[0] if events else "normal"
        with self._lock:
            if not self._restored and word in CAUTIONS[1:]:
                self._caution = _stricter(self._caution, word)
                logger.warning("%s: still at %s; reset() ends it", self.name, self._caution)
            self._restored = True


def _stricter(a: Caution, b: Caution) -> Caution:
    return CAUTIONS[max(CAUTIONS.index(a), CAUTIONS.index(b))]


async def _call(told: Callable[[Alarm], Awaitable[None] | None], alarm: Alarm) -> None:
    said = await asyncio.to_thread(told, alarm)
    if inspect.isawaitable(said):
        await said


Finding = tuple[Kind, str, str]
"""Kind, chart and words of an alarm."""


class Charts:
    """Charts of one cascade, drawn from its ledger entries; each gives one alarm."""

    def __init__(self, options: Drift, kernel: Kernel) -> None:
        from cascade.policies.drift import (  # noqa: PLC0415 - needs numpy and scipy
            HarmProcess,
            HarmQueue,
            RateWatch,
            SignalDrift,
            SignalWatch,
        )

        self._first, self._last = kernel.tiers[0].name, kernel.tiers[-2:][0].name
        self._watch = partial(SignalWatch, options.reference, options.window, options.alpha)
        self._signals: dict[str, SignalWatch] = {}
        self._rate = RateWatch(options.reference, options.run_length)
        self._alarmed: set[str] = set()
        max_harm = options.max_harm or promises(kernel.policy)
        self._harm: HarmQueue | None = None
        if max_harm is not None:
            self._harm = HarmQueue(HarmProcess(max_harm=max_harm, delta=options.delta))
        calibrator: Any = (kernel.parts.calibrators or {}).get(self._first)
        known = getattr(calibrator, "confidences", ())
        self._calibrated: SignalWatch | None = None
        # Where paid signals are taken for some drafts only, the confidence at the decision has
        # another distribution than on calibration rows, which had all of them.
        if len(known) > 1 and len(calibrator.stages) == 1:
            size = min(calibrator.quality.n, len(known))
            usual = SignalDrift(reference=tuple(known), size=size, alpha=options.alpha)
            self._calibrated = self._watch(usual)

    def draw(self, entry: LedgerEntry, caution: Caution) -> list[Finding]:
        """Take in an entry; what that shows for the first time."""
        fresh = [one for one in self._found(entry, caution) if one[1] not in self._alarmed]
        self._alarmed |= {chart for _, chart, _ in fresh}
        return fresh

    def _found(self, entry: LedgerEntry, caution: Caution) -> Iterator[Finding]:
        decision = entry.decision
        if entry.node == "audit" and entry.model is None:
            # A failed one counts as no harm, which may hide some and never invents it.
            yield from self._audited(entry.run_id, entry.loss)
        if entry.node != "verify" or decision is None or decision.action == "observe":
            return
        yield from self._harmed(entry, decision)
        if entry.tier != self._first:
            return
        # Under a stricter reaction the rate is what that makes of it.
        if caution in ("normal", "audit"):
            rate = self._rate.add(decision.action != "accept")
            if rate is not None:
                word = "rose" if rate.up > rate.down else "fell"
                usual = f"usual are {rate.usual_low:.1%} to {rate.usual_high:.1%}"
                yield "escalations", "escalation rate", f"the escalation rate {word}: {usual}"
        yield from self._moved(decision)

    def _moved(self, decision: Decision) -> Iterator[Finding]:
        kind, p = "confidence" if decision.calibrated else "score", decision.confidence
        values = {**(decision.signals or {}), **({} if p is None else {kind: p})}
        watched = [
            (name, value, self._signals.setdefault(name, self._watch()))
            for name, value in values.items()
        ]
        if decision.calibrated and p is not None and self._calibrated is not None:
            watched.append(("confidence against its calibration", p, self._calibrated))
        for name, value, watch in watched:
            found = watch.add(value)
            if found is not None:
                how = f"PSI {found.psi:.2f}, Kolmogorov–Smirnov p = {found.ks_p:.1g}"
                yield "signals", name, f"{name} moved: {how}"

    def _harmed(self, entry: LedgerEntry, decision: Decision) -> Iterator[Finding]:
        """A request was decided; one that cannot be audited says nothing, and is left out."""
        accepted, rate = decision.action == "accept", decision.audit_rate
        if self._harm is None or (not rate if accepted else entry.tier != self._last):
            return
        if self._harm.decided(entry.run_id, rate if accepted else None):
            yield self._broken(self._harm)
        elif accepted and lot(entry.run_id, "audit") >= (rate or 0.0):
            yield from self._audited(entry.run_id, None)  # it was not drawn

    def _audited(self, run_id: str, loss: float | None) -> Iterator[Finding]:
        harm = None if loss is None else max(0.0, loss)
        if self._harm is not None and self._harm.audited(run_id, harm):
            yield self._broken(self._harm)

    @staticmethod
    def _broken(harm: HarmQueue) -> Finding:
        e, process = math.exp(harm.process.log_e), harm.process
        text = (
            f"more accepted drafts are wrong than the {process.max_harm:.1%} of all requests that "
            f"was promised: after {process.n:,} requests E = {e:.0f} ≥ {1 / process.delta:.0f}"
        )
        return "harm", "harm", text
