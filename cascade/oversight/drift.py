"""The watch for drift: draws the charts, and reacts when one of them gives an alarm."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from cascade._background import Background
from cascade._patience import READY_S, Patience
from cascade._portal import portal_loop
from cascade.agents.watching import Case
from cascade.errors import MissingDependencyError
from cascade.oversight.alarms import Alarm, Drift, Kind, after, stricter
from cascade.oversight.drift_events import (
    ALARM,
    DriftEvents,
    Remembered,
    after_reply,
    caution_in,
    charts_in,
)
from cascade.policies import Caution, Guard
from cascade.state import Assessment

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration
    from cascade.oversight.charts import Charts, Finding, HarmChart, Judge

SNAPSHOT_EVERY = 50
"""Finished audits after which the e-process is put into the ledger: a killed process loses no
more of its evidence."""

OVERLAP = timedelta(minutes=1)
"""So far back events of other processes are read again: clocks differ, and writing takes a while.
"""

NEVER = datetime.min.replace(tzinfo=UTC)

ALONE = 1e-300
"""A chance of a false alarm that no evidence reaches."""

logger = logging.getLogger("cascade")


class Evidence(NamedTuple):
    """What one process has seen of harm.

    Attributes:
        since: the last reset.
        max_harm: what was promised.
        n: requests.
        log_e: log of its e-process. Those of processes that see other requests add up: each factor
            is at most 1 in expectation, whatever the others have seen, so that the product of
            e-processes is one.
    """

    since: datetime
    max_harm: float
    n: int
    log_e: float


class DriftWatch:
    """Watches signals, escalations and audits, and makes the guard more careful at an alarm.

    Each chart gives one alarm until `reset`. Alarms are warnings in the log, entries in the ledger,
    and calls of `Drift.on_alarm`. After a restart the ledger tells the caution, which charts gave
    their alarms, the state of the e-process, and from earlier decisions what is usual.

    Args:
        options: what to watch, and how to react.
        guard: carries the caution on to the policy, the router and the auditor.
        events: the ledger.
        background: does what takes time after the reply.
        tier: the one that drafts first.
        max_harm: what was promised; None where harm is not watched.
        calibration: has confidences to compare with.

    Raises:
        MissingDependencyError: numpy or scipy is not installed.
    """

    def __init__(
        self,
        options: Drift,
        guard: Guard,
        events: DriftEvents,
        background: Background,
        *,
        tier: str,
        max_harm: float | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if find_spec("numpy") is None or find_spec("scipy") is None:
            raise MissingDependencyError(
                'the watch for drift needs numpy and scipy: pip install "agent-cascade[calibrate]".'
            )
        from cascade.oversight.charts import Usual  # noqa: PLC0415 - needs numpy and scipy

        self.options = options
        self._guard = guard
        self._events = events
        self._background = background
        self._tier = tier
        self._usual = Usual.of(calibration)
        self._max_harm = max_harm
        self._lock = threading.Lock()
        self._reset_at = NEVER
        self._followed = datetime.now(UTC)
        self._one_of_several = False
        self._restored: Future[bool] | None = None
        self._patience = Patience(READY_S)
        self._begin()

    def _begin(self) -> None:
        from cascade.oversight.charts import Charts, HarmChart  # noqa: PLC0415

        self._charts: Charts = Charts(self.options, self._usual)
        self._harm: HarmChart | None = None
        if self._max_harm is not None:
            # One of several joins its evidence with the others', and gives no alarm by itself.
            delta = ALONE if self._one_of_several else self.options.delta
            self._harm = HarmChart(self._max_harm, delta)
        self._unsaved = 0
        self._alarmed: set[str] = set()
        self.alarms: list[Alarm] = []

    @property
    def caution(self) -> Caution:
        """How careful the cascade is at present."""
        return self._guard.caution

    def reset(self) -> None:
        """Back to normal: all charts begin anew, and what comes now is usual.

        The confidence is still compared with that of the calibration's examples, too: make a new
        calibration if that does not fit.
        """
        with self._lock:
            before = self._guard.caution
            self._restored = _done()  # what was before it is over, also where nobody read it yet
            at = datetime.now(UTC)
            self._begin_anew(at)
        logger.warning("%s: drift: reset from %s to normal", self._events.name, before)
        self._events.write(f"reset from {before}", "normal", {"reset": 1.0}, at)

    def _begin_anew(self, at: datetime) -> None:
        self._guard.caution = "normal"
        self._reset_at = at
        self._begin()

    # As one of several processes that share a ledger --------------------------------------

    def share(self) -> None:
        """Be one of several processes with the same cascade, before it has seen a question.

        From then on `follow` has to be called from time to time, and harm is an alarm only where
        the evidence of all together is enough, which is for whoever adds it up.
        """
        with self._lock:
            self._one_of_several = True
            self._begin()

    @property
    def evidence(self) -> Evidence | None:
        """What this process has seen of harm since the last reset; None where it is not watched."""
        with self._lock:
            if self._harm is None or self._max_harm is None:
                return None
            process = self._harm.process
            return Evidence(self._reset_at, self._max_harm, process.n, process.log_e)

    @property
    def place(self) -> str:
        """What tells this cascade's events and evidence from those of others in a ledger."""
        return self._events.place

    async def follow(self) -> None:
        """Be as careful as the others are since their alarms, or normal since their reset.

        Raises:
            LedgerError: the database cannot be reached.
        """
        now = datetime.now(UTC)
        for entry in await self._events.since(self._followed - OVERLAP):
            self._take_over(entry.at, dict(entry.signals or {}))
        self._followed = now

    def _take_over(self, at: datetime, figures: Mapping[str, float]) -> None:
        with self._lock:
            before = self._guard.caution
            if at <= self._reset_at:
                return
            if "reset" in figures:
                self._begin_anew(at)
            elif charts := charts_in(figures):
                self._alarmed |= charts
                self._guard.caution = stricter(before, caution_in(figures))
            caution = self._guard.caution
        if caution != before:
            name = self._events.name
            logger.warning("%s: drift: as another process says: %s → %s", name, before, caution)

    # As a watcher of decisions ------------------------------------------------------------

    def audit_rate(self, case: Case) -> float | None:
        """None: it audits nothing itself."""
        del case
        return None

    def judged(self, case: Case, *, own_policy: bool = True) -> None:
        """Draw a decision into the charts.

        What another policy decided says nothing about how often this one escalates, or about
        what it promised: of it, only the draft is drawn.
        """
        action = case.decision.action
        if action == "observe":
            return
        if self._restored is None:
            self._restore()
        first, found = case.draft.tier == self._tier, []
        with self._lock:
            if own_policy and self._harm is not None:
                found.append(self._harm.decided(case.run.id, action, case.audit_rate))
            # After that the rate is what the reaction makes of it.
            if own_policy and first and self._guard.caution in ("normal", "audit"):
                found.append(self._charts.decided(action))
            due = self._values(case.assessment) if first else []
        for finding in found:
            self._react(finding)
        for judge in due:
            after_reply(self._background, partial(self._judge, judge))

    def _values(self, draft: Assessment) -> list[Judge]:
        return self._charts.values(draft.signals, draft.confidence, calibrated=draft.calibrated)

    # As a listener to the auditor ---------------------------------------------------------

    def audited(self, run_id: str, loss: float | None) -> None:
        """How an accepted draft fared that had a chance of being audited.

        Args:
            run_id: of the request.
            loss: how much better the large model's answer is, in [−1, 1]; what is above 0 is harm.
                None where it was not drawn, failed, or could not be compared.
        """
        if self._harm is None:
            return
        with self._lock:
            found = self._harm.audited(run_id, None if loss is None else max(0.0, loss))
            self._unsaved += loss is not None
            due = self._unsaved >= SNAPSHOT_EVERY
        self._react(found)
        if due:
            self._snapshot()

    # Alarms -------------------------------------------------------------------------------

    def alarm(
        self, kind: Kind, chart: str, text: str, figures: Mapping[str, float] | None = None
    ) -> None:
        """React to something that was found, unless this chart gave its alarm already."""
        with self._lock:
            if chart in self._alarmed and kind != "calibration":
                return
            self._alarmed.add(chart)
            before, reaction = self._guard.caution, self.options.reactions[kind]
            self._guard.caution = caution = after(before, reaction)
            alarm = Alarm(
                kind=kind,
                chart=chart,
                text=text,
                figures=figures or {},
                reaction=reaction,
                before=before,
                caution=caution,
            )
            self.alarms.append(alarm)
        logger.warning("%s: drift: %s; %s", self._events.name, text, _done_about(alarm))
        figures = {**alarm.figures, f"{ALARM}{chart}": 1.0}
        self._events.write(f"{text}; {_done_about(alarm)}", caution, figures, alarm.at)
        if self.options.on_alarm is not None and not self._background.start(
            lambda: self._tell(alarm)
        ):
            logger.error("%s: drift: too much is waiting to call on_alarm", self._events.name)

    def _judge(self, judge: Judge) -> None:
        self._react(judge())

    def _react(self, finding: Finding | None) -> None:
        if finding is not None:
            self.alarm(finding.kind, finding.chart, finding.text, finding.figures)

    async def _tell(self, alarm: Alarm) -> None:
        assert self.options.on_alarm is not None
        try:
            told = await asyncio.to_thread(self.options.on_alarm, alarm)
            if inspect.isawaitable(told):
                await told
        except Exception:
            logger.exception("%s: drift: on_alarm failed", self._events.name)

    # Restarts -----------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return once the caution before the restart is known, or cannot be.

        All questions together wait `READY_S` for it, not each: while the ledger's database does
        not answer, they are decided about as carefully as is known so far.
        """
        restored = self._restored
        if restored is None:
            restored = self._restore()
        if not restored.done():
            await self._patience.wait_for(restored)

    def _restore(self) -> Future[bool]:
        with self._lock:
            if self._restored is None:
                work = self._read()
                self._restored = asyncio.run_coroutine_threadsafe(work, portal_loop())
            return self._restored

    async def _read(self) -> bool:
        try:
            remembered = await self._events.remembered()
        except Exception as error:  # noqa: BLE001 - a question waits for this, and must go on
            logger.warning("%s: drift: the ledger cannot be read: %s", self._events.name, error)
            with self._lock:
                self._restored = None  # the next question tries again
            return False
        with self._lock:
            if self._restored is not None and self._restored.done():
                return False  # reset meanwhile
            self._guard.caution = stricter(self._guard.caution, remembered.caution)
            self._alarmed |= remembered.alarmed
            if self._harm is not None and not self._one_of_several:
                self._harm.restore(remembered.harm)
            self._reset_at = max(self._reset_at, remembered.since or NEVER)
            charts = self._charts
        if self._guard.caution != "normal":
            logger.warning(
                "%s: drift: still at %s; Cascade.drift.reset() ends it",
                self._events.name,
                self._guard.caution,
            )
        self._background.start(lambda: self._learn(charts, remembered))
        return True

    async def _learn(self, charts: Charts, remembered: Remembered) -> None:
        """What is usual, from decisions of earlier processes."""
        for entry in await self._events.decisions(self.options.reference, remembered):
            assert entry.action is not None
            with self._lock:
                found = charts.decided(entry.action)
                due = charts.values(entry.signals, entry.confidence, calibrated=entry.calibrated)
            self._react(found)
            for judge in due:
                self._react(judge())

    def _snapshot(self) -> None:
        with self._lock:
            if self._harm is None or not self._unsaved:
                return
            self._unsaved = 0
            process = self._harm.process
            note = f"harm: after {process.n} requests log E = {process.log_e:.2f}"
            figures = self._harm.figures
        self._events.write(note, self._guard.caution, figures)

    def close(self) -> None:
        """Put the state of the e-process into the ledger."""
        self._snapshot()


def _done_about(alarm: Alarm) -> str:
    if alarm.reaction == "warn":
        return f"nothing is changed (caution: {alarm.caution})"
    if alarm.caution == alarm.before:
        return f"caution: {alarm.caution} already"
    return f"caution: {alarm.before} → {alarm.caution}"


def _done() -> Future[bool]:
    done: Future[bool] = Future()
    done.set_result(True)
    return done
