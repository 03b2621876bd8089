"""The part of `Cascade` that says who answers first, and whether it may go live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cascade.agents import Task
from cascade.confidence.signals import Signal
from cascade.errors import MissingDependencyError
from cascade.ledger import MemoryLedger
from cascade.oversight.overseeing import Oversight
from cascade.oversight.shadow import Mode, Start
from cascade.setup import identify, task_hash
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibrating import MadeFor
    from cascade.oversight.readiness import Readiness

PATIENCE_S = 30.0
"""For drafts that are under way when a shadow start is judged."""


def require_calibrate() -> None:
    """Refuse to judge a shadow start without what that takes.

    Raises:
        MissingDependencyError: the extra `calibrate` is not installed.
    """
    if any(find_spec(package) is None for package in ("numpy", "scipy", "sklearn")):
        raise MissingDependencyError(
            "whether a shadow start is ready is computed with scikit-learn and scipy: "
            'pip install "agent-cascade[calibrate]".'
        )


async def made_for(tiers: Sequence[OpenTier], task: Task) -> MadeFor:
    """What a calibration from shadow runs is bound to; the ledger knows no system messages."""
    from cascade.confidence.calibrating import MadeFor  # noqa: PLC0415 - needs numpy

    return MadeFor(
        small=await identify(tiers[0]),
        large=await identify(tiers[-1]),
        task_hash=task_hash(task, tiers[0]),
        system_hash=None,
        labels="agreement with the large model",
    )


class Starting:
    """Going live in steps: `shadow`, then `canary`, then `live`; and back."""

    tiers: tuple[OpenTier, ...]
    task: Task
    signals: tuple[Signal, ...]
    _oversight: Oversight
    _start: Start

    @property
    def mode(self) -> Mode:
        """Who answers first: `live`, `shadow` or `canary`; set, it holds from the next question.

        Each change is an entry of node `mode` in the ledger.
        """
        return self._start.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._start.mode = mode

    @property
    def canary_share(self) -> float:
        """The share of requests that is live in the mode `canary`.

        By thread where there is one, else by run. When it grows, those who were in stay in.
        """
        return self._start.canary_share

    @canary_share.setter
    def canary_share(self, share: float) -> None:
        self._start.canary_share = share

    async def readiness(
        self,
        *,
        max_loss: float = 0.01,
        min_saving: float = 0.0,
        max_harm: float | None = None,
        delta: float = 0.1,
        threshold: float | None = None,
        since: datetime | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Readiness:
        """Whether to go live, by the shadow runs in this cascade's ledger.

        Shadow drafts that are under way are waited for, up to half a minute: where requests keep
        coming, there are always some.

        Args:
            max_loss: quality loss per request, relative to the large model, that is allowed.
            min_saving: share of the large-only bill that has to be saved.
            max_harm: also certify P(accepted and worse than the large model's answer).
            delta: chance that the certificate does not hold.
            threshold: of the calibrated confidence, instead of one that is chosen.
            since: leave out what is older, for instance after a change of prompt or tools.
            tags: only runs with these tags, and those of the cascade itself.

        Raises:
            ConfigurationError: a limit cannot be kept by anything, or there is no ledger that
                can be read.
            MissingDependencyError: the extra `calibrate` is not installed.
        """
        require_calibrate()
        from cascade.ledger.store import Selection  # noqa: PLC0415 - not at start
        from cascade.oversight.readiness import readiness  # noqa: PLC0415 - needs scipy

        await self._oversight.background.finish(PATIENCE_S)
        signals = [(signal.name, signal.calls) for signal in self.signals] or None
        store = self._oversight.recorder.store
        # A MemoryLedger keeps no tags; its entries are this program's own.
        own = {} if isinstance(store, MemoryLedger) else self._start.tags
        return await readiness(
            store,
            Selection(since=since, tags={**own, **(tags or {})}),
            max_loss=max_loss,
            min_saving=min_saving,
            max_harm=max_harm,
            delta=delta,
            threshold=threshold,
            signals=() if self._start.judged else signals,
            made_for=await made_for(self.tiers, self.task),
        )
