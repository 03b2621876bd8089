"""Whether a calibration still holds, looked after while a cascade runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage

from cascade._background import Background
from cascade.agents import Task
from cascade.agents.watching import Case
from cascade.errors import CalibrationMismatchError, ModelError
from cascade.models.base import file_sha256
from cascade.policies import CertifiedPolicy, Policy
from cascade.setup import check_calibration
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration
    from cascade.confidence.estimate import Estimate

CHECK_EVERY_S = 300.0
"""Weights are looked at again so often, when there are questions."""

CHECK_EVERY = 1_000
"""And after so many decisions, where these come faster."""

logger = logging.getLogger("cascade")


class CalibrationWatch:
    """Looks, after replies, whether the models still are those of the calibration.

    It is a calibrator, too: the calibration itself while it holds. While it does not there is no
    confidence, so that every draft is escalated, and the reason says why.

    Args:
        calibration: what was made for these models.
        check: raises `CalibrationMismatchError` when they are others.
        background: checks after the reply.
        ends_at: end of the policy's certificate.
        changed: told of the reason when the calibration becomes void, of None when it holds again.
    """

    def __init__(
        self,
        calibration: Calibration,
        check: Callable[[], Awaitable[None]],
        background: Background,
        *,
        ends_at: datetime | None = None,
        changed: Callable[[str | None], None],
    ) -> None:
        self._calibration = calibration
        self._check = check
        self._background = background
        self._ends_at = ends_at
        self._changed = changed
        self._ended: str | None = None
        self._other: str | None = None
        self._checking = False
        self._decisions = 0
        self._checked_at = time.monotonic()

    # As a calibrator ----------------------------------------------------------------------

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of the calibration."""
        return self._calibration.signals

    @property
    def memory(self) -> str | None:
        """The memory that the calibration was made with."""
        return self._calibration.memory

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why there is no confidence: the calibration is void, or not for this conversation."""
        if self._ends_at is not None and self._ended is None and datetime.now(UTC) >= self._ends_at:
            self._ended = _ended(self._ends_at)
            self._changed(self._ended)
        return self._ended or self.void(messages)

    def void(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why there is no confidence, whatever was certified."""
        return self._other or self._calibration.mismatch(messages)

    def estimate(self, features: Mapping[str, float], taken: Sequence[str]) -> Estimate | None:
        """That of the calibration."""
        return self._calibration.estimate(features, taken)

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """That of the calibration."""
        return self._calibration.outlook(confidence, taken)

    # As a watcher of decisions ------------------------------------------------------------

    def audit_rate(self, case: Case) -> float | None:
        """None: it audits nothing."""
        del case
        return None

    def judged(self, case: Case) -> None:
        """Count the decision, and look again when it is time."""
        del case
        self._decisions += 1
        due = self._decisions >= CHECK_EVERY or time.monotonic() - self._checked_at >= CHECK_EVERY_S
        if due and not self._checking:
            self._checking = True  # before it begins: it may be over before `start` returns
            if not self._background.start(self._look):
                self._checking = False

    async def _look(self) -> None:
        try:
            await self._check()
            found = None
        except CalibrationMismatchError as error:
            found = str(error)
        except (ModelError, OSError) as error:
            logger.warning("the calibration could not be checked: %s", error)
            return
        finally:
            self._decisions, self._checked_at = 0, time.monotonic()
            self._checking = False
        if found != self._other:
            self._other = found
            self._changed(found)


@dataclass(slots=True)
class UntilEnd:
    """The calibration of a watch, until another certificate ends than that of its policy."""

    watch: CalibrationWatch
    ends_at: datetime | None
    _told: bool = False

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of the calibration."""
        return self.watch.signals

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why there is no confidence: the certificate has ended, or the calibration is void."""
        if self.ends_at is None or datetime.now(UTC) < self.ends_at:
            return self.watch.void(messages)
        ended = _ended(self.ends_at)
        if not self._told:
            self._told = True
            logger.warning("no draft is accepted under this policy: %s", ended)
        return ended

    def estimate(self, features: Mapping[str, float], taken: Sequence[str]) -> Estimate | None:
        """That of the calibration."""
        return self.watch.estimate(features, taken)

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """That of the calibration."""
        return self.watch.outlook(confidence, taken)


def _ended(at: datetime) -> str:
    return f"the certificate ended on {at:%Y-%m-%d %H:%M} UTC: calibrate again"


async def check_weights(calibration: Calibration, tiers: Sequence[OpenTier], task: Task) -> None:
    """Ask the first and the last tier for the digests of their weights.

    Args:
        calibration: what they have to be those of.
        tiers: from small to large.
        task: of every question.

    Raises:
        CalibrationMismatchError: the calibration was made for others.
        ModelError: a server cannot be asked.
        OSError: a file of weights cannot be read.
    """
    ends = (tiers[0], tiers[-1])
    for path in (tier.model.weights_path for tier in ends):
        if path is not None:
            # It remembers what it read; read here, a large file would hold up the event loop.
            await asyncio.to_thread(file_sha256, path)
    digests = [await tier.model.digest() for tier in ends]
    check_calibration(calibration, tiers, task, *digests)


def end_of_certificate(policy: Policy | None) -> datetime | None:
    """Until when the policy's certificate holds; None without an end, or a certificate."""
    return policy.certificate.valid_until if isinstance(policy, CertifiedPolicy) else None


def promised_harm(policy: Policy | None) -> float | None:
    """α of the policy's certificate; None without one."""
    return policy.certificate.max_harm if isinstance(policy, CertifiedPolicy) else None
