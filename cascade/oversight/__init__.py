"""What keeps a cascade honest while it runs: audits, shadow start, and a watch for drift."""

from cascade.oversight.overseeing import Oversight, oversee

__all__ = ["Oversight", "oversee"]
