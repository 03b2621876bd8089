"""Whether a cascade can pay, and from when on: `plan(PlanInputs(…))`, `render` says it."""

from cascade.evaluation.plan.figures import (
    BillPlan,
    HarmPlan,
    Interval,
    LatencyPlan,
    Plan,
    Verdict,
    plan,
)
from cascade.evaluation.plan.inputs import Hardware, Ownership, PlanInputs
from cascade.evaluation.plan.text import render, verdict

__all__ = [
    "BillPlan",
    "Hardware",
    "HarmPlan",
    "Interval",
    "LatencyPlan",
    "Ownership",
    "Plan",
    "PlanInputs",
    "Verdict",
    "plan",
    "render",
    "verdict",
]
