"""Puts together who watches a cascade, from the options of `Cascade`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from langgraph.types import RetryPolicy

from cascade._background import Background
from cascade.agents import Route, Task
from cascade.agents.auditor import Auditor
from cascade.agents.outlook import Outlook
from cascade.agents.watching import Sheltered, Watcher
from cascade.confidence import Calibrator
from cascade.graph import retries
from cascade.ledger import Recorder
from cascade.ledger.tags import checked_tags
from cascade.oversight.audits import Audits, audit, to_audits
from cascade.oversight.drift import DriftWatch
from cascade.oversight.guarding import UnderAnotherPolicy, Watched, guarded
from cascade.oversight.validity import CalibrationWatch, UntilEnd, end_of_certificate
from cascade.policies import GuardedPolicy, Policy
from cascade.resilience import Doors
from cascade.tiers import OpenTier


@dataclass(slots=True)
class Oversight:
    """Who watches a cascade, and what they work with.

    Attributes:
        policy: the policy, as the watchers let it decide.
        recorder: where their entries go.
        outlook: expected costs, which audits improve.
        background: does their work after the reply.
        watchers: are told of every decision.
        auditor: one of them, where drafts are audited.
        judge: the model that it asks, if it has one.
        drift: one of them, where drift is watched for.
        route: the user's router, or none, behind the watch for drift.
        calibrators: by tier, as far as they still hold.
        doors: what stands before each tier.
    """

    policy: Policy
    recorder: Recorder
    outlook: Outlook
    background: Background = field(default_factory=Background)
    watchers: tuple[Watcher, ...] = ()
    auditor: Auditor | None = None
    judge: OpenTier | None = None
    drift: DriftWatch | None = None
    route: Route | None = None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    doors: Doors = field(default_factory=Doors)

    async def ready(self) -> None:
        """Return once it is known how careful the cascade was before a restart, and what today's
        audits have cost.
        """
        if self.drift is not None:
            await self.drift.ready()
        if self.auditor is not None:
            await self.auditor.ready()

    def under(self, policy: Policy, promise: Policy) -> Oversight:
        """The same watchers, for questions about which another policy decides.

        Args:
            policy: decides.
            promise: the policy as the user chose it, which may have a certificate.
        """
        ends_at, drift = end_of_certificate(promise), self.drift
        if drift is not None and isinstance(self.policy, GuardedPolicy):
            policy = replace(self.policy, inner=policy)
        return replace(
            self,
            policy=policy,
            watchers=tuple(
                Sheltered(UnderAnotherPolicy(drift))
                if drift is not None and watcher == Sheltered(drift)
                else watcher
                for watcher in self.watchers
            ),
            calibrators={
                tier: UntilEnd(each, ends_at) if isinstance(each, CalibrationWatch) else each
                for tier, each in self.calibrators.items()
            },
        )

    async def aclose(self) -> None:
        """Finish what is under way."""
        await self.background.finish()
        if self.drift is not None:
            self.drift.close()
            await self.background.finish()
        if self.judge is not None:
            await self.judge.model.aclose()


def oversee(
    tiers: tuple[OpenTier, ...],
    policy: Policy,
    recorder: Recorder,
    *,
    task: Task | None = None,
    audits: float | Audits | None = None,
    retry: RetryPolicy | None = None,
    doors: Doors | None = None,
    watched: Watched | None = None,
) -> Oversight:
    """The watchers of a cascade.

    Args:
        tiers: from small to large.
        policy: decides about drafts.
        recorder: where ledger entries go.
        task: tools and schema of a usual question.
        audits: how many accepted drafts are audited, and how.
        retry: when to repeat a failed call; None for as the doors say.
        doors: what stands before each tier.
        watched: for what the cascade is watched besides.

    Raises:
        ConfigurationError: an option cannot work.
    """
    background = Background()
    task = task or Task()
    watched = watched or Watched()
    checked_tags(watched.tags, "the cascade")
    parts = guarded(watched, tiers, policy, task, recorder, background)
    made = Oversight(
        parts.policy,
        recorder,
        Outlook(tiers),
        background,
        parts.watchers,
        drift=parts.drift,
        route=parts.route,
        calibrators=parts.calibrators,
        doors=doors or Doors(observers=recorder.observers),
    )
    options = to_audits(audits)
    if options is not None:
        made.auditor, made.judge = audit(
            options,
            outlook=made.outlook,
            task=task,
            recorder=recorder,
            background=made.background,
            retry=retries(retry, made.doors),
            doors=made.doors,
            waits=retry is None,
        )
        made.watchers = (*made.watchers, made.auditor)
        made.auditor.rates.factor = parts.guard.rate_factor
        if parts.drift is not None:
            made.auditor.on_audit.append(parts.drift.audited)
    made.watchers = tuple(map(Sheltered, made.watchers))
    return made
