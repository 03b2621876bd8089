"""Batches planned as a whole: all drafts first, then the best escalations for the money."""

from cascade.jobs.plan.knapsack import most_gain, ranked
from cascade.jobs.plan.planning import plan_job, planned_with
from cascade.jobs.plan.stages import PlanDone

__all__ = ["PlanDone", "most_gain", "plan_job", "planned_with", "ranked"]
