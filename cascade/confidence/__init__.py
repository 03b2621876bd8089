"""Signals about a draft, loaded on first use; calibrations, which make one confidence of them, need
numpy and are imported from `cascade.confidence.calibration` and `calibrating`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.confidence.base import Asked as Asked
    from cascade.confidence.base import Probe as Probe
    from cascade.confidence.base import Signal as Signal
    from cascade.confidence.signals import Agreement as Agreement
    from cascade.confidence.signals import PrefillScore as PrefillScore
    from cascade.confidence.signals import SelfConsistency as SelfConsistency
    from cascade.confidence.signals import UserSignal as UserSignal
    from cascade.confidence.signals import check_messages as check_messages

__getattr__ = lazily(
    __name__,
    {
        "base": "Asked Probe Signal",
        "signals": "Agreement PrefillScore SelfConsistency UserSignal check_messages",
    },
)
