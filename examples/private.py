"""Questions that must not leave this machine: all of them, one of them, or those that a rule finds.

Run it as it is: python examples/private.py
"""

from cascade import Cascade
from cascade.privacy import looks_personal
from cascade.testing import ScriptedModel, reply

SMALL = ScriptedModel([reply("Paid, I think.", probability=0.5)])  # stands in for Ollama
LARGE = ScriptedModel(["Paid on 3 May."], local=False)  # stands in for a hosted model

PLAIN, PERSONAL = "Is an invoice of 3 May overdue?", "Did bob@example.org pay his invoice?"


def show(title: str, cascade: Cascade, *questions: str) -> None:
    """Ask, and print who answered and why."""
    print(f"\n{title}")
    for question in questions:
        result = cascade.invoke(question)
        answer = result.answer or "(no answer)"
        degraded = ", degraded" if result.degraded else ""
        print(f"  {question}\n    {answer}  ({result.tier}{degraded}: {result.decision.reason})")


show("A rule says which ones stay", Cascade(SMALL, LARGE, private=looks_personal), PLAIN, PERSONAL)
show("All of them stay", Cascade(SMALL, LARGE, local_only=True), PLAIN)
show("… and a doubtful answer is none", Cascade(SMALL, LARGE, local_only="abstain"), PLAIN)

cascade = Cascade(SMALL, LARGE)
result = cascade.invoke(PLAIN, {"configurable": {"local_only": True}})
print(f"\nOne call stays: {result.answer} ({result.tier})")
print(f"{len(LARGE.requests)} request left this machine.")
