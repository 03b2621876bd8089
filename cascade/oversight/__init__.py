"""What keeps a cascade honest while it runs: audits, shadow start, and a watch for drift."""

from cascade.oversight.alarms import Alarm, Drift, Reaction
from cascade.oversight.audits import Audits
from cascade.oversight.drift import DriftWatch
from cascade.oversight.guarding import Watched
from cascade.oversight.overseeing import Oversight, oversee

__all__ = [
    "Alarm",
    "Audits",
    "Drift",
    "DriftWatch",
    "Oversight",
    "Reaction",
    "Watched",
    "oversee",
]
