"""A middleware of your own: who has used up a budget gets drafts, and no large model any more.

python examples/budget_per_user.py
"""

from collections import defaultdict
from decimal import Decimal

from cascade import Cascade, CascadeMiddleware, Decision, Price, Run, Situation, Tier
from cascade.middleware import Decide, Slot
from cascade.run import Answer, CascadeRuntime, known_cost
from cascade.testing import ScriptedModel


class BudgetPerUser(CascadeMiddleware):
    """Reads the tag `user` of a run, and counts what its runs cost."""

    slot = Slot.GUARDS

    def __init__(self, dollars: str) -> None:
        self.dollars = Decimal(dollars)
        self.spent: defaultdict[str, Decimal] = defaultdict(Decimal)

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> None:
        run.notes[self.name] = self.spent[user_of(run)] >= self.dollars

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        decision = handler(situation)
        if decision.action != "escalate" or run.ruled_out or not run.notes[self.name]:
            return decision
        return Decision(action="accept", reason=f"{user_of(run)} has no money left", once=True)

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        self.spent[user_of(run)] += known_cost(run.entries)


def user_of(run: Run) -> str:
    return run.settings.get("tags", {}).get("user", "")


small = Tier(ScriptedModel("Perhaps.", logprobs=0.4), price=Price(input=0.02, output=0.06))
large = Tier(ScriptedModel("Certainly."), price=Price(input=1.25, output=10))
with Cascade(small, large, middleware=[BudgetPerUser("0.00001")]) as cascade:
    for user in ("ada", "ada", "grace"):
        result = cascade.invoke("Is it raining?", tags={"user": user})
        print(f"{user}: {result.answer} ({result.decision.reason}; degraded: {result.degraded})")
