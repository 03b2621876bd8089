"""Support triage: a local model names the team for each message, a large one where it is unsure.

    python examples/support_triage.py
    python examples/support_triage.py --live --small ollama:qwen2.5:3b --large openai:gpt-5.1

Needs: pip install agent-cascade. Offline, rules and a list stand in for the two models.
"""

from _live import yours

from cascade import Cascade, LedgerView, Price, Tier
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

TEAMS = {
    "billing": ("invoice", "charged", "refund"),
    "technical": ("crash", "log in", "error"),
    "delivery": ("parcel", "courier", "shipped"),
    "other": (),
}
MESSAGES = {  # with the right team
    "I was charged twice this month.": "billing",
    "The app says error 12 and crashes.": "technical",
    "Where is my parcel?": "delivery",
    "I want a refund: the courier left my parcel in the rain.": "delivery",
    "Since the update I cannot log in.": "technical",
    "Do you have a shop in Lisbon?": "other",
    "My invoice shows the old address.": "billing",
    "When will order 7 be shipped?": "delivery",
}
INSTRUCTION = f"Name the team that a customer's message is for, in one word: {', '.join(TEAMS)}."


def rules(request: Request) -> Completion:
    """Stands in for a small model: sure where the words of one team occur, and unsure elsewhere."""
    text = request.messages[-1].text
    teams = [team for team, words in TEAMS.items() if any(word in text for word in words)]
    return reply((teams or ["other"])[0], probability=0.96 if len(teams) == 1 else 0.5)


def is_a_team(message: str, answer: str) -> bool:
    """A signal of your own, free of charge: an answer that is no team is never accepted."""
    return answer.strip().lower() in TEAMS


small, large = yours(
    Tier(
        ScriptedModel(rules, returns_logprobs=True),
        price=Price(input=0.02, output=0.06),
        max_tokens=24,  # live models may talk on
    ),
    Tier(ScriptedModel(MESSAGES), price=Price(input=1.25, output=10), max_tokens=24),
)
cascade = Cascade(small, large, signals=["logprobs", is_a_team])
results = [cascade.invoke([("system", INSTRUCTION), ("human", text)]) for text in MESSAGES]
for (message, team), result in zip(MESSAGES.items(), results, strict=True):
    right = "" if result.answer.strip().lower() == team else f"  (wrong: {team})"
    print(f"{result.answer:10} {result.tier:6} {result.confidence or 0:.2f}  {message}{right}")
print(LedgerView(entry for result in results for entry in result.ledger).table())
