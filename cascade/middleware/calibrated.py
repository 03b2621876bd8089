"""Calibration of a cascade that has one: what it was made for, and whether that still holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade import errors
from cascade.confidence.base import Signal, digest
from cascade.confidence.signals import SignalLike, to_signals, wordings
from cascade.middleware.base import CascadeMiddleware, Slot
from cascade.policies import CertifiedPolicy
from cascade.policies.base import proof_of
from cascade.run import CascadeRuntime, Run, Settings, to_request
from cascade.tiers import OpenTier

try:
    from cascade.confidence.calibration import Calibration, ModelIdentity
except ImportError as error:
    told = f"{error}: in a clone, pip install '.[calibrate]'."
    raise errors.MissingDependencyError(told) from error

logger = logging.getLogger("cascade")

CHECK_EVERY_S = 300.0
"""The weights of the models are looked at again so often, when there are questions."""


class Calibrated(CascadeMiddleware):
    """A calibration in use for one cascade, compared with the models that are served.

    Args:
        given: the calibration, or its file.
        tiers: of the cascade.
        settings: that its questions are asked with, unless they have their own.
    """

    slot = Slot.GUARDS

    def __init__(self, given: Any, tiers: Sequence[OpenTier], settings: Settings) -> None:
        made = Calibration.load(given) if isinstance(given, str | Path) else given
        if not isinstance(made, Calibration):
            raise errors.ConfigurationError(
                f"calibrator={given!r}: give a calibration or its file, made by "
                "`cascade calibrate` or cascade.calibrate(examples)."
            )
        self.calibration = made
        self._tiers, self._settings = tiers, settings
        self._checked_at: float | None = None
        self._void = False
        self._compare(settings)

    def signals(self, wanted: Sequence[SignalLike]) -> tuple[Signal, ...]:
        """The signals to take: those that it was made with, the user's own among them."""
        names, made = self.calibration.signals, "the calibration was made with"
        try:
            signals = {signal.name: signal for signal in to_signals(wanted or names)}
        except errors.ConfigurationError as error:
            raise errors.CalibrationMismatchError(
                f"{made} the signals {list(names)}: give yours as signals=[…] too ({error})"
            ) from error
        if signals.keys() != set(names):
            raise errors.CalibrationMismatchError(
                f"{made} the signals {sorted(names)}, not {sorted(signals)}: calibrate again."
            )
        for name, wording in wordings(names).items():
            if self.calibration.wordings.get(name) != wording:
                raise errors.CalibrationMismatchError(
                    f"{made} another wording of the check {name!r}: calibrate again."
                )
        return tuple(signals[name] for name in names)

    def holds(self, settings: Settings) -> bool:
        """True if it was made for what a question is asked with."""
        try:
            if settings != self._settings:
                self._compare(settings)
        except errors.CalibrationMismatchError:
            return False
        return not self._void

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> None:
        """Compare it with the models that are served now. Where they change later, or a certificate
        ends, it is void.

        Raises:
            CalibrationMismatchError: it was made for other weights, and no question was asked yet.
        """
        now = time.monotonic()
        if self._checked_at is not None and now - self._checked_at < CHECK_EVERY_S:
            return
        try:
            digests = [await tier.model.digest() for tier in (self._tiers[0], self._tiers[-1])]
            self._compare(self._settings, digests)
            if (proof := proof_of(runtime.kernel.policy)) is not None:
                CertifiedPolicy(proof)  # which refuses one that has ended
            self._void = False
        except errors.ModelError as error:
            # The question will meet the same failure; the next one is checked again.
            logger.warning("the calibration could not be checked: %s", error)
            return
        except errors.ConfigurationError as error:
            if self._checked_at is None:
                raise
            logger.warning("the calibration is void: %s", error)
            self._void = True
        self._checked_at = now

    def _compare(self, settings: Settings, digests: Sequence[str | None] = (None, None)) -> None:
        """Refuse what it was not made for; `digests` are those of the first and the last model."""
        small, large = (
            ModelIdentity(name=tier.model.name, digest=now)
            for tier, now in zip((self._tiers[0], self._tiers[-1]), digests, strict=True)
        )
        self.calibration.check(small, large, task_hash(settings, self._tiers[0]))


def task_hash(settings: Settings, small: OpenTier) -> str:
    """A hash of what decides how the small model answers, but for the question."""
    request = to_request(small, (), settings)
    asked = {
        "tools": [dict(tool) for tool in request.tools],
        "schema": settings.get("schema"),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "options": dict(small.settings.options),
    }
    rarely = {
        "tool_choice": settings.get("tool_choice"),
        "stop": request.stop,
        "extra": dict(request.extra),
    }
    return digest(asked | {name: value for name, value in rarely.items() if value})
