"""Drift: a watch over signals, escalations and audits, which hears the entries of the ledger, and
what is done about later decisions at an alarm."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, get_args

from cascade._numbers import to_count, to_number
from cascade.confidence.base import digest
from cascade.errors import ConfigurationError
from cascade.ledger.entries import LedgerEntry
from cascade.middleware.background import Background, call_user, lot, patience
from cascade.middleware.base import CascadeMiddleware, Decide, Slot, go_to
from cascade.policies.base import Situation, promises
from cascade.run import Answer, CascadeRuntime, Kernel, Run
from cascade.state import Decision, Record

if TYPE_CHECKING:
    from cascade.policies.drift import SignalWatch

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
    `max_harm` (`cascade.policies.drift`). Each chart gives one alarm until `reset`: a warning in
    the log, an entry of node `drift` in the ledger, and a call of `on_alarm`. The caution survives
    a restart where the ledger can be read; charts begin anew.

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
                words = ", ".join(get_args(Reaction))
                raise ConfigurationError(f"Drift({value!r}): give one of {words}.")
        if max_harm is not None:
            max_harm = to_number("Drift.max_harm", max_harm, above=0, below=1)
        # Below, chance and change are not told apart.
        self.reference = to_count("Drift.reference", reference, least=50)
        self.window = to_count("Drift.window", window, least=20)
        self.name, self.max_harm, self.on_alarm = name, max_harm, on_alarm
        self._lock = RLock()
        self._background = Background()
        self._kernel: Kernel | None = None
        self._restored, self._retry_at = False, 0.0
        self.caution: Caution = "normal"
        self.alarms: tuple[Alarm, ...] = ()

    def reset(self) -> None:
        """Back to normal: all charts begin anew, and what comes now is usual."""
        with self._lock:
            before, self.caution, self._restored = self.caution, "normal", True
            self.alarms = ()
            if self._kernel is not None:
                self._begin(self._kernel)
        self._tell(f"reset from {before}")

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """Begin to listen, and under `large_only` go straight to the large model."""
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
            await self._restore(kernel)
        if self.caution == "large_only" and run.kind == "answer":
            reason = "after an alarm of drift only the large model answers"
            go_to(run, kernel.tiers, len(kernel.tiers) - 1, reason)
        return None

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

    async def _restore(self, kernel: Kernel) -> None:
        """Learn how careful the cascade was before a restart."""
        store = kernel.ledger.store
        async with patience(f"{self.name}: the ledger"):
            told = [] if store is None else await store.of_run(self._run_id)
            with self._lock:
                word: Any = told[-1].note.partition(":")[0] if told else "normal"
                if not self._restored and word in CAUTIONS:
                    self.caution = CAUTIONS[max(map(CAUTIONS.index, (self.caution, word)))]
                self._restored = True
            if self.caution != "normal":
                logger.warning("%s: still at %s; reset() ends it", self.name, self.caution)
        if not self._restored:  # until then each question would wait for it
            self._retry_at = time.monotonic() + RETRY_S

    def _begin(self, kernel: Kernel) -> None:
        """Begin all charts anew."""
        import cascade.policies.drift as charts  # noqa: PLC0415 - needs numpy and scipy

        self._names = [tier.name for tier in kernel.tiers]
        models = [tier.model.name for tier in kernel.tiers]
        self._run_id = f"{self.name}:{digest([kernel.parts.name, self._names, models])}"
        self._watch = partial(charts.SignalWatch, self.reference, self.window, self.alpha)
        self._signals: dict[str, SignalWatch] = {}
        self._rate = charts.RateWatch(self.reference, self.run_length)
        max_harm = self.max_harm or promises(kernel.policy)
        self._harm = None if max_harm is None else charts.HarmWatch(max_harm, self.delta)
        calibrator: Any = (kernel.parts.calibrators or {}).get(self._names[0])
        usual = getattr(calibrator, "confidences", ())
        # Where paid signals are taken for some drafts only, the confidence at the decision has
        # another distribution than on calibration rows, which had all of them.
        if usual and len(calibrator.stages) == 1 and calibrator.quality.n >= len(usual):
            self._signals["confidence"] = self._watch(usual)

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
                    harm.decided(entry.run_id, rate if accepted else None)
                    if accepted and rate and lot(entry.run_id, "audit") >= rate:
                        harm.audited(entry.run_id, None)  # it was not drawn
            elif harm and entry.node == "audit" and entry.model is None:
                # A failed one counts as no harm, which may hide some and never invents it.
                harm.audited(entry.run_id, max(0.0, entry.loss or 0.0))
            if harm and harm.alarm:
                promised = f"the {harm.max_harm:.1%} of all requests that was promised"
                odds = f"E = {math.exp(harm.log_e):.0f} ≥ {1 / harm.delta:.0f}"
                told = f"wrong than {promised}: after {harm.n:,} requests {odds}"
                self._alarm("harm", "harm", f"more accepted drafts are {told}")

    def _decided(self, decision: Decision) -> None:
        """Draw a decision about a draft of the first tier."""
        # Under `large_only` the rate is what that makes of it.
        alone = self.caution == "large_only"
        rate = None if alone else self._rate.add(decision.action != "accept")
        if rate is not None:
            word = "rose" if rate.up > rate.down else "fell"
            usual = f"usual are {rate.usual_low:.1%} to {rate.usual_high:.1%}"
            self._alarm("escalations", "escalation rate", f"the escalation rate {word}: {usual}")
        values, p = dict(decision.signals or {}), decision.confidence
        values["confidence" if decision.calibrated else "score"] = math.nan if p is None else p
        for name, value in values.items():
            found = self._signals.setdefault(name, self._watch()).add(value)
            if found is not None:
                how = f"PSI {found.psi:.2f}, Kolmogorov–Smirnov p = {found.ks_p:.1g}"
                self._alarm("signals", name, f"{name} moved: {how}")

    def _alarm(self, kind: Kind, chart: str, text: str) -> None:
        if chart in {alarm.chart for alarm in self.alarms}:
            return
        self.caution = CAUTIONS[max(map(CAUTIONS.index, (self.caution, self.reactions[kind])))]
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
