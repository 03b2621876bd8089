"""Puts a guard between a cascade and its policy, router and calibration."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage

from cascade._background import Background
from cascade.agents import Route, Task
from cascade.agents.watching import Case, Watcher
from cascade.confidence import Calibrator
from cascade.ledger import Recorder
from cascade.oversight.alarms import Drift
from cascade.oversight.drift import DriftWatch
from cascade.oversight.drift_events import DriftEvents
from cascade.oversight.validity import (
    CalibrationWatch,
    check_weights,
    end_of_certificate,
    promised_harm,
)
from cascade.policies import Guard, GuardedPolicy, Policy
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a cascade is watched for, and what its watch has to know.

    Attributes:
        drift: whether drift is watched for, and what is done about it.
        calibration: of the first tier; its models are looked after in any case.
        promise: the policy as the user chose it, which may have a certificate.
        route: the user's router.
        name: of the cascade.
        tags: of its ledger entries.
    """

    drift: Drift | None = None
    calibration: Calibration | None = None
    promise: Policy | None = None
    route: Route | None = None
    name: str = "cascade"
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Guarded:
    """A cascade's parts with a guard between them.

    Attributes:
        policy, route, calibrators: for the graph.
        watchers: are told of every decision; before the auditor, which tells one of them of audits.
        guard: how careful to be; `rate_factor` is for the auditor.
        drift: the watch for drift, where it was asked for.
    """

    policy: Policy
    route: Route | None
    guard: Guard
    calibrators: dict[str, Calibrator] = field(default_factory=dict)
    watchers: tuple[Watcher, ...] = ()
    drift: DriftWatch | None = None


def guarded(
    watched: Watched,
    tiers: tuple[OpenTier, ...],
    policy: Policy,
    task: Task,
    recorder: Recorder,
    background: Background,
) -> Guarded:
    """The parts of a cascade, guarded as far as they have to be.

    Raises:
        MissingDependencyError: drift is to be watched for, but there is no numpy or scipy.
    """
    first = tiers[0].name
    parts = Guarded(policy, watched.route, Guard())
    events = DriftEvents(watched.name, first, recorder, background, watched.tags)
    if watched.drift is not None:
        _watch_drift(parts, watched, watched.drift, tiers, events, background)
    calibration = watched.calibration
    if calibration is not None:
        watch = CalibrationWatch(
            calibration,
            partial(check_weights, calibration, tiers, task),
            background,
            ends_at=end_of_certificate(watched.promise),
            changed=_Changed(parts.guard, events, parts.drift),
        )
        parts.calibrators[first] = watch
        parts.watchers = (*parts.watchers, watch)
    return parts


@dataclass(frozen=True, slots=True)
class UnderAnotherPolicy:
    """A watch for drift that is shown drafts about which another policy decides."""

    drift: DriftWatch

    def audit_rate(self, case: Case) -> float | None:
        """None: it audits nothing."""
        return self.drift.audit_rate(case)

    def judged(self, case: Case) -> None:
        """Draw the draft into the charts, and not the decision."""
        self.drift.judged(case, own_policy=False)


def _watch_drift(
    parts: Guarded,
    watched: Watched,
    options: Drift,
    tiers: Sequence[OpenTier],
    events: DriftEvents,
    background: Background,
) -> None:
    guard = Guard(error_odds=options.error_odds, audit_factor=options.audit_factor)
    drift = DriftWatch(
        options,
        guard,
        events,
        background,
        tier=tiers[0].name,
        max_harm=options.max_harm or promised_harm(watched.promise),
        calibration=watched.calibration,
    )
    parts.guard, parts.drift, parts.watchers = guard, drift, (drift,)
    parts.policy = GuardedPolicy(parts.policy, guard)
    if options.may_stop_drafts:
        parts.route = _Straight(watched.route, guard, drift, tiers[-1].name)


@dataclass(frozen=True, slots=True)
class _Straight:
    """Goes straight to the large model while only that may answer, so that no draft is paid."""

    inner: Route | None
    guard: Guard
    drift: DriftWatch
    last: str

    async def __call__(self, messages: Sequence[BaseMessage]) -> str | None:
        await self.drift.ready()
        if self.guard.caution == "large_only":
            return self.last
        name = None if self.inner is None else self.inner(messages)
        return await name if inspect.isawaitable(name) else name


@dataclass(frozen=True, slots=True)
class _Changed:
    """Tells that the calibration is void, or holds again."""

    guard: Guard
    events: DriftEvents
    drift: DriftWatch | None

    def __call__(self, reason: str | None) -> None:
        if reason is not None and self.drift is not None:
            self.drift.alarm("calibration", "calibration", reason)
            return
        text = (
            "the calibration holds again" if reason is None else f"no draft is accepted: {reason}"
        )
        logger.warning("%s: %s", self.events.name, text)
        self.events.write(text, self.guard.caution)
