"""`cascade demo`: a real small model and a larger one on questions with known answers.

`run_demo(DemoOptions(...))` runs it and writes its page and picture.
"""

from __future__ import annotations

from cascade.demo.records import DemoOptions, DemoOutcome
from cascade.demo.runner import run_demo

__all__ = ["DemoOptions", "DemoOutcome", "run_demo"]
