"""Puts together who watches a cascade, from the options of `Cascade`."""

from __future__ import annotations

from dataclasses import dataclass, field

from cascade._background import Background
from cascade.agents.outlook import Outlook
from cascade.agents.watching import Watcher
from cascade.ledger import Recorder
from cascade.policies import Policy
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
    """

    policy: Policy
    recorder: Recorder
    outlook: Outlook
    background: Background = field(default_factory=Background)
    watchers: tuple[Watcher, ...] = ()

    async def aclose(self) -> None:
        """Finish what is under way."""
        await self.background.finish()


def oversee(tiers: tuple[OpenTier, ...], policy: Policy, recorder: Recorder) -> Oversight:
    """The watchers of a cascade.

    Args:
        tiers: from small to large.
        policy: decides about drafts.
        recorder: where ledger entries go.
    """
    return Oversight(policy, recorder, Outlook(tiers))
