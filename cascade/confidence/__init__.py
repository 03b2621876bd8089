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
    from cascade.confidence.signals import as_data as as_data
    from cascade.confidence.signals import check_messages as check_messages
    from cascade.confidence.signals import normalise as normalise
    from cascade.confidence.validity import speaks_of_grading as speaks_of_grading

__getattr__ = lazily(
    __name__,
    {
        "base": "Asked Probe Signal",
        "signals": "Agreement PrefillScore SelfConsistency UserSignal as_data check_messages "
        "normalise",
        "validity": "speaks_of_grading",
    },
)
