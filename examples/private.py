"""Questions that must not leave this machine: all, a single one, or those that a rule finds.

    python examples/private.py
    python examples/private.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install agent-cascade. Offline both models are scripted.
"""

from _live import yours

from cascade import Cascade, LedgerView, MemoryLedger, Price, Tier
from cascade.privacy import looks_personal
from cascade.testing import ScriptedModel, reply

PLAIN, PERSONAL = "Is an invoice of 3 May overdue?", "Did bob@example.org pay his invoice?"

OURS = Price(input=0.02, output=0.06)
hosted = ScriptedModel(["Paid on 3 May."], local=False)
small, large = yours(
    Tier(ScriptedModel([reply("Paid, I think.", probability=0.5)]), price=OURS),
    Tier(hosted, price=Price(input=1.25, output=10)),
)
ledger = MemoryLedger()


def show(title: str, cascade: Cascade, *questions: str) -> None:
    """Ask, and print who answered and why."""
    print(f"\n{title}")
    for question in questions:
        result = cascade.invoke(question)
        answer = result.answer or "(no answer)"
        degraded = ", degraded" if result.degraded else ""
        print(f"  {question}\n    {answer}  ({result.tier}{degraded}: {result.decision.reason})")


ruled = Cascade(small, large, private=looks_personal, ledger=ledger)
show("A rule says which ones stay", ruled, PLAIN, PERSONAL)
show("All of them stay", Cascade(small, large, local_only=True, ledger=ledger), PLAIN)
careful = Cascade(small, large, local_only="abstain", ledger=ledger)
show("… and a doubtful answer is none", careful, PLAIN)

result = Cascade(small, large, ledger=ledger).invoke(PLAIN, {"configurable": {"local_only": True}})
print(f"\nOne call stays: {result.answer} ({result.tier})")
sent = sum(entry.node == "expert" for entry in ledger.entries)
print(f"{sent} of 5 questions left this machine.")
print(LedgerView(ledger.entries).table())
